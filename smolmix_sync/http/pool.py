"""One pool of kept-alive connections per tunnel, shared by all its ``fetch()`` calls.

A connection through the mixnet costs two or three round trips of a second each, so a finished one is kept for
the next request to its origin. Per origin there is a limit: requests beyond it wait for a connection instead
of opening one each.

Source: research/peers.md section 2.1 (pool, per-origin lock and stale retry of mixFetch).
"""

from __future__ import annotations

import contextlib
import os
import socket as _names
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import h11

from smolmix_sync.http.dial import Carrier, Deadline, dial, start_tls
from smolmix_sync.tunnel import TunnelState

__all__ = ["Connection", "Origin", "Pool", "close_idle", "pool_of"]

#: Ours: as many as browsers open to one origin over HTTP/1.1.
_PER_ORIGIN = 6
#: Ours: idle connections of one tunnel; the oldest goes first.
_MAX_IDLE = 32
#: Ours: servers close theirs after 5 to 75 s, and ours would only find out when it is used.
_IDLE_SECONDS = 60.0
#: The seeds' TCP keepalive for pools. Source: design.md section 6.
_KEEPALIVE = 10
#: Ours: the head of a response may be this long; h11's own 16 KiB is short for sites with many cookies.
_MAX_HEAD = 128 * 1024


class Origin(NamedTuple):
    """Who is talked to, and with which trust."""

    scheme: str
    host: str
    port: int
    #: The TLS context given by the caller: connections made under another one are not theirs.
    context: Any = None


class Connection:
    """A connected socket with HTTP/1.1 on it; used by one request at a time."""

    __slots__ = (
        "__weakref__",
        "ended",
        "framed",
        "http",
        "idle_since",
        "origin",
        "received",
        "reused",
        "sock",
    )

    def __init__(self, origin: Origin, sock: Any) -> None:
        self.origin = origin
        self.sock = sock
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self.reused = False
        #: Whether the end of the body being read is marked by its length or a last chunk.
        self.framed = False
        #: Octets received for the exchange under way, and whether the stream has ended.
        self.received = 0
        self.ended = False
        self.idle_since = 0.0

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of *data* before *deadline*."""
        view = memoryview(data)
        while view:
            self.sock.settimeout(deadline.left())
            sent = self.sock.send(view[:65536])
            view = view[sent:]

    def receive(self, deadline: Deadline) -> bytes:
        """Return the next octets, ``b""`` at the end.

        Raises:
            ssl.SSLEOFError: the TLS stream was cut off.
        """
        self.sock.settimeout(deadline.left())
        try:
            data: bytes = self.sock.recv(65536)
        except TimeoutError:
            raise deadline.expired() from None
        self.received += len(data)
        self.ended = not data
        return data

    def next_event(self, deadline: Deadline) -> Any:
        """Return the next h11 event, reading as needed."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = self.receive(deadline)
            if data and self.received == len(data) and not b"HTTP/".startswith(data[:5]):
                # h11 would wait for the end of a head that may never come: a mail server's greeting has none.
                raise h11.RemoteProtocolError("the answer does not begin with HTTP/")
            self.http.receive_data(data)

    def is_alive(self) -> bool:
        """Tell whether an idle connection can still be used: nothing may have arrived on it."""
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except (OSError, ValueError):
            pass
        return False

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self.sock.close()


