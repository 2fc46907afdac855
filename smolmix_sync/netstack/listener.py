"""Passive opens: listeners, and connection requests to any address."""

from __future__ import annotations

import enum

from smolmix_sync.netstack.config import TcpSettings
from smolmix_sync.netstack.connection import Conn

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


class Listener:
    """A listening port; READABLE when ``accept`` has something."""

    local: tuple[str, int]
    settings: TcpSettings
    backlog: int

    def accept(self) -> Conn | None:
        """Take the oldest established connection, or None."""
        raise NotImplementedError

    def readable(self) -> int:
        """Return how many connections wait."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop listening; connections not yet accepted are reset."""
        raise NotImplementedError


class Incoming:
    """A SYN to any address, waiting for the owner's decision (``any_address`` stacks)."""

    local: tuple[str, int]
    """The destination the peer asked for."""
    remote: tuple[str, int]

    def accept(self, settings: TcpSettings | None = None) -> Conn:
        """Answer with SYN-ACK; the connection reports CONNECTED when the handshake is done."""
        raise NotImplementedError

    def refuse(self, how: Refusal = Refusal.RST) -> None:
        """Turn the request away."""
        raise NotImplementedError
