"""ICMP echo: the ping socket."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EchoReply", "Ping"]


@dataclass(slots=True)
class EchoReply:
    """One answer; ``error`` is an errno when an ICMP error came instead."""

    addr: str
    seq: int
    payload: bytes
    received_at: float
    error: int = 0


class Ping:
    """An echo socket with its own identifier; made by ``Stack.ping``. READABLE, ERROR."""

    ident: int

    def send(self, addr: str, seq: int, payload: bytes = b"") -> None:
        """Queue an echo request.

        Raises:
            OSError: ENETUNREACH, EMSGSIZE, ENOBUFS.
        """
        raise NotImplementedError

    def recv(self) -> EchoReply | None:
        """Take the oldest reply, or None."""
        raise NotImplementedError

    def readable(self) -> int:
        """Return how many replies wait."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the identifier."""
        raise NotImplementedError
