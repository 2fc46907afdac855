"""Processes of the network, seen by the one that starts them: born with a life line, ended by its end of file."""

from __future__ import annotations

# The C socket and native ids: in a process patched by us or by gevent the names above them are somebody else's.
import _socket
import _thread
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import smolmix_sync

__all__ = ["end_child", "parent_to_watch", "start_child"]


def start_child(module: str) -> tuple[subprocess.Popen[bytes], _socket.socket]:
    """Run ``smolmix_sync.localnet.<module>``; return the process and our end of its standard input, the life line."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"smolmix_sync.localnet.{module}"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    _forget_in_children(ours)
    return process, ours


def end_child(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait until a process whose life line was closed has ended; return False if it had to be killed."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is not None:
        return True
    process.kill()
    process.wait()
    return False


def parent_to_watch() -> int | None:
    """Return the process id whose death the child is to share, None where the kernel would not tell it.

    The death signal comes when the creating thread ends, so only the main thread asks for it.
    """
    return os.getpid() if _thread.get_native_id() == os.getpid() else None


def _environment() -> dict[str, str]:
    """Return an environment with none of the client's settings, where this package can be imported."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SMOLMIX_", "LD_PRELOAD"))
    }
    package_parent = str(Path(smolmix_sync.__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_parent, environment.get("PYTHONPATH")]))
    environment.pop("NYM_API", None)
    return environment


def _forget_in_children(lifeline: _socket.socket) -> None:
    """Close a forked child's copy of *lifeline*, or the network would outlive the parent."""

    def close() -> None:
        with contextlib.suppress(OSError):
            lifeline.close()

    os.register_at_fork(after_in_child=close)
