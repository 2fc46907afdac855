"""The gateway's side of the session, one object per websocket connection."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from smolmix_sync.mixnet.gateway.clients import ClientTable
from smolmix_sync.mixnet.gateway.events import ServerEvent


class ServerState(enum.Enum):
    """Where a server session stands."""

    FRESH = "fresh"
    HANDSHAKE = "handshake"
    DUPLICATE = "duplicate"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Habits of a gateway; times in seconds."""

    enforce_tickets: bool = False
    accept_any_ticket: bool = False
    upgrade_mode: bool = False
    free_bandwidth: int = 64 * 1024**3
    newest_wins: bool = True
    max_queued_frames: int = 8192
    max_text_size: int = 1 << 16


class GatewayServerSession:
    """One websocket connection at a gateway, without the websocket.

    Source: spec/gateway.md sections 4 to 9 and 11.2.
    """

    def __init__(
        self,
        identity_seed: bytes,
        clients: ClientTable,
        *,
        urandom: Callable[[int], bytes],
        settings: ServerSettings | None = None,
    ) -> None: ...

    state: ServerState

    @property
    def address(self) -> bytes | None:
        """The client's Ed25519 key once it is authenticated."""
        raise NotImplementedError

    def start(self, now: float, unix_now: float) -> None:
        """Begin, the websocket being accepted."""
        raise NotImplementedError

    def update_clock(self, now: float, unix_now: float) -> None:
        """Tell the session the wall clock anew."""
        raise NotImplementedError

    def receive_data(self, data: str | bytes, now: float) -> None:
        """Take one websocket message: ``str`` is a text message, ``bytes`` a binary one."""
        raise NotImplementedError

    def receive_ping(self, payload: bytes, now: float) -> None:
        """Note a websocket ping; the owner answers the pong once the session is READY."""
        raise NotImplementedError

    def receive_pong(self, payload: bytes, now: float) -> None:
        """Take a websocket pong: the answer to ``PingWanted``."""
        raise NotImplementedError

    def connection_lost(self, now: float) -> None:
        """Note the end of the websocket; the table of live connections forgets this session."""
        raise NotImplementedError

    def push(self, payload: bytes, now: float) -> bool:
        """Queue one final-hop payload for the client; False if not READY or full (store it then)."""
        raise NotImplementedError

    def data_to_send(self, now: float, room: int | None = None) -> list[str | bytes]:
        """Return the websocket messages to write now, in order."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Return when ``handle_deadline`` wants to be called."""
        raise NotImplementedError

    def handle_deadline(self, now: float) -> None:
        """Deal with every deadline that has passed."""
        raise NotImplementedError

    def next_event(self) -> ServerEvent | None:
        """Return the oldest event not yet taken."""
        raise NotImplementedError
