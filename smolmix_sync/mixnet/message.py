"""NymMessage: what one client tells another, before padding and after reassembly.

Version 2 contents are what we send; version 1 (whole payload keys, four hops) is understood as well.

Source: spec/message-layer.md section 4; common/nymsphinx/src/message.rs, common/nymsphinx/anonymous-replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from smolmix_sync.address import RECIPIENT_SIZE, Recipient
from smolmix_sync.crypto import Secret, blake3_digest
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import (
    HEADER_SIZE,
    MAX_HOPS,
    NODE_ADDRESS_SIZE,
    PAYLOAD_KEY_SEED_SIZE,
    PAYLOAD_KEY_SIZE,
    Surb,
)

__all__ = [
    "MAX_SURBS",
    "SENDER_TAG_SIZE",
    "SURB_KEY_SIZE",
    "NymMessage",
    "PlainMessage",
    "RepliableContent",
    "RepliableMessage",
    "ReplyData",
    "ReplySurb",
    "SurbRequest",
    "decode_message_untrusted",
    "repliable_overhead",
    "reply_surb_size",
]

# From the specification.
SENDER_TAG_SIZE: Final = 16
SURB_KEY_SIZE: Final = 16
MAX_SURBS: Final = 0xFFFF
_KEY_ROTATIONS = (0, 1, 2)
_V1_HOPS = 4
_SURB_BASE = SURB_KEY_SIZE + HEADER_SIZE + NODE_ADDRESS_SIZE
_V1_SURB_SIZE = _SURB_BASE + _V1_HOPS * PAYLOAD_KEY_SIZE

_PLAIN, _REPLIABLE, _REPLY = 0, 1, 2
_REPLY_DATA, _REPLY_SURB_REQUEST = 0, 1


def reply_surb_size(hops: int) -> int:
    """Return the octets of one reply SURB of version 2 with *hops* hops: 460 for four."""
    return _SURB_BASE + hops * PAYLOAD_KEY_SEED_SIZE


def repliable_overhead(surbs: int, hops: int) -> int:
    """Return the octets a version 2 repliable message takes beside its data (no padding marker)."""
    return 1 + SENDER_TAG_SIZE + 1 + 4 + surbs * reply_surb_size(hops)


@dataclass(slots=True)
class ReplySurb(Secret):
    """A SURB and the key its owner will recognise and decrypt the reply with.

    Wire layout::

        offset  size       field
        0       16         AES-128 key
        16      348        Sphinx header
        364     32         first hop, zero-padded
        396     16*hops    payload key seeds (version 2), or 192*hops whole keys (version 1)

    Source: spec/message-layer.md section 4.2.
    """

    encryption_key: bytes = field(repr=False)
    surb: Surb = field(repr=False)

    @property
    def digest(self) -> bytes:
        """What a reply starts with, so that its owner finds the key."""
        return blake3_digest(self.encryption_key)

    def encode(self) -> bytes:
        """Return the key followed by the SURB."""
        return self.encryption_key + self.surb.encode()

    @classmethod
    def decode_untrusted(cls, data: bytes) -> ReplySurb:
        """Decode a whole reply SURB; its kind follows from its length.

        Raises:
            WireError: the length fits neither kind, or the first hop is no address.
        """
        if len(data) < _SURB_BASE + PAYLOAD_KEY_SEED_SIZE:
            raise WireError("reply SURB is too short")
        return cls(data[:SURB_KEY_SIZE], Surb.decode_untrusted(data[SURB_KEY_SIZE:]))


class RepliableContent(IntEnum):
    """The content tags of repliable messages."""

    DATA_V1 = 0
    ADDITIONAL_SURBS_V1 = 1
    HEARTBEAT_V1 = 2
    DATA_V2 = 3
    ADDITIONAL_SURBS_V2 = 4
    HEARTBEAT_V2 = 5

    @property
    def is_data(self) -> bool:
        """Application octets follow the SURBs."""
        return self in (RepliableContent.DATA_V1, RepliableContent.DATA_V2)

    @property
    def is_v1(self) -> bool:
        """The SURBs carry whole payload keys and no key rotation."""
        return self <= RepliableContent.HEARTBEAT_V1


@dataclass(slots=True)
class PlainMessage:
    """Octets that tell nothing about their sender: ``0 || data``."""

    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the message without padding."""
        return b"\0" + self.data


