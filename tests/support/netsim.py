"""Virtual networks for sans-IO machines: one event heap, seeded, without a wall clock.

A machine is anything with the face of conventions.md section 3. ``NetSim``
joins machines by links, drives them, and fails a test that deadlocks (nothing
will ever happen again) or spins (a machine says it is due and does nothing).

    net = NetSim(seed=7)
    net.link(a, b, latency=0.4, jitter=0.1, loss=0.05)
    net.run(until=lambda: server.done, limit=600)

Same seed, same run: every direction of every link has its own generator.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Any, Protocol


class Machine(Protocol):
    def receive_data(self, packet: bytes, now: float) -> None: ...

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]: ...

    def next_deadline(self) -> float | None: ...

    def handle_deadline(self, now: float) -> None: ...


class SimulationError(AssertionError):
    """The simulated system misbehaves."""


class Deadlock(SimulationError):
    """Nothing is scheduled and the condition is not met."""


class Spin(SimulationError):
    """A machine stays due without doing anything."""


class TimeLimit(SimulationError):
    """The condition was not met in the time allowed."""


def seeded_urandom(seed: int) -> Callable[[int], bytes]:
    """Return a deterministic stand-in for ``os.urandom``."""
    counter = 0

    def urandom(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{seed}/{counter}".encode()).digest(size)

    return urandom


def check_scoreboard(conn: Any) -> None:
    """The sender's incremental sums agree with its records."""
    snd = conn.snd
    live = snd._segments[snd._head :]
    flight = [sent for sent in live if not sent.sacked and not sent.lost]
    assert snd.pipe == sum(sent.end - sent.start for sent in flight)
    assert set(snd.order) == set(flight)
    times = [sent.sent_at for sent in snd.order]
    assert times == sorted(times)
    assert snd.lost_octets == sum(sent.end - sent.start for sent in live if sent.lost)
    assert snd.sacked_octets == sum(sent.end - sent.start for sent in live if sent.sacked)
    assert snd._starts[snd._head :] == [sent.start for sent in live]
    assert snd.snd_una <= snd.snd_nxt
    if live:
        assert live[0].start == snd.snd_una
        assert live[-1].end == snd.snd_nxt


class Direction:
    """One way of a link: delay, loss, duplication, and what passed."""

    def __init__(
        self,
        rng: random.Random,
        deliver: Callable[[bytes], None],
        net: NetSim,
        *,
        latency: float,
        jitter: float,
        loss: float,
        duplicate: float,
    ) -> None:
        self._rng = rng
        self._deliver = deliver
        self._net = net
        self.latency = latency
        self.jitter = jitter
        self.loss = loss
        self.duplicate = duplicate
        self.up = True
        self.packets = 0
        self.lost = 0
        self.tap: Callable[[bytes], bytes | None] | None = None
        """Sees every packet; returns it, another one, or None to lose it."""

    def send(self, packet: bytes) -> None:
        self.packets += 1
        if self.tap is not None:
            tapped = self.tap(packet)
            if tapped is None:
                self.lost += 1
                return
            packet = tapped
        if not self.up or self._rng.random() < self.loss:
            self.lost += 1
            return
        copies = 2 if self._rng.random() < self.duplicate else 1
        for _ in range(copies):
            delay = self.latency
            if self.jitter:
                delay += self._rng.expovariate(1 / self.jitter)
            self._net.after(delay, self._deliver, packet)


