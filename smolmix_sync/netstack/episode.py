"""Was it lost at all? Finding out that a retransmission was needless, and what follows.

A recovery (by RACK or by a timeout) is an episode. Two things prove it
needless: the acknowledgement of the first segment sent again echoes a
timestamp older than any retransmission (Eifel), or the peer reports every
retransmission as received twice (DSACK). Then the congestion control takes its
reduction back and what is marked lost counts as in flight again.

Source: RFC 3522 and RFC 4015 (Eifel); RFC 3708 and RFC 2883 (DSACK); spec/netstack.md section 5.3.
"""

from __future__ import annotations

from smolmix_sync.netstack.recovery import ECHO_SLACK

__all__ = ["Episode"]


class Episode:
    """The latest recovery of one connection; it can be undone until the next begins."""

    __slots__ = ("_duplicated", "_first_at", "_resent", "_start", "end", "undoable")

    def __init__(self) -> None:
        self.end = -1
        """Offset whose acknowledgement ends the recovery; what is lost before that belongs to it."""
        self.undoable = False
        self._start = 0
        self._first_at = -1.0
        self._resent = 0
        self._duplicated = 0

    def begin(self, snd_una: int, snd_nxt: int) -> None:
        """Start a recovery."""
        self._start = snd_una
        self.end = snd_nxt
        self.undoable = True
        self._first_at = -1.0
        self._resent = self._duplicated = 0

    def resent(self, size: int, now: float) -> None:
        """Note a retransmission of *size* octets."""
        if self._first_at < 0.0:
            self._first_at = now
        self._resent += size

    def spurious(self, echoed: float | None) -> bool:
        """Tell whether the acknowledgement of the first segment sent again was for its original."""
        return (
            self.undoable
            and self._first_at >= 0.0
            and echoed is not None
            and echoed < self._first_at - ECHO_SLACK
        )

    def duplicated(self, left: int, right: int) -> bool:
        """Account for a DSACK block; return True when every retransmission turned out needless."""
        if not self.undoable or left < self._start or right > self.end:
            return False
        self._duplicated += right - left
        return 0 < self._resent <= self._duplicated

    def over(self) -> None:
        """Close the books: undone, or superseded."""
        self.undoable = False
