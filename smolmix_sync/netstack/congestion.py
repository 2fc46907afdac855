"""Congestion control: how many octets may be in flight.

The local bottleneck is the mixnet sender's own pace, which the pull interface
makes explicit; loss on a mixnet is rare and says little about congestion. The
window therefore only protects the exit-to-server leg and bounds memory.

A control is any object with this face; ``make`` finds it by name.

Source: RFC 5681 for the terms; spec/netstack.md section 5.4.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["CongestionControl", "Gentle", "make"]


class CongestionControl(Protocol):
    """What the connection tells a congestion control, and the one thing it reads."""

    cwnd: int
    ssthresh: int

    def on_connected(self, mss: int, now: float) -> None:
        """Set the initial window."""

    def on_acked(self, acked: int, pipe: int, snd_una: int, snd_nxt: int, srtt: float, now: float) -> None:
        """Account for *acked* octets delivered in order; *pipe* is what stays in flight."""

    def on_loss(self, lost: int, pipe: int, now: float) -> None:
        """Note *lost* octets found lost by time, not by a timeout."""

    def on_timeout(self, pipe: int, consecutive: int, now: float) -> None:
        """React to the *consecutive*-th retransmission timeout in a row."""

    def on_undo(self) -> None:
        """Take the last reduction back: it was spurious."""

    def set_mss(self, mss: int) -> None:
        """Use another segment size from now on."""


class Gentle:
    """Slow start up to the send buffer; halve on a timeout and never else.

    Args:
        initial_segments: initial window in segments.
        ceiling: never more than this in flight (the send buffer).
    """

    __slots__ = ("_acked", "_before", "_ceiling", "_initial", "_mss", "cwnd", "ssthresh")

    def __init__(self, initial_segments: int, ceiling: int) -> None:
        self._initial = initial_segments
        self._ceiling = ceiling
        self._mss = 536
        self._acked = 0
        self._before = (0, 0)
        self.cwnd = initial_segments * 536
        self.ssthresh = ceiling

    def on_connected(self, mss: int, now: float) -> None:
        """Set the initial window."""
        self._mss = mss
        self.cwnd = self._initial * mss
        self._ceiling = max(self._ceiling, self.cwnd)
        self.ssthresh = self._ceiling

    def on_acked(self, acked: int, pipe: int, snd_una: int, snd_nxt: int, srtt: float, now: float) -> None:
        """Grow while the window is in use."""
        cwnd = self.cwnd
        if cwnd >= self._ceiling or 2 * (pipe + acked) < cwnd:
            return
        if cwnd < self.ssthresh:
            self.cwnd = min(cwnd + acked, self._ceiling)
            return
        self._acked += acked
        if self._acked >= cwnd:
            self._acked -= cwnd
            self.cwnd = min(cwnd + self._mss, self._ceiling)

    def on_loss(self, lost: int, pipe: int, now: float) -> None:
        """Keep the window: loss is not congestion here."""

    def on_timeout(self, pipe: int, consecutive: int, now: float) -> None:
        """Halve; a path dead for three timeouts starts again from one segment."""
        if consecutive == 1:
            self._before = (self.cwnd, self.ssthresh)
            self.ssthresh = max(self.cwnd // 2, 2 * self._mss)
        self.cwnd = self._mss if consecutive >= 3 else max(self.cwnd // 2, self._mss)
        self._acked = 0

    def on_undo(self) -> None:
        """Restore the window from before the timeout."""
        self.cwnd = max(self.cwnd, self._before[0])
        self.ssthresh = max(self.ssthresh, self._before[1])

    def set_mss(self, mss: int) -> None:
        """Use another segment size from now on."""
        self._mss = mss


def make(name: str, initial_segments: int, ceiling: int) -> CongestionControl:
    """Return a new control.

    Raises:
        ValueError: no control has that name.
    """
    if name == "gentle":
        return Gentle(initial_segments, ceiling)
    raise ValueError(f"unknown congestion control {name!r}")
