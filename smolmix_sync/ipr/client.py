"""The client's side of an IPR session, sans-IO."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smolmix_sync.ipr.values import IpPair

__all__ = [
    "ConnectRefused",
    "ConnectTimedOut",
    "Connected",
    "Disconnected",
    "FellBack",
    "HealthReceived",
    "InfoReceived",
    "IprClient",
    "IprClientConfig",
    "IprClientEvent",
    "IprClientStats",
    "IprState",
    "KeepaliveDue",
    "PacketsReceived",
    "PolicyRefused",
    "PongReceived",
    "bundle_room",
    "data_overhead",
]


class IprState(enum.Enum):
    """Where the session stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTING = "disconnecting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class IprClientConfig:
    """Times and bounds of a session; all times in seconds."""

    v10_connect_timeout: float = 15.0
    connect_timeout: float = 60.0
    disconnect_timeout: float = 5.0
    keepalive_interval: float = 25.0
    keepalive_retry: float = 5.0
    resequence_hold: float = 0.060
    resequence_limit: int = 256
    pending_requests_limit: int = 16
    control_queue_limit: int = 16
    event_queue_limit: int = 4096
    send_open: bool = True
    buffer_timeout_ms: int | None = None


@dataclass(slots=True)
class Connected:
    """The exit accepted us."""

    ips: IpPair
    mtu: int | None
    version: int


@dataclass(slots=True)
class FellBack:
    """v10 was not answered in time; v9 is tried on the same stream."""

    version: int


@dataclass(slots=True)
class ConnectRefused:
    """The exit answered the connect request with a failure; the session is closed."""

    reason: str


@dataclass(slots=True)
class ConnectTimedOut:
    """No answer to any connect request; the session is closed."""


@dataclass(slots=True)
class PacketsReceived:
    """IP packets from the exit, in order."""

    packets: list[bytes]


@dataclass(slots=True)
class Disconnected:
    """The session is over; ``requested`` tells whether we asked for it."""

    reason: str
    requested: bool


@dataclass(slots=True)
class PolicyRefused:
    """The exit's policy refused a packet to *destination* ("ip:port", "[v6]:port")."""

    destination: str
    address: tuple[str, int] | None


@dataclass(slots=True)
class InfoReceived:
    """Another notice of the exit; ``level`` is 0 info, 1 warning, 2 error."""

    message: str
    level: int


@dataclass(slots=True)
class PongReceived:
    """The answer to :meth:`IprClient.ping`."""

    request_id: int
    rtt: float


@dataclass(slots=True)
class HealthReceived:
    """The answer to :meth:`IprClient.health`."""

    request_id: int
    build_version: str
    routable: bool | None


@dataclass(slots=True)
class KeepaliveDue:
    """An IP packet of our own should leave now, or the exit forgets us."""


IprClientEvent = (
    Connected
    | FellBack
    | ConnectRefused
    | ConnectTimedOut
    | PacketsReceived
    | Disconnected
    | PolicyRefused
    | InfoReceived
    | PongReceived
    | HealthReceived
    | KeepaliveDue
)


@dataclass(slots=True)
class IprClientStats:
    """Counters of one session."""

    messages_sent: int = 0
    packets_sent: int = 0
    messages_received: int = 0
    packets_received: int = 0
    dropped: int = 0


def data_overhead(version: int, bundle_len: int) -> int:
    """Return the octets that a Data message adds to a bundle of *bundle_len* octets."""
    raise NotImplementedError


def bundle_room(version: int, message_room: int) -> int:
    """Return the size of the largest bundle whose Data message has at most *message_room* octets."""
    raise NotImplementedError


class IprClient:
    """One session with an exit: connect, data both ways, keepalive, disconnect.

    Args:
        version: 8 (bare), 9 or 10 (in LP frames).
        stream_id: the LP stream; random if None.
    """

    stats: IprClientStats
    state: IprState
    version: int
    stream_id: int
    ips: IpPair | None
    mtu: int | None

    def __init__(
        self,
        version: int = 9,
        stream_id: int | None = None,
        *,
        urandom: Callable[[int], bytes],
        config: IprClientConfig | None = None,
    ) -> None:
        raise NotImplementedError

    def connect(self, now: float, unix_now: float) -> None:
        """Queue the Open frame and the connect request, start the connect timer."""
        raise NotImplementedError

    def disconnect(self, now: float) -> None:
        """Queue a disconnect request; Disconnected follows."""
        raise NotImplementedError

    def ping(self, now: float) -> int:
        """Queue an IPR ping; return its request id. It does not count as activity at the exit."""
        raise NotImplementedError

    def health(self, now: float) -> int:
        """Queue a health request; return its request id."""
        raise NotImplementedError

    def encode_data(self, packets: Sequence[bytes], now: float) -> bytes:
        """Return one Data message with *packets*, ready for the mixnet; restarts the keepalive timer."""
        raise NotImplementedError

    def data_overhead(self, bundle_len: int) -> int:
        """Return the octets that a Data message of this session adds to a bundle."""
        raise NotImplementedError

    def bundle_room(self, message_room: int) -> int:
        """Return the largest bundle that fits a message of *message_room* octets in this session."""
        raise NotImplementedError

    @property
    def wants_to_send(self) -> bool:
        """Whether data_to_send has control messages."""
        raise NotImplementedError

    def receive_data(self, message: bytes, now: float) -> None:
        """Take one mixnet message; anything that is not ours or malformed is counted and dropped."""
        raise NotImplementedError

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        """Return control messages to send, each one mixnet message, *room* octets at most together."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Return when to call handle_deadline, or None."""
        raise NotImplementedError

    def keepalive_deadline(self) -> float | None:
        """Return when an IP packet of our own is due, or None when not connected."""
        raise NotImplementedError

    def handle_deadline(self, now: float) -> None:
        """Deal with every deadline that has passed."""
        raise NotImplementedError

    def next_event(self) -> IprClientEvent | None:
        """Return the oldest event that was not yet taken, or None."""
        raise NotImplementedError
