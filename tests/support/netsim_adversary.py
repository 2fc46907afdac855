"""Two stacks, a channel that is against them, applications at both ends, and what must hold at any time.

``World`` is the whole system of tests/netstack/test_state_machine.py in virtual
time. Operations of the applications and of the adversary are methods; ``check``
is called after each, and ``finish`` makes the channel fair and demands that
everything is delivered and nothing is left.

The checks read packets by offsets of their own, not by the decoders under test.

Source: spec/netstack.md section 10.3.
"""

from __future__ import annotations

import errno
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from support.netsim import check_scoreboard, seeded_urandom

from smolmix_sync.netstack import (
    CLOSED,
    ERROR,
    HUP,
    READABLE,
    WRITABLE,
    Conn,
    Listener,
    Stack,
    StackConfig,
    State,
)
from smolmix_sync.netstack.secretnumbers import SecretNumbers

V4 = ("10.0.0.2", "10.0.0.1")
V6 = ("fd00::2", "fd00::1")
PORT = 80
LIFETIME = 4.0
"""No packet stays in the channel for longer (the maximum segment lifetime)."""
PATIENCE = 60.0
"""Nothing gives up before that, however bad the channel is."""
MASK = 0xFFFFFFFF
_CAP = 1 << 18
_MAX_IN_FLIGHT = 4000


class NearTheWrap(SecretNumbers):
    """Initial sequence numbers just below 2**32, for a minute."""

    def isn(self, key: bytes, now: float) -> int:
        return (MASK - 60_000 + int(now * 1000)) & MASK


@dataclass(slots=True)
class Weather:
    """What the channel does to a packet by itself."""

    loss: float = 0.0
    duplicate: float = 0.0
    latency: float = 0.02
    jitter: float = 0.0
    damage: float = 0.0


@dataclass(eq=False, slots=True)
class End:
    """An application's half of a connection: what it wrote, what it read."""

    conn: Conn
    side: int
    text: bytes
    peer: End | None = None
    written: int = 0
    got: int = 0
    finished: bool = False
    """It said that it will write no more."""
    closed: bool = False
    closed_at: float = 0.0
    aborted: bool = False
    deaf: bool = False
    """It shut its receiving half."""
    # What the owner knew when the events were taken last.
    readable: int = 0
    writable: int = 0
    eof: bool = False
    error: int = 0
    over: bool = False

    def alive(self) -> bool:
        return not (self.closed or self.aborted)


@dataclass(eq=False, slots=True)
class Packet:
    """A packet in the channel."""

    due: float
    number: int
    side: int
    data: bytes

    def __lt__(self, other: Packet) -> bool:
        return (self.due, self.number) < (other.due, other.number)


@dataclass(slots=True)
class _Edge:
    """The right edge a connection has promised, on the wire and inside."""

    wire: int = -1
    inside: int = 0
    limit: int = 0


