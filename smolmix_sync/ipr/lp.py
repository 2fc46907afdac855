"""LP frames: the 16-octet header in front of every v9 and v10 message.

Wire layout::

    offset  size  field
    0       2     kind, u16 little-endian: 0 Opaque, 1 Registration, 2 Forward, 3 SphinxStream
    2       14    attributes of the kind; of a SphinxStream:
    2       8       stream_id, u64 big-endian
    10      1       message type: 0 Open, 1 Data, 2 OpenAck, 3 Ping, 4 Pong
    11      4       sequence_num, u32 big-endian (the nonce of a Ping or Pong)
    15      1       reserved: written 0, ignored on read
    16      n     payload, to the end of the message

Source: common/nym-lp/src/packet/frame.rs; spec/ipr.md section 6, section 9 for types 2 to 4.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from smolmix_sync.errors import WireError

__all__ = ["LP_HEADER_SIZE", "LpFrame", "LpKind", "StreamFrame", "StreamMessageType"]

# From the specification.
LP_HEADER_SIZE = 16
SEQUENCE_MODULUS = 1 << 32

_KIND = struct.Struct("<H")
_ATTRIBUTES = struct.Struct(">QBIB")
_STREAM = struct.Struct(">HQBIB")
# The little-endian kind 3, read as big-endian, so that one Struct writes the header.
_STREAM_KIND = 0x0300


class LpKind(enum.IntEnum):
    """What an LP frame carries."""

    OPAQUE = 0
    REGISTRATION = 1
    FORWARD = 2
    SPHINX_STREAM = 3


class StreamMessageType(enum.IntEnum):
    """What a frame of a stream is; peers of 1.21 know the first two only."""

    OPEN = 0
    DATA = 1
    OPEN_ACK = 2
    PING = 3
    PONG = 4


@dataclass(slots=True)
class LpFrame:
    """An LP frame of any kind, its attributes uninterpreted."""

    kind: LpKind
    attributes: bytes
    payload: bytes

    def encode(self) -> bytes:
        """Return the frame: header, then payload."""
        if len(self.attributes) != LP_HEADER_SIZE - 2:
            raise ValueError("LP attributes are 14 octets")
        return _KIND.pack(self.kind) + self.attributes + self.payload

    @classmethod
    def decode_untrusted(cls, data: bytes) -> LpFrame:
        """Decode a whole message as an LP frame.

        Raises:
            WireError: *data* is shorter than 16 octets, or the kind is unknown.
        """
        if len(data) < LP_HEADER_SIZE:
            raise WireError("shorter than an LP header")
        (kind,) = _KIND.unpack_from(data)
        if kind > LpKind.SPHINX_STREAM:
            raise WireError(f"unknown LP kind {kind}")
        return cls(LpKind(kind), bytes(data[2:LP_HEADER_SIZE]), bytes(data[LP_HEADER_SIZE:]))


@dataclass(slots=True)
class StreamFrame:
    """An LP frame of kind SphinxStream."""

    stream_id: int
    msg_type: StreamMessageType
    sequence_num: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the frame: header, then payload."""
        return _STREAM.pack(_STREAM_KIND, self.stream_id, self.msg_type, self.sequence_num, 0) + self.payload

    @classmethod
    def from_frame_untrusted(cls, frame: LpFrame, *, extended: bool = True) -> StreamFrame:
        """Interpret *frame* as part of a stream.

        Args:
            frame: any LP frame.
            extended: accept the message types 2 to 4, which peers of 1.21 refuse.

        Raises:
            WireError: the frame is not a SphinxStream, or its message type is unknown.
        """
        if frame.kind is not LpKind.SPHINX_STREAM:
            raise WireError("not a stream frame")
        stream_id, msg_type, sequence_num, _ = _ATTRIBUTES.unpack(frame.attributes)
        if msg_type > (StreamMessageType.PONG if extended else StreamMessageType.DATA):
            raise WireError(f"unknown stream message type {msg_type}")
        return cls(stream_id, StreamMessageType(msg_type), sequence_num, frame.payload)

    @classmethod
    def decode_untrusted(cls, data: bytes, *, extended: bool = True) -> StreamFrame:
        """Decode a whole message as a stream frame; see :meth:`from_frame_untrusted`.

        Raises:
            WireError: *data* is no LP frame, no stream frame, or of an unknown type.
        """
        return cls.from_frame_untrusted(LpFrame.decode_untrusted(data), extended=extended)
