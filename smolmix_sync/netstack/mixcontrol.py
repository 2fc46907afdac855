"""``mix``: a congestion window from the delivery rate, indifferent to isolated loss.

On a mixnet the round trip varies because every hop delays at random, and a
packet gets lost because a node restarts; neither says that a queue is full. So
the window follows the highest delivery rate of the last rounds times the
*smoothed* round trip (the shortest one is two to three times below the mean
here and would starve the pipe), and only a round that lost more than 15 %
lowers it.

Source: spec/netstack.md section 5.4.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Mix"]

# Ours (spec 5.4): rounds the greatest rate is remembered for.
_ROUNDS = 8
# Ours (spec 5.4): growth below this for so many rounds ends the start-up.
_GROWTH = 1.25
_FLAT_ROUNDS = 3
# Ours (spec 5.4): a round that loses more than this share, and so many segments, met a full queue.
_LOSSY = 0.15
_LOSSY_SEGMENTS = 8
_REDUCTION = 0.7
# Ours (spec 5.4): windows of rate times round trip.
_GAIN = 2.0
# Ours (spec 5.4): so many timeouts in a row mean another path.
_NEW_PATH = 3


class Mix:
    """Rate-based control.

    Args:
        initial_segments: initial and least window in segments.
        ceiling: never more than this in flight (the send buffer).
    """

    __slots__ = (
        "_before",
        "_ceiling",
        "_delivered",
        "_flat",
        "_initial",
        "_limited",
        "_lost",
        "_mss",
        "_rates",
        "_recovering",
        "_round_at",
        "_round_end",
        "_startup",
        "cwnd",
        "rate",
        "ssthresh",
    )

    def __init__(self, initial_segments: int, ceiling: int) -> None:
        self._initial = initial_segments
        self._ceiling = ceiling
        self._mss = 536
        self._rates: deque[float] = deque(maxlen=_ROUNDS)
        self._startup = True
        self._flat = 0
        self._recovering = False
        self._round_at = -1.0
        self._round_end = 0
        self._delivered = 0
        self._lost = 0
        self._limited = False
        self._before: tuple[int, int, tuple[float, ...], bool] | None = None
        self.rate = 0.0
        """Octets per second: the greatest of the last rounds."""
        self.cwnd = initial_segments * 536
        self.ssthresh = ceiling

    def on_connected(self, mss: int, now: float) -> None:
        """Set the initial window."""
        self._mss = mss
        self.cwnd = self._initial * mss
        self.ssthresh = max(self._ceiling, self.cwnd)
        self._recovering = False

    def on_restart(self, now: float) -> None:
        """Begin a new round: time without anything in flight is nobody's rate."""
        self._round_at = now
        self._round_end = -1
        self._delivered = self._lost = 0
        self._limited = False

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
        """Count what arrived, close the round when it is over, and set the window."""
        self._delivered += delivered
        if limited:
            self._limited = True
        if acked and snd_una > self._round_end:
            self._round_over(now)
            self._round_at = now
            # What is sent from now on ends it; the octet after the last one may be the first of those.
            self._round_end = max(snd_nxt - 1, snd_una)
            self._delivered = self._lost = 0
            self._limited = limited
        cwnd = self.cwnd
        if self._recovering:
            cwnd += delivered
            if cwnd < self.ssthresh:
                self.cwnd = cwnd
                return
            self._recovering = False
        if self._startup:
            if 2 * (pipe + delivered) >= self.cwnd:
                self.cwnd = min(cwnd + delivered, max(self._ceiling, cwnd))
        elif srtt > 0.0:
            least = self._initial * self._mss
            self.cwnd = max(least, min(int(_GAIN * self.rate * srtt), self._ceiling))

    def _round_over(self, now: float) -> None:
        elapsed = now - self._round_at
        if self._round_at < 0.0 or elapsed <= 0.0:
            return
        delivered, lost = self._delivered, self._lost
        rate = delivered / elapsed
        previous = self.rate
        if not self._limited or rate > previous:
            self._rates.append(rate)
            self.rate = max(self._rates)
        lossy = lost > _LOSSY_SEGMENTS * self._mss and lost > _LOSSY * (delivered + lost)
        if self._startup:
            if not self._limited:
                self._flat = self._flat + 1 if self.rate < previous * _GROWTH else 0
            if lossy or self._flat >= _FLAT_ROUNDS:
                self._startup = False
        if lossy:
            self._remember()
            self.rate = max(self._rates, default=0.0) * _REDUCTION
            self._rates.clear()
            self._rates.append(self.rate)

    def _remember(self) -> None:
        self._before = (self.cwnd, self.ssthresh, tuple(self._rates), self._startup)

    def on_loss(self, lost: int, pipe: int, first: bool, now: float) -> None:
        """Count: the round's end decides."""
        self._lost += lost

    def on_timeout(self, pipe: int, consecutive: int, now: float) -> None:
        """Send one segment and return to the old window by slow start; three in a row forget the path."""
        if consecutive == 1:
            self._remember()
            self.ssthresh = max(self.cwnd, 2 * self._mss)
        if consecutive >= _NEW_PATH:
            self._rates.clear()
            self.rate = 0.0
            self._startup = True
            self._flat = 0
            self.ssthresh = max(min(self.ssthresh, self._initial * self._mss), 2 * self._mss)
        self.cwnd = self._mss
        self._recovering = True

    def on_undo(self) -> None:
        """Restore window and rates from before the reduction."""
        if self._before is None:
            return
        cwnd, ssthresh, rates, startup = self._before
        self._before = None
        self.cwnd = max(self.cwnd, cwnd)
        self.ssthresh = max(self.ssthresh, ssthresh)
        if max(rates, default=0.0) > self.rate:
            self._rates.extend(rates)
            self.rate = max(self._rates)
        self._startup = startup
        self._recovering = False

    def set_mss(self, mss: int) -> None:
        """Use another segment size from now on."""
        self._mss = mss

    def set_ceiling(self, ceiling: int) -> None:
        """Follow the send buffer."""
        if self.ssthresh == self._ceiling:
            self.ssthresh = ceiling
        self._ceiling = ceiling
