"""Sequence numbers as unbounded offsets from the initial sequence number.

Offset 0 is the SYN, 1 the first octet of data. A number is converted once, at
the edge; everything inside compares plain integers.

Source: spec/netstack.md section 5.1; RFC 9293 section 3.4.
"""

from __future__ import annotations

__all__ = ["MASK", "from_wire", "to_wire"]

MASK = 0xFFFFFFFF
_HALF = 0x80000000


def from_wire(wire: int, base: int, reference: int) -> int:
    """Return the offset nearest to *reference* that *wire* can mean.

    Args:
        wire: the 32-bit number in the segment.
        base: ISS for our numbers, IRS for the peer's.
        reference: an offset known to be near, SND.UNA or RCV.NXT.
    """
    return ((wire - base - reference + _HALF) & MASK) - _HALF + reference


def to_wire(offset: int, base: int) -> int:
    """Return the 32-bit number of *offset*."""
    return (base + offset) & MASK
