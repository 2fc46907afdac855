"""The sending half of a connection: send buffer, scoreboard and what may go next.

Offsets are relative to ISS (see ``seqnum``). Every transmitted segment has one
``Sent`` record in sequence order; ``order`` holds those in flight in order of
transmission, which is all the loss detector looks at; ``pipe`` is kept up to
date incrementally.

Source: RFC 9293 section 3.8, RFC 2018, RFC 6675 for "pipe"; spec/netstack.md section 5.2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heappop, heappush

from smolmix_sync.netstack.recovery import LossDetector
from smolmix_sync.netstack.segment import FIN, PSH, SYN

__all__ = ["AckResult", "Sender", "Sent"]

# Ours: acknowledged records are cut off the front of the lists in this many at once.
_TRIM = 512
# Ours: bound on remembered SACK blocks; forgetting one costs a walk, not correctness.
_MAX_BLOCKS = 512


class Sent:
    """One transmitted segment; ``end`` counts SYN and FIN."""

    __slots__ = ("end", "flags", "lost", "retransmissions", "sacked", "sent_at", "start")

    def __init__(self, start: int, end: int, sent_at: float, flags: int) -> None:
        self.start = start
        self.end = end
        self.sent_at = sent_at
        self.flags = flags
        self.retransmissions = 0
        self.sacked = False
        self.lost = False


class AckResult:
    """What one acknowledgement did."""

    __slots__ = ("acked", "clean_sent_at", "delivered", "dsack", "resent_first")

    def __init__(self) -> None:
        self.acked = 0
        self.delivered = 0
        self.dsack: tuple[int, int] | None = None
        """What the peer reports as received twice."""
        self.resent_first = False
        """The first segment acknowledged was one sent more than once."""
        self.clean_sent_at = -1.0
        """When the newest acknowledged segment was sent; -1 if any was retransmitted (Karn)."""


class Sender:
    """Send state of one connection."""

    __slots__ = (
        "_base",
        "_blocks",
        "_head",
        "_lost",
        "_lost_ids",
        "_segments",
        "_small_end",
        "_starts",
        "buffer",
        "edge",
        "fin",
        "fin_queued",
        "iss",
        "limit",
        "lost_octets",
        "max_window",
        "order",
        "overdue",
        "pipe",
        "probing",
        "sacked_octets",
        "shift",
        "snd_nxt",
        "snd_una",
    )

    def __init__(self, iss: int, limit: int) -> None:
        self.iss = iss
        self.limit = limit
        self.snd_una = 0
        self.snd_nxt = 0
        self.edge = 0
        """Right edge of the peer's window, the greatest ever seen: a reordered old
        acknowledgement must not close it (spec 5.6 rule 1)."""
        self.max_window = 0
        self.shift = 0
        self.buffer = bytearray()
        self._base = 1
        self.fin_queued = False
        self.fin = -1
        self._segments: list[Sent] = []
        self._starts: list[int] = []
        self._head = 0
        self.order: dict[Sent, None] = {}
        self.pipe = 0
        self._lost: list[tuple[int, int, Sent]] = []
        self._lost_ids = 0
        self.lost_octets = 0
        self.sacked_octets = 0
        self._blocks: dict[int, int] = {}
        self._small_end = 0
        self.overdue = False
        """A timeout asks for the first hole, whatever the window says."""
        self.probing = False
        """One new segment may pass the congestion window and Nagle: a tail loss probe."""

    # -- application side

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Copy in as much as fits; return how much."""
        free = self.limit - len(self.buffer)
        if free <= 0:
            return 0
        if len(data) > free:
            data = memoryview(data).cast("B")[:free]
        self.buffer += data
        return len(data)

    def unsent(self) -> int:
        """Return octets written but never transmitted."""
        return self._base + len(self.buffer) - max(self.snd_nxt, 1) if self.fin < 0 else 0

    # -- new segments

    def sendable(self, mss: int, cwnd: int, nagle: bool, cork: bool) -> int:
        """Return the payload size of the new segment that may go now.

        0 means none; -1 means a bare FIN.
        """
        if self.fin >= 0:
            return 0
        nxt = self.snd_nxt
        unsent = self._base + len(self.buffer) - nxt
        if not unsent:
            return -1 if self.fin_queued else 0
        size = min(unsent, mss)
        window = self.edge - nxt
        if size > window:
            size = window
        if size <= 0:
            return 0
        if self.probing:
            return size
        pipe = self.pipe
        if pipe and pipe + size > cwnd:
            return 0
        if size < mss:
            if size < unsent:
                # Sender's silly window avoidance (RFC 9293 section 3.8.6.2.1).
                if self.snd_una < nxt and size < self.max_window >> 1:
                    return 0
            elif not self.fin_queued and (cork or (nagle and self._small_end > self.snd_una)):
                # Nagle as Minshall refined it: one small segment in flight at a time.
                return 0
        return size

    def blocked_by_window(self) -> bool:
        """Tell whether data or FIN waits only for the peer's window (the persist condition)."""
        return (
            self.fin < 0
            and not self.pipe
            and not self.lost_octets
            and self.snd_nxt == self.snd_una
            and self.edge <= self.snd_nxt
            and self.unsent() > 0
        )

    def take_new(self, size: int, mss: int, now: float, flags: int) -> Sent:
        """Record the transmission of the next *size* octets (-1: a bare FIN)."""
        nxt = self.snd_nxt
        end = nxt + max(size, 0)
        last = end == self._base + len(self.buffer)
        if last:
            if size > 0:
                flags |= PSH
            if self.fin_queued and self.fin < 0:
                flags |= FIN
                self.fin = end
                end += 1
        if 0 < size < mss:
            self._small_end = end
        sent = Sent(nxt, end, now, flags)
        self._segments.append(sent)
        self._starts.append(nxt)
        self.order[sent] = None
        self.pipe += end - nxt
        self.snd_nxt = end
        self.probing = False
        return sent

    def take_syn(self, now: float) -> Sent:
        """Record the first transmission of the SYN."""
        sent = Sent(0, 1, now, SYN)
        self._segments.append(sent)
        self._starts.append(0)
        self.order[sent] = None
        self.pipe += 1
        self.snd_nxt = 1
        return sent

    def payload(self, sent: Sent) -> bytearray | bytes:
        """Return the octets of *sent*, from its first unacknowledged one."""
        end = sent.end - (1 if sent.flags & FIN else 0)
        if sent.flags & SYN or end <= sent.start:
            return b""
        return self.buffer[sent.start - self._base : end - self._base]

    # -- retransmission

    def mark_lost(self, sent: Sent) -> None:
        """Take *sent* out of flight and queue it for retransmission."""
        size = sent.end - sent.start
        sent.lost = True
        self.order.pop(sent, None)
        self.pipe -= size
        self.lost_octets += size
        self._lost_ids += 1
        heappush(self._lost, (sent.start, self._lost_ids, sent))

    def first_hole(self) -> Sent | None:
        """Return the first segment that is neither acknowledged nor SACKed."""
        segments = self._segments
        for index in range(self._head, len(segments)):
            if not segments[index].sacked:
                return segments[index]
        return None

    def last_in_flight(self) -> Sent:
        """Return the segment in flight with the highest sequence number; there must be one."""
        return next(sent for sent in reversed(self._segments) if not sent.sacked and not sent.lost)

    def unmark_lost(self) -> None:
        """Count everything marked lost as in flight again: the marking was a mistake."""
        mistaken = [sent for sent in self._segments[self._head :] if sent.lost]
        self._lost.clear()
        if not mistaken:
            return
        for sent in mistaken:
            sent.lost = False
            self.order[sent] = None
            self.pipe += sent.end - sent.start
        self.lost_octets = 0
        # The detector relies on the order of transmission.
        self.order = dict.fromkeys(sorted(self.order, key=lambda sent: (sent.sent_at, sent.start)))

    def next_lost(self, cwnd: int) -> Sent | None:
        """Return the lost segment to retransmit now, None while the window forbids it."""
        lost = self._lost
        while lost and not lost[0][2].lost:
            heappop(lost)
        if not lost:
            return None
        sent = lost[0][2]
        if (
            self.pipe
            and self.pipe + sent.end - sent.start > cwnd
            and (sent.start != self.snd_una or (sent.retransmissions and not self.overdue))
        ):
            return None
        return sent

    def take_lost(self, sent: Sent, now: float, size: int) -> None:
        """Record the retransmission of *sent*, cut to *size* octets of payload if it is longer."""
        if sent.end - sent.start - (1 if sent.flags & FIN else 0) > size:
            self._split(sent, size)
        length = sent.end - sent.start
        heappop(self._lost)
        self.overdue = False
        sent.lost = False
        sent.retransmissions += 1
        sent.sent_at = now
        self.order[sent] = None
        self.pipe += length
        self.lost_octets -= length

    def _split(self, sent: Sent, size: int) -> None:
        """Cut a lost segment in two: the path's MTU or the room shrank."""
        cut = sent.start + size
        rest = Sent(cut, sent.end, sent.sent_at, sent.flags)
        rest.retransmissions = sent.retransmissions
        rest.lost = True
        sent.end = cut
        sent.flags &= ~(FIN | PSH)
        index = bisect_left(self._starts, sent.start, self._head) + 1
        self._segments.insert(index, rest)
        self._starts.insert(index, cut)
        first = heappop(self._lost)
        self._lost_ids += 1
        heappush(self._lost, (cut, self._lost_ids, rest))
        heappush(self._lost, first)

    def mark_oversized(self, mss: int) -> None:
        """Mark everything in flight above *mss* lost: the path dropped it (RFC 1191)."""
        for sent in [s for s in self.order if s.end - s.start - (1 if s.flags & FIN else 0) > mss]:
            self.mark_lost(sent)

    # -- acknowledgements

    def on_ack(
        self,
        ack: int,
        blocks: Sequence[tuple[int, int]],
        detector: LossDetector,
        min_rtt: float,
        echoed: float | None,
        now: float,
    ) -> AckResult:
        """Apply a cumulative acknowledgement (may be old) and SACK blocks (offsets)."""
        result = AckResult()
        if ack > self.snd_una:
            self._advance(ack, detector, min_rtt, echoed, now, result)
        if blocks:
            self._apply_blocks(blocks, detector, min_rtt, echoed, now, result)
        return result

    def _advance(
        self,
        ack: int,
        detector: LossDetector,
        min_rtt: float,
        echoed: float | None,
        now: float,
        result: AckResult,
    ) -> None:
        segments = self._segments
        index, count = self._head, len(segments)
        clean = True
        newest: Sent | None = None
        while index < count:
            sent = segments[index]
            if sent.end > ack:
                if sent.start < ack:
                    self._trim(sent, index, ack)
                break
            size = sent.end - sent.start
            if sent.sacked:
                self.sacked_octets -= size
            else:
                if sent.lost:
                    sent.lost = False
                    self.lost_octets -= size
                else:
                    self.pipe -= size
                    del self.order[sent]
                detector.delivered(sent, now, min_rtt, echoed)
                result.delivered += size
                newest = sent
                if sent.retransmissions:
                    clean = False
                    if sent.start <= self.snd_una:
                        result.resent_first = True
            index += 1
        self._head = index
        if index > _TRIM or index == count:
            del segments[:index]
            del self._starts[:index]
            self._head = 0
        if newest is not None and clean:
            result.clean_sent_at = newest.sent_at
        result.acked = ack - self.snd_una
        self.snd_una = ack
        data = min(ack - self._base, len(self.buffer))
        if data > 0:
            del self.buffer[:data]
            self._base += data
        if ack == self.snd_nxt:
            self._blocks.clear()
            self._lost.clear()

    def _trim(self, sent: Sent, index: int, ack: int) -> None:
        """The peer acknowledged the first part of a segment."""
        size = ack - sent.start
        if sent.sacked:
            self.sacked_octets -= size
        elif sent.lost:
            self.lost_octets -= size
        else:
            self.pipe -= size
        sent.start = ack
        sent.flags &= ~SYN
        self._starts[index] = ack

    def _apply_blocks(
        self,
        blocks: Sequence[tuple[int, int]],
        detector: LossDetector,
        min_rtt: float,
        echoed: float | None,
        now: float,
        result: AckResult,
    ) -> None:
        una, nxt = self.snd_una, self.snd_nxt
        known = self._blocks
        segments = self._segments
        first, *others = blocks
        if first[1] <= una or (others and first[0] >= others[0][0] and first[1] <= others[0][1]):
            result.dsack = first  # RFC 2883 section 4
            blocks = others
        for left, right in blocks:
            if right <= una or right > nxt or left >= right:
                continue
            before = known.get(left)
            if before is not None and before >= right:
                continue
            index = bisect_left(self._starts, left if before is None else before, self._head)
            reached = right
            for position in range(index, len(segments)):
                sent = segments[position]
                if sent.end > right:
                    # A block may end inside a segment: the next, longer one resumes here.
                    reached = max(min(sent.start, right), left)
                    break
                if sent.sacked:
                    continue
                size = sent.end - sent.start
                sent.sacked = True
                self.sacked_octets += size
                if sent.lost:
                    sent.lost = False
                    self.lost_octets -= size
                else:
                    self.pipe -= size
                    del self.order[sent]
                detector.delivered(sent, now, min_rtt, echoed)
                result.delivered += size
            known[left] = reached
            if len(known) > _MAX_BLOCKS:
                known.clear()

    def renege(self) -> None:
        """Distrust every SACK if the peer left the very first segment unacknowledged (RFC 2018 section 8)."""
        segments = self._segments
        if self._head == len(segments) or not segments[self._head].sacked:
            return
        for index in range(self._head, len(segments)):
            sent = segments[index]
            if sent.sacked:
                sent.sacked = False
                size = sent.end - sent.start
                self.sacked_octets -= size
                self.pipe += size
                self.mark_lost(sent)
        self._blocks.clear()

    def open_window(self, ack: int, field: int) -> bool:
        """Apply a window field; return True when the right edge moved."""
        window = field << self.shift
        if window > self.max_window:
            self.max_window = window
        edge = ack + window
        if edge <= self.edge:
            return False
        self.edge = edge
        return True

    def drop(self) -> None:
        """Forget everything: the connection is over."""
        self._segments.clear()
        self._starts.clear()
        self._head = 0
        self.order.clear()
        self._lost.clear()
        self._blocks.clear()
        self.buffer.clear()
        self.pipe = self.lost_octets = self.sacked_octets = 0
        self.probing = False
