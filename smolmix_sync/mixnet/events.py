"""What a client is made of, what it reports, and what it counts.

Source: spec/message-layer.md sections 3, 5 and 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from smolmix_sync.address import Recipient
from smolmix_sync.crypto import Secret

__all__ = ["ClientKeys", "MessageReceived", "MixnetEvent", "MixnetStats", "SurbsRequested"]


@dataclass(slots=True)
class ClientKeys(Secret):
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

    #: Real packets handed out, retransmissions included.
    packets_sent: int = 0
    cover_sent: int = 0
    retransmissions: int = 0
    #: Packets given up after their last retransmission.
    abandoned: int = 0
    acks_received: int = 0
    cover_acks_received: int = 0
    cover_received: int = 0
    fragments_received: int = 0
    messages_received: int = 0
    replies_received: int = 0
    #: Our SURBs that were built and given away, and those that came back.
    surbs_sent: int = 0
    surbs_used: int = 0
    #: SURBs of others that we got, and those that we used.
    surbs_received: int = 0
    surbs_spent: int = 0
    surb_requests_sent: int = 0
    surb_requests_received: int = 0
    #: Requests that had to wait for earlier answers, or were cut.
    surb_requests_held: int = 0
    #: Requests from somebody we never gave a SURB to, or in somebody else's name.
    surb_requests_ignored: int = 0
    #: Payloads that did not parse at any stage.
    dropped_malformed: int = 0
    #: Packets for which no route could be chosen.
    dropped_unroutable: int = 0
    #: Sends refused for lack of room, or of a known sender.
    dropped_refused: int = 0
    #: Events nobody took in time.
    dropped_events: int = 0
