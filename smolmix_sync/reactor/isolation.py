"""Isolation: a tunnel with a Nym identity of its own for each key; bounded, and some of them kept warm.

What goes through one tunnel can be linked by its exit and by its entry gateway. A program that wants
its tasks unlinkable gives each its own key.

Source: design.md section 6; research of what users of mixnet clients ask for.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from smolmix_sync.reactor import _originals
from smolmix_sync.reactor._originals import os_error

if TYPE_CHECKING:
    from smolmix_sync.reactor.loop import ReactorLoop, Timer
    from smolmix_sync.reactor.provider import TunnelPort

__all__ = ["TunnelPool", "current_key", "isolate", "isolated_port", "set_isolation_key", "set_key_function"]

#: Ours: a tunnel that was handed out this recently is not given up for another key: its socket is about to be made.
_FRESH = 0.5
#: Ours: seconds between looks for tunnels nobody uses.
_SWEEP = 15.0

_key: ContextVar[str] = ContextVar("smolmix_isolation", default="")
_key_function: Callable[[], str] | None = None

_PortT = TypeVar("_PortT", bound="TunnelPort")


@contextmanager
def isolate(key: str) -> Iterator[str]:
    """Make sockets and look-ups of the calling thread, greenlet or task use the tunnel of *key* inside ``with``.

    The same key means the same tunnel and identity, another key another one. Threads started inside do not
    inherit it. Sockets that exist keep their tunnel.

    Raises:
        ValueError: *key* is empty.
    """
    if not key:
        raise ValueError("an isolation key is a non-empty string")
    token = _key.set(key)
    try:
        yield key
    finally:
        _key.reset(token)


def set_isolation_key(key: str) -> None:
    """Set the key of the calling thread, greenlet or task until it is set again; '' for none."""
    _key.set(key)


def set_key_function(function: Callable[[], str] | None) -> Callable[[], str] | None:
    """Ask *function* for the key wherever no ``isolate`` is in force; return what was asked before."""
    global _key_function
    before, _key_function = _key_function, function
    return before


def current_key() -> str:
    """Return the key in force, '' for none."""
    key = _key.get()
    if not key and _key_function is not None:
        key = _key_function()
    return key


def isolated_port(port: TunnelPort, key: str) -> TunnelPort:
    """Return the port that *port* has for *key*, itself for no key.

    Raises:
        OSError: EOPNOTSUPP when there is a key and *port* has one identity only; what its ``isolate`` raises.
    """
    if not key:
        return port
    find: Callable[[str], TunnelPort] | None = getattr(port, "isolate", None)
    if find is None:
        raise os_error(errno.EOPNOTSUPP, "this tunnel has one identity only")
    return find(key)


class _Kept(Generic[_PortT]):
    def __init__(self, port: _PortT, now: float) -> None:
        self.port = port
        self.used_at = now


class TunnelPool(Generic[_PortT]):
    """Tunnels by key. Any thread; the state is the reactor's.

    Args:
        loop: the reactor.
        make: begins a tunnel with a new identity, without waiting for it.
        limit: tunnels with a key; beyond it the one unused for longest goes.
        warm: tunnels begun ahead for keys to come, from the first key on.
        idle: seconds without a socket after which a tunnel is shut down.
    """

    def __init__(
        self,
        loop: ReactorLoop,
        make: Callable[[], _PortT],
        *,
        limit: int = 8,
        warm: int = 0,
        idle: float = 300.0,
    ) -> None:
        self._loop = loop
        self._make = make
        self._limit = limit
        self._warm = warm
        self._idle = idle
        self._kept: dict[str, _Kept[_PortT]] = {}  # the one used last comes last
        self._spare: list[_PortT] = []
        self._timer: Timer | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._kept) + len(self._spare)

    def get(self, key: str) -> _PortT:
        """Return the tunnel of *key*, begun if it is new; it need not be READY.

        Raises:
            OSError: ENOBUFS when as many tunnels as there may be are in use; ENETDOWN after ``close``.
        """
        return self._loop.call(self._get, key)

    def _get(self, key: str) -> _PortT:
        if self._closed:
            raise os_error(errno.ENETDOWN, "the tunnel was shut down")
        now = self._loop.now()
        kept = self._kept.pop(key, None)
        if kept is not None and _is_over(kept.port):
            _retire(kept.port)
            kept = None
        if kept is None:
            self._make_room(now)
            kept = _Kept(self._take_spare() or self._make(), now)
            self._loop.call_soon(self._fill)
        kept.used_at = now
        self._kept[key] = kept
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP, self._sweep)
        return kept.port

    def _make_room(self, now: float) -> None:
        if len(self._kept) < self._limit:
            return
        for key, kept in self._kept.items():
            if now - kept.used_at >= _FRESH and not kept.port.device.in_use:
                _retire(self._kept.pop(key).port)
                return
        raise os_error(errno.ENOBUFS, f"all {self._limit} isolated tunnels are in use")

    def _take_spare(self) -> _PortT | None:
        while self._spare:
            port = self._spare.pop(0)
            if not _is_over(port):
                return port
            _retire(port)
        return None

    def _fill(self) -> None:
        while len(self._spare) < self._warm and not self._closed:
            self._spare.append(self._make())

    def _sweep(self) -> None:
        now = self._loop.now()
        self._timer = None
        for key, kept in list(self._kept.items()):
            if kept.port.device.in_use:
                kept.used_at = now
            elif now - kept.used_at >= self._idle:
                _retire(self._kept.pop(key).port)
        if self._kept:
            self._timer = self._loop.call_later(_SWEEP, self._sweep)

    def close(self, timeout: float = 5.0) -> None:
        """Shut every tunnel down and wait for it; ``get`` fails from now on."""
        for port in self._loop.call(self._take_all):
            shutdown = getattr(port, "shutdown", None)
            if shutdown is not None:
                shutdown(timeout)

    def _take_all(self) -> list[_PortT]:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ports = [kept.port for kept in self._kept.values()] + self._spare
        self._kept.clear()
        self._spare = []
        return ports


def _is_over(port: TunnelPort) -> bool:
    return bool(port.device.closed)


def _retire(port: Any) -> None:
    """Shut a tunnel down without waiting for it."""
    shutdown = getattr(port, "shutdown", None)
    if shutdown is not None:
        _originals.start_new_thread(shutdown, (5.0,))