class _Port:
    """One machine, the way its output leaves, and its wake-up."""

    def __init__(self, net: NetSim, machine: Machine, send: Callable[[list[bytes]], None]) -> None:
        self.net = net
        self.machine = machine
        self.send = send
        self.room: int | None = None
        self.slot: Callable[[], float] | None = None
        self.slot_pending = False
        self.wake = float("inf")
        self.idle_kicks = 0
        self.kicked_at = -1.0

    def receive(self, packet: bytes) -> None:
        self.machine.receive_data(packet, self.net.now)
        self.kick()

    def kick(self) -> None:
        """Run timers and output until the machine wants nothing now; arrange the next call."""
        net, machine = self.net, self.machine
        net.applications()
        due = machine.next_deadline()
        rounds = 0
        while due is not None and due <= net.now:
            machine.handle_deadline(net.now)
            if self.slot is not None:
                if not self.slot_pending and (machine.next_deadline() or 0.0) <= net.now:
                    self.slot_pending = True
                    net.after(self.slot(), self._slot)
                after = machine.next_deadline()
                if after is None or after > net.now:
                    due = after
                    break
                return
            packets = machine.data_to_send(net.now, self.room)
            if packets:
                self.send(packets)
            net.applications()
            due = machine.next_deadline()
            rounds += 1
            if not packets and due is not None and due <= net.now:
                self.idle_kicks += 1
                if self.idle_kicks > 50:
                    raise Spin(f"{machine!r} stays due at {net.now}")
            else:
                self.idle_kicks = 0
            if rounds > 10_000:
                raise Spin(f"{machine!r} sends for ever at {net.now}")
        if due is not None and due < self.wake:
            self.wake = due
            net.at(due, self._wake, due)

    def _wake(self, due: float) -> None:
        if due == self.wake:
            self.wake = float("inf")
            self.kick()

    def _slot(self) -> None:
        """A send slot of a paced sender: one bundle."""
        self.slot_pending = False
        packets = self.machine.data_to_send(self.net.now, self.room)
        if packets:
            self.idle_kicks = 0
            self.send(packets)
        elif (self.machine.next_deadline() or float("inf")) <= self.net.now:
            self.idle_kicks += 1
            if self.idle_kicks > 50:
                raise Spin(f"{self.machine!r} is ready but sends nothing into {self.room} octets")
        self.kick()


class NetSim:
    """The event heap and the machines on it."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.seed = seed
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._sequence = 0
        self._directions = 0
        self._ports: dict[int, _Port] = {}
        self._applications: list[Callable[[], None]] = []

    # -- building

    def rng(self) -> random.Random:
        """Return the next direction's own generator."""
        self._directions += 1
        return random.Random(f"{self.seed}/{self._directions}")

    def application(self, run: Callable[[], None]) -> None:
        """Call *run* whenever a machine was driven."""
        self._applications.append(run)

    def applications(self) -> None:
        for run in self._applications:
            run()

    def link(
        self,
        a: Machine,
        b: Machine,
        *,
        latency: float = 0.05,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        room: int | None = None,
    ) -> tuple[Direction, Direction]:
        """Join two machines; return the directions a to b and b to a."""

        def port(machine: Machine, direction: Direction) -> _Port:
            def send(packets: list[bytes]) -> None:
                if room is not None:
                    assert sum(len(packet) + 2 for packet in packets) <= room, "more than the room given"
                for packet in packets:
                    direction.send(packet)

            made = _Port(self, machine, send)
            made.room = room
            return made

        parameters = {"latency": latency, "jitter": jitter, "loss": loss, "duplicate": duplicate}
        ports: list[_Port] = []
        forward = Direction(self.rng(), lambda packet: ports[1].receive(packet), self, **parameters)
        back = Direction(self.rng(), lambda packet: ports[0].receive(packet), self, **parameters)
        ports += [port(a, forward), port(b, back)]
        self._ports[id(a)], self._ports[id(b)] = ports
        return forward, back

    def mixnet(self, client: Machine, server: Machine, **parameters: Any) -> MixnetModel:
        """Join a client to a server through the model of spec/netstack.md section 9."""
        model = MixnetModel(self, client, server, **parameters)
        self._ports[id(client)], self._ports[id(server)] = model.client, model.server
        return model

    # -- running

    def at(self, when: float, run: Callable[..., None], *arguments: object) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (max(when, self.now), self._sequence, run, arguments))

    def after(self, delay: float, run: Callable[..., None], *arguments: object) -> None:
        self.at(self.now + delay, run, *arguments)

    def kick(self, machine: Machine | None = None) -> None:
        """Look at a machine (all: None) after the application did something to it."""
        for port in list(self._ports.values()) if machine is None else [self._ports[id(machine)]]:
            port.kick()

    def run(
        self,
        until: Callable[[], bool] | float | None = None,
        limit: float = 600.0,
        max_events: int = 3_000_000,
    ) -> float:
        """Run until a condition holds, a time is reached, or (None) nothing is left; return the time.

        Raises:
            Deadlock, TimeLimit, Spin: see the classes.
        """
        self.kick()
        stop = self.now + limit
        reached = until if callable(until) else None
        target = until if isinstance(until, int | float) else None
        while True:
            if reached is not None and reached():
                return self.now
            if not self._heap:
                if reached is None:
                    self.now = max(self.now, target or self.now)
                    return self.now
                raise Deadlock(f"nothing left to happen at {self.now}")
            when = self._heap[0][0]
            if target is not None and when > target:
                self.now = target
                return self.now
            if when > stop:
                if reached is None and target is None:
                    return self.now
                raise TimeLimit(f"condition not met at {self.now}")
            self.events += 1
            if self.events > max_events:
                raise Spin("too many events")
            _, _, run, arguments = heapq.heappop(self._heap)
            self.now = when
            run(*arguments)


