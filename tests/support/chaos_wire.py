"""TCP connections in virtual time, between the client's machine and the world that it sees outside the tunnel.

``Wire.dial`` stands for ``reactor._real.connect_tcp``, the one place where the reactor opens a connection. Whatever
the client dials is written down; what the model does not offer is a leak.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gevent
import gevent.event
from support.chaos_clock import ChaosFailure, VirtualLoop

__all__ = ["Handler", "ServerEnd", "VirtualSocket", "Wire"]

#: What kernels and the path between them hold before a writer has to wait.
_IN_FLIGHT = 256 * 1024


class Handler(Protocol):
    """What serves one connection."""

    def data_received(self, data: bytes) -> None: ...

    def connection_lost(self) -> None: ...


class VirtualSocket:
    """The client's end, with the face of ``RealSocket``."""

    def __init__(self, server: ServerEnd) -> None:
        self.server = server
        self._parts: deque[bytes] = deque()
        self._readable = gevent.event.Event()
        self._writable = gevent.event.Event()
        self._eof = False
        self._error = 0
        self._open = True
        self._timeout: float | None = None

    def _check(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, "the socket was closed by another greenlet")
        if self._error:
            raise OSError(self._error, os.strerror(self._error))

    def _wait(self, event: Any, what: str) -> None:
        event.clear()
        if not event.wait(self._timeout):
            raise TimeoutError(errno.ETIMEDOUT, f"{what} timed out")

    def recv(self, size: int, flags: int = 0) -> bytes:
        while not self._parts:
            self._check()
            if self._eof:
                return b""
            self._wait(self._readable, "recv")
        part = self._parts.popleft()
        if len(part) > size:
            self._parts.appendleft(part[size:])
            part = part[:size]
        return part

    def send(self, data: Any, flags: int = 0) -> int:
        self._check()
        while self.server.backlog > _IN_FLIGHT:
            self._wait(self._writable, "send")
            self._check()
        self.server.send_to(bytes(data))
        return len(data)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.send(data)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._wake()
            self.server.client_closed()

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def fileno(self) -> int:
        return -1

    # --- called by the server's end ---

    def _wake(self) -> None:
        self._readable.set()
        self._writable.set()

    def feed(self, data: bytes) -> None:
        if self._open:
            self._parts.append(data)
            self._readable.set()

    def end(self, error: int) -> None:
        if error:
            self._error = self._error or error
            self._parts.clear()
        self._eof = True
        self._wake()

    def room(self) -> None:
        self._writable.set()


class ServerEnd:
    """The other end: callbacks in virtual time, and ways to misbehave.

    Attributes:
        silent: nothing arrives any more in either direction, and nobody is told (a NAT that forgot).
        paused: nothing is read, so that the sender's buffers fill.
    """

    def __init__(self, loop: VirtualLoop, latency: float) -> None:
        self._loop = loop
        self._latency = latency
        self.client = VirtualSocket(self)
        self.handler: Handler
        self.silent = False
        self.backlog = 0
        self.over = False
        self._paused = False
        self._unread: deque[bytes] = deque()

    def send_to(self, data: bytes) -> None:
        """Carry octets of the client."""
        self.backlog += len(data)
        if not self.silent:
            self._loop.at(self._loop.time + self._latency, self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        if self.over or self.silent:
            return
        if self._paused:
            self._unread.append(data)
            return
        self._read(data)

    def _read(self, data: bytes) -> None:
        full = self.backlog > _IN_FLIGHT
        self.backlog -= len(data)
        if full:
            self.client.room()
        self.handler.data_received(data)

    def pause(self, seconds: float) -> None:
        """Read nothing for a while."""
        self._paused = True
        self._loop.at(self._loop.time + seconds, self._resume)

    def _resume(self) -> None:
        self._paused = False
        while self._unread and not self.over and not self._paused:
            self._read(self._unread.popleft())

    def client_closed(self) -> None:
        """The client has closed; the handler hears it, unless the path is gone."""
        if not self.silent:
            self._loop.at(self._loop.time + self._latency, self._lost)

    def _lost(self) -> None:
        if not self.over:
            self.over = True
            self.handler.connection_lost()

    # --- what the handler calls ---

    def write(self, data: bytes) -> None:
        if not self.over and not self.silent and data:
            self._loop.at(self._loop.time + self._latency, self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        if not self.silent:
            self.client.feed(data)

    def close(self, error: int = 0) -> None:
        """End the connection: by a FIN, or a reset that loses what is on its way."""
        if self.over:
            return
        self.over = True
        if not self.silent:
            self._loop.at(self._loop.time + self._latency, self.client.end, error)
        self.handler.connection_lost()


class Wire:
    """Everything outside the tunnel that listens.

    Attributes:
        dials: (time, host, port, tls) of every connection the client opened or tried to.
        down: listeners that refuse.
        dark: listeners from which no answer comes at all.
    """

    def __init__(self, loop: VirtualLoop, latency: float = 0.01) -> None:
        self._loop = loop
        self._latency = latency
        self._listeners: dict[tuple[str, int], Callable[[ServerEnd], Handler]] = {}
        self.dials: deque[tuple[float, str, int, bool]] = deque(maxlen=20_000)
        self.dialled = 0
        self.down: set[tuple[str, int]] = set()
        self.dark: set[tuple[str, int]] = set()

    def listen(self, host: str, port: int, accept: Callable[[ServerEnd], Handler]) -> None:
        self._listeners[(host, port)] = accept

    def dial(
        self,
        host: str,
        port: int,
        *,
        timeout: float,
        tls: Any = None,
        addresses: Mapping[str, str] | None = None,
        **_: Any,
    ) -> VirtualSocket:
        """Open a connection as ``connect_tcp`` does."""
        self.dialled += 1
        self.dials.append((self._loop.time, host, port, tls is not None))
        where = (host, port)
        accept = self._listeners.get(where)
        if accept is None:
            raise ChaosFailure(f"the client dials {host}:{port}, which nobody has told it of")
        with gevent.Timeout(timeout, TimeoutError(errno.ETIMEDOUT, f"connecting to {host} timed out")):
            if where in self.dark:
                gevent.event.Event().wait()
            gevent.sleep(2 * self._latency)
            if where in self.down:
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            if where in self.dark:
                gevent.event.Event().wait()
        end = ServerEnd(self._loop, self._latency)
        end.handler = accept(end)
        return end.client
