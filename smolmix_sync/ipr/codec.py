"""Bundles: several IP packets in one message, each behind its 16-bit length.

Source: common/ip-packet-requests/src/codec.rs; spec/ipr.md section 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from smolmix_sync.errors import WireError

__all__ = [
    "BUNDLE_PREFIX_SIZE",
    "MAX_BUNDLE_SIZE",
    "MAX_IP_PACKET_SIZE",
    "BundleEncoder",
    "bundle",
    "fill_bundle",
    "split_bundle",
    "unbundle_untrusted",
]

# From the specification. The real codec calls the second one MAX_PACKET_SIZE, but it bounds the bundle.
BUNDLE_PREFIX_SIZE = 2
MAX_BUNDLE_SIZE = 1500
MAX_IP_PACKET_SIZE = 65535


def bundle(packets: Iterable[bytes]) -> bytes:
    """Return the bundle of *packets*, in order; the caller has checked that they fit.

    Raises:
        ValueError: a packet is longer than 65535 octets.
    """
    parts: list[bytes] = []
    for packet in packets:
        if len(packet) > MAX_IP_PACKET_SIZE:
            raise ValueError("an IP packet has at most 65535 octets")
        parts.append(len(packet).to_bytes(2, "big"))
        parts.append(packet)
    return b"".join(parts)


def fill_bundle(queue: deque[bytes], room: int) -> list[bytes]:
    """Take packets from the left of *queue* while their bundle stays within *room* octets.

    This is the pull side: what leaves is decided when a send slot is there. A packet
    that does not fit an empty bundle is taken alone, because it never would fit.

    Args:
        queue: packets in the order they should leave; shortened by what is returned.
        room: octets for the bundle, the two-octet prefixes included.
    """
    taken: list[bytes] = []
    while queue and (not taken or len(queue[0]) + BUNDLE_PREFIX_SIZE <= room):
        packet = queue.popleft()
        room -= len(packet) + BUNDLE_PREFIX_SIZE
        taken.append(packet)
    return taken


def split_bundle(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole packets of a bundle and what is left behind them.

    Zero-length packets are returned as such. A remainder that is not empty is a
    truncated prefix or packet; the real reader drops it.
    """
    packets: list[bytes] = []
    offset = 0
    end = len(data)
    while end - offset >= BUNDLE_PREFIX_SIZE:
        stop = offset + BUNDLE_PREFIX_SIZE + (data[offset] << 8 | data[offset + 1])
        if stop > end:
            break
        packets.append(data[offset + BUNDLE_PREFIX_SIZE : stop])
        offset = stop
    return packets, data[offset:]


def unbundle_untrusted(data: bytes, *, strict: bool = False) -> list[bytes]:
    """Return the packets of a bundle, without the empty ones.

    Args:
        data: the bundle.
        strict: refuse a truncated last packet instead of dropping it.

    Raises:
        WireError: *strict*, and the bundle does not end with a whole packet.
    """
    packets, rest = split_bundle(data)
    if rest and strict:
        raise WireError("bundle ends within a packet")
    return [packet for packet in packets if packet]


class BundleEncoder:
    """The exit's push-style bundler, step for step ``MultiIpPacketCodec``.

    A bundle of exactly 1500 octets waits for the next packet or :meth:`flush`. A packet
    too large for any bundle leaves at once when nothing waits, else it replaces what
    waits and leaves with the next call.
    """

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        """Octets that wait, prefixes included."""
        return self._size

    def encode(self, packet: bytes) -> bytes:
        """Add *packet*; return the bundle that is thereby complete, or nothing.

        Raises:
            ValueError: *packet* is longer than 65535 octets.
        """
        entry = bundle((packet,))
        if not self._size and len(entry) > MAX_BUNDLE_SIZE:
            return entry
        out = self.flush() if self._size + len(entry) > MAX_BUNDLE_SIZE else b""
        self._parts.append(entry)
        self._size += len(entry)
        return out

    def flush(self) -> bytes:
        """Return what waits, which may be nothing, and start anew."""
        out = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return out
