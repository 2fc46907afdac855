"""One tunnel for many processes: a daemon that hands out connected descriptors over AF_UNIX.

``smolmix-sync daemon`` serves; :func:`attach` makes any process use it. ``docs/daemon-protocol.rst`` is the protocol for
other languages.

Source: design.md decision 16; spec/sockets.md section 12.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smolmix_sync.daemon.client import AttachedTunnel, attach, default_path
    from smolmix_sync.daemon.launch import ensure_daemon
    from smolmix_sync.daemon.server import DaemonServer, Limits

__all__ = ["AttachedTunnel", "DaemonServer", "Limits", "attach", "default_path", "ensure_daemon"]

#: The client must load neither gevent nor cryptography: a prefork child is small because of it.
_WHERE = {
    "AttachedTunnel": "client",
    "attach": "client",
    "default_path": "client",
    "ensure_daemon": "launch",
    "DaemonServer": "server",
    "Limits": "server",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
