"""UDP: the socket object, and datagrams to any address."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Datagram", "Udp"]


@dataclass(slots=True, eq=False)
class Datagram:
    """A datagram to any destination (``any_address`` stacks); answer with ``Stack.send_udp``."""

    src: tuple[str, int]
    dst: tuple[str, int]
    payload: bytes

    def refuse(self, how: object) -> None:
        """Answer with an ICMP error (a ``Refusal``)."""
        raise NotImplementedError


class Udp:
    """A UDP socket; made by ``Stack.udp``. READABLE, WRITABLE (queue drained), ERROR."""

    local: tuple[str, int]
    """Bound address; ``("", port)`` when bound to every address."""
    remote: tuple[str, int] | None

    def connect(self, addr: str, port: int) -> None:
        """Fix the peer: only its datagrams are delivered, ``send`` goes to it.

        Raises:
            OSError: ENETUNREACH when no address of ours has that family.
        """
        raise NotImplementedError

    def disconnect(self) -> None:
        """Undo ``connect`` (AF_UNSPEC)."""
        raise NotImplementedError

    def sendto(self, data: bytes | bytearray | memoryview, addr: str, port: int) -> int:
        """Queue one datagram; return its size.

        Raises:
            BlockingIOError: the send queue is full (wait for WRITABLE).
            OSError: EMSGSIZE, ENETUNREACH, EBADF when closed; a pending ICMP error once.
        """
        raise NotImplementedError

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Queue one datagram to the connected peer (EDESTADDRREQ without one)."""
        raise NotImplementedError

    def recv(self) -> tuple[bytes, tuple[str, int], tuple[str, int]] | None:
        """Take one datagram: payload, source, destination; None when none waits."""
        raise NotImplementedError

    def readable(self) -> int:
        """Return how many datagrams wait."""
        raise NotImplementedError

    def take_error(self) -> int:
        """Return and clear the pending ICMP errno (connected sockets only)."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the port; queued datagrams are still sent."""
        raise NotImplementedError
