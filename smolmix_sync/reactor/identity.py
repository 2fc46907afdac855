"""Who we are: the keys of a client and its registrations, in memory or kept in a folder.

The folder is 0700, the file 0600 and replaced in one step; a lock file lets one process at a time be this
identity, because two users of one identity disconnect each other.

Source: design.md decision 10; spec/gateway.md section 10.
"""

from __future__ import annotations

import base64
import binascii
import errno
import fcntl
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolmix_sync.address import base58_decode, base58_encode
from smolmix_sync.config import ConfigError, TunnelConfig
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.client import ClientKeys
from smolmix_sync.reactor._originals import posix_close
from smolmix_sync.reactor.log import ReactorLogger

__all__ = ["ClientIdentity", "IdentityStore", "Registration", "storage_folder"]

_LOG = ReactorLogger("reactor.identity")

_FORMAT = 1
_MAX_FILE = 1 << 20


@dataclass(slots=True)
class Registration:
    """What one gateway agreed with us.

    Attributes:
        shared_key: the key of the registration.
        last_auth: newest Unix second signed for it; the next must be greater.
    """

    shared_key: bytes = field(repr=False)
    last_auth: int = 0


@dataclass(slots=True)
class ClientIdentity:
    """Keys, and what gateways agreed with us.

    Attributes:
        keys: the client's secrets.
        gateway: the gateway in use, None before the first registration.
        registrations: by gateway identity.
    """

    keys: ClientKeys = field(repr=False)
    gateway: bytes | None = None
    registrations: dict[bytes, Registration] = field(default_factory=dict, repr=False)

    @classmethod
    def generate(cls, urandom: Callable[[int], bytes] = os.urandom) -> ClientIdentity:
        """Return a new identity."""
        return cls(ClientKeys.generate(urandom))

    def encode(self) -> bytes:
        """Return the content of the file."""
        keys = self.keys
        content = {
            "format": _FORMAT,
            "identity_seed": _text(keys.identity_seed),
            "encryption_private": _text(keys.encryption_private),
            "ack_key": _text(keys.ack_key),
            "gateway": base58_encode(self.gateway) if self.gateway is not None else None,
            "gateways": {
                base58_encode(gateway): {"shared_key": _text(entry.shared_key), "last_auth": entry.last_auth}
                for gateway, entry in self.registrations.items()
            },
        }
        return json.dumps(content, indent=1).encode()

    @classmethod
    def decode_untrusted(cls, data: bytes) -> ClientIdentity:
        """Read the content of the file.

        Raises:
            WireError: it is not what :meth:`encode` writes.
        """
        try:
            content = json.loads(data)
            if content["format"] != _FORMAT:
                raise WireError("an identity of another format")
            keys = ClientKeys(
                _octets(content["identity_seed"], 32),
                _octets(content["encryption_private"], 32),
                _octets(content["ack_key"], 16),
            )
            gateway = content["gateway"]
            registrations = {
                base58_decode(name): Registration(_octets(entry["shared_key"], 32), int(entry["last_auth"]))
                for name, entry in content["gateways"].items()
            }
            return cls(keys, None if gateway is None else base58_decode(gateway), registrations)
        except WireError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WireError(f"an identity that cannot be read: {type(error).__name__}") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _octets(value: Any, size: int) -> bytes:
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise WireError("a key that is no base64") from None
    if len(data) != size:
        raise WireError("a key of the wrong size")
    return data


def storage_folder(config: TunnelConfig) -> Path:
    """Return the folder of the identity ``client_id``.

    Raises:
        ConfigError: the name cannot be a folder's.
    """
    name = config.client_id or ""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigError("client_id: letters, digits, dot, dash and underscore only")
    if config.storage_path is not None:
        return config.storage_path / name
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(base) / "smolmix_sync" / name


class IdentityStore:
    """One identity on disk, locked for this process while open.

    Args:
        folder: made if it does not exist.

    Raises:
        OSError: EALREADY when another process (or tunnel) is this identity; the kernel's otherwise.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        self._path = folder / "identity.json"
        self.lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            posix_close(self.lock_fd)
            raise OSError(errno.EALREADY, f"the identity in {folder} is in use") from None

    def load(self) -> ClientIdentity | None:
        """Return the identity; None if there is none yet, or one that cannot be read, which is set aside."""
        try:
            with self._path.open("rb") as file:
                return ClientIdentity.decode_untrusted(file.read(_MAX_FILE))
        except FileNotFoundError:
            return None
        except WireError as error:
            # A bad identity that stays makes every start fail: it is kept for a look, and replaced.
            aside = self._path.with_suffix(".broken")
            self._path.replace(aside)
            _LOG.warning("%s: %s; set aside as %s", self._path, error, aside.name)
            return None

    def save(self, identity: ClientIdentity) -> None:
        """Replace the file in one step."""
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(identity.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def close(self) -> None:
        """Let others be this identity; any number of times."""
        if self.lock_fd >= 0:
            posix_close(self.lock_fd)
            self.lock_fd = -1
