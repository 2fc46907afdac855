"""What a gateway remembers about its clients."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smolmix_sync.mixnet.gateway.server import GatewayServerSession

__all__ = ["ClientRecord", "ClientTable"]


@dataclass(slots=True)
class ClientRecord:
    """One row of the client table."""

    shared_key: bytes = field(repr=False)
    balance: int = 0
    #: Day number (Unix time // 86400) whose end the balance expires at; 0 is 1970-01-01.
    expires_day: int = 0
    last_auth_timestamp: int = 0


class ClientTable:
    """Registrations, live connections and offline messages of one gateway; shared by its sessions.

    Source: spec/gateway.md sections 7, 8.2, 9.2, 11.2.
    """

    def __init__(self, *, max_clients: int = 65536, max_inbox: int = 1024) -> None:
        self.max_clients = max_clients
        self.max_inbox = max_inbox
        self.records: dict[bytes, ClientRecord] = {}
        self.live: dict[bytes, GatewayServerSession] = {}
        self._inboxes: dict[bytes, deque[tuple[float, bytes]]] = {}

    def deliver(self, address: bytes, payload: bytes, now: float) -> GatewayServerSession | None:
        """Push *payload* to the live connection, or store it; return the session to flush, if live."""
        raise NotImplementedError