@dataclass(slots=True)
class RepliableMessage:
    """Octets of an anonymous sender, with the SURBs to answer it.

    Wire layout, big-endian::

        offset  size  field
        0       1     1
        1       16    sender tag
        17      1     content tag
        18      2     number of SURBs       (version 1: 4 octets, and nothing else before the SURBs)
        20      1     hops of each SURB, 0 without SURBs
        21      1     key rotation of all SURBs, 0 without SURBs
        22      n     SURBs, then the data if the content has any

    Source: spec/message-layer.md section 4.1.
    """

    sender_tag: bytes
    content: RepliableContent
    surbs: Sequence[ReplySurb] = field(repr=False)
    key_rotation: int = 0
    data: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Return the message without padding.

        Raises:
            ValueError: more than 65535 SURBs, SURBs of unequal length or of the other version, or data beside a
                content that has none.
        """
        if self.data and not self.content.is_data:
            raise ValueError("this content carries no data")
        surbs = [surb.encode() for surb in self.surbs]
        if self.content.is_v1:
            if any(len(surb) != _V1_SURB_SIZE for surb in surbs):
                raise ValueError("a version 1 message carries SURBs with four whole payload keys")
            head = len(surbs).to_bytes(4, "big")
        else:
            hops = len(self.surbs[0].surb.key_material) if surbs else 0
            if len(surbs) > MAX_SURBS or any(len(surb) != reply_surb_size(hops) for surb in surbs):
                raise ValueError("too many SURBs, or SURBs of unequal length, in one message")
            rotation = self.key_rotation if surbs else 0
            head = len(surbs).to_bytes(2, "big") + bytes((hops, rotation))
        return b"".join((b"\1", self.sender_tag, bytes((self.content,)), head, *surbs, self.data))


@dataclass(slots=True)
class ReplyData:
    """An answer through a SURB: ``2 || 0 || data``; the data must not be empty."""

    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the message without padding.

        Raises:
            ValueError: the data is empty, which receivers reject.
        """
        if not self.data:
            raise ValueError("a reply cannot be empty")
        return b"\2\0" + self.data


@dataclass(slots=True)
class SurbRequest:
    """A request for more SURBs, sent through one of them: ``2 || 1 || recipient (96) || amount u32``."""

    recipient: Recipient
    amount: int

    def encode(self) -> bytes:
        """Return the message without padding."""
        return b"\2\1" + self.recipient.encode() + self.amount.to_bytes(4, "big")


NymMessage = PlainMessage | RepliableMessage | ReplyData | SurbRequest


def decode_message_untrusted(data: bytes) -> NymMessage:
    """Decode one message without padding.

    Octets behind the SURBs of a message that carries no data are ignored, as in the Rust client.

    Raises:
        WireError: empty, an unknown type or content tag, too short, or a bad SURB, key rotation or recipient.

    Source: spec/message-layer.md section 4.
    """
    if not data:
        raise WireError("empty message")
    kind = data[0]
    if kind == _PLAIN:
        return PlainMessage(data[1:])
    if kind == _REPLIABLE:
        return _decode_repliable(data)
    if kind == _REPLY:
        return _decode_reply(data)
    raise WireError(f"{kind} is not a message type")


def _decode_repliable(data: bytes) -> RepliableMessage:
    offset = 1 + SENDER_TAG_SIZE + 1
    if len(data) <= offset:
        raise WireError("repliable message is too short")
    try:
        content = RepliableContent(data[offset - 1])
    except ValueError:
        raise WireError(f"{data[offset - 1]} is not a content tag of repliable messages") from None
    if len(data) < offset + 4:
        raise WireError("repliable message is too short")
    if content.is_v1:
        count, hops, rotation = int.from_bytes(data[offset : offset + 4], "big"), _V1_HOPS, 0
        size = _V1_SURB_SIZE
    else:
        count, hops, rotation = (
            int.from_bytes(data[offset : offset + 2], "big"),
            data[offset + 2],
            data[offset + 3],
        )
        size = reply_surb_size(hops)
    offset += 4
    if len(data) < offset + count * size:
        raise WireError("repliable message ends within its SURBs")
    if rotation not in _KEY_ROTATIONS:
        raise WireError(f"{rotation} is not a key rotation")
    if count and not 0 < hops <= MAX_HOPS:
        raise WireError(f"a SURB cannot have {hops} hops")
    end = offset + count * size
    surbs = [ReplySurb.decode_untrusted(data[start : start + size]) for start in range(offset, end, size)]
    payload = data[end:] if content.is_data else b""
    return RepliableMessage(data[1 : 1 + SENDER_TAG_SIZE], content, surbs, rotation, payload)


def _decode_reply(data: bytes) -> ReplyData | SurbRequest:
    if len(data) < 3:
        raise WireError("reply is too short")
    content = data[1]
    if content == _REPLY_DATA:
        return ReplyData(data[2:])
    if content == _REPLY_SURB_REQUEST:
        if len(data) != 2 + RECIPIENT_SIZE + 4:
            raise WireError("SURB request has a wrong length")
        recipient = Recipient.decode_untrusted(data[2 : 2 + RECIPIENT_SIZE])
        return SurbRequest(recipient, int.from_bytes(data[-4:], "big"))
    raise WireError(f"{content} is not a content tag of replies")
