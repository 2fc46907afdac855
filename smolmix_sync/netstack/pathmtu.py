"""What ICMP told about the MTU towards each destination. Source: RFC 1191 section 6, RFC 8201."""

from __future__ import annotations

__all__ = ["PathMtuCache"]

# From the specification: no path has less.
_MINIMUM = {4: 576, 16: 1280}


class PathMtuCache:
    """A bounded table of destinations with less than the default MTU."""

    __slots__ = ("_entries", "_lifetime", "_table")

    def __init__(self, entries: int, lifetime: float) -> None:
        self._entries = entries
        self._lifetime = lifetime
        self._table: dict[bytes, tuple[int, float]] = {}

    def get(self, destination: bytes, default: int, now: float) -> int:
        """Return the MTU to use towards *destination*."""
        entry = self._table.get(destination)
        if entry is None:
            return default
        if entry[1] <= now:
            del self._table[destination]
            return default
        return min(entry[0], default)

    def lower(self, destination: bytes, mtu: int, current: int, now: float) -> bool:
        """Remember *mtu* if it is plausible and less than *current*; return whether it was."""
        if not _MINIMUM[len(destination)] <= mtu < current:
            return False
        table = self._table
        known = table.pop(destination, None)
        if known is not None and known[1] > now:
            mtu = min(mtu, known[0])
        if len(table) >= self._entries:
            del table[next(iter(table))]
        table[destination] = (mtu, now + self._lifetime)
        return True
