"""Random programs of two applications against an adversary who owns the channel: section 10.3 of the specification.

What holds after every step is in support/netsim_adversary.py. The plain run is
the same every time; under the marker ``long`` it is another one each time, and
prints the seed that repeats it (``SMOLMIX_SEED``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.netsim_adversary import PORT, End, Weather, World

from smolmix_sync.netstack import StackConfig, State, TcpSettings

_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    "database": None,
    "print_blob": False,
}
settings.register_profile(
    "netstack-plain", max_examples=90, stateful_step_count=40, derandomize=True, **_COMMON
)
settings.register_profile("netstack-long", max_examples=1500, stateful_step_count=60, **_COMMON)
PLAIN = settings.get_profile("netstack-plain")
LONG = settings.get_profile("netstack-long")

SIDES = st.integers(0, 1)
PICK = st.integers(0, 15)
SIZES = st.sampled_from([1, 10, 700, 1447, 1448, 5000, 40_000, 200_000])
RATES = st.sampled_from([0.0, 0.0, 0.05, 0.3])
CHANGES: list[tuple[str, Any]] = [
    *((name, on) for name in ("nodelay", "cork", "quickack", "keepalive") for on in (True, False)),
    *((name, size) for name in ("sndbuf", "rcvbuf") for size in (3000, 200_000)),
    ("linger_reset", True),
    ("user_timeout", 90.0),
]
TIMES = st.sampled_from([0.0, 0.001, 0.021, 0.2, 0.7, 3.0, 20.0, 70.0])


def make_config(draw: Callable[[st.SearchStrategy[Any]], Any]) -> StackConfig:
    rcvbuf = draw(st.sampled_from([2000, 9000, 70_000, 1 << 20]))
    return StackConfig(
        tcp=TcpSettings(
            sndbuf=draw(st.sampled_from([2000, 30_000, 256 * 1024])),
            rcvbuf=rcvbuf,
            rcvbuf_max=draw(st.sampled_from([rcvbuf, 4 << 20])),
            nodelay=draw(st.booleans()),
        ),
        timestamps=draw(st.booleans()),
        sack=draw(st.booleans()),
        window_scale=draw(st.booleans()),
        congestion=draw(st.sampled_from(["mix", "cubic", "none"])),
        reo_adaptive=draw(st.booleans()),
        ack_every=draw(st.sampled_from([2, 16])),
        ooo_ack_delay=draw(st.sampled_from([0.0, 0.02])),
        max_connections=64,
    )


def open_ends(program: Program) -> bool:
    return any(end.alive() for end in program.world.ends)


def few_ends(program: Program) -> bool:
    return len(program.world.ends) < 24


def flying(program: Program) -> bool:
    return bool(program.world.channel)


def idle(program: Program) -> bool:
    return few_ends(program) and not flying(program) and bool(program.world.ends)


class Program(RuleBasedStateMachine):
    """The rules only choose; ``World`` does and checks."""

    world: World
    broken = True

    @initialize(data=st.data(), number=st.integers(0, 999), wrap=st.booleans())
    def begin(self, data: st.DataObject, number: int, wrap: bool) -> None:
        self.world = World(
            (make_config(data.draw), make_config(data.draw)), seed=number, near_the_wrap=wrap, backlog=4
        )
        self.broken = False

    def end(self, pick: int) -> End:
        """Return one of the latest ends that are still open."""
        alive = [end for end in self.world.ends if end.alive()][-8:]
        return alive[-1 - pick % len(alive)]

    # -- applications

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with servers that accept."""
        world = self.world
        world.advance(seconds)
        if seconds:
            for side in (0, 1):
                world.accept(side)
            world.pump()

    @precondition(few_ends)
    @rule(side=SIDES, v6=st.booleans(), wait=st.sampled_from([0.3, 0.0]))
    def connect(self, side: int, v6: bool, wait: float) -> None:
        self.world.connect(side, v6)
        self.pass_time(wait)

    @precondition(few_ends)
    @rule(v6=st.booleans(), wait=st.sampled_from([0.3, 0.0]))
    def open_from_both(self, v6: bool, wait: float) -> None:
        self.world.open_from_both(v6)
        self.pass_time(wait)

    @precondition(idle)
    @rule(pick=PICK)
    def connect_again(self, pick: int) -> None:
        """Use the ports of a connection that is over, when nothing of it is under way."""
        world = self.world
        gone = [end for end in world.ends if end.conn.state in (State.CLOSED, State.TIME_WAIT) and end.peer]
        if not gone:
            return
        conn, side = gone[pick % len(gone)].conn, gone[pick % len(gone)].side
        world.archive.clear()
        known = world.stacks[side].connections.get(conn.key)
        if conn.remote[1] == PORT and (known is None or known.state is State.TIME_WAIT):
            world.connect(side, ":" in conn.remote[0], conn.local[1], conn.remote[1])
            self.pass_time(0.3)

    @precondition(open_ends)
    @rule(pick=PICK, size=SIZES, wait=TIMES)
    def send(self, pick: int, size: int, wait: float) -> None:
        self.world.send(self.end(pick), size)
        self.pass_time(wait)

    @precondition(open_ends)
    @rule(pick=PICK, size=SIZES)
    def receive(self, pick: int, size: int) -> None:
        self.world.receive(self.end(pick), size)

    @precondition(open_ends)
    @rule(
        pick=PICK, there=SIZES, back=SIZES, rounds=st.integers(1, 4), wait=st.sampled_from([0.03, 0.3, 2.0])
    )
    def converse(self, pick: int, there: int, back: int, rounds: int, wait: float) -> None:
        """Both ends of a connection write, and read what came."""
        end = self.end(pick)
        for _ in range(rounds):
            for one, size in ((end, there), (end.peer, back)):
                if one is not None and one.alive():
                    self.world.send(one, size)
            self.pass_time(wait)
            for one in (end, end.peer):
                if one is not None and one.alive():
                    self.world.receive(one, 1 << 20)

    @precondition(open_ends)
    @rule(pick=PICK, read=st.sampled_from([False, False, False, True]))
    def shutdown(self, pick: int, read: bool) -> None:
        (self.world.shutdown_read if read else self.world.shutdown_write)(self.end(pick))

    @precondition(open_ends)
    @rule(pick=PICK, abort=st.sampled_from([False, False, False, True]), drain=st.booleans())
    def close(self, pick: int, abort: bool, drain: bool) -> None:
        end = self.end(pick)
        if drain:
            self.world.receive(end, 1 << 20)
        (self.world.abort if abort else self.world.close)(end)

    @precondition(open_ends)
    @rule(pick=PICK, change=st.sampled_from(CHANGES))
    def change(self, pick: int, change: tuple[str, Any]) -> None:
        end = self.end(pick)
        if change[0] == "keepalive":
            end.conn.settings.keep_idle = end.conn.settings.keep_interval = 12
            end.conn.settings.keep_count = 5
        self.world.change(end, *change)

    # -- time, pacing, the path

    @rule(seconds=TIMES)
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(side=SIDES, gap=st.sampled_from([0.0, 0.02, 0.4]), room=st.sampled_from([None, 1502, 600]))
    def pace(self, side: int, gap: float, room: int | None) -> None:
        self.world.gap[side] = gap
        self.world.room[side] = room

    @rule(side=SIDES, mtu=st.sampled_from([600, 1300, 1500]))
    def change_mtu(self, side: int, mtu: int) -> None:
        self.world.stacks[side].set_mtu(mtu, 1420)

    # -- the adversary

    @rule(
        loss=RATES,
        duplicate=RATES,
        damage=RATES,
        latency=st.sampled_from([0.0, 0.02, 0.5]),
        jitter=st.sampled_from([0.0, 0.02, 0.6]),
    )
    def weather(self, loss: float, duplicate: float, damage: float, latency: float, jitter: float) -> None:
        self.world.weather = Weather(loss, duplicate, latency, jitter, damage)

    @rule(off=st.booleans())
    def cut_the_cable(self, off: bool) -> None:
        self.world.weather.loss = float(off)

    @precondition(flying)
    @rule(
        pick=PICK,
        how=st.sampled_from(["lose", "hurry", "copy", "delay", "cut"]),
        delay=st.sampled_from([0.0, 0.1, 3.0]),
    )
    def tamper(self, pick: int, how: str, delay: float) -> None:
        packet = self.world.flying(pick)
        if how == "lose":
            self.world.lose(packet)
        elif how == "hurry":
            self.world.hurry(packet)
        elif how == "cut":
            self.world.harm(packet, int(delay * 100) + pick, 0)
        else:
            getattr(self.world, how)(packet, delay)

    @precondition(open_ends)
    @rule(pick=PICK, size=SIZES, mtu=st.sampled_from([1500, 600]), seconds=st.sampled_from([1.3, 3.5]))
    def hold_everything_back(self, pick: int, size: int, mtu: int, seconds: float) -> None:
        """What was sent arrives, but after it was sent again, perhaps in other pieces."""
        world, end = self.world, self.end(pick)
        world.send(end, size)
        world.pump()
        for packet in list(world.channel):
            world.delay(packet, seconds)
        world.stacks[end.side].set_mtu(mtu, 1420)
        self.pass_time(seconds - 0.1)
        world.send(end, 2000)
        self.pass_time(0.3)

    @precondition(open_ends)
    @rule(pick=PICK, seconds=st.sampled_from([0.3, 3.0]))
    def lose_a_window_update(self, pick: int, seconds: float) -> None:
        """A window is filled, and the word that there is room again is lost."""
        world, end = self.world, self.end(pick)
        if end.peer is None or not end.peer.alive():
            return
        world.send(end.peer, 200_000)
        self.pass_time(seconds)
        rate, world.weather.loss = world.weather.loss, 1.0
        world.receive(end, 1 << 20)
        world.advance(0.05)
        world.weather.loss = rate

    @precondition(flying)
    @rule(pick=PICK, position=st.integers(0, 1500), value=st.integers(1, 255))
    def corrupt(self, pick: int, position: int, value: int) -> None:
        self.world.harm(self.world.flying(pick), position, value)

    @rule(pick=st.integers(0, 63))
    def replay(self, pick: int) -> None:
        self.world.replay(pick)

    # -- what must hold

    @invariant()
    def nothing_is_broken(self) -> None:
        if not self.broken:
            self.broken = True
            self.world.pump()
            self.world.check()
            self.broken = False

    def teardown(self) -> None:
        if not self.broken and sys.exc_info()[0] is None:
            self.world.finish()


def test_any_program_keeps_the_streams_and_the_tables() -> None:
    run_state_machine_as_test(Program, settings=PLAIN)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_any_of_many_programs_keeps_the_streams_and_the_tables() -> None:
    number = int(os.environ.get("SMOLMIX_SEED") or int.from_bytes(os.urandom(4), "big"))
    print(f"SMOLMIX_SEED={number}")
    run_state_machine_as_test(seed(number)(Program), settings=LONG)