class _Mix:
    """One direction of the mixnet: a message travels as Sphinx packets and arrives with its last one."""

    def __init__(
        self,
        net: NetSim,
        deliver: Callable[[list[bytes]], None],
        *,
        hop: float,
        base: float,
        loss: float,
        resend: bool,
    ) -> None:
        self._net = net
        self._rng = net.rng()
        self._deliver = deliver
        self._hop = hop
        self._base = base
        self._loss = loss
        self._resend = resend
        self.sphinx_packets = 0
        self.messages = 0

    def _delay(self) -> float:
        return self._base + sum(self._rng.expovariate(1 / self._hop) for _ in range(3))

    def fragments(self, octets: int) -> int:
        return max(1, -(-octets // 1600))

    def send(self, packets: list[bytes]) -> int:
        count = self.fragments(sum(len(packet) + 2 for packet in packets))
        self.messages += 1
        self.sphinx_packets += count
        worst = 0.0
        for _ in range(count):
            delay = self._delay()
            while self._rng.random() < self._loss:
                if not self._resend:
                    return count
                self.sphinx_packets += 1
                delay += 1.5 + 1.5 * 6 * self._hop + self._delay()
            worst = max(worst, delay)
        self._net.after(worst, self._deliver, packets)
        return count


class MixnetModel:
    """Client, mixnet, exit, internet, server.

    Args:
        hop: mean delay of one mix node.
        base: fixed delay each way.
        slot: mean gap of the client's send slots; 0 sends at once in 1 ms steps.
        poisson: exponential gaps rather than fixed ones.
        internet: delay between exit and server.
        loss: per Sphinx packet.
        resend: the acknowledgement layer sends a lost one again.
        room: octets in one bundle.
    """

    def __init__(
        self,
        net: NetSim,
        client: Machine,
        server: Machine,
        *,
        hop: float = 0.015,
        base: float = 0.040,
        slot: float = 0.020,
        poisson: float = 1,
        internet: float = 0.020,
        loss: float = 0.0,
        resend: float = 1,
        room: int = 1500,
        down_gap: float = 0.001,
    ) -> None:
        self._net = net
        self._internet = internet
        self._room = room
        self._down_gap = down_gap
        self._rng = net.rng()
        self._client_machine = client
        common: dict[str, Any] = {"hop": hop, "base": base, "loss": loss, "resend": bool(resend)}
        self.up = _Mix(net, self._at_exit, **common)
        self.down = _Mix(net, self._at_client, **common)
        self.client = _Port(net, client, self._send_up)
        self.client.room = room
        gap = slot or 0.001
        self.client.slot = (lambda: self._rng.expovariate(1 / gap)) if poisson and slot else (lambda: gap)
        self.server = _Port(net, server, self._send_down)
        self._bundle: list[bytes] = []
        self._bundle_size = 0
        self._flushes = 0
        self._queue: list[list[bytes]] = []
        self._sending = False

    def _send_up(self, packets: list[bytes]) -> None:
        size = sum(len(packet) + 2 for packet in packets)
        assert size <= self._room, "more than the room given"
        self.up.send(packets)

    def _at_exit(self, packets: list[bytes]) -> None:
        self._net.after(self._internet, self._at_server, packets)

    def _at_server(self, packets: list[bytes]) -> None:
        for packet in packets:
            self.server.machine.receive_data(packet, self._net.now)
        self.server.kick()

    def _send_down(self, packets: list[bytes]) -> None:
        for index, packet in enumerate(packets):
            self._net.after(self._internet + index * 0.0001, self._at_bundler, packet)

    def _at_bundler(self, packet: bytes) -> None:
        size = len(packet) + 2
        if self._bundle and self._bundle_size + size > 1500:
            self._flush()
        if not self._bundle:
            self._net.after(0.020, self._flush_timer, self._flushes)
        self._bundle.append(packet)
        self._bundle_size += size

    def _flush_timer(self, mark: int) -> None:
        if mark == self._flushes and self._bundle:
            self._flush()

    def _flush(self) -> None:
        self._queue.append(self._bundle)
        self._bundle, self._bundle_size = [], 0
        self._flushes += 1
        if not self._sending:
            self._sending = True
            self._net.after(self._down_gap, self._send_message)

    def _send_message(self) -> None:
        self.down.send(self._queue.pop(0))
        if self._queue:
            self._net.after(self._down_gap, self._send_message)
        else:
            self._sending = False

    def _at_client(self, packets: list[bytes]) -> None:
        for packet in packets:
            self._client_machine.receive_data(packet, self._net.now)
        self.client.kick()


class Transfer:
    """An application at both ends: *up* octets to the server, *down* octets back, then both close.

    The server accepts on port 80; each side checks what it reads.
    """

    def __init__(
        self, net: NetSim, client: object, server: object, addr: str, *, up: int = 0, down: int = 0
    ) -> None:
        self.net = net
        self.up, self.down = up, down
        self.conn = client.connect(addr, 80, net.now)  # type: ignore[attr-defined]
        self.listener = server.listen(None, 80)  # type: ignore[attr-defined]
        self.peer: object = None
        self.sent_up = self.sent_down = self.got_up = self.got_down = 0
        self.bad = False
        self.done_at = -1.0
        self.first_octet_at = -1.0
        net.application(self.step)

    @staticmethod
    def pattern(offset: int, size: int) -> bytes:
        start = offset & 0xFF
        return (bytes(range(256)) * (size // 256 + 2))[start : start + size]

    @staticmethod
    def _write(conn: object, sent: int, total: int) -> int:
        while sent < total:
            wrote = conn.send(Transfer.pattern(sent, min(65536, total - sent)))  # type: ignore[attr-defined]
            if not wrote:
                break
            sent += wrote
        return sent

    def _read(self, conn: object, got: int) -> int:
        while data := conn.recv(1 << 20):  # type: ignore[attr-defined]
            if data != self.pattern(got, len(data)):
                self.bad = True
            got += len(data)
        return got

    def step(self) -> None:
        conn = self.conn
        if conn.error:
            return
        if conn.open and not conn.snd.fin_queued:
            self.sent_up = self._write(conn, self.sent_up, self.up)
            if self.sent_up == self.up:
                conn.shutdown_write()
        before = self.got_down
        self.got_down = self._read(conn, self.got_down)
        if self.got_down and not before:
            self.first_octet_at = self.net.now
        if self.peer is None:
            self.peer = self.listener.accept()
        peer = self.peer
        if peer is not None:
            self.got_up = self._read(peer, self.got_up)
            if peer.open and not peer.close_called and (self.down or peer.eof()):  # type: ignore[attr-defined]
                self.sent_down = self._write(peer, self.sent_down, self.down)
                if self.sent_down == self.down and peer.eof():  # type: ignore[attr-defined]
                    peer.close()  # type: ignore[attr-defined]
        if self.done_at < 0 and self.complete():
            self.done_at = self.net.now
            conn.close()

    def complete(self) -> bool:
        return self.got_up == self.up and self.got_down == self.down and self.conn.eof()
