"""The client's side of the gateway session: register or authenticate, claim, forward, receive."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from smolmix_sync.mixnet.sphinx import MixPacket
from smolmix_sync.mixnet.gateway.events import ClientEvent


class ClientState(enum.Enum):
    """Where a client session stands."""

    IDLE = "idle"
    WAITING = "waiting"
    NEGOTIATING = "negotiating"
    HANDSHAKE = "handshake"
    AUTHENTICATING = "authenticating"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Bounds and habits of a client session; sizes in messages, times in seconds."""

    auto_claim: bool = True
    control_timeout: float = 30.0
    max_queued_frames: int = 64
    max_events: int = 8192
    max_text_size: int = 1 << 16


@dataclass(slots=True)
class ClientCounters:
    """What a client session did and what it dropped."""

    packets_forwarded: int = 0
    packets_pushed: int = 0
    packets_refused: int = 0
    claims: int = 0
    dropped_unencrypted: int = 0
    dropped_undecryptable: int = 0
    dropped_malformed: int = 0
    dropped_overflow: int = 0


class GatewayClient:
    """One websocket connection to an entry gateway, without the websocket.

    Feed websocket messages in (``str`` for text, ``bytes`` for binary), send out what ``data_to_send``
    returns, in order. One object serves one connection; ``successor()`` makes the one for the next.
    Source: spec/gateway.md sections 3 to 7, 9.
    """

    def __init__(
        self,
        identity_seed: bytes,
        gateway_identity: bytes,
        *,
        urandom: Callable[[int], bytes],
        shared_key: bytes | None = None,
        last_auth_timestamp: int = 0,
        protocol_version: int | None = None,
        credential_provider: Callable[[bytes], bytes | None] | None = None,
        settings: ClientSettings | None = None,
    ) -> None: ...

    state: ClientState
    counters: ClientCounters

    @property
    def shared_key(self) -> bytes | None:
        """The key of this registration; set from ``Registered`` on."""
        raise NotImplementedError

    @property
    def bandwidth(self) -> int:
        """The last balance the gateway reported, octets."""
        raise NotImplementedError

    @property
    def last_auth_timestamp(self) -> int:
        """The newest Unix second signed; to be stored beside the shared key."""
        raise NotImplementedError

    @property
    def protocol_version(self) -> int | None:
        """The negotiated version."""
        raise NotImplementedError

    def start_delay(self, unix_now: float) -> float:
        """Return how many seconds to wait before dialling, so that authentication can succeed at once."""
        raise NotImplementedError

    def start(self, now: float, unix_now: float) -> None:
        """Begin, the websocket being open. *unix_now* is the wall clock in seconds."""
        raise NotImplementedError

    def update_clock(self, now: float, unix_now: float) -> None:
        """Tell a long-lived session the wall clock anew (it is extrapolated from *now* otherwise)."""
        raise NotImplementedError

    def receive_data(self, data: str | bytes, now: float) -> None:
        """Take one websocket message: ``str`` is a text message, ``bytes`` a binary one."""
        raise NotImplementedError

    def connection_lost(self, now: float) -> None:
        """Note the end of the websocket; the session is CLOSED, without an event."""
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

    def next_event(self) -> ClientEvent | None:
        """Return the oldest event not yet taken."""
        raise NotImplementedError

    def forward(self, packet: MixPacket, now: float) -> bool:
        """Queue one Sphinx packet; False if not READY or if ``max_queued_frames`` wait already."""
        raise NotImplementedError

    def claim_bandwidth(self, now: float) -> None:
        """Ask for bandwidth now unless a claim is under way."""
        raise NotImplementedError

    def forget_me(self, now: float, *, client: bool = True, stats: bool = False) -> None:
        """Ask the gateway to delete this client's registration, balance and inbox."""
        raise NotImplementedError

    def remember_me(self, now: float, session_type: str = "Native") -> None:
        """Tell the gateway the kind of session for its statistics."""
        raise NotImplementedError

    def successor(self) -> GatewayClient:
        """Return a fresh session for the next connection, with what this one learnt."""
        raise NotImplementedError
