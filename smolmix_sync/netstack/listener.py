"""Passive opens: listeners, and connection requests to any address."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from smolmix_sync.netstack import addresses
from smolmix_sync.netstack.config import TcpSettings
from smolmix_sync.netstack.connection import Conn
from smolmix_sync.netstack.events import READABLE

if TYPE_CHECKING:
    from smolmix_sync.netstack.segment import Segment

__all__ = ["Incoming", "Listener", "Refusal"]


class Refusal(enum.Enum):
    """How an incoming connection request or datagram is turned away."""

    RST = "rst"
    """TCP reset; for a datagram the same as PORT_UNREACHABLE."""
    PORT_UNREACHABLE = "port"
    HOST_UNREACHABLE = "host"
    NET_UNREACHABLE = "net"
    ADMIN_PROHIBITED = "admin"
    DROP = "drop"
    """Say nothing: the peer times out."""


class _ListenerHost(Protocol):
    def report(self, obj: Listener | Conn, mask: int) -> None: ...

    def stop_listening(self, listener: Listener) -> None: ...


class _IncomingHost(Protocol):
    def accept_incoming(self, incoming: Incoming, settings: TcpSettings | None) -> Conn: ...

    def refuse_incoming(self, incoming: Incoming, how: Refusal) -> None: ...


class Listener:
    """A listening port; READABLE when ``accept`` has something.

    ``tag`` belongs to the owner.
    """

    __slots__ = (
        "_host",
        "address",
        "backlog",
        "closed",
        "half_open",
        "local",
        "queue",
        "settings",
        "tag",
        "v6only",
    )

    def __init__(
        self,
        host: _ListenerHost,
        address: bytes,
        port: int,
        backlog: int,
        settings: TcpSettings,
        v6only: bool,
    ) -> None:
        self._host = host
        self.address = address
        """Packed; empty for every address of both families."""
        self.v6only = v6only
        self.local = (addresses.unpack(address) if address else "", port)
        self.backlog = max(1, backlog)
        self.settings = replace(settings)
        self.queue: deque[Conn] = deque()
        self.half_open: set[Conn] = set()
        self.closed = False
        self.tag: object = None

    def accept(self) -> Conn | None:
        """Take the oldest established connection, or None.

        Its events begin with one that repeats what happened before.
        """
        if not self.queue:
            return None
        conn = self.queue.popleft()
        conn.listener = None
        self._host.report(conn, conn.news())
        return conn

    def readable(self) -> int:
        """Return how many connections wait."""
        return len(self.queue)

    def close(self) -> None:
        """Stop listening; connections not yet accepted are reset."""
        if self.closed:
            return
        self.closed = True
        self._host.stop_listening(self)
        for conn in [*self.queue, *self.half_open]:
            conn.abort()
        self.queue.clear()
        self.half_open.clear()

    # -- for the stack

    def full(self) -> bool:
        """Tell whether another request must wait (the peer repeats its SYN)."""
        return len(self.queue) + len(self.half_open) >= self.backlog

    def established(self, conn: Conn) -> None:
        """Move *conn* to the accept queue."""
        self.half_open.discard(conn)
        self.queue.append(conn)
        self._host.report(self, READABLE)

    def gone(self, conn: Conn) -> None:
        """Note that *conn* ended; one already established stays to be accepted, as in Linux."""
        self.half_open.discard(conn)


class Incoming:
    """A SYN to any address, waiting for the owner's decision (``any_address`` stacks).

    Attributes:
        local: the destination the peer asked for.
        remote: the peer.
    """

    __slots__ = ("_host", "deadline", "key", "local", "packet", "remote", "segment", "source", "target")

    def __init__(
        self,
        host: _IncomingHost,
        key: bytes,
        source: bytes,
        target: bytes,
        segment: Segment,
        packet: bytes,
        deadline: float,
    ) -> None:
        self._host = host
        self.key = key
        self.source = source
        self.target = target
        self.segment = segment
        self.packet = packet
        self.deadline = deadline
        self.local = (addresses.unpack(target), segment.destination_port)
        self.remote = (addresses.unpack(source), segment.source_port)

    def accept(self, settings: TcpSettings | None = None) -> Conn:
        """Answer with SYN-ACK; the connection reports CONNECTED when the handshake is done.

        When the request already expired the connection returned is CLOSED with an error.
        """
        return self._host.accept_incoming(self, settings)

    def refuse(self, how: Refusal = Refusal.RST) -> None:
        """Turn the request away."""
        self._host.refuse_incoming(self, how)
