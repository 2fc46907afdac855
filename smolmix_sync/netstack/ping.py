"""ICMP echo: the ping socket."""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from smolmix_sync.netstack.events import ERROR, READABLE

__all__ = ["EchoReply", "Ping"]

# Ours: replies nobody reads.
_MAX_REPLIES = 256
# Ours: what one echo may carry without being fragmented.
_MAX_PAYLOAD = 1400


@dataclass(slots=True)
class EchoReply:
    """One answer; ``error`` is an errno when an ICMP error came instead."""

    addr: str
    seq: int
    payload: bytes
    received_at: float
    error: int = 0


class _PingHost(Protocol):
    def report(self, obj: Ping, mask: int) -> None: ...

    def destination(self, addr: str) -> bytes: ...

    def send_echo(self, destination: bytes, ident: int, seq: int, payload: bytes) -> None: ...

    def close_ping(self, ping: Ping) -> None: ...


class Ping:
    """An echo socket with its own identifier; made by ``Stack.ping``. READABLE, ERROR.

    ``ident`` is the identifier, ``tag`` belongs to the owner.
    """

    __slots__ = ("_host", "_replies", "closed", "ident", "tag")

    def __init__(self, host: _PingHost, ident: int) -> None:
        self._host = host
        self.ident = ident
        self._replies: deque[EchoReply] = deque()
        self.closed = False
        self.tag: object = None

    def send(self, addr: str, seq: int, payload: bytes = b"") -> None:
        """Queue an echo request.

        Raises:
            OSError: ENETUNREACH, EMSGSIZE, ENOBUFS, EBADF.
        """
        if self.closed:
            raise OSError(errno.EBADF, "socket is closed")
        if len(payload) > _MAX_PAYLOAD:
            raise OSError(errno.EMSGSIZE, "echo payload too long")
        self._host.send_echo(self._host.destination(addr), self.ident, seq & 0xFFFF, payload)

    def recv(self) -> EchoReply | None:
        """Take the oldest reply, or None."""
        return self._replies.popleft() if self._replies else None

    def readable(self) -> int:
        """Return how many replies wait."""
        return len(self._replies)

    def close(self) -> None:
        """Release the identifier."""
        if not self.closed:
            self.closed = True
            self._host.close_ping(self)

    def deliver(self, reply: EchoReply) -> bool:
        """Queue a reply or an error; False when nobody reads them."""
        if len(self._replies) >= _MAX_REPLIES:
            return False
        self._replies.append(reply)
        self._host.report(self, READABLE | (ERROR if reply.error else 0))
        return True
