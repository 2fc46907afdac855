"""A Nym client as a pure machine: messages in and out, Sphinx packets handed out one at a time.

Source: spec/message-layer.md; design.md section 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import MixPacket
from smolmix_sync.mixnet.topology import Topology

__all__ = [
    "CONTROL_LANE",
    "GENERAL_LANE",
    "ClientKeys",
    "MessageReceived",
    "MixnetCore",
    "MixnetEvent",
    "MixnetStats",
    "SurbsRequested",
]

#: The lane of messages without a connection. Any other non-negative integer is a lane of its own.
GENERAL_LANE = 0
#: Goes before retransmissions and data: keep-alives and the like.
CONTROL_LANE = -1


@dataclass(slots=True)
class ClientKeys:
    """The secrets of one client.

    Attributes:
        identity_seed: Ed25519 seed of 32 octets.
        encryption_private: X25519 private key of 32 octets.
        ack_key: AES-128 key of 16 octets for the identifiers in our SURB-acks.
    """

    identity_seed: bytes = field(repr=False)
    encryption_private: bytes = field(repr=False)
    ack_key: bytes = field(repr=False)

    @classmethod
    def generate(cls, urandom: Callable[[int], bytes]) -> ClientKeys:
        """Draw new keys."""
        return cls(urandom(32), urandom(32), urandom(16))


@dataclass(slots=True)
class MessageReceived:
    """A message arrived.

    Attributes:
        message: what the peer's application sent.
        sender_tag: the peer's pseudonym, which :meth:`MixnetCore.send_reply` takes; None for plain messages and replies.
        is_reply: it came through one of our SURBs.
        replier: for a reply, whom we had given that SURB to.
    """

    message: bytes = field(repr=False)
    sender_tag: bytes | None = None
    is_reply: bool = False
    replier: Recipient | None = None


@dataclass(slots=True)
class SurbsRequested:
    """A peer asked for SURBs; the core answers by itself (*granted* of *amount*, now or when earlier answers left)."""

    recipient: Recipient
    amount: int
    granted: int


MixnetEvent = MessageReceived | SurbsRequested


@dataclass(slots=True)
class MixnetStats:
    """Counters of one client, since it was made."""

    packets_sent: int = 0  # real packets handed out, retransmissions included
    cover_sent: int = 0
    retransmissions: int = 0
    retransmissions_abandoned: int = 0
    acks_received: int = 0
    cover_acks_received: int = 0
    cover_received: int = 0
    fragments_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    replies_received: int = 0
    surbs_sent: int = 0
    surbs_used: int = 0
    surbs_received: int = 0
    surbs_spent: int = 0  # SURBs of others that we used
    surb_requests_received: int = 0
    surb_requests_held: int = 0
    surb_requests_sent: int = 0


class MixnetCore:
    """One Nym client; see the methods. Serves a client as well as a service that answers through SURBs."""

    def __init__(
        self,
        keys: ClientKeys,
        gateway_identity: bytes,
        *,
        config: TrafficSettings,
        urandom: Callable[[int], bytes],
    ) -> None:
        raise NotImplementedError

    @property
    def address(self) -> Recipient:
        """Where others reach us."""
        raise NotImplementedError

    @property
    def topology(self) -> Topology | None:
        """The snapshot that new packets are built from."""
        raise NotImplementedError

    @property
    def stats(self) -> MixnetStats:
        """The live counters."""
        raise NotImplementedError

    def set_topology(self, topology: Topology | None, now: float) -> None:
        """Build later packets from *topology*; None stops sending."""
        raise NotImplementedError

    def send(
        self,
        recipient: Recipient,
        message: bytes,
        now: float,
        *,
        surbs: int = 0,
        lane: int = GENERAL_LANE,
        max_retransmissions: int | None = None,
    ) -> bool:
        """Queue an anonymous, repliable message with *surbs* reply SURBs; False if the queue is full."""
        raise NotImplementedError

    def send_plain(
        self, recipient: Recipient, message: bytes, now: float, *, lane: int = GENERAL_LANE
    ) -> bool:
        """Queue a message that cannot be answered."""
        raise NotImplementedError

    def send_reply(self, sender_tag: bytes, message: bytes, now: float) -> bool:
        """Queue an answer through the sender's SURBs; False if the sender is unknown or its queue is full."""
        raise NotImplementedError

    def send_surbs(self, recipient: Recipient, count: int, now: float) -> bool:
        """Queue *count* SURBs without a message, as control traffic (at most half of the slots while data waits)."""
        raise NotImplementedError

    def queued(self, now: float) -> int:
        """Return how many real packets could be handed out now."""
        raise NotImplementedError

    def urgent(self, now: float) -> bool:
        """Return whether the next slot belongs to control traffic or a retransmission even if data waits."""
        raise NotImplementedError

    def next_packet(self, now: float) -> MixPacket | None:
        """Build and hand out one real packet; its retransmission timer starts now."""
        raise NotImplementedError

    def cover_packet(self, now: float) -> MixPacket | None:
        """Build one loop cover packet; None without a usable topology."""
        raise NotImplementedError

    def prepare(self, now: float) -> bool:
        """Do one unit of work ahead of need (idle time); False when there is nothing left to prepare."""
        raise NotImplementedError

    def receive_data(self, payload: bytes, now: float) -> None:
        """Take one payload that the gateway pushed: an ack, a message fragment, or our own cover. Never raises."""
        raise NotImplementedError

    def next_event(self) -> MixnetEvent | None:
        """Return the oldest event not yet taken."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_deadline` wants to be called."""
        raise NotImplementedError

    def handle_deadline(self, now: float) -> None:
        """Run every timer that is due."""
        raise NotImplementedError

    def surbs_outstanding(self, recipient: Recipient, now: float) -> int:
        """Estimate how many of our SURBs *recipient* can still use, those in our queue included."""
        raise NotImplementedError

    def packets_needed(self, message_size: int, surbs: int = 0) -> int:
        """Return how many packets :meth:`send` needs for a message of this size with this many SURBs."""
        raise NotImplementedError

    def room(self, packets: int = 1, surbs: int = 0) -> int:
        """Return the largest message that :meth:`send` fits into *packets* packets beside *surbs* SURBs."""
        raise NotImplementedError

    def forget(self, recipient: Recipient) -> None:
        """Drop everything queued for, awaited from and known of *recipient* (an exit that was left)."""
        raise NotImplementedError
