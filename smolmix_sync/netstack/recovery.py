"""Round-trip estimation, and finding out what was lost, by time.

Counting duplicate acknowledgements would be fatal here: three segments are
overtaken all the time. A segment counts as lost when one sent after it was
delivered and SRTT + RTTVAR more than the round trip has passed since.

Source: RFC 6298; RFC 7323 section 4; RFC 8985 section 6; spec/netstack.md section 5.3.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from smolmix_sync.netstack.config import StackConfig

if TYPE_CHECKING:
    from smolmix_sync.netstack.sender import Sender, Sent

__all__ = ["ECHO_SLACK", "LossDetector", "RttEstimator"]

# Ours: the clock granularity G of RFC 6298, that of our timestamps.
_GRANULARITY = 0.010
# Ours: a sample above this is a stale timestamp, not a round trip.
_MAX_SAMPLE = 300.0
# Ours: timestamps are whole milliseconds, so an echo may seem this much older than it is.
ECHO_SLACK = 0.0015
# From the specification (RFC 8985 section 6.2 step 4): recoveries a wider window is kept for.
_PERSIST = 16


class RttEstimator:
    """Smoothed round-trip time and retransmission timeout."""

    __slots__ = ("_maximum", "_minimum", "latest", "min_rtt", "rto", "rttvar", "srtt", "timeouts")

    def __init__(self, config: StackConfig) -> None:
        self._minimum = config.rto_min
        self._maximum = config.rto_max
        self.srtt = 0.0
        self.rttvar = 0.0
        self.rto = config.rto_initial
        self.min_rtt = inf
        self.latest = 0.0
        self.timeouts = 0

    def sample(self, rtt: float) -> None:
        """Account for one measured round trip."""
        if not 0.0 <= rtt < _MAX_SAMPLE:
            return
        rtt = max(rtt, 0.0005)
        self.latest = rtt
        if self.srtt == 0.0:
            self.srtt = rtt
            self.rttvar = rtt / 2
        else:
            difference = self.srtt - rtt
            self.rttvar += 0.25 * (abs(difference) - self.rttvar)
            self.srtt -= 0.125 * difference
        if rtt < self.min_rtt:
            self.min_rtt = rtt
        if not self.timeouts:
            self._compute()

    def _compute(self) -> None:
        rto = self.srtt + max(4 * self.rttvar, _GRANULARITY)
        self.rto = min(max(rto, self._minimum), self._maximum)

    def on_timeout(self) -> None:
        """Double the timeout (RFC 6298 rule 5.5)."""
        self.timeouts += 1
        self.rto = min(self.rto * 2, self._maximum)

    def on_progress(self) -> None:
        """End the back-off: new data was acknowledged."""
        if self.timeouts:
            self.timeouts = 0
            if self.srtt:
                self._compute()


class LossDetector:
    """RACK: compares each segment in flight with the latest-sent one known delivered.

    ``deadline`` is when ``detect`` should run again although nothing arrived.
    A peer without SACK tells only that something arrived: there the first hole
    alone is judged, by its age, once per round trip (``plain``).
    """

    __slots__ = (
        "_adaptive",
        "_duplicate_of",
        "_factor",
        "_persist",
        "_recover",
        "_reo_rttvar",
        "_reo_srtt",
        "_rtt",
        "_sent_at",
        "_sent_end",
        "_widened_until",
        "deadline",
        "plain",
    )

    def __init__(self, config: StackConfig) -> None:
        self._reo_srtt = config.reo_srtt
        self._reo_rttvar = config.reo_rttvar
        self._adaptive = config.reo_adaptive
        self._sent_at = -1.0
        self._sent_end = 0
        self._rtt = 0.0
        self._factor = 1.0
        self._persist = 0
        self._widened_until = -1
        self._duplicate_of = -1
        self._recover = -1
        self.deadline = inf
        self.plain = False

    def delivered(self, sent: Sent, now: float, min_rtt: float, echoed: float | None) -> None:
        """Note that *sent* arrived.

        Args:
            sent: the segment.
            now: seconds.
            min_rtt: shortest round trip so far.
            echoed: when the segment echoed by the peer's timestamp was made, if known.
        """
        rtt = now - sent.sent_at
        # A retransmission acknowledged too early was not the copy that arrived.
        if sent.retransmissions and (
            rtt < min_rtt - ECHO_SLACK or (echoed is not None and echoed < sent.sent_at - ECHO_SLACK)
        ):
            return
        if sent.sent_at > self._sent_at or (sent.sent_at == self._sent_at and sent.end > self._sent_end):
            self._sent_at = sent.sent_at
            self._sent_end = sent.end
            self._rtt = rtt

    def window(self, rtt: RttEstimator) -> float:
        """Return how long a segment may be overtaken before it counts as lost."""
        if self._adaptive:
            return min(self._factor * rtt.min_rtt / 4, rtt.srtt) if rtt.srtt else 0.0
        return self._reo_srtt * rtt.srtt + self._reo_rttvar * rtt.rttvar

    def widen(self, snd_una: int, snd_nxt: int) -> None:
        """Be more patient with an adaptive window: a retransmission was needless. Once per round trip.

        The fixed window is wide already, and on a mixnet a needless retransmission does not say that it
        is too narrow: what the mixnet lost its own acknowledgement layer sends again, so sooner or later
        every retransmission becomes the second copy.

        Source: RFC 8985 section 6.2 step 4.
        """
        if self._adaptive and snd_una >= self._widened_until:
            self._widened_until = snd_nxt
            self._persist = _PERSIST
            self._factor += 1.0

    def new_recovery(self) -> None:
        """Count a recovery; after enough of them without a complaint patience is as before."""
        if self._persist:
            self._persist -= 1
            if not self._persist:
                self._factor = 1.0

    def duplicate(self, snd_una: int) -> None:
        """Note that a peer without SACK repeated its acknowledgement: something else arrived."""
        self._duplicate_of = snd_una

    def detect(self, sender: Sender, rtt: RttEstimator, now: float) -> int:
        """Mark what is lost by now; set ``deadline`` for what may be later. Returns octets marked."""
        self.deadline = inf
        if self.plain:
            return self._detect_plain(sender, rtt, now)
        if self._sent_at < 0.0:
            return 0
        patience = self._rtt + self.window(rtt)
        lost: list[Sent] = []
        for sent in sender.order:
            if sent.sent_at > self._sent_at or (sent.sent_at == self._sent_at and sent.end >= self._sent_end):
                break
            due = sent.sent_at + patience
            if due > now:
                self.deadline = due
                break
            lost.append(sent)
        for sent in lost:
            sender.mark_lost(sent)
        return sum(sent.end - sent.start for sent in lost)

    def _detect_plain(self, sender: Sender, rtt: RttEstimator, now: float) -> int:
        """Judge the first hole: NewReno's partial acknowledgements (RFC 6582), with time for a count."""
        una = sender.snd_una
        if self._duplicate_of != una and una >= self._recover:
            return 0
        first = sender.first_hole()
        if first is None or first.lost:
            return 0
        due = first.sent_at + rtt.srtt + self.window(rtt)
        if due > now:
            self.deadline = due
            return 0
        self._recover = max(self._recover, sender.snd_nxt)
        sender.mark_lost(first)
        return first.end - first.start

    def on_timeout(self, sender: Sender, rtt: RttEstimator, now: float) -> None:
        """Mark lost what a timeout says: the first hole, and all that had its time (RFC 8985 section 6.3)."""
        self.deadline = inf
        self._duplicate_of = self._recover = -1
        patience = max(self._rtt, rtt.srtt) + self.window(rtt)
        sender.renege()
        first = sender.first_hole()
        if first is not None and not first.lost:
            sender.mark_lost(first)
        sender.overdue = True
        for sent in [sent for sent in sender.order if sent.sent_at + patience <= now]:
            sender.mark_lost(sent)
