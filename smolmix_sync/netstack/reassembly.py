"""Reassembly of fragmented datagrams, one bounded table for both IP versions.

Overlapping fragments discard the whole datagram in both families; an exact
duplicate is ignored, because the link below may deliver a packet twice.

Source: RFC 815; RFC 5722; RFC 8200 section 4.5.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TypeAlias

from smolmix_sync.errors import WireError
from smolmix_sync.netstack.ip import Fragment

__all__ = ["Reassembler"]

_Key: TypeAlias = tuple[bytes, bytes, int, int]


class _Partial:
    __slots__ = ("deadline", "ends", "first_protocol", "held", "parts", "starts", "total")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.parts: list[bytes] = []
        self.held = 0
        self.total = -1
        self.first_protocol = -1


class Reassembler:
    """Fragments waiting for the rest of their datagram.

    Args:
        max_datagrams: datagrams in progress; a new one beyond that is dropped.
        max_octets: size of one datagram.
        timeout: seconds from the first fragment seen.
    """

    __slots__ = ("_max_datagrams", "_max_octets", "_table", "_timeout", "expired")

    def __init__(self, max_datagrams: int, max_octets: int, timeout: float) -> None:
        self._max_datagrams = max_datagrams
        self._max_octets = max_octets
        self._timeout = timeout
        self._table: dict[_Key, _Partial] = {}
        self.expired = 0

    def __len__(self) -> int:
        return len(self._table)

    def add(
        self, source: bytes, destination: bytes, protocol: int, part: Fragment, data: bytes, now: float
    ) -> tuple[int, bytes] | None:
        """Add one fragment; return (protocol, payload) when the datagram is whole.

        Raises:
            WireError: the argument names the drop counter.
        """
        # IPv6 identifies a datagram without the next header; IPv4 with the protocol.
        key = (source, destination, protocol if len(source) == 4 else -1, part.ident)
        start, end = part.offset, part.offset + len(data)
        if not data or (part.more and len(data) & 7) or end > self._max_octets:
            self._table.pop(key, None)
            raise WireError("fragment_bad")
        entry = self._table.get(key)
        if entry is None:
            if len(self._table) >= self._max_datagrams:
                self.expire(now)
                if len(self._table) >= self._max_datagrams:
                    raise WireError("fragment_limit")
            entry = self._table[key] = _Partial(now + self._timeout)
        index = bisect_left(entry.starts, start)
        if index < len(entry.starts) and entry.starts[index] == start and entry.parts[index] == data:
            return None
        if (index and entry.ends[index - 1] > start) or (
            index < len(entry.starts) and entry.starts[index] < end
        ):
            del self._table[key]
            raise WireError("fragment_overlap")
        total = entry.total if part.more else end
        last = max(end, entry.ends[-1] if entry.ends else 0)
        if (not part.more and entry.total >= 0 and entry.total != end) or (total >= 0 and last > total):
            del self._table[key]
            raise WireError("fragment_bad")
        entry.total = total
        entry.starts.insert(index, start)
        entry.ends.insert(index, end)
        entry.parts.insert(index, data)
        entry.held += len(data)
        if start == 0:
            entry.first_protocol = protocol
        if entry.held != entry.total:
            return None
        del self._table[key]
        return entry.first_protocol, b"".join(entry.parts)

    def next_deadline(self) -> float | None:
        """Return when the oldest datagram in progress is given up."""
        return min((entry.deadline for entry in self._table.values()), default=None)

    def expire(self, now: float) -> int:
        """Forget datagrams past their time; return how many."""
        dead = [key for key, entry in self._table.items() if entry.deadline <= now]
        for key in dead:
            del self._table[key]
        self.expired += len(dead)
        return len(dead)
