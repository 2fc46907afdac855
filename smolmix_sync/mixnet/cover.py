"""Loop cover: packets to ourselves that look like any other.

Source: spec/message-layer.md section 11.4; common/nymsphinx/cover/src/lib.rs.
"""

from __future__ import annotations

from typing import Final

__all__ = ["COVER_TEXT", "cover_plaintext", "is_cover"]

# From the specification: cannot be a fragment, whose first octet has its highest bit set.
COVER_TEXT: Final = b"The cake is a lie!"


def cover_plaintext(per_fragment: int) -> bytes:
    """Return what stands in the place of a fragment of *per_fragment* octets."""
    return (COVER_TEXT + b"\1").ljust(per_fragment, b"\0")


def is_cover(fragment: bytes) -> bool:
    """Tell whether decrypted octets are cover rather than a fragment."""
    return fragment.startswith(COVER_TEXT)
