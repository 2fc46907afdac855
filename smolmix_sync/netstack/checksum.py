"""The Internet checksum, and the fast remainder under it.

Source: RFC 1071; spec/netstack.md section 8 (measured).
"""

from __future__ import annotations

__all__ = ["fold", "internet_checksum", "transport_checksum"]

_MASK_5840 = (1 << 5840) - 1
_MASK_2928 = (1 << 2928) - 1
_MASK_1472 = (1 << 1472) - 1
_MASK_736 = (1 << 736) - 1


def fold(total: int) -> int:
    """Return ``total % 65535``, about 1.7 times faster than ``%`` for a full packet.

    2**16 is 1 modulo 65535, so a number may be cut at any multiple of 16 bits
    and the parts added; each cut halves the long division that remains.
    """
    while total > _MASK_5840:
        total = (total >> 5840) + (total & _MASK_5840)
    if total > _MASK_1472:
        total = (total >> 2928) + (total & _MASK_2928)
        total = (total >> 1472) + (total & _MASK_1472)
        total = (total >> 736) + (total & _MASK_736)
    return total % 0xFFFF


def internet_checksum(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """Return the one's-complement checksum of *data*.

    Args:
        data: octets to cover; an odd length is padded with one zero octet.
        initial: a partial sum to continue from (the pseudo-header), any size.

    Returns:
        The checksum field value, ``0..0xffff``, in host order. Zero is a legal
        result: a UDP sender transmits it as ``0xffff``.

    Source: RFC 1071 section 1; RFC 768 for the UDP case.
    """
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += initial
    if total == 0:
        return 0xFFFF
    # One's complement writes a non-zero multiple of 0xffff as 0xffff, not as 0.
    return 0xFFFF - (fold(total) or 0xFFFF)


def transport_checksum(
    source: bytes, destination: bytes, protocol: int, data: bytes | bytearray | memoryview
) -> int:
    """Return the checksum of *data* with the IPv4 or IPv6 pseudo-header in front.

    Over received data that carries a right checksum the result is 0.

    Source: RFC 9293 section 3.1; RFC 8200 section 8.1.
    """
    return internet_checksum(data, int.from_bytes(source + destination, "big") + protocol + len(data))
