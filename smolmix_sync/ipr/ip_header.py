"""As much of an IP packet as an exit looks at: addresses and destination port.

Source: spec/ipr.md section 7 ("Data packet"); the etherparse crate, ``SlicedPacket::from_ip``.
"""

from __future__ import annotations

from dataclasses import dataclass

from smolmix_sync.errors import WireError

__all__ = ["PacketAddresses", "destination_untrusted", "parse_packet_untrusted"]

# From the specification (IANA protocol numbers).
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS = 0, 43, 44, 51, 60
_SMALLEST_HEADER = {_ICMP: 8, _TCP: 20, _UDP: 8, _ICMPV6: 8}


@dataclass(slots=True)
class PacketAddresses:
    """Who a packet is from and where it goes; addresses packed, port 0 where there is none."""

    source: bytes
    destination: bytes
    port: int


def destination_untrusted(packet: bytes) -> bytes:
    """Return the packed destination address of *packet*, whose payload may be anything.

    Raises:
        WireError: neither an IPv4 nor an IPv6 header.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return packet[16:20]
    if version == 6 and len(packet) >= 40:
        return packet[24:40]
    raise WireError("not an IP packet")


def parse_packet_untrusted(packet: bytes) -> PacketAddresses:
    """Take *packet* apart as far as the exit does.

    Raises:
        WireError: a malformed IP or transport header, or a fragment: those show no transport
            header, and the exit refuses them.
    """
    destination = destination_untrusted(packet)
    if len(destination) == 4:
        source = packet[12:16]
        protocol, offset, end = _parse_ipv4(packet)
    else:
        source = packet[8:24]
        protocol, offset, end = _parse_ipv6(packet)
    size = end - offset
    if size < _SMALLEST_HEADER.get(protocol, 0):
        raise WireError("truncated transport header")
    if protocol == _TCP and not 20 <= (packet[offset + 12] >> 4) * 4 <= size:
        raise WireError("bad TCP data offset")
    port = int.from_bytes(packet[offset + 2 : offset + 4], "big") if protocol in (_TCP, _UDP) else 0
    return PacketAddresses(source, destination, port)


def _parse_ipv4(packet: bytes) -> tuple[int, int, int]:
    """Return the protocol and where its header begins and the packet ends."""
    offset = (packet[0] & 15) * 4
    end = int.from_bytes(packet[2:4], "big")
    if not 20 <= offset <= end <= len(packet):
        raise WireError("bad IPv4 lengths")
    # The more-fragments flag and the offset.
    if int.from_bytes(packet[6:8], "big") & 0x3FFF:
        raise WireError("IPv4 fragment")
    protocol = packet[9]
    if protocol == _AUTHENTICATION:
        return _skip_extension(packet, protocol, offset, end)
    return protocol, offset, end


def _parse_ipv6(packet: bytes) -> tuple[int, int, int]:
    """Return the protocol behind the extension headers, where its header begins and the packet ends."""
    protocol, offset = packet[6], 40
    end = offset + int.from_bytes(packet[4:6], "big")
    if end > len(packet):
        raise WireError("truncated IPv6 packet")
    while protocol in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS):
        protocol, offset, end = _skip_extension(packet, protocol, offset, end)
    return protocol, offset, end


def _skip_extension(packet: bytes, kind: int, offset: int, end: int) -> tuple[int, int, int]:
    """Return the protocol that follows the extension header at *offset*, and where that begins."""
    if end - offset < 8:
        raise WireError("truncated extension header")
    following, length = packet[offset], packet[offset + 1]
    if kind == _FRAGMENT:
        # All 13 bits of the offset and the more-fragments flag; a lone "atomic" fragment passes.
        if int.from_bytes(packet[offset + 2 : offset + 4], "big") & 0xFFF9:
            raise WireError("IPv6 fragment")
        size = 8
    elif kind == _AUTHENTICATION:
        size = (length + 2) * 4
    else:
        size = (length + 1) * 8
    if end - offset < size:
        raise WireError("truncated extension header")
    return following, offset + size, end