@dataclass
class World:
    """The system; *seed* decides what the weather does."""

    configs: tuple[StackConfig, StackConfig]
    seed: int = 0
    near_the_wrap: bool = False
    backlog: int = 8
    now: float = 0.0
    weather: Weather = field(default_factory=Weather)
    ends: list[End] = field(default_factory=list)
    stacks: list[Stack] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)
    channel: list[Packet] = field(default_factory=list)
    archive: list[tuple[float, int, bytes]] = field(default_factory=list)
    lost: int = 0
    packets: int = 0
    gap: list[float] = field(default_factory=lambda: [0.0, 0.0])
    room: list[int | None] = field(default_factory=lambda: [None, None])

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        for side in (0, 1):
            urandom = seeded_urandom(self.seed + side)
            stack = Stack(V4[side], V6[side], config=self.configs[side], urandom=urandom)
            if self.near_the_wrap:
                stack._numbers = NearTheWrap(urandom)
            self.stacks.append(stack)
            self.listeners.append(stack.listen(None, PORT, self.backlog))
        self.slot = [0.0, 0.0]
        self.made = 0
        self.edges: dict[Conn, _Edge] = {}

    # -- applications

    def connect(self, side: int, v6: bool, local_port: int = 0, port: int = PORT) -> End:
        target = (V6 if v6 else V4)[1 - side]
        conn = self.stacks[side].connect(target, port, self.now, local_port=local_port)
        return self._end(conn, side)

    def _end(self, conn: Conn, side: int) -> End:
        self.made += 1
        end = End(conn, side, random.Random(self.made).randbytes(_CAP))
        self.ends.append(end)
        return end

    def open_from_both(self, v6: bool) -> None:
        """Open one connection from both sides at once."""
        ports = 2000 + self.made, 3000 + self.made
        first = self.connect(0, v6, *ports)
        second = self.connect(1, v6, *reversed(ports))
        first.peer, second.peer = second, first

    def accept(self, side: int) -> None:
        while (conn := self.listeners[side].accept()) is not None:
            end = self._end(conn, side)
            for other in reversed(self.ends):
                if (
                    other.side != side
                    and other.conn.snd.iss == conn.rcv.irs
                    and other.conn.local == conn.remote
                ):
                    assert other.peer is None, "accepted twice"
                    end.peer, other.peer = other, end
                    break
            assert end.peer is not None, "a connection nobody opened"

    def send(self, end: End, size: int) -> None:
        size = min(size, _CAP - end.written)
        try:
            sent = end.conn.send(end.text[end.written : end.written + size])
        except BrokenPipeError:
            assert end.finished or end.conn.state is State.CLOSED
            return
        assert not end.finished
        end.written += sent

    def receive(self, end: End, size: int) -> None:
        if end.closed:
            return
        data = end.conn.recv(size)
        assert not (end.deaf and data)
        if not data:
            return
        peer = end.peer
        assert peer is not None
        end.got += len(data)
        assert end.got <= peer.written, "more than was written"
        assert data == peer.text[end.got - len(data) : end.got], "the stream changed"
        end.readable = end.conn.readable()

    def change(self, end: End, name: str, value: object) -> None:
        """Change a setting of a live connection, as setsockopt does."""
        setattr(end.conn.settings, name, value)
        end.conn.settings_changed()
        end.writable = end.conn.writable()

    def shutdown_write(self, end: End) -> None:
        end.finished = True
        end.conn.shutdown_write()

    def shutdown_read(self, end: End) -> None:
        end.deaf = True
        end.conn.shutdown_read()
        end.readable = 0

    def close(self, end: End) -> None:
        conn = end.conn
        if conn.readable() or conn.settings.linger_reset or conn.state is State.SYN_SENT:
            end.aborted = True
        end.closed = end.finished = True
        end.closed_at = self.now
        conn.close()

    def abort(self, end: End) -> None:
        end.closed = end.aborted = end.finished = True
        end.conn.abort()

    # -- the adversary

    def flying(self, index: int) -> Packet:
        """Return one of the packets in the channel, the next ones first; there must be one."""
        return sorted(self.channel)[index % len(self.channel)]

    def take(self, packet: Packet) -> bytes:
        """Take a packet out of the channel."""
        self.channel.remove(packet)
        heapq.heapify(self.channel)
        return packet.data

    def lose(self, packet: Packet) -> None:
        self.lost += 1
        self.take(packet)

    def hurry(self, packet: Packet) -> None:
        """Let *packet* overtake everything."""
        self.stacks[packet.side].receive_data(self.take(packet), self.now)

    def delay(self, packet: Packet, seconds: float) -> None:
        """Hold *packet* back."""
        self._launch(packet.side, self.take(packet), seconds)

    def copy(self, packet: Packet, delay: float) -> None:
        self._launch(packet.side, packet.data, delay)

    def harm(self, packet: Packet, position: int, value: int) -> None:
        """Change an octet, or cut the packet there (*value* 0)."""
        self.lost += 1
        packet.data = damaged(packet.data, position, value)

    def replay(self, index: int) -> None:
        """Deliver again what left within the lifetime."""
        self.archive = [item for item in self.archive if item[0] > self.now - LIFETIME]
        if self.archive:
            _, side, data = self.archive[index % len(self.archive)]
            self.stacks[side].receive_data(data, self.now)

    def _launch(self, side: int, data: bytes, delay: float) -> None:
        self.packets += 1
        heapq.heappush(self.channel, Packet(self.now + min(delay, LIFETIME), self.packets, side, data))

    def _send(self, side: int, data: bytes) -> None:
        """Put what *side* sent into the channel."""
        rng, weather = self.rng, self.weather
        target = 1 - side
        self.archive.append((self.now, target, data))
        if len(self.archive) > 64:
            del self.archive[0]
        if rng.random() < weather.loss or len(self.channel) > _MAX_IN_FLIGHT:
            self.lost += 1
            return
        if rng.random() < weather.damage:
            self.lost += 1
            data = damaged(data, rng.randrange(len(data)), rng.randrange(256))
        for _ in range(1 + (rng.random() < weather.duplicate)):
            self._launch(target, data, weather.latency + weather.jitter * rng.expovariate(1))

    # -- time

    def pump(self) -> None:
        """Carry out what is due now, at both ends."""
        for _ in range(10_000):
            busy = False
            while self.channel and self.channel[0].due <= self.now:
                packet = heapq.heappop(self.channel)
                self.stacks[packet.side].receive_data(packet.data, self.now)
                busy = True
            for side in (0, 1):
                busy = self._drive(side) or busy
            if not busy:
                return
        raise AssertionError("it never comes to rest")

    def _drive(self, side: int) -> bool:
        stack = self.stacks[side]
        due = stack.next_deadline()
        if due is None or due > self.now:
            assert not stack.data_to_send(self.now), "a packet although nothing was due"
            return False
        stack.handle_deadline(self.now)
        if self.slot[side] > self.now:
            return False
        packets = stack.data_to_send(self.now, self.room[side])
        room = self.room[side]
        if room is not None:
            assert sum(len(packet) + 2 for packet in packets) <= room
        self.slot[side] = self.now + self.gap[side]
        for packet in packets:
            self._inspect(side, packet)
            self._send(side, packet)
        if packets:
            return self.gap[side] == 0.0
        after = stack.next_deadline()
        assert after is None or after > self.now, "due, but it does nothing"
        return True

    def next_event(self) -> float:
        """Return when something will happen by itself."""
        when = min((packet.due for packet in self.channel[:1]), default=float("inf"))
        for side, stack in enumerate(self.stacks):
            due = stack.next_deadline()
            if due is not None:
                when = min(when, max(due, self.slot[side]) if due <= self.now else due)
        return when

    def advance(self, seconds: float, application: Callable[[], bool] | None = None) -> bool:
        """Let time pass; return True at once when *application*, called after each event, does."""
        target = self.now + seconds
        for _ in range(400_000):
            self.pump()
            self.take_events()
            if application is not None:
                if application():
                    return True
                self.pump()
            when = self.next_event()
            if when > target:
                self.now = target
                return False
            self.now = max(self.now, when)
        raise AssertionError("too many events")

    # -- what must hold

    def _inspect(self, side: int, packet: bytes) -> None:
        """Look at a packet that leaves."""
        stack = self.stacks[side]
        assert len(packet) <= stack._tx_mtu
        head, size = (20, 4) if packet[0] >> 4 == 4 else (40, 16)
        addresses = packet[head - 2 * size : head]
        assert packet[9 if head == 20 else 6] == 6
        tcp = packet[head:]
        conn = stack.connections.get(addresses[size:] + addresses[:size] + tcp[2:4] + tcp[:2])
        flags = tcp[13]
        if conn is None or flags & 4:
            return
        payload = tcp[(tcp[12] >> 4) * 4 :]
        assert len(payload) <= conn.mss
        assert len(tcp) - 20 <= conn.peer_mss or not payload
        seq, ack = int.from_bytes(tcp[4:8], "big"), int.from_bytes(tcp[8:12], "big")
        offset = ((seq - conn.snd.iss - conn.snd.snd_una + (1 << 31)) & MASK) - (1 << 31) + conn.snd.snd_una
        end = offset + len(payload) + (flags & 1)
        if payload:
            writer = next(item for item in reversed(self.ends) if item.conn is conn)
            assert offset >= 1
            assert end - (flags & 1) - 1 <= writer.written
            assert payload == writer.text[offset - 1 : offset - 1 + len(payload)]
            assert end - (flags & 1) <= conn.snd.edge, "beyond the peer's window"
        if flags & 1:
            writer = next(item for item in reversed(self.ends) if item.conn is conn)
            assert writer.finished
            assert end == writer.written + 2
        if flags & 16:
            shift = 0 if flags & 2 else conn.rcv.shift
            start = (ack - conn.rcv.irs) & MASK
            assert start == conn.rcv.rcv_nxt
            promised = start + (int.from_bytes(tcp[14:16], "big") << shift)
            edge = self.edges.setdefault(conn, _Edge())
            # A scaled field cannot say every number (RFC 7323 section 2.4), and that of a SYN nothing above 65535.
            limit = start + 65535 if flags & 2 else edge.wire
            assert promised > min(edge.wire, limit) - (1 << shift), "the advertised edge moved left"
            assert promised <= conn.rcv.edge
            edge.wire = max(edge.wire, promised)

    def take_events(self) -> None:
        """Take the events, and check that an owner who only listens to them misses nothing."""
        masks: dict[object, int] = {}
        for stack in self.stacks:
            for obj, mask in stack.events():
                masks[obj] = masks.get(obj, 0) | mask
        for end in self.ends:
            conn = end.conn
            mask = masks.get(conn, 0)
            if not end.deaf and not end.closed:
                assert conn.readable() <= end.readable or mask & READABLE, "data, but no event"
                assert end.eof or not conn.rcv.fin_reached or (mask & HUP and mask & READABLE), (
                    "end, but no event"
                )
            if not end.finished:
                room = conn.writable()
                assert not room or end.writable or mask & WRITABLE or not conn.open, "room, but no event"
                end.writable = room
            assert conn.error == end.error or (mask & ERROR and mask & HUP), "error, but no event"
            over = conn.state in (State.CLOSED, State.TIME_WAIT)
            assert end.over or not over or mask & CLOSED, "over, but no event"
            end.readable, end.eof, end.error, end.over = (
                conn.readable(),
                conn.rcv.fin_reached,
                conn.error,
                over,
            )

    def check(self) -> None:
        """Check what holds after every operation."""
        self.take_events()
        for end in self.ends:
            self._check_end(end)
        for stack in self.stacks:
            live = len(stack.connections)
            assert live <= stack.config.max_connections
            scheduler = stack._scheduler
            made = len(self.ends) + self.backlog
            assert len(scheduler._control) <= stack.config.max_control
            for queue in (
                scheduler._handshakes,
                scheduler._retransmissions,
                scheduler._data,
                scheduler._acks,
            ):
                assert len(queue) == len(set(map(id, queue)))
                assert len(queue) <= made
            assert len(scheduler._lazy) <= made
            for conn in stack.connections.values():
                check_scoreboard(conn)
                self._check_conn(conn)

    def _check_conn(self, conn: Conn) -> None:
        snd, rcv = conn.snd, conn.rcv
        assert snd.snd_nxt <= snd.edge + 1 or conn.state is State.SYN_SENT
        assert len(snd.buffer) <= max(snd.limit, conn.settings.sndbuf, 1 << 18)
        edge = self.edges.setdefault(conn, _Edge())
        assert rcv.edge >= edge.inside, "the edge moved left"
        edge.inside = rcv.edge
        assert rcv.rcv_nxt <= rcv.edge or conn.state is State.SYN_SENT
        edge.limit = max(edge.limit, rcv.limit)
        assert len(rcv.buffer) + rcv.held_octets() <= edge.limit
        assert sum(map(len, rcv._held.values())) == rcv.held_octets()
        assert rcv.highest() <= rcv.edge or conn.state is State.SYN_SENT

    def _check_end(self, end: End) -> None:
        conn, peer = end.conn, end.peer
        if peer is None:
            assert not conn.readable()
            assert not conn.eof() or end.deaf or end.closed
            return
        if conn.state is not State.CLOSED and peer.conn.state is not State.CLOSED:
            assert conn.snd.snd_una <= max(peer.conn.rcv.rcv_nxt, 1), "acknowledged, but not received"
        assert conn.rcv.octets <= peer.written
        if conn.rcv.fin_reached:
            assert peer.finished, "an end nobody wrote"
            assert conn.rcv.octets == peer.written, "the end before everything"
        if conn.eof() and not end.deaf and not end.closed:
            assert end.got == peer.written

    # -- the end

    def finish(self) -> None:
        """Make the channel fair; everything must be delivered and every table empty in finite time."""
        bad_times = self.lost > 0
        self.weather = Weather(latency=0.03, jitter=0.005)
        self.gap, self.slot = [0.0, 0.0], [0.0, 0.0]
        self.room = [None, None]
        began = self.now
        self.advance(1000.0, self._wind_up)
        for end in self.ends:
            self._check_outcome(end, began, bad_times)
        for side, stack in enumerate(self.stacks):
            self.listeners[side].close()
            assert not stack.connections
        self.advance(20.0)
        for stack in self.stacks:
            assert stack.next_deadline() is None, "a timer is left"
            scheduler = stack._scheduler
            assert not scheduler._heap
            assert not scheduler.ready()
            assert not stack.listeners._ports
            assert not stack.incoming
            assert stack.next_event() is None
            # No port is leaked: the very same pairs may be used again.
        for end in self.ends:
            if end.conn.local[1] != PORT:
                local = end.conn.local[1]
                stack = self.stacks[end.side]
                if not stack.connections:
                    stack.connect(*end.conn.remote, self.now, local_port=local).close()

    def _wind_up(self) -> bool:
        """Let every application read to the end and close; True when nothing is left to wait for."""
        for side in (0, 1):
            self.accept(side)
        for end in self.ends:
            conn = end.conn
            if end.closed:
                continue
            self.receive(end, 1 << 20)
            if not end.finished:
                conn.settings.cork = False
                conn.settings_changed()
                self.shutdown_write(end)
            over = (
                conn.error or conn.state is State.CLOSED or (conn.rcv.fin_reached if end.deaf else conn.eof())
            )
            # A peer that gave up without a word leaves us in FIN-WAIT-2 for as long as we like.
            alone = conn.state is State.FIN_WAIT_2 and end.peer and end.peer.conn.state is State.CLOSED
            if over or (alone and not self.channel):
                self.close(end)
        return not self.channel and not any(stack.connections for stack in self.stacks)

    def _check_outcome(self, end: End, began: float, bad_times: bool) -> None:
        """Check that *end* got everything, unless somebody was violent or patience ended before *began*."""
        conn, peer = end.conn, end.peer
        allowed = {0}
        if bad_times and began >= PATIENCE:
            allowed |= {errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED}
        violent = peer is None or end.aborted or peer.aborted
        if peer is not None:
            for one, two in ((end, peer), (peer, end)):
                # A closed end refuses what the other still sends.
                violent = violent or (one.closed and one.conn.rcv.octets < two.written)
                if one.closed and one.closed_at < began - 0.9 * PATIENCE:
                    # An orphan does not wait for ever.
                    violent = True
                    allowed.add(errno.ETIMEDOUT)
        if violent:
            allowed |= {errno.ECONNRESET, errno.ECONNREFUSED}
        assert conn.error in allowed, errno.errorcode[conn.error]
        if not conn.error and not violent and peer is not None and not peer.conn.error:
            assert conn.rcv.octets == peer.written
            assert conn.rcv.fin_reached
            assert end.deaf or end.got == peer.written


def damaged(data: bytes, position: int, value: int) -> bytes:
    """Return *data* with one octet changed, or (*value* 0) its end cut off."""
    if not data:
        return data
    position %= len(data)
    if not value:
        return data[:position]
    return data[:position] + bytes((data[position] ^ value,)) + data[position + 1 :]
