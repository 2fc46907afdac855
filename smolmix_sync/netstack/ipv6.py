"""IPv6 headers and the chain of extension headers. Source: RFC 8200; RFC 6946 (atomic fragments)."""

from __future__ import annotations

import struct

from smolmix_sync.errors import WireError
from smolmix_sync.netstack.ip import HOP_LIMIT, Fragment, IpPacket

__all__ = [
    "HEADER_SIZE",
    "NEXT_HEADER",
    "decode_untrusted",
    "encode",
    "fragment",
    "header",
    "next_header_offset",
    "upper_layer",
]

HEADER_SIZE = 40
NEXT_HEADER = 6
"""Offset of the next-header field in the fixed header."""
_HEADER = struct.Struct("!IHBB16s16s")
_FRAGMENT = struct.Struct("!BBHI")
_HOP_BY_HOP = 0
_ROUTING = 43
_FRAGMENT_HEADER = 44
_NO_NEXT_HEADER = 59
_DESTINATION_OPTIONS = 60
# Ours: no sane sender chains more; it bounds the walk.
_MAX_EXTENSIONS = 8


def header(
    source: bytes, destination: bytes, next_header: int, payload_size: int, flow_label: int = 0
) -> bytes:
    """Return a 40-octet header with traffic class 0."""
    return _HEADER.pack(0x60000000 | flow_label, payload_size, next_header, HOP_LIMIT, source, destination)


def encode(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    """Return one unfragmented packet."""
    return header(source, destination, protocol, len(payload)) + payload


def fragment(
    source: bytes, destination: bytes, protocol: int, payload: bytes, mtu: int, ident: int
) -> list[bytes]:
    """Split *payload* over packets of at most *mtu* octets."""
    step = (mtu - HEADER_SIZE - _FRAGMENT.size) & ~7
    packets = []
    for offset in range(0, len(payload), step):
        part = payload[offset : offset + step]
        more = offset + step < len(payload)
        packets.append(
            header(source, destination, _FRAGMENT_HEADER, _FRAGMENT.size + len(part))
            + _FRAGMENT.pack(protocol, 0, offset | more, ident)
            + part
        )
    return packets


def upper_layer(next_header: int, data: bytes) -> tuple[int, bytes, Fragment | None]:
    """Walk the extension headers at the start of *data*.

    Returns:
        Protocol, its payload, and the fragment header met (the walk stops there
        unless the fragment is atomic).

    Raises:
        WireError: the argument names the drop counter.
    """
    offset = 0
    for _ in range(_MAX_EXTENSIONS):
        if next_header in (_HOP_BY_HOP, _DESTINATION_OPTIONS, _ROUTING):
            if next_header == _HOP_BY_HOP and offset:
                raise WireError("ipv6_extension")
            if len(data) < offset + 8:
                raise WireError("ipv6_extension")
            if next_header == _ROUTING and data[offset + 3]:
                raise WireError("ipv6_extension")
            size = 8 + 8 * data[offset + 1]
            next_header = data[offset]
            offset += size
            if offset > len(data):
                raise WireError("ipv6_extension")
        elif next_header == _FRAGMENT_HEADER:
            if len(data) < offset + _FRAGMENT.size:
                raise WireError("ipv6_extension")
            next_header, _, field, ident = _FRAGMENT.unpack_from(data, offset)
            offset += _FRAGMENT.size
            if field & 0xFFF9:
                return next_header, data[offset:], Fragment(ident, field & 0xFFF8, bool(field & 1))
        else:
            return next_header, data[offset:] if offset else data, None
    raise WireError("ipv6_extension")


def next_header_offset(packet: bytes) -> int:
    """Return where in a packet that decoded well the number of its upper layer stands."""
    field, offset, next_header = NEXT_HEADER, HEADER_SIZE, packet[NEXT_HEADER]
    while next_header in (_HOP_BY_HOP, _DESTINATION_OPTIONS, _ROUTING, _FRAGMENT_HEADER):
        field = offset
        size = _FRAGMENT.size if next_header == _FRAGMENT_HEADER else 8 + 8 * packet[offset + 1]
        next_header = packet[offset]
        offset += size
    return field


def decode_untrusted(packet: bytes) -> IpPacket:
    """Decode one packet; octets after the payload length are cut off.

    Raises:
        WireError: the argument names the drop counter.
    """
    if len(packet) < HEADER_SIZE:
        raise WireError("ip_short")
    word, size, next_header, _, source, destination = _HEADER.unpack_from(packet)
    if word >> 28 != 6:
        raise WireError("ip_version")
    if HEADER_SIZE + size > len(packet):
        raise WireError("ip_length")
    protocol, payload, part = upper_layer(next_header, packet[HEADER_SIZE : HEADER_SIZE + size])
    return IpPacket(source, destination, protocol, payload, part)
