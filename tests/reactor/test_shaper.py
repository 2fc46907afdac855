from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Iterator

import pytest

from smolmix_sync.config import TrafficProfile
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress
from smolmix_sync.reactor.loop import ReactorLoop
from smolmix_sync.reactor.shaper import SendRecord, Shaper

PACKET = MixPacket(NodeAddress("127.0.0.1", 1789), b"real", 1)
COVER = MixPacket(NodeAddress("127.0.0.1", 1789), b"cover", 1)


class Source:
    def __init__(self, real: int = 0, cost: float = 0.0) -> None:
        self.real = real
        self.cost = cost
        self.prepared = 0

    def next_packet(self, now: float) -> MixPacket | None:
        if self.cost:
            time.sleep(self.cost)
        if self.real <= 0:
            return None
        self.real -= 1
        return PACKET

    def idle_packet(self, now: float) -> MixPacket | None:
        return COVER

    def cover_packet(self, now: float) -> MixPacket | None:
        return COVER

    def prepare(self, now: float) -> bool:
        self.prepared += 1
        return self.prepared < 3


class Sink:
    def __init__(self, room: int = 1 << 30) -> None:
        self.free = room
        self.packets: list[MixPacket] = []

    def room(self) -> int:
        return self.free

    def forward(self, packet: MixPacket) -> bool:
        self.free -= 1
        self.packets.append(packet)
        return True


@pytest.fixture
def loop() -> Iterator[ReactorLoop]:
    reactor = ReactorLoop().start()
    yield reactor
    reactor.stop()


def run(
    loop: ReactorLoop, profile: TrafficProfile, source: Source, sink: Sink, seconds: float
) -> list[SendRecord]:
    records: list[SendRecord] = []
    rng = random.Random(7)
    shaper = loop.call(lambda: Shaper(loop, profile, source, urandom=rng.randbytes))
    shaper.trace = records.append
    loop.call(shaper.start, sink)
    time.sleep(seconds)
    loop.call(shaper.stop)
    count = len(records)
    time.sleep(0.05)
    assert len(records) == count, "a stopped shaper sends nothing"
    return records


def exponential_distance(gaps: list[float], mean: float) -> float:
    """Return the Kolmogorov-Smirnov distance of *gaps* from the exponential distribution of *mean*."""
    ordered = sorted(gaps)
    n = len(ordered)
    return max(
        max(abs((i + 1) / n - (1 - math.exp(-gap / mean))), abs(i / n - (1 - math.exp(-gap / mean))))
        for i, gap in enumerate(ordered)
    )


@pytest.mark.slow
def test_slots_are_exponential_with_the_profiles_mean_whatever_is_sent(loop: ReactorLoop) -> None:
    profile = TrafficProfile(sending_delay=0.020, cover_delay=1000.0)
    records = run(loop, profile, Source(real=300), Sink(), 24.0)
    kinds = {record.kind for record in records}
    assert kinds == {"real", "cover"}
    slots = [record.slot for record in records]
    gaps = [b - a for a, b in itertools.pairwise(slots)]
    # About 1200 gaps: the standard error of the mean is 0.6 ms with this fixed seed.
    assert statistics.mean(gaps) == pytest.approx(0.020, abs=0.001)
    assert exponential_distance(gaps, 0.020) < 1.63 / math.sqrt(len(gaps))
    late = [record.time - record.slot for record in records]
    assert statistics.median(late) < 0.005
    times = [record.time for record in records]
    sent_gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.mean(sent_gaps) == pytest.approx(0.020, abs=0.001)


@pytest.mark.slow
def test_rate_holds_when_packets_take_time_to_build(loop: ReactorLoop) -> None:
    profile = TrafficProfile(sending_delay=0.020, cover=False)
    records = run(loop, profile, Source(real=10**6, cost=0.004), Sink(), 6.0)
    assert len(records) / 6.0 == pytest.approx(50, rel=0.15)


@pytest.mark.slow
def test_loop_cover_has_its_own_stream(loop: ReactorLoop) -> None:
    profile = TrafficProfile(sending_delay=0.050, cover_delay=0.050)
    records = run(loop, profile, Source(), Sink(), 4.0)
    loops = [record for record in records if record.kind == "loop"]
    assert 50 < len(loops) < 120
    assert 50 < len(records) - len(loops) < 120


@pytest.mark.slow
def test_full_queue_costs_slots_and_builds_nothing(loop: ReactorLoop) -> None:
    source = Source(real=100)
    profile = TrafficProfile(sending_delay=0.005, cover_delay=1000.0)
    sink = Sink(room=10)
    records = run(loop, profile, source, sink, 0.5)
    assert len(records) == 10
    assert source.real == 90


@pytest.mark.slow
def test_unpaced_sends_at_once_and_waits_for_room(loop: ReactorLoop) -> None:
    source = Source(real=50)
    sink = Sink(room=20)
    shaper = loop.call(lambda: Shaper(loop, TrafficProfile(poisson=False, cover=False), source))
    loop.call(shaper.start, sink)
    time.sleep(0.1)
    assert len(sink.packets) == 20

    def writable() -> None:
        sink.free = 100
        shaper.wake()

    loop.call(writable)
    time.sleep(0.1)
    assert len(sink.packets) == 50
    source.real = 3
    time.sleep(0.1)
    assert len(sink.packets) == 50, "nothing is asked for without a wake"
    loop.call(shaper.wake)
    time.sleep(0.1)
    assert len(sink.packets) == 53
    assert source.prepared >= 3
    loop.call(shaper.stop)


@pytest.mark.slow
def test_unpaced_leaves_turns_for_others(loop: ReactorLoop) -> None:
    source = Source(real=10**9)
    shaper = loop.call(lambda: Shaper(loop, TrafficProfile(poisson=False, cover=False), source))
    loop.call(shaper.start, Sink())
    waits = []
    for _ in range(50):
        began = time.monotonic()
        loop.call(lambda: None)
        waits.append(time.monotonic() - began)
    loop.call(shaper.stop)
    *most, _, worst = sorted(waits)
    assert most[-1] < 0.1
    assert worst < 1.0  # a collection of the whole suite's garbage may fall into one
