"""Exits found dead, remembered between runs: they are tried last until their quarantine is over.

Every failure in a row doubles the quarantine. The file says which exits failed, nothing about what was done
through others; a nym-api on loopback is another network every time, and has none.

Source: design.md decision 14 and section 8a; issues of peers that choose dead exits by score (research/peers.md 3).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import WireError
from smolmix_sync.reactor.nymapi import is_loopback

__all__ = ["BadExit", "ExitMemory", "exit_memory_path"]

#: Ours: seconds of the first quarantine, and of the longest. An operator's restart takes minutes, a broken set-up days.
FIRST = 600.0
LONGEST = 86400.0
#: Ours: a failure is forgotten this long after its quarantine; and exits remembered at most.
_FORGET = 7 * 86400.0
_MOST = 500
_MAX_FILE = 1 << 20


@dataclass(slots=True)
class BadExit:
    """What is remembered about one exit: failures in a row, the end of its quarantine (Unix time), the last reason."""

    failures: int
    until: float
    reason: str


def exit_memory_path(config: TunnelConfig) -> Path | None:
    """Return the file of these settings: the one configured, or one beside the cached topology; None for none."""
    if config.exit_memory is not None:
        return config.exit_memory
    if any(is_loopback(urlsplit(url).hostname or "") for url in config.nym_api):
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256("\n".join(config.nym_api).encode()).hexdigest()[:16]
    return Path(base) / "smolmix_sync" / f"bad-exits-{name}.json"


class ExitMemory:
    """The memory of one tunnel; read from the file when asked, written at every change.

    Several processes may share the file: the last writer wins, which costs a failure counted twice at worst.

    Args:
        path: the file; None keeps everything in this object.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._bad: dict[str, BadExit] = {}

    def known(self, now: float | None = None) -> dict[str, BadExit]:
        """Return what is remembered, by the exit's address."""
        now = time.time() if now is None else now
        self._read()
        self._bad = {name: bad for name, bad in self._bad.items() if bad.until + _FORGET > now}
        return dict(self._bad)

    def quarantined(self, now: float | None = None) -> set[Recipient]:
        """Return the exits to try last."""
        now = time.time() if now is None else now
        return {Recipient.parse(name) for name, bad in self.known(now).items() if bad.until > now}

    def failed(self, exit_address: Recipient, reason: str, now: float | None = None) -> None:
        """Note that an exit did not work; call it for faults of the exit only."""
        now = time.time() if now is None else now
        known = self.known(now)
        before = known.get(str(exit_address))
        failures = before.failures + 1 if before is not None else 1
        length = min(FIRST * 2.0 ** min(failures - 1, 20), LONGEST)
        self._bad[str(exit_address)] = BadExit(failures, now + length, reason[:200])
        while len(self._bad) > _MOST:
            del self._bad[min(self._bad, key=lambda name: self._bad[name].until)]
        self._write()

    def worked(self, exit_address: Recipient, now: float | None = None) -> None:
        """Forget the failures of an exit."""
        if str(exit_address) in self.known(now):
            del self._bad[str(exit_address)]
            self._write()

    def _read(self) -> None:
        if self._path is None:
            return
        # Whatever the file has become: it is a memory of inconveniences, and no reason to fail.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, WireError):
            if self._path.stat().st_size > _MAX_FILE:
                return
            table = json.loads(self._path.read_text())
            self._bad = {
                str(Recipient.parse(name)): BadExit(
                    int(entry["failures"]), float(entry["until"]), str(entry["reason"])
                )
                for name, entry in list(table.items())[:_MOST]
            }

    def _write(self) -> None:
        path = self._path
        if path is None or (path.exists() and not path.is_file()):
            return  # a device such as /dev/null: nothing is to be kept
        table = {
            name: {"failures": bad.failures, "until": bad.until, "reason": bad.reason}
            for name, bad in self._bad.items()
        }
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w") as file:
                json.dump(table, file, indent=1)
            temporary.replace(path)
