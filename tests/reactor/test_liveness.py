from __future__ import annotations

import heapq
from collections.abc import Callable

from smolmix_sync.reactor.liveness import ExitWatch


class Timer:
    def __init__(self) -> None:
        self.active = True

    def cancel(self) -> None:
        self.active = False


class Clock:
    """The part of the reactor a watch uses, in virtual time."""

    def __init__(self) -> None:
        self.time = 100.0
        self.heap: list[tuple[float, int, Timer, Callable[[], object]]] = []
        self.serial = 0

    def now(self) -> float:
        return self.time

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        timer = Timer()
        self.serial += 1
        heapq.heappush(self.heap, (self.time + delay, self.serial, timer, callback))
        return timer

    def run(self, seconds: float) -> None:
        end = self.time + seconds
        while self.heap and self.heap[0][0] <= end:
            self.time, _, timer, callback = heapq.heappop(self.heap)
            if timer.active:
                callback()
        self.time = end


class Probes:
    def __init__(self) -> None:
        self.echoes = 0
        self.asked: list[bool] = []
        self.cleared = 0
        self.closed = False

    def echo(self) -> None:
        self.echoes += 1

    def ask(self, *, tcp: bool) -> None:
        self.asked.append(tcp)

    def answered(self) -> None:
        self.cleared += 1

    def close(self) -> None:
        self.closed = True


class World:
    def __init__(self, *, pong: bool = False, data: bool = False, probes: bool = True) -> None:
        self.clock = Clock()
        self.pong = pong
        self.data = data
        self.lost: list[str] = []
        self.starved: list[float] = []
        self.probes = Probes()
        self.watch = ExitWatch(
            self.clock,  # type: ignore[arg-type]
            25.0,
            ping=self.ping,
            on_lost=self.lost.append,
            on_starved=lambda: self.starved.append(self.clock.now()),
        )
        self.watch.start(self.probes if probes else None)  # type: ignore[arg-type]

    def ping(self) -> None:
        if self.pong:
            self.clock.call_later(0.3, lambda: self.watch.heard(self.clock.now()))
        if self.data:
            self.clock.call_later(0.3, lambda: self.watch.heard_data(self.clock.now()))


def test_nothing_is_asked_while_packets_come() -> None:
    world = World()
    for _ in range(100):
        world.clock.run(5)
        world.watch.sent(world.clock.now())
        world.watch.heard_data(world.clock.now())
    assert world.watch.probes_sent == 0


def test_idle_session_is_asked_every_interval_and_stays() -> None:
    world = World(pong=True, data=True)
    world.clock.run(260)
    assert 9 <= world.watch.probes_sent <= 11
    assert world.probes.echoes == world.watch.probes_sent
    assert world.probes.asked == []
    assert world.lost == []


def test_unanswered_packets_are_asked_about_sooner() -> None:
    world = World()
    world.clock.run(1)
    world.watch.sent(world.clock.now())
    world.clock.run(11)
    assert world.watch.probes_sent == 1


def test_silence_is_loss_after_three_probes_that_get_harder() -> None:
    world = World()
    world.watch.sent(world.clock.now() + 1)
    world.clock.run(10 + 29)
    assert world.lost == []
    world.clock.run(6)
    assert world.lost == ["the exit does not answer"]
    assert world.watch.probes_sent == 3
    assert world.probes.asked == [False, True]
    world.clock.run(100)
    assert len(world.lost) == 1


def test_pongs_without_packets_mean_that_we_are_forgotten() -> None:
    world = World(pong=True)
    world.clock.run(70)
    assert world.lost == ["the exit answers, but has forgotten us"]


def test_pong_is_enough_where_packets_are_a_programs_own() -> None:
    world = World(pong=True, probes=False)
    world.clock.run(300)
    assert world.lost == []


def test_late_answer_ends_the_asking() -> None:
    world = World()
    world.clock.run(40)
    assert world.watch.probes_sent == 2
    world.watch.heard_data(world.clock.now())
    assert world.probes.cleared == 1
    world.clock.run(20)
    assert world.watch.probes_sent == 2
    assert world.lost == []


def test_paused_watch_asks_nothing_and_resumed_asks_at_once() -> None:
    world = World()
    world.watch.pause()
    world.clock.run(200)
    assert world.watch.probes_sent == 0
    world.watch.resume()
    assert world.watch.probes_sent == 1
    world.clock.run(31)
    assert world.lost == ["the exit does not answer"]


def test_keepalive_makes_a_packet_even_while_asking() -> None:
    world = World()
    world.watch.keepalive()
    world.watch.keepalive()
    assert world.probes.echoes == 2
    assert world.watch.probes_sent == 1


def test_silence_after_packets_means_a_lack_of_surbs_first_soon_then_seldom() -> None:
    world = World()
    world.clock.run(5)
    assert world.starved == []
    for _ in range(17):  # a connection that repeats itself
        world.watch.sent(world.clock.now())
        world.clock.run(1)
    assert [round(at) for at in world.starved] == [106, 108, 112, 120]
    world.watch.heard_data(world.clock.now())
    world.watch.heard(world.clock.now())
    world.clock.run(9)
    assert len(world.starved) == 4
    world.watch.sent(world.clock.now())
    world.clock.run(2.5)
    assert len(world.starved) == 5


def test_a_last_acknowledgement_does_not_cost_one_stock_of_surbs_after_the_other() -> None:
    world = World()
    world.clock.run(5)
    world.watch.sent(105.0)
    world.clock.run(60)
    assert [round(at) for at in world.starved] == [106, 108]


def test_stopped_watch_is_quiet() -> None:
    world = World()
    world.watch.stop()
    assert world.probes.closed
    world.clock.run(300)
    assert world.watch.probes_sent == 0
    assert world.lost == []
