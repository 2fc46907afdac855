"""What the two gateway sessions report to their owners."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smolmix_sync.crypto import Secret
from smolmix_sync.mixnet.gateway.constants import ACK_PLAINTEXT_SIZE

if TYPE_CHECKING:
    from smolmix_sync.mixnet.gateway.server import GatewayServerSession
    from smolmix_sync.mixnet.sphinx import MixPacket

__all__ = [
    "Authenticated",
    "BandwidthChanged",
    "ClientAuthenticated",
    "ClientEvent",
    "ClientForgotten",
    "ClientRegistered",
    "ForgetAcknowledged",
    "ForwardPacket",
    "GatewayRefused",
    "MustWait",
    "OutOfBandwidth",
    "PingWanted",
    "ProbeFinished",
    "Pushed",
    "Refusal",
    "Registered",
    "RememberAcknowledged",
    "ServerEvent",
    "SessionClosed",
    "SessionRemembered",
]


class Refusal(enum.Enum):
    """Why a gateway, or our checks of it, ended or limited a session."""

    #: The gateway does not know this client: register anew, on a new connection.
    NOT_REGISTERED = "not registered"
    #: The gateway gives no bandwidth without zk-nym tickets: choose another. The connection stays.
    TICKETS_REQUIRED = "tickets required"
    #: Another live connection has this identity: try again after more than one second.
    ALREADY_CONNECTED = "already connected"
    #: Our clock and the gateway's differ by more than two minutes: the next session registers anew.
    CLOCK_SKEW = "clock skew"
    #: Our timestamp is not above the last one used: wait until the clock has passed it.
    STALE_TIMESTAMP = "stale timestamp"
    #: No protocol version is common to both.
    VERSION = "protocol version"
    #: The registration handshake failed: wrong gateway key, bad signature, malformed message.
    HANDSHAKE = "handshake"
    #: The stored shared key is not the one the gateway has, or our signature was refused.
    AUTHENTICATION = "authentication"
    #: The gateway did not answer in time.
    TIMEOUT = "timeout"
    #: The gateway sent something that makes no sense at this point.
    PROTOCOL = "protocol"
    #: Any other error text. The connection stays when it arrives after authentication.
    ERROR = "error"


@dataclass(slots=True)
class Registered(Secret):
    """The gateway has accepted a new registration; keep the key for later connections."""

    shared_key: bytes = field(repr=False)


@dataclass(slots=True)
class Authenticated:
    """The session is READY; also follows :class:`Registered`, then with a balance of 0."""

    bandwidth: int


@dataclass(slots=True)
class Pushed:
    """One decrypted final-hop payload for this client."""

    payload: bytes = field(repr=False)

    @property
    def is_ack(self) -> bool:
        """Whether the payload is an acknowledgement: told by its length alone."""
        return len(self.payload) == ACK_PLAINTEXT_SIZE


@dataclass(slots=True)
class BandwidthChanged:
    """A claim was answered; not reported for the decrease by every packet."""

    bandwidth: int


@dataclass(slots=True)
class OutOfBandwidth:
    """A packet was dropped for lack of bandwidth; a claim is already under way if one is possible."""

    required: int
    available: int


@dataclass(slots=True)
class MustWait:
    """Authentication is held back for so many seconds: timestamps are whole seconds and must grow."""

    seconds: float


@dataclass(slots=True)
class ForgetAcknowledged:
    """The gateway has deleted what it kept about this client."""


@dataclass(slots=True)
class RememberAcknowledged:
    """The gateway has noted the kind of this session."""


@dataclass(slots=True)
class GatewayRefused:
    """The gateway said no, or broke the protocol; with *fatal* the session is CLOSED."""

    reason: str
    kind: Refusal
    fatal: bool = True


ClientEvent = (
    Registered
    | Authenticated
    | Pushed
    | BandwidthChanged
    | OutOfBandwidth
    | MustWait
    | ForgetAcknowledged
    | RememberAcknowledged
    | GatewayRefused
)


@dataclass(slots=True)
class ClientRegistered:
    """A new shared key was agreed with this client."""

    address: bytes = field(repr=False)


@dataclass(slots=True)
class ClientAuthenticated:
    """The client is in the table of live connections now; follows a registration too."""

    address: bytes = field(repr=False)


@dataclass(slots=True)
class ForwardPacket:
    """A paid-for packet for the owner to send to its first hop."""

    packet: MixPacket = field(repr=False)


@dataclass(slots=True)
class ClientForgotten:
    """The client asked to be forgotten, and was."""

    address: bytes = field(repr=False)


@dataclass(slots=True)
class SessionRemembered:
    """The client named the kind of its session: Vpn, Mixnet, Wasm, Native, Socks5 or Unknown."""

    session_type: str


@dataclass(slots=True)
class PingWanted:
    """Send a websocket ping with this payload and hand its pong to ``receive_pong``."""

    payload: bytes


@dataclass(slots=True)
class ProbeFinished:
    """A duplicate was decided; pull events and output of *newcomer* now."""

    newcomer: GatewayServerSession = field(repr=False)


@dataclass(slots=True)
class SessionClosed:
    """Flush ``data_to_send``, then drop the TCP connection without a close frame."""

    reason: str


ServerEvent = (
    ClientRegistered
    | ClientAuthenticated
    | ForwardPacket
    | ClientForgotten
    | SessionRemembered
    | PingWanted
    | ProbeFinished
    | SessionClosed
)
