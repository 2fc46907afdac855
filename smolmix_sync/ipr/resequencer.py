"""Puts the exit's data messages back in order, for a short while and without ever dropping one.

The mixnet delays every message by itself, so neighbours overtake each other all the time.
Handing packets to TCP in the order they were sent saves it from guessing losses; but the
exit never resends a lost message, so nothing waits for a gap longer than ``hold``.

Source: spec/ipr.md section 6; design.md section 7.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["Resequencer"]

T = TypeVar("T")

_MASK = 0xFFFFFFFF
# Ours: further away than this is not reordering but an exit that began to count anew.
_RESTART_DISTANCE = 1024


def _after(sequence: int) -> int:
    """Return the number after *sequence* as the exit counts: it leaves 0 to control answers."""
    return 1 if sequence == _MASK else sequence + 1


class Resequencer(Generic[T]):
    """Orders items by a 32-bit sequence number that starts at 1.

    Args:
        hold: seconds an item waits for those before it; 0 passes everything on at once.
        limit: items that may wait; one more releases the lowest.
    """

    __slots__ = ("_hold", "_limit", "_next", "_waiting")

    def __init__(self, hold: float, limit: int) -> None:
        self._hold = hold
        self._limit = limit
        self._next = 1
        # In order of arrival, which is the order of expiry.
        self._waiting: dict[int, tuple[float, T]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def receive(self, sequence: int, item: T, now: float) -> list[T]:
        """Take *item*; return what may be passed on now, in order."""
        if self._hold <= 0:
            return [item]
        ahead = (sequence - self._next) & _MASK
        if ahead == 0:
            return [item, *self._advance(sequence)]
        behind = -ahead & _MASK
        if min(ahead, behind) > _RESTART_DISTANCE:
            out = self.drain()
            self._next = _after(sequence)
            return [*out, item]
        if behind < ahead or sequence in self._waiting:
            # IP bears a late or doubled packet better than a lost one.
            return [item]
        self._waiting[sequence] = (now, item)
        if len(self._waiting) > self._limit:
            return self._release(min(self._waiting, key=self._distance))
        return []

    def skip(self, sequence: int) -> list[T]:
        """Count *sequence* as used by something that is not ordered; return what that releases."""
        return self._advance(sequence) if sequence == self._next else []

    def deadline(self) -> float | None:
        """Return when the longest-waiting item expires, or None."""
        for arrival, _ in self._waiting.values():
            return arrival + self._hold
        return None

    def expire(self, now: float) -> list[T]:
        """Return, in order, what has waited long enough and everything before and right behind it."""
        late = [seq for seq, (arrival, _) in self._waiting.items() if arrival + self._hold <= now]
        return self._release(max(late, key=self._distance)) if late else []

    def drain(self) -> list[T]:
        """Return everything that waits, in order."""
        return self._release(max(self._waiting, key=self._distance)) if self._waiting else []

    def _distance(self, sequence: int) -> int:
        return (sequence - self._next) & _MASK

    def _release(self, last: int) -> list[T]:
        """Return the items up to *last*, which waits, and those that follow it without a gap."""
        bound = self._distance(last)
        numbers = sorted((seq for seq in self._waiting if self._distance(seq) <= bound), key=self._distance)
        return [*(self._waiting.pop(seq)[1] for seq in numbers), *self._advance(last)]

    def _advance(self, sequence: int) -> list[T]:
        """Expect the number after *sequence*; return the items that wait from there without a gap."""
        self._next = _after(sequence)
        out: list[T] = []
        while self._next in self._waiting:
            out.append(self._waiting.pop(self._next)[1])
            self._next = _after(self._next)
        return out
