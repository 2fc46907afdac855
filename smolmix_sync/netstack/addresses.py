"""Text and octets of IP addresses, and the few classes of address the stack must tell apart."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

__all__ = ["is_loopback", "is_unicast", "is_unspecified", "pack", "unpack"]

_V6_LOOPBACK = bytes(15) + b"\x01"
_V6_ANY = bytes(16)
_V4_MAPPED = bytes(10) + b"\xff\xff"


@lru_cache(maxsize=4096)
def pack(text: str) -> bytes:
    """Return 4 or 16 octets; an IPv4-mapped IPv6 address becomes IPv4.

    Raises:
        ValueError: *text* is not a numeric address.
    """
    packed = ipaddress.ip_address(text.partition("%")[0]).packed
    return packed[12:] if packed.startswith(_V4_MAPPED) else packed


@lru_cache(maxsize=4096)
def unpack(packed: bytes) -> str:
    """Return the text of 4 or 16 octets."""
    return str(ipaddress.ip_address(packed))


def is_loopback(packed: bytes) -> bool:
    """Tell whether this is 127/8 or ::1."""
    return packed[0] == 127 if len(packed) == 4 else packed == _V6_LOOPBACK


def is_unspecified(packed: bytes) -> bool:
    """Tell whether this is 0.0.0.0 or ::."""
    return packed == b"\0\0\0\0" if len(packed) == 4 else packed == _V6_ANY


def is_unicast(packed: bytes) -> bool:
    """Tell whether a packet may come from or go to this one host.

    False for 0/8, multicast, class E with the broadcast address, ``::`` and ff00::/8.
    """
    if len(packed) == 4:
        return 0 < packed[0] < 224
    return packed[0] != 0xFF and packed != _V6_ANY