class Pool:
    """The connections of one tunnel.

    Args:
        per_origin: connections to one origin, used and idle together.
        max_idle: idle connections to all origins together.
    """

    def __init__(self, per_origin: int = _PER_ORIGIN, max_idle: int = _MAX_IDLE) -> None:
        self._per_origin = per_origin
        self._max_idle = max_idle
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._count: dict[Origin, int] = {}

    def acquire(
        self, tunnel: Carrier, origin: Origin, deadline: Deadline, make_context: Callable[[], Any], *, fresh: bool = False
    ) -> Connection:  # fmt: skip
        """Return a connection to *origin*: an idle one, or a new one; wait for a place if there are too many.

        Args:
            tunnel: where a new one is made.
            origin: to whom.
            deadline: bounds the wait and the set-up.
            make_context: gives the TLS context of a new one.
            fresh: no idle one: all of them may be stale.
        """
        with self._changed:
            while True:
                connection = self._take(origin, drop=fresh)
                if connection is not None:
                    connection.reused = True
                    return connection
                if self._count.get(origin, 0) < self._per_origin:
                    self._count[origin] = self._count.get(origin, 0) + 1
                    break
                if not self._changed.wait(deadline.left()) and deadline.total is None:
                    raise deadline.expired()
        try:
            sock: Any = dial(tunnel, origin.host, origin.port, deadline)
            try:
                _keep_alive(sock)
                if origin.scheme == "https":
                    sock = start_tls(sock, origin.context or make_context(), origin.host, deadline)
            except BaseException:
                sock.close()
                raise
            return Connection(origin, sock)
        except TimeoutError as error:
            self._forget(origin)
            if deadline.over:
                raise deadline.expired() from error
            raise
        except BaseException:
            self._forget(origin)
            raise

    def _take(self, origin: Origin, *, drop: bool) -> Connection | None:
        """Return the idle connection to *origin* used last, having dropped what is old or dead."""
        oldest = time.monotonic() - _IDLE_SECONDS
        for connection in [
            one for one in self._idle if one.idle_since < oldest or (drop and one.origin == origin)
        ]:
            self._idle.remove(connection)
            self._end(connection)
        for connection in [one for one in reversed(self._idle) if one.origin == origin]:
            self._idle.remove(connection)
            if connection.is_alive():
                return connection
            self._end(connection)
        return None

    def release(self, connection: Connection) -> None:
        """Take back a connection whose exchange is complete."""
        try:
            connection.http.start_next_cycle()
        except h11.LocalProtocolError:  # one side said "Connection: close"
            self.discard(connection)
            return
        with self._changed:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
            if len(self._idle) > self._max_idle:
                self._end(self._idle.pop(0))
            self._changed.notify_all()

    def discard(self, connection: Connection) -> None:
        """Close a connection that cannot be used again."""
        with self._changed:
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        connection.close()
        self._forget(connection.origin)

    def _forget(self, origin: Origin) -> None:
        with self._changed:  # re-entrant
            left = self._count.get(origin, 1) - 1
            if left > 0:
                self._count[origin] = left
            else:
                self._count.pop(origin, None)
            self._changed.notify_all()

    def close_idle(self) -> None:
        """Close every idle connection."""
        with self._changed:
            idle, self._idle = self._idle, []
            for connection in idle:
                self._end(connection)

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)


def _keep_alive(sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(_names.SOL_SOCKET, _names.SO_KEEPALIVE, 1)
        sock.setsockopt(_names.IPPROTO_TCP, _names.TCP_KEEPIDLE, _KEEPALIVE)
        sock.setsockopt(_names.IPPROTO_TCP, _names.TCP_KEEPINTVL, _KEEPALIVE)


_lock = threading.Lock()
_pools: weakref.WeakKeyDictionary[Carrier, Pool] = weakref.WeakKeyDictionary()


def pool_of(tunnel: Carrier) -> Pool:
    """Return the pool of *tunnel*; its idle connections are closed when the tunnel ends."""
    with _lock:
        pool = _pools.get(tunnel)
        if pool is None:
            pool = _pools[tunnel] = Pool()
            on_state = getattr(tunnel, "on_state", None)
            if on_state is not None:
                on_state(_Watch(pool))
        return pool


class _Watch:
    """Closes a pool's idle connections with the tunnel; does not keep the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = weakref.ref(pool)

    def __call__(self, state: TunnelState, reason: str) -> None:
        pool = self._pool()
        if pool is not None and state not in (TunnelState.READY, TunnelState.RECONNECTING):
            pool.close_idle()


def close_idle(tunnel: Carrier | None = None) -> None:
    """Close the idle connections of *tunnel*, or of every tunnel."""
    with _lock:
        pools = [pool for owner, pool in _pools.items() if tunnel is None or owner is tunnel]
    for pool in pools:
        pool.close_idle()


def _after_fork_in_child() -> None:
    """Start without connections: those inherited are the parent's."""
    global _lock, _pools
    _lock = threading.Lock()
    _abandoned.append(_pools)
    _pools = weakref.WeakKeyDictionary()


#: Kept so that nothing of the parent's is finalised in the child.
_abandoned: list[object] = []
os.register_at_fork(after_in_child=_after_fork_in_child)
