"""IPv4 headers. Source: RFC 791; RFC 6864 (atomic datagrams carry identification 0)."""

from __future__ import annotations

import struct

from smolmix_sync.errors import WireError
from smolmix_sync.netstack.checksum import internet_checksum
from smolmix_sync.netstack.ip import HOP_LIMIT, Fragment, IpPacket

__all__ = ["HEADER_SIZE", "decode_untrusted", "encode", "fragment", "header"]

HEADER_SIZE = 20
_HEADER = struct.Struct("!BBHHHBBH4s4s")
_DONT_FRAGMENT = 0x4000
_MORE_FRAGMENTS = 0x2000
_OFFSET_MASK = 0x1FFF


def header(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload_size: int,
    ident: int = 0,
    flags: int = _DONT_FRAGMENT,
) -> bytes:
    """Return a 20-octet header; *flags* is the whole flags and offset field."""
    total = HEADER_SIZE + payload_size
    head = _HEADER.pack(0x45, 0, total, ident, flags, HOP_LIMIT, protocol, 0, source, destination)
    return head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:]


def encode(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    """Return one unfragmented packet with DF set."""
    return header(source, destination, protocol, len(payload)) + payload


def fragment(
    source: bytes, destination: bytes, protocol: int, payload: bytes, mtu: int, ident: int
) -> list[bytes]:
    """Split *payload* over packets of at most *mtu* octets (DF clear)."""
    step = (mtu - HEADER_SIZE) & ~7
    packets = []
    for offset in range(0, len(payload), step):
        part = payload[offset : offset + step]
        flags = offset >> 3
        if offset + step < len(payload):
            flags |= _MORE_FRAGMENTS
        packets.append(header(source, destination, protocol, len(part), ident, flags) + part)
    return packets


def decode_untrusted(packet: bytes) -> IpPacket:
    """Decode one packet; options are skipped, octets after the total length are cut off.

    Raises:
        WireError: the argument names the drop counter.
    """
    if len(packet) < HEADER_SIZE:
        raise WireError("ip_short")
    first, _, total, ident, flags, _, protocol, _, source, destination = _HEADER.unpack_from(packet)
    size = (first & 15) * 4
    if first >> 4 != 4:
        raise WireError("ip_version")
    if size < HEADER_SIZE or total < size or total > len(packet):
        raise WireError("ip_length")
    if internet_checksum(packet[:size]):
        raise WireError("ip_checksum")
    part = None
    if flags & (_MORE_FRAGMENTS | _OFFSET_MASK):
        part = Fragment(ident, (flags & _OFFSET_MASK) * 8, bool(flags & _MORE_FRAGMENTS))
    return IpPacket(source, destination, protocol, packet[size:total], part)
