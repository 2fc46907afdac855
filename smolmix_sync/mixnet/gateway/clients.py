"""What a gateway remembers about its clients: keys, balances, live connections, offline messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smolmix_sync.mixnet.gateway.constants import DAY, OFFLINE_MESSAGE_LIFETIME

if TYPE_CHECKING:
    from smolmix_sync.mixnet.gateway.server import GatewayServerSession

__all__ = ["ClientRecord", "ClientTable"]


@dataclass(slots=True)
class ClientRecord:
    """One row of the client table.

    *expires_day* is the number of the UTC day (Unix time // 86400) at whose end the balance is void; 0 is
    1970-01-01.
    """

    shared_key: bytes = field(repr=False)
    balance: int = 0
    expires_day: int = 0
    last_auth_timestamp: int = 0

    def balance_at(self, unix_now: float) -> int:
        """Return the balance, reset to 0 first if its day is over."""
        if self.expires_day < int(unix_now // DAY):
            self.balance = 0
        return self.balance

    def credit(self, amount: int, unix_now: float) -> int:
        """Add *amount* until the end of this UTC day; return the new balance."""
        self.balance = min(self.balance_at(unix_now) + amount, (1 << 63) - 1)
        self.expires_day = int(unix_now // DAY)
        return self.balance


class ClientTable:
    """Registrations, live connections and offline messages of one gateway; shared by its sessions.

    Offline messages are also kept for addresses that never registered here, as the reference does; ours
    are bounded by *max_inbox* per address and *max_inboxes* in all, the oldest going first.

    Source: spec/gateway.md sections 7, 8.2, 9.2 and 11.2.
    """

    def __init__(self, *, max_clients: int = 65_536, max_inbox: int = 1024, max_inboxes: int = 4096) -> None:
        self.max_clients = max_clients
        self.max_inbox = max_inbox
        self.max_inboxes = max_inboxes
        self.records: dict[bytes, ClientRecord] = {}
        self.live: dict[bytes, GatewayServerSession] = {}
        self.dropped = 0
        self._inboxes: dict[bytes, deque[tuple[float, bytes]]] = {}

    def register(self, address: bytes, shared_key: bytes) -> ClientRecord:
        """Insert or overwrite a registration; balance and last authentication are kept."""
        record = self.records.get(address)
        if record is None:
            if len(self.records) >= self.max_clients:
                self._evict()
            record = self.records[address] = ClientRecord(shared_key)
        else:
            record.shared_key = shared_key
        return record

    def _evict(self) -> None:
        """Forget the oldest registration without a live connection, or the oldest of all."""
        oldest = next((address for address in self.records if address not in self.live), None)
        self.forget(next(iter(self.records)) if oldest is None else oldest)

    def forget(self, address: bytes) -> None:
        """Delete what is kept about a client."""
        self.records.pop(address, None)
        self._inboxes.pop(address, None)

    def deliver(self, address: bytes, payload: bytes, now: float) -> GatewayServerSession | None:
        """Push *payload* to the live connection, or store it; return the session to flush, if live."""
        session = self.live.get(address)
        if session is not None and session.push(payload, now):
            return session
        self.store(address, payload, now)
        return None

    def store(self, address: bytes, payload: bytes, now: float) -> None:
        """Keep *payload* for the client's next connection, at most 24 hours."""
        inbox = self._inboxes.get(address)
        if inbox is None:
            if len(self._inboxes) >= self.max_inboxes:
                self.dropped += len(self._inboxes.pop(next(iter(self._inboxes))))
            inbox = self._inboxes[address] = deque()
        elif len(inbox) >= self.max_inbox:
            inbox.popleft()
            self.dropped += 1
        inbox.append((now, payload))

    def stored(self, address: bytes) -> int:
        """Return how many messages wait for a client."""
        return len(self._inboxes.get(address, ()))

    def take_stored(self, address: bytes, now: float) -> Iterator[bytes]:
        """Remove and yield a client's stored messages, oldest first, without those past their time."""
        for stored_at, payload in self._inboxes.pop(address, ()):
            if now - stored_at <= OFFLINE_MESSAGE_LIFETIME:
                yield payload

    def purge(self, now: float) -> None:
        """Drop stored messages past their time; call it now and then."""
        for address, inbox in list(self._inboxes.items()):
            while inbox and now - inbox[0][0] > OFFLINE_MESSAGE_LIFETIME:
                inbox.popleft()
                self.dropped += 1
            if not inbox:
                del self._inboxes[address]
