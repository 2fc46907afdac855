"""Start a daemon when none answers, once, however many processes ask for one.

Source: design.md decision 16.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from smolmix_sync.daemon.client import AttachedTunnel
from smolmix_sync.daemon.remote import Channel
from smolmix_sync.errors import TunnelNotReady

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
    started = None
    lock = os.open(f"{where}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _started[:] = [one for one in _started if one.poll() is None]
        if not answers(where):
            command = [sys.executable, "-m", "smolmix_sync", "daemon", "--socket", str(where)]
            if exit_idle:
                command += ["--exit-idle", f"{exit_idle:g}"]
            started = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            _started.append(started)
        # The lock is held until it answers: whoever comes next finds it.
        _wait(AttachedTunnel(where), started, timeout)
    finally:
        os.close(lock)
    return started is not None


def _wait(tunnel: AttachedTunnel, started: subprocess.Popen[bytes] | None, timeout: float) -> None:
    left = timeout
    while True:
        try:
            tunnel.wait_ready(min(0.5, left))
            return
        except TunnelNotReady:
            left -= 0.5
            if started is not None and started.poll() is not None:
                raise TunnelNotReady(f"the daemon ended with code {started.returncode}") from None
            if left <= 0:
                raise
