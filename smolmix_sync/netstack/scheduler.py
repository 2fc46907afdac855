"""The order in which packets leave, and the timers of all connections.

Nothing is made before it is pulled. A connection stands in a queue for each
kind of packet it wants to send; the queues are emptied in this order: control
packets, handshakes and probes, retransmissions, acknowledgements that waited
too long, new data (round robin, one segment each), other acknowledgements, and
into a started bundle also those that could still wait.

Source: spec/netstack.md sections 6.1 and 8; design.md section 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf
from typing import TypeAlias

from smolmix_sync.netstack import output
from smolmix_sync.netstack.config import StackConfig
from smolmix_sync.netstack.connection import Conn
from smolmix_sync.netstack.counters import Counters
from smolmix_sync.netstack.states import State
from smolmix_sync.netstack.timeouts import next_timeout
from smolmix_sync.netstack.udp import PacketQueue

__all__ = ["Scheduler"]

_Member: TypeAlias = Conn | PacketQueue

_CLOSED = State.CLOSED
_SYN_SENT = State.SYN_SENT

_UNLIMITED = 1 << 62
# From ipr: each packet in a bundle has a 2-octet length in front.
_PREFIX = 2
# Ours: less room than this holds no packet worth looking for.
_MIN_ROOM = 60
# Ours: members of the data ring passed over because their segment does not fit; bounds a pull.
_MAX_SKIPPED = 4
# Ours: a datagram that does not fit an empty bundle of at least this size never will (IPv6's minimum MTU).
_FULL_ROOM = 1280
# Ours: entries whose reason is gone are cleared out when there are twice as many as after the last time, and these.
_SLACK = 64
# Ours: ``pending`` is an estimate; it stops counting there.
_MAX_COUNTED = 64


class Scheduler:
    """Queues and timers of one stack."""

    __slots__ = (
        "_acks",
        "_config",
        "_control",
        "_counters",
        "_data",
        "_handshakes",
        "_heap",
        "_heap_limit",
        "_lazy",
        "_lazy_limit",
        "_retransmissions",
        "_sequence",
        "loop",
        "now",
    )

    def __init__(self, config: StackConfig, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        self.now = 0.0
        self._control: deque[bytes] = deque()
        self._handshakes: deque[Conn] = deque()
        self._retransmissions: deque[Conn] = deque()
        self._data: deque[_Member] = deque()
        self._acks: deque[Conn] = deque()
        self._lazy: deque[Conn] = deque()
        self.loop: deque[Conn] = deque()
        """Connections inside this stack with something to send."""
        self._lazy_limit = _SLACK
        self._heap: list[tuple[float, int, Conn]] = []
        self._heap_limit = _SLACK
        self._sequence = 0

    # -- what wants to go

    def touch(self, conn: Conn) -> None:
        """Queue *conn* for whatever it wants to send, and set its timer."""
        if conn.state is _CLOSED:
            return
        snd, rcv = conn.snd, conn.rcv
        if conn.loop:
            if not conn.in_data and self._wants_anything(conn):
                conn.in_data = True
                self.loop.append(conn)
        else:
            if (conn.syn_wanted or conn.probe_wanted) and not conn.in_control:
                conn.in_control = True
                self._handshakes.append(conn)
            if snd.lost_octets and not conn.in_retransmit and snd.next_lost(conn.cc.cwnd) is not None:
                conn.in_retransmit = True
                self._retransmissions.append(conn)
            if not conn.in_data and output.wants_data(conn):
                conn.in_data = True
                self._data.append(conn)
            if rcv.ack_now:
                if not conn.in_ack and snd.snd_nxt and conn.state is not _SYN_SENT:
                    conn.in_ack = True
                    self._acks.append(conn)
            elif rcv.ack_at != inf and not conn.in_lazy:
                conn.in_lazy = True
                self._lazy.append(conn)
                if len(self._lazy) > self._lazy_limit:
                    self._clear_lazy()
        if (
            snd.edge <= snd.snd_nxt
            and conn.open
            and conn.persist_at == inf
            and not conn.probe_wanted
            and snd.blocked_by_window()
        ):
            conn.persist_at = self.now + max(conn.rtt.rto, self._config.persist_min)
        due = next_timeout(conn)
        if due < conn.heap_at:
            self._arm(conn, due)

    @staticmethod
    def _wants_anything(conn: Conn) -> bool:
        return (
            conn.syn_wanted
            or conn.probe_wanted
            or (conn.rcv.ack_now and conn.snd.snd_nxt > 0 and conn.state is not _SYN_SENT)
            or (conn.snd.lost_octets > 0 and conn.snd.next_lost(conn.cc.cwnd) is not None)
            or output.wants_data(conn) != 0
        )

    def add_control(self, packet: bytes) -> None:
        """Queue a packet before everything else; dropped when too many wait."""
        if len(self._control) >= self._config.max_control:
            self._counters.drop("control_full")
        else:
            self._control.append(packet)

    def add_queue(self, queue: PacketQueue) -> None:
        """Let *queue* take part in the data round."""
        if queue.packets and not queue.queued:
            queue.queued = True
            self._data.append(queue)

    def clear(self) -> None:
        """Forget everything queued."""
        for queue in (self._handshakes, self._retransmissions, self._acks, self._lazy, self.loop):
            queue.clear()
        self._control.clear()
        self._data.clear()
        self._heap.clear()

    # -- timers

    def next_timer(self) -> float:
        """Return when the first timer is due, ``inf`` when none runs."""
        heap = self._heap
        while heap:
            due, _, conn = heap[0]
            if due == conn.heap_at and conn.state is not _CLOSED:
                current = next_timeout(conn)
                if current <= due:
                    return due
                heappop(heap)
                self._arm(conn, current)
            else:
                heappop(heap)
        return inf

    def _arm(self, conn: Conn, due: float) -> None:
        conn.heap_at = due
        if due == inf:
            return
        self._sequence += 1
        heappush(self._heap, (due, self._sequence, conn))
        if len(self._heap) > self._heap_limit:
            self._clear_heap()

    def _clear_heap(self) -> None:
        """Keep one entry per connection: each earlier timer leaves the later one behind, perhaps for hours."""
        live = {
            conn: (due, n, conn)
            for due, n, conn in self._heap
            if due == conn.heap_at and conn.state is not _CLOSED
        }
        self._heap[:] = live.values()
        heapify(self._heap)
        self._heap_limit = 2 * len(live) + _SLACK

    def _clear_lazy(self) -> None:
        """Forget those without a waiting acknowledgement: pulls with little or unlimited room never look at them."""
        lazy = self._lazy
        for _ in range(len(lazy)):
            conn = lazy.popleft()
            if conn.state is _CLOSED or conn.rcv.ack_at == inf or conn.rcv.ack_now:
                conn.in_lazy = False
            else:
                lazy.append(conn)
        self._lazy_limit = 2 * len(lazy) + _SLACK

    def due(self, now: float) -> Iterator[Conn]:
        """Yield connections with a timer due; the caller expires and touches each."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            due, _, conn = heappop(heap)
            if due != conn.heap_at or conn.state is _CLOSED:
                continue
            conn.heap_at = inf
            current = next_timeout(conn)
            if current <= now:
                yield conn
            else:
                self._arm(conn, current)

    # -- output

    def ready(self) -> bool:
        """Tell whether ``pull`` would return a packet, given room."""
        if self._control:
            return True
        handshakes = self._handshakes
        while handshakes:
            conn = handshakes[0]
            if conn.syn_wanted or conn.probe_wanted:
                return True
            conn.in_control = False
            handshakes.popleft()
        retransmissions = self._retransmissions
        while retransmissions:
            conn = retransmissions[0]
            if conn.snd.next_lost(conn.cc.cwnd) is not None:
                return True
            conn.in_retransmit = False
            retransmissions.popleft()
        data = self._data
        while data:
            member = data[0]
            if isinstance(member, PacketQueue):
                if member.packets:
                    return True
                member.queued = False
            elif output.wants_data(member):
                return True
            else:
                member.in_data = False
            data.popleft()
        acks = self._acks
        while acks:
            conn = acks[0]
            if conn.rcv.ack_now:
                return True
            conn.in_ack = False
            acks.popleft()
            self.touch(conn)
        return False

    def pull(self, now: float, room: int | None) -> list[bytes]:
        """Make the packets that leave now."""
        out: list[bytes] = []
        left = _UNLIMITED if room is None else room
        control = self._control
        while control and len(control[0]) + _PREFIX <= left:
            packet = control.popleft()
            left -= len(packet) + _PREFIX
            out.append(packet)
        if self._handshakes:
            left = self._pull_handshakes(now, left, out)
        if self._retransmissions:
            left = self._pull_retransmissions(now, left, out)
        if self._acks and left >= _MIN_ROOM:
            left = self._pull_acks(now, left, out, now - self._config.ack_starve)
        if self._data and left >= _MIN_ROOM:
            left = self._pull_data(now, left, out, room)
        if self._acks and left >= _MIN_ROOM:
            left = self._pull_acks(now, left, out, inf)
        if out and room is not None and self._lazy and left >= _MIN_ROOM:
            self._pull_lazy(now, left, out)
        return out

    def _pull_handshakes(self, now: float, left: int, out: list[bytes]) -> int:
        queue = self._handshakes
        while queue and left >= _MIN_ROOM:
            conn = queue[0]
            packet = output.control(conn, now, left - _PREFIX)
            if packet is None:
                queue.popleft()
                conn.in_control = False
                self.touch(conn)
                continue
            if not packet:
                break
            left -= len(packet) + _PREFIX
            out.append(packet)
        return left

    def _pull_retransmissions(self, now: float, left: int, out: list[bytes]) -> int:
        queue = self._retransmissions
        while queue and left >= _MIN_ROOM:
            conn = queue[0]
            packet = output.retransmission(conn, now, left - _PREFIX, not out)
            if packet is not None and not packet:
                break
            queue.popleft()
            conn.in_retransmit = False
            if packet is not None:
                left -= len(packet) + _PREFIX
                out.append(packet)
                self.touch(conn)
        return left

    def _pull_data(self, now: float, left: int, out: list[bytes], room: int | None) -> int:
        queue = self._data
        skipped: list[_Member] = []
        while queue and left >= _MIN_ROOM:
            member = queue.popleft()
            if isinstance(member, PacketQueue):
                packet = self._datagram(member, left, bool(out), room)
                if packet is None:
                    continue
            else:
                member.in_data = False
                made = output.data(member, now, left - _PREFIX, not out)
                if made is None:
                    continue
                packet = made
                if packet:
                    self.touch(member)
                else:
                    member.in_data = True
            if not packet:
                skipped.append(member)
                if len(skipped) >= _MAX_SKIPPED:
                    break
                continue
            left -= len(packet) + _PREFIX
            out.append(packet)
        queue.extendleft(reversed(skipped))
        return left

    def _datagram(self, queue: PacketQueue, left: int, started: bool, room: int | None) -> bytes | None:
        """Take a packet and queue the rest again; b"" when it does not fit, None when there is none."""
        while queue.packets and len(queue.packets[0]) + _PREFIX > left:
            if started or room is None or room < _FULL_ROOM:
                return output.NO_ROOM
            queue.take()
            self._counters.drop("too_big_for_room")
        packet = queue.take() if queue.packets else None
        if queue.packets:
            self._data.append(queue)
        else:
            queue.queued = False
        if queue.owner is not None:
            queue.owner.drained()
        return packet

    def _pull_acks(self, now: float, left: int, out: list[bytes], since: float) -> int:
        queue = self._acks
        while queue and left >= _MIN_ROOM:
            conn = queue[0]
            if conn.rcv.ack_now:
                if conn.rcv.ack_since > since:
                    break
                packet = output.acknowledgement(conn, now, left - _PREFIX)
                if not packet:
                    break
                left -= len(packet) + _PREFIX
                out.append(packet)
            queue.popleft()
            conn.in_ack = False
            self.touch(conn)
        return left

    def _pull_lazy(self, now: float, left: int, out: list[bytes]) -> None:
        queue = self._lazy
        while queue and left >= _MIN_ROOM:
            conn = queue.popleft()
            conn.in_lazy = False
            if conn.state is _CLOSED or conn.rcv.ack_at == inf or conn.rcv.ack_now:
                continue
            packet = output.acknowledgement(conn, now, left - _PREFIX)
            if not packet:
                conn.in_lazy = True
                queue.appendleft(conn)
                break
            left -= len(packet) + _PREFIX
            out.append(packet)

    def drain(self, conn: Conn, now: float) -> list[bytes]:
        """Make everything a connection inside this stack may send now."""
        out: list[bytes] = []
        space = self._config.loopback_mtu
        conn.in_data = False
        while packet := output.control(conn, now, space):
            out.append(packet)
        while packet := output.retransmission(conn, now, space, False):
            out.append(packet)
        while packet := output.data(conn, now, space, False):
            out.append(packet)
        if conn.rcv.ack_now and conn.snd.snd_nxt and conn.state not in (_CLOSED, _SYN_SENT):
            out.append(output.acknowledgement(conn, now, space))
        self.touch(conn)
        return out

    def pending(self) -> tuple[int, int]:
        """Return octets waiting: urgent (control, retransmissions, overdue acknowledgements) and bulk."""
        if not self.ready():
            return 0, 0
        urgent = sum(map(len, self._control)) + 60 * len(self._handshakes)
        for conn in list(self._retransmissions)[:_MAX_COUNTED]:
            urgent += conn.snd.lost_octets
        overdue = self.now - self._config.ack_starve
        bulk = 0
        for conn in list(self._acks)[:_MAX_COUNTED]:
            if conn.rcv.ack_now:
                if conn.rcv.ack_since <= overdue:
                    urgent += conn.overhead
                else:
                    bulk += conn.overhead
        for index, member in enumerate(self._data):
            if index == _MAX_COUNTED:
                break
            if isinstance(member, PacketQueue):
                bulk += member.octets
            else:
                snd = member.snd
                allowed = min(snd.unsent(), snd.edge - snd.snd_nxt, member.cc.cwnd - snd.pipe)
                bulk += max(allowed, 1)
        return urgent, bulk
