"""The hand-out channel of a process whose children are to use its tunnel (``fork="parent"``).

A daemon within the process, on a path in a folder of its own that only this user can enter. It is there before the
first fork, and ends with the parent: children get ENETDOWN then.

Source: design.md decision 15a.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from smolmix_sync.daemon.server import DaemonServer
from smolmix_sync.reactor import _originals
from smolmix_sync.reactor.provider import TunnelPort

__all__ = ["serve_children"]

_servers: list[tuple[int, DaemonServer]] = []


def serve_children(tunnel: TunnelPort) -> Path:
    """Serve *tunnel* to the children of this process; return the path that they attach to."""
    folder = tempfile.mkdtemp(prefix="smolmix-parent-")
    server = DaemonServer(Path(folder, "tunnel.sock"), tunnel)
    try:
        server.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not _servers:
        _originals.run_at_exit(_stop)
    _servers.append((os.getpid(), server))
    return server.path


def _stop() -> None:
    while _servers:
        pid, server = _servers.pop()
        if pid == os.getpid():
            server.stop()
            shutil.rmtree(server.path.parent, ignore_errors=True)
