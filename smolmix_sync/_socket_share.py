"""Sockets that travel to other processes: through multiprocessing's pipes and queues, and Celery's billiard.

The descriptor travels as ever; with it go the names, the state and the cookie, because the process that receives it
may never have seen the flow. The reactor that serves it stays where it is.

Source: spec/sockets.md sections 2 and 11.
"""

from __future__ import annotations

import importlib
import socket as _stdlib
import sys
from collections.abc import Callable
from typing import Any

from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import original, os_error

__all__ = ["modules", "reducer", "register"]

_FIELDS = ("cookie", "laddr", "raddr", "bound", "used", "error", "options", "alias", "told")


class _Elsewhere:
    """Stands for the pump of a flow that another process serves."""

    flow: Any = None

    def option_changed(self, key: tuple[int, int]) -> None:
        """Nobody here to tell."""

    def __getattr__(self, name: str) -> Any:
        import errno

        if name.startswith("__") or name in ("over", "stop", "release", "connect", "info"):
            raise AttributeError(name)
        raise os_error(errno.EOPNOTSUPP, "the socket is served by another process")


def modules() -> list[Any]:
    """Return the modules with a ForkingPickler that are loaded."""
    names = ("multiprocessing.reduction", "billiard.reduction")
    found = [sys.modules[name] for name in names if name in sys.modules]
    return [module for module in found if hasattr(module, "ForkingPickler")]


def reducer(module: Any) -> Callable[[Any], Any]:
    """Return what turns a socket into what ``ForkingPickler`` of *module* sends."""

    def reduce_socket(sock: Any) -> Any:
        flow = flows.find(sock) if sock.fileno() >= 0 else None
        known = None
        if flow is not None:
            known = (int(flow.state), tuple(getattr(flow, name) for name in _FIELDS))
        return rebuild, (module.DupFd(sock.fileno()), sock.family, sock.type, sock.proto, known)

    return reduce_socket


def rebuild(
    handle: Any, family: int, type: int, proto: int, known: tuple[int, tuple[Any, ...]] | None
) -> Any:
    """Build a socket from what :func:`reducer` sent."""
    fd = handle.detach()
    if known is None:
        return _stdlib.socket(family, type, proto, fileno=fd)
    state, values = known
    if values[0] not in flows.by_cookie:
        flow = flows.Flow(family, type, proto)
        flow.state = flows.FlowState(state)
        for name, value in zip(_FIELDS, values, strict=True):
            setattr(flow, name, value)
        flow.pump = _Elsewhere()
        flows.by_cookie[flow.cookie] = flow
    sockets = importlib.import_module("smolmix_sync.socket")
    plain = original("socket", "socket")
    patched = "smolmix_sync.monkey" in sys.modules and sys.modules["smolmix_sync.monkey"].is_patched()
    return (plain if patched else sockets.MixSocket)(family, type, proto, fileno=fd)


def register(cls: type) -> None:
    """Let multiprocessing send sockets of *cls*."""
    importlib.import_module("multiprocessing.reduction")
    for module in modules():
        module.ForkingPickler.register(cls, reducer(module))
