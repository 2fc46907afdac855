"""What both IP versions have in common: the decoded packet, and the choice of codec."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HOP_LIMIT", "ICMP", "ICMPV6", "TCP", "UDP", "Fragment", "IpPacket"]

# From the specification (IANA protocol numbers).
ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58

# Ours: what Linux uses.
HOP_LIMIT = 64


@dataclass(slots=True)
class Fragment:
    """Where a fragment belongs."""

    ident: int
    offset: int
    more: bool


@dataclass(slots=True)
class IpPacket:
    """One received packet without its IP header.

    ``protocol`` is the upper layer, or for an IPv6 fragment the header that
    follows the fragment header.
    """

    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    fragment: Fragment | None = None
