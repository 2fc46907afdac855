"""Start a daemon when none answers, once, however many processes ask for one.

Source: design.md decision 16.
"""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from smolmix_sync.daemon.client import AttachedTunnel
from smolmix_sync.daemon.remote import Channel
from smolmix_sync.errors import TunnelNotReady
from smolmix_sync.reactor import _originals

__all__ = ["answers", "ensure_daemon", "hold"]

#: Daemons that this process has started; kept so that they are reaped.
_started: list[subprocess.Popen[bytes]] = []


def answers(path: str | os.PathLike[str]) -> bool:
    """Tell whether a daemon listens at *path*."""
    try:
        Channel(str(path)).close()
    except OSError:
        return False
    return True


def hold(path: str | os.PathLike[str]) -> Channel:
    """Return a connection that keeps a daemon with ``--exit-idle`` alive until it is closed.

    Raises:
        OSError: ENETDOWN when there is no daemon.
    """
    return Channel(str(path))


def ensure_daemon(
    path: str | os.PathLike[str],
    *,
    timeout: float = 60.0,
    exit_idle: float = 30.0,
    arguments: Sequence[str] = (),
) -> bool:
    """Make sure that a daemon with a tunnel that is READY answers at *path*.

    The daemon belongs to no process: it goes on when this one ends, until nobody has used it for *exit_idle*
    seconds. It has the settings of this process' environment. What it prints goes where our stderr goes.

    Args:
        path: of its socket.
        timeout: seconds to wait for READY.
        exit_idle: seconds without a client after which it ends; 0 never.
        arguments: further arguments of ``smolmix-sync daemon``.

    Returns:
        Whether it was started here.

    Raises:
        TunnelNotReady: it is not READY in time.
    """
    where = Path(path).absolute()
    where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = _originals.monotonic() + timeout
    started = None
    lock = os.open(f"{where}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not answers(where):
            # Never a lock that is waited for in the kernel: where tasks are greenlets, whoever has it is one of this
            # thread's, and could not go on.
            if _locked(lock):
                _started[:] = [one for one in _started if one.poll() is None]
                if not answers(where):
                    started = _start(where, exit_idle, arguments)
                break
            if _originals.monotonic() >= until:
                raise TunnelNotReady(
                    "another process or task starts the daemon, and it does not answer in time"
                )
            _pause()
        # A lock that we have is held until it answers: whoever comes next finds it.
        _wait(AttachedTunnel(where), started, until)
    finally:
        os.close(lock)
    return started is not None


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pause() -> None:
    select.poll().poll(50)  # gevent's, if it has patched it


def _start(where: Path, exit_idle: float, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "smolmix_sync", "daemon", "--socket", str(where)]
    if exit_idle:
        command += ["--exit-idle", f"{exit_idle:g}"]
    started = subprocess.Popen(
        [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    _started.append(started)
    return started


def _wait(tunnel: AttachedTunnel, started: subprocess.Popen[bytes] | None, until: float) -> None:
    while True:
        left = until - _originals.monotonic()
        try:
            tunnel.wait_ready(max(0.0, min(0.5, left)))
            return
        except TunnelNotReady:
            if started is not None and started.poll() is not None:
                raise TunnelNotReady(f"the daemon ended with code {started.returncode}") from None
            if left <= 0:
                raise
