"""Frames on the TCP links between nodes.

A link is one-directional; frames follow each other without a preamble::

    offset  size  field
    0       1     frame version: 7, or 8 with the key rotation
    1       1     packet size tag
    2       1     packet type, 0: Sphinx
    3       1     key rotation, version 8 only
    3 or 4  n     packet

Source: spec/sphinx.md section 14; common/nymsphinx/framing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx.constants import PacketSize
from smolmix_sync.mixnet.sphinx.mix_packet import KEY_ROTATIONS, SPHINX_PACKET_TYPE

__all__ = ["CURRENT_FRAME_VERSION", "LEGACY_FRAME_VERSION", "FrameDecoder", "MixFrame", "encode_frame"]

LEGACY_FRAME_VERSION = 7
CURRENT_FRAME_VERSION = 8


@dataclass(slots=True)
class MixFrame:
    """One packet taken from a link; *key_rotation* is 0 (unknown) in version 7."""

    packet: bytes = field(repr=False)
    key_rotation: int
    version: int


def encode_frame(packet: bytes, key_rotation: int, version: int = CURRENT_FRAME_VERSION) -> bytes:
    """Return *packet* in a frame; version 7 loses the key rotation.

    Raises:
        ValueError: *packet* has none of the network's sizes, or *version* is neither 7 nor 8.

    Source: spec/sphinx.md section 14.
    """
    tag = PacketSize.of_packet_untrusted(packet).tag
    if version == CURRENT_FRAME_VERSION:
        return bytes((version, tag, SPHINX_PACKET_TYPE, key_rotation)) + packet
    if version == LEGACY_FRAME_VERSION:
        return bytes((version, tag, SPHINX_PACKET_TYPE)) + packet
    raise ValueError(f"frame version {version} is neither 7 nor 8")


class FrameDecoder:
    """Cut the octet stream of a link into frames, however the stream was split.

    Hand in what was read with :meth:`receive_data`, then take frames with
    :meth:`next_frame_untrusted` until it gives None; or do both with :meth:`frames_untrusted`.
    What is held back is less than one frame, at most 33136 octets, once the frames were taken.
    """

    __slots__ = ("_buffer", "_error")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._error: str | None = None

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Append octets read from the link."""
        self._buffer += data

    def next_frame_untrusted(self) -> MixFrame | None:
        """Return the next whole frame, or None when more octets are needed.

        Raises:
            WireError: the stream is not made of frames. The link is of no more use: close it;
                every later call raises again.
        """
        if self._error is not None:
            raise WireError(self._error)
        try:
            return self._next_frame()
        except WireError as exc:
            self._error = str(exc)
            self._buffer.clear()
            raise

    def frames_untrusted(self, data: bytes | bytearray | memoryview) -> Iterator[MixFrame]:
        """Append *data* and yield the frames that are whole.

        Raises:
            WireError: as :meth:`next_frame_untrusted`, after the good frames in front were yielded.
        """
        self.receive_data(data)
        while (frame := self.next_frame_untrusted()) is not None:
            yield frame

    def _next_frame(self) -> MixFrame | None:
        # The order of the checks is the reference decoder's: what it waits for, we wait for.
        buffer = self._buffer
        if len(buffer) < 3:
            return None
        version = buffer[0]
        if version not in (LEGACY_FRAME_VERSION, CURRENT_FRAME_VERSION):
            raise WireError(f"frame version {version} is neither 7 nor 8")
        header, rotation = 3, 0
        if version == CURRENT_FRAME_VERSION:
            if len(buffer) < 4:
                return None
            header, rotation = 4, buffer[3]
            if rotation not in KEY_ROTATIONS:
                raise WireError(f"{rotation} is not a key rotation")
        size = PacketSize.from_tag_untrusted(buffer[1])
        if buffer[2] != SPHINX_PACKET_TYPE:
            raise WireError(f"packet type {buffer[2]} is not Sphinx")
        end = header + size.packet_size
        if len(buffer) < end:
            return None
        packet = bytes(buffer[header:end])
        del buffer[:end]
        return MixFrame(packet, rotation, version)
