"""Padding a message and cutting it into the fragments that Sphinx packets carry.

Source: spec/message-layer.md sections 6 and 7; common/nymsphinx/chunking/src/{fragment,set,lib}.rs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from smolmix_sync.errors import WireError

__all__ = [
    "COVER_FRAGMENT_ID",
    "FRAGMENT_ID_SIZE",
    "MAX_SET",
    "UNLINKED_HEADER_SIZE",
    "FragmentHeader",
    "check_fragment_id_untrusted",
    "draw_set_id",
    "fragment_id",
    "pad_message",
    "required_fragments",
    "set_count",
    "split",
    "unpad_untrusted",
]

# From the specification.
UNLINKED_HEADER_SIZE: Final = 7
LINKED_HEADER_SIZE: Final = 10
FRAGMENT_ID_SIZE: Final = 5
#: Fragments in one set.
MAX_SET: Final = 255
#: The identifier in the acks of cover packets.
COVER_FRAGMENT_ID: Final = bytes(FRAGMENT_ID_SIZE)
_FLAG = 0x80000000
_MAX_ID = 0x7FFFFFFF
_MARKER = 1

_UNLINKED = Struct(">IBBB")
_LINKED = Struct(">IBBI")


@dataclass(slots=True)
class FragmentHeader:
    """The header in front of every fragment of a chunked message.

    Wire layout, big-endian::

        offset  size  field
        0       4     flag bit, always 1; then set_id, 31 bits, never 0
        4       1     total, 1..255
        5       1     position, 1..total
        6       1     0: not linked, and the header is 7 octets
        6       4     or flag bit, always 1; then linked_id, 31 bits: 10 octets

    ``linked_id`` is the previous set when ``position`` is 1, and the next set when ``position`` and ``total``
    are both 255. No other fragment has one.

    Source: spec/message-layer.md section 7.1; common/nymsphinx/chunking/src/fragment.rs.
    """

    set_id: int
    total: int
    position: int
    linked_id: int | None = None

    @property
    def previous_set(self) -> int | None:
        """The set before this one, if this is a first fragment that says so."""
        return self.linked_id if self.position == 1 else None

    @property
    def next_set(self) -> int | None:
        """The set after this one, if this is the last of 255 fragments and says so."""
        return self.linked_id if self.position == MAX_SET else None

    def encode(self) -> bytes:
        """Return the 7 or 10 octets."""
        if self.linked_id is None:
            return _UNLINKED.pack(self.set_id | _FLAG, self.total, self.position, 0)
        return _LINKED.pack(self.set_id | _FLAG, self.total, self.position, self.linked_id | _FLAG)

    @classmethod
    def decode_untrusted(cls, data: bytes) -> tuple[FragmentHeader, int]:
        """Decode the header at the start of *data*; return it and its length, 7 or 10.

        Raises:
            WireError: *data* is too short, a flag bit is clear, an id is 0, the position is outside
                ``1..total``, or the link is on a fragment that cannot have one or names the fragment's own set.
        """
        if len(data) < UNLINKED_HEADER_SIZE:
            raise WireError("fragment is shorter than its header")
        word, total, position, linked = _UNLINKED.unpack_from(data)
        set_id = word & _MAX_ID
        if not word & _FLAG or not set_id or not 1 <= position <= total:
            raise WireError("malformed fragment header")
        if not linked:
            return cls(set_id, total, position), UNLINKED_HEADER_SIZE
        if len(data) < LINKED_HEADER_SIZE:
            raise WireError("linked fragment is shorter than its header")
        word = _LINKED.unpack_from(data)[3]
        linked_id = word & _MAX_ID
        if not word & _FLAG or not linked_id or linked_id == set_id:
            raise WireError("malformed link in a fragment header")
        if position != 1 and position != MAX_SET:
            raise WireError("fragment in the middle of a set has a link")
        return cls(set_id, total, position, linked_id), LINKED_HEADER_SIZE


def fragment_id(fragment: bytes) -> bytes:
    """Return the five octets ``set id || position`` that name a well-formed *fragment* in its ack."""
    return (int.from_bytes(fragment[:4], "big") & _MAX_ID).to_bytes(4, "big") + fragment[5:6]


def check_fragment_id_untrusted(data: bytes) -> bytes:
    """Return *data* if it can be a fragment identifier or the one of cover packets.

    Raises:
        WireError: it is not five octets, or its set id is negative.
    """
    if len(data) != FRAGMENT_ID_SIZE or data[0] & 0x80:
        raise WireError("malformed fragment identifier")
    return data


def draw_set_id(urandom: Callable[[int], bytes]) -> int:
    """Return a random set id, 1 to 2**31 - 1."""
    while True:
        number = int.from_bytes(urandom(4), "big") & _MAX_ID
        if number:
            return number


def set_count(length: int, per_fragment: int) -> int:
    """Return how many sets *length* octets need.

    Args:
        length: size of the padded message.
        per_fragment: octets of one fragment, its header included.
    """
    full = MAX_SET * (per_fragment - UNLINKED_HEADER_SIZE)
    one_link, two_links = full - 3, full - 6
    if length <= full:
        return 1
    if length <= 2 * one_link:
        return 2
    return -(-(length - 2 * one_link) // two_links) + 2


def required_fragments(length: int, per_fragment: int) -> tuple[int, int]:
    """Return how many fragments *length* octets need, and how many octets are left free in the last one.

    Source: spec/message-layer.md section 7.3; common/nymsphinx/chunking/src/lib.rs.
    """
    unlinked = per_fragment - UNLINKED_HEADER_SIZE
    linked = per_fragment - LINKED_HEADER_SIZE
    sets = set_count(length, per_fragment)
    if sets == 1:
        count = max(1, -(-length // unlinked))
        return count, count * unlinked - length
    links_before = 2 * sets - 3
    before = MAX_SET * (sets - 1)
    rest = length - links_before * linked - (before - links_before) * unlinked
    if rest <= linked:
        return before + 1, linked - rest
    count = -(-(rest - linked) // unlinked)
    return before + 1 + count, count * unlinked - (rest - linked)


def pad_message(message: bytes, per_fragment: int) -> bytes:
    """Return *message*, the marker octet 1, and zeros up to the end of the last fragment.

    Source: spec/message-layer.md section 6.
    """
    _, free = required_fragments(len(message) + 1, per_fragment)
    return b"".join((message, b"\1", bytes(free)))


def unpad_untrusted(padded: bytes) -> bytes:
    """Return what stands before the last octet of value 1; what follows it is not looked at.

    Raises:
        WireError: no octet has the value 1.
    """
    end = padded.rfind(_MARKER)
    if end < 0:
        raise WireError("message without padding marker")
    return padded[:end]


def split(padded: bytes, per_fragment: int, draw_id: Callable[[], int]) -> list[bytes]:
    """Cut *padded* into fragments of at most *per_fragment* octets, header included.

    Args:
        padded: the padded message (nothing gives no fragments).
        per_fragment: octets of one fragment.
        draw_id: called once per set, in order; see :func:`draw_set_id`.

    Source: spec/message-layer.md section 7.3; common/nymsphinx/chunking/src/set.rs.
    """
    count = set_count(len(padded), per_fragment)
    ids: list[int] = []
    while len(ids) < count:
        new = draw_id()
        if new not in ids:  # a set linked to itself is malformed
            ids.append(new)
    full = MAX_SET * (per_fragment - UNLINKED_HEADER_SIZE)
    fragments: list[bytes] = []
    start = 0
    for index, set_id in enumerate(ids):
        previous = ids[index - 1] if index else None
        following = ids[index + 1] if index + 1 < count else None
        end = len(padded) if following is None else start + full - (3 if previous is None else 6)
        _split_set(padded, start, end, per_fragment, set_id, previous, following, fragments)
        start = end
    return fragments


def _split_set(
    padded: bytes,
    start: int,
    end: int,
    per_fragment: int,
    set_id: int,
    previous: int | None,
    following: int | None,
    fragments: list[bytes],
) -> None:
    """Append the fragments of one set, which holds ``padded[start:end]``."""
    if following is not None:
        total = MAX_SET
    else:
        longer = 0 if previous is None else LINKED_HEADER_SIZE - UNLINKED_HEADER_SIZE
        total = -(-(end - start + longer) // (per_fragment - UNLINKED_HEADER_SIZE))
    for position in range(1, total + 1):
        linked = previous if position == 1 else following if position == total else None
        header = FragmentHeader(set_id, total, position, linked).encode()
        stop = min(end, start + per_fragment - len(header))
        fragments.append(header + padded[start:stop])
        start = stop
