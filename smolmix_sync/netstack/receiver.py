"""The receiving half of a connection: reassembly, window, SACK blocks and when to acknowledge.

Offsets are relative to IRS (see ``seqnum``). The link reorders most segments
of a bulk transfer, so out-of-order data is the ordinary case: ranges are not
capped in number (only the window and the memory of tiny pieces bound them),
and their acknowledgement waits like any other.

Source: RFC 9293 section 3.8.6, RFC 2018, RFC 2883; spec/netstack.md sections 5.5 and 6.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import inf

from smolmix_sync.netstack.config import StackConfig, TcpSettings

__all__ = ["Receiver"]

# Ours: one held piece per this many octets of buffer at least may exist, so that
# a peer sending single octets cannot make the bookkeeping outgrow the buffer.
_OCTETS_PER_PIECE = 256
_MIN_PIECES = 256
# From the specification (RFC 9293: the window field).
_MAX_FIELD = 0xFFFF


class Receiver:
    """Receive state of one connection."""

    __slots__ = (
        "_ack_delay",
        "_ack_every",
        "_by_left",
        "_by_right",
        "_held",
        "_lefts",
        "_ooo_delay",
        "_round_at",
        "_round_octets",
        "ack_at",
        "ack_now",
        "ack_since",
        "buffer",
        "discard",
        "dsack",
        "duplicates",
        "edge",
        "fin",
        "fin_reached",
        "irs",
        "last_ack_sent",
        "limit",
        "max_limit",
        "octets",
        "out_of_order",
        "pieces_dropped",
        "rcv_nxt",
        "round_end",
        "sack",
        "scaled",
        "segments",
        "shift",
        "unacked_segments",
    )

    def __init__(self, settings: TcpSettings, config: StackConfig, *, every_segment: bool = False) -> None:
        self.irs = 0
        self.rcv_nxt = 0
        self.edge = 0
        self.shift = 0
        self.scaled = False
        self.limit = settings.rcvbuf
        self.max_limit = max(settings.rcvbuf, settings.rcvbuf_max)
        self.buffer = bytearray()
        self.discard = False
        self.round_end = -inf
        self._round_at = -inf
        self._round_octets = 0
        self.fin = -1
        self.fin_reached = False
        self.sack = False
        self._ack_every = 1 if every_segment else config.ack_every
        self._ack_delay = config.ack_delay
        self._ooo_delay = config.ooo_ack_delay
        self.ack_now = False
        self.ack_at = inf
        self.ack_since = 0.0
        self.unacked_segments = 0
        self.last_ack_sent = 0
        self.dsack: tuple[int, int] | None = None
        # Ranges above rcv_nxt: left -> right in order of recency (newest last),
        # right -> left, and the left edges sorted. Pieces never overlap.
        self._by_left: dict[int, int] = {}
        self._by_right: dict[int, int] = {}
        self._lefts: list[int] = []
        self._held: dict[int, bytes] = {}
        self.segments = 0
        self.octets = 0
        self.out_of_order = 0
        self.duplicates = 0
        self.pieces_dropped = 0

    def start(self, irs: int, *, scaled: bool, shift: int, sack: bool) -> None:
        """Begin after the peer's SYN with initial sequence number *irs*."""
        self.irs = irs
        self.rcv_nxt = 1
        self.edge = max(self.edge, 1)
        self.scaled = scaled
        self.shift = shift
        self.sack = sack

    # -- data in

    def accept(self, start: int, payload: bytes, now: float) -> bool:
        """Take one segment's payload; return True when new data became readable.

        What lies beyond the advertised edge or the peer's FIN is cut off.
        """
        self.segments += 1
        end = start + len(payload)
        edge = self.edge if self.fin < 0 else min(self.edge, self.fin)
        if end > edge:
            payload = payload[: max(0, edge - start)]
            end = start + len(payload)
            if not payload:
                self.acknowledge_now(now)
                return False
        rcv_nxt = self.rcv_nxt
        if start == rcv_nxt and not self._lefts:
            self.buffer += payload
            self.rcv_nxt = end
            self._in_order(now, end - rcv_nxt)
            return True
        if end <= rcv_nxt:
            self.duplicates += 1
            self.report_duplicate(start, end)
            self.acknowledge_now(now)
            return False
        if start < rcv_nxt:
            self.report_duplicate(start, rcv_nxt)
            payload = payload[rcv_nxt - start :]
            start = rcv_nxt
        if start > rcv_nxt:
            self._hold(start, end, payload, now)
            return False
        self._fill(start, end, payload)
        self._out_of_order_ack(now)
        self._count_new(self.rcv_nxt - rcv_nxt)
        return True

    def report_duplicate(self, start: int, end: int) -> None:
        """Tell the peer with the next acknowledgement that it sent these octets twice (RFC 2883).

        An acknowledgement has room for one report; a run of duplicates becomes one block, so that the
        peer can take back what it did (it counts octets, as Linux does).
        """
        if not self.sack:
            return
        pending = self.dsack
        if pending is not None and start <= pending[1] and end >= pending[0]:
            start, end = min(start, pending[0]), max(end, pending[1])
        self.dsack = (start, end)

    def _in_order(self, now: float, size: int) -> None:
        self.unacked_segments += 1
        if self.unacked_segments >= self._ack_every:
            self.acknowledge_now(now)
        elif self.ack_at == inf:
            self.ack_at = now + self._ack_delay
        self._count_new(size)

    def _count_new(self, size: int) -> None:
        self.octets += size
        if self.discard:
            self.buffer.clear()

    def grow(self, now: float, srtt: float) -> None:
        """Double the buffer when more than half of it came in a round trip and the reader keeps up.

        Called from ``round_end`` on, which is one round trip after the last call.
        """
        elapsed = now - self._round_at
        arrived = self.octets - self._round_octets
        if 2 * arrived * srtt > self.limit * elapsed and 2 * len(self.buffer) <= self.limit < self.max_limit:
            self.limit = min(self.limit * 2, self.max_limit)
        self._round_at = now
        self._round_octets = self.octets
        self.round_end = now + srtt

    def _fill(self, start: int, end: int, payload: bytes) -> None:
        """Append in-order *payload* and every held range it reaches."""
        nxt = start
        lefts = self._lefts
        held = self._held
        buffer = self.buffer
        while lefts and lefts[0] <= end:
            left = lefts.pop(0)
            buffer += payload[nxt - start : left - start]
            nxt = left
            right = self._by_left.pop(left)
            del self._by_right[right]
            while nxt < right:
                piece = held.pop(nxt)
                buffer += piece
                nxt += len(piece)
            if nxt >= end:
                break
        else:
            buffer += payload[nxt - start :]
            nxt = end
        self.rcv_nxt = nxt

    def _hold(self, start: int, end: int, payload: bytes, now: float) -> None:
        """Keep out-of-order data; *start* is above rcv_nxt."""
        self.out_of_order += 1
        lefts = self._lefts
        index = bisect_right(lefts, start)
        before = self._by_left[lefts[index - 1]] if index else 0
        if before >= end:
            self.duplicates += 1
            self.report_duplicate(start, end)
            # The block that covers it is reported again as the newest.
            left = lefts[index - 1]
            self._by_left[left] = self._by_left.pop(left)
            self.acknowledge_now(now)
            return
        if len(self._held) >= max(_MIN_PIECES, self.limit // _OCTETS_PER_PIECE):
            self.pieces_dropped += 1
            self.acknowledge_now(now)
            return
        after = lefts[index] if index < len(lefts) else end
        if before <= start and after >= end:
            self._insert(start, end, payload)
        else:
            self._insert_gaps(start, end, payload, max(start, before))
        self._out_of_order_ack(now)

    def _insert_gaps(self, start: int, end: int, payload: bytes, position: int) -> None:
        """Keep the parts of *payload* from *position* on that are not held yet."""
        first = bisect_left(self._lefts, position)
        last = bisect_left(self._lefts, end)
        gaps = []
        for left in self._lefts[first:last]:
            if left > position:
                gaps.append((position, left))
            position = self._by_left[left]
        if position < end:
            gaps.append((position, end))
        for left, right in gaps:
            self._insert(left, right, payload[left - start : right - start])

    def _insert(self, start: int, end: int, payload: bytes) -> None:
        """Add a piece that overlaps nothing, joining the ranges it touches."""
        self._held[start] = payload
        left = self._by_right.pop(start, None)
        if left is None:
            left = start
            index = bisect_left(self._lefts, start)
            self._lefts.insert(index, start)
        else:
            del self._by_left[left]
        right = self._by_left.pop(end, None)
        if right is None:
            right = end
        else:
            del self._by_right[right]
            del self._lefts[bisect_left(self._lefts, end)]
        self._by_left[left] = right
        self._by_right[right] = left

    # -- acknowledgements

    def acknowledge_now(self, now: float) -> None:
        """Ask for an acknowledgement without delay."""
        if not self.ack_now:
            self.ack_now = True
            self.ack_since = now

    def _out_of_order_ack(self, now: float) -> None:
        self.unacked_segments += 1
        if self._ooo_delay <= 0.0 or self.unacked_segments >= 4 * self._ack_every:
            self.acknowledge_now(now)
        else:
            self.ack_at = min(self.ack_at, now + self._ooo_delay)

    def acknowledged(self) -> None:
        """Note that a segment with our newest acknowledgement was made."""
        self.ack_now = False
        self.ack_at = inf
        self.unacked_segments = 0
        self.last_ack_sent = self.rcv_nxt

    def wants_sack(self) -> bool:
        """Tell whether SACK blocks should go with the next segment."""
        return self.sack and (bool(self._lefts) or self.dsack is not None)

    def sack_blocks(self, limit: int) -> list[tuple[int, int]]:
        """Return at most *limit* blocks: a pending DSACK (consumed), then ranges, newest first."""
        blocks = []
        if self.dsack is not None:
            blocks.append(self.dsack)
            self.dsack = None
        for left in reversed(self._by_left):
            if len(blocks) >= limit:
                break
            blocks.append((left, self._by_left[left]))
        return blocks

    # -- window

    def window_field(self, mss: int) -> int:
        """Return the window field for a segment made now, and remember the edge it promises.

        The edge never moves left, and moves right only by a useful step
        (RFC 9293 section 3.8.6.2.2).
        """
        rcv_nxt = self.rcv_nxt
        shift = self.shift
        edge = rcv_nxt + (self.limit - len(self.buffer) >> shift << shift)
        limit = rcv_nxt + (_MAX_FIELD << shift)
        if edge > limit:
            edge = limit
        if edge > self.edge and (edge - self.edge >= mss or edge - self.edge >= self.limit >> 1):
            self.edge = edge
        return min(max(self.edge - rcv_nxt, 0) >> shift, _MAX_FIELD)

    def window_opened(self, mss: int) -> bool:
        """Tell whether the reader freed enough for a window update of its own."""
        step = self.rcv_nxt + self.limit - len(self.buffer) - self.edge
        return step >= min(self.limit >> 1, max(2 * mss, self.limit >> 2))

    # -- reader

    def read(self, n: int) -> bytes:
        """Take up to *n* octets."""
        buffer = self.buffer
        if n >= len(buffer):
            data = bytes(buffer)
            buffer.clear()
            return data
        data = bytes(memoryview(buffer)[:n])
        del buffer[:n]
        return data

    def read_into(self, target: bytearray | memoryview) -> int:
        """Take octets into *target*; return how many."""
        buffer = self.buffer
        size = min(len(target), len(buffer))
        if size:
            with memoryview(target) as out, memoryview(buffer) as source:
                out[:size] = source[:size]
            del buffer[:size]
        return size

    def highest(self) -> int:
        """Return the offset after the last octet received, gaps or not."""
        return self._by_left[self._lefts[-1]] if self._lefts else self.rcv_nxt

    def held_octets(self) -> int:
        """Return octets held out of order."""
        return sum(right - left for left, right in self._by_left.items())

    def drop(self) -> None:
        """Forget out-of-order data: the connection is over."""
        self._by_left.clear()
        self._by_right.clear()
        self._lefts.clear()
        self._held.clear()
        self.ack_now = False
        self.ack_at = inf
