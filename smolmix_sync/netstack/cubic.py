"""``cubic``: the loss-based control of RFC 9438, for paths where loss does mean congestion.

Without HyStart: delay on a mixnet is jitter, never a queue. Loss is found by
time (RACK), so a reduction happens once per round trip that lost something.

Source: RFC 9438; RFC 5681 section 3.1 for slow start.
"""

from __future__ import annotations

__all__ = ["Cubic"]

# From the specification (RFC 9438 sections 4.1 and 4.6).
_C = 0.4
_BETA = 0.7
_ALPHA = 3.0 * (1.0 - _BETA) / (1.0 + _BETA)


class Cubic:
    """CUBIC with fast convergence.

    Args:
        initial_segments: initial window in segments.
        ceiling: never more than this in flight (the send buffer).
    """

    __slots__ = (
        "_before",
        "_ceiling",
        "_epoch",
        "_estimate",
        "_fraction",
        "_initial",
        "_k",
        "_maximum",
        "_mss",
        "_origin",
        "cwnd",
        "ssthresh",
    )

    def __init__(self, initial_segments: int, ceiling: int) -> None:
        self._initial = initial_segments
        self._ceiling = ceiling
        self._mss = 536
        self._maximum = 0.0
        self._epoch = -1.0
        self._origin = 0.0
        self._k = 0.0
        self._estimate = 0.0
        self._fraction = 0.0
        self._before: tuple[int, int, float] | None = None
        self.cwnd = initial_segments * 536
        self.ssthresh = ceiling

    def on_connected(self, mss: int, now: float) -> None:
        """Set the initial window."""
        self._mss = mss
        self.cwnd = self._initial * mss
        self.ssthresh = max(self._ceiling, self.cwnd)

    def on_restart(self, now: float) -> None:
        """Begin a new epoch: idle time is not growth."""
        self._epoch = -1.0

    def on_acked(
        self,
        acked: int,
        delivered: int,
        pipe: int,
        snd_una: int,
        snd_nxt: int,
        srtt: float,
        now: float,
        limited: bool,
    ) -> None:
        """Grow while the window is in use."""
        cwnd = self.cwnd
        if cwnd >= self._ceiling or not acked or 2 * (pipe + acked) < cwnd:
            return
        if cwnd < self.ssthresh:
            self.cwnd = min(cwnd + acked, max(self.ssthresh, self._mss), self._ceiling)
            return
        mss = self._mss
        window = cwnd / mss
        if self._epoch < 0.0:
            self._epoch = now
            self._estimate = window
            self._fraction = 0.0
            if window < self._maximum:
                self._k = ((self._maximum - window) / _C) ** (1.0 / 3.0)
                self._origin = self._maximum
            else:
                self._k = 0.0
                self._origin = window
        elapsed = now - self._epoch + srtt
        target = self._origin + _C * (elapsed - self._k) ** 3
        target = min(max(target, window), 1.5 * window)
        segments = acked / mss
        alpha = 1.0 if self._estimate >= self._maximum else _ALPHA
        self._estimate += alpha * segments / window
        target = max(target, self._estimate)
        self._fraction += (target - window) / window * acked
        if self._fraction >= 1.0:
            self.cwnd = min(cwnd + int(self._fraction), self._ceiling)
            self._fraction -= int(self._fraction)

    def _reduce(self) -> None:
        self._before = (self.cwnd, self.ssthresh, self._maximum)
        window = self.cwnd / self._mss
        # Fast convergence (RFC 9438 section 4.7).
        self._maximum = window * (1.0 + _BETA) / 2.0 if window < self._maximum else window
        self._epoch = -1.0

    def on_loss(self, lost: int, pipe: int, first: bool, now: float) -> None:
        """Reduce once per round trip that lost something."""
        if first:
            self._reduce()
            self.ssthresh = max(int(self.cwnd * _BETA), 2 * self._mss)
            self.cwnd = self.ssthresh

    def on_timeout(self, pipe: int, consecutive: int, now: float) -> None:
        """Send one segment, then slow start up to the reduced window."""
        if consecutive == 1:
            self._reduce()
            self.ssthresh = max(int(self.cwnd * _BETA), 2 * self._mss)
        self.cwnd = self._mss

    def on_undo(self) -> None:
        """Restore what the last reduction took."""
        if self._before is None:
            return
        cwnd, ssthresh, self._maximum = self._before
        self._before = None
        self.cwnd = max(self.cwnd, cwnd)
        self.ssthresh = max(self.ssthresh, ssthresh)
        self._epoch = -1.0

    def set_mss(self, mss: int) -> None:
        """Use another segment size from now on."""
        self._mss = mss

    def set_ceiling(self, ceiling: int) -> None:
        """Follow the send buffer."""
        if self.ssthresh == self._ceiling:
            self.ssthresh = ceiling
        self._ceiling = ceiling
