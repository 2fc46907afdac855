from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smolmix_sync.reactor import isolation, provider
from smolmix_sync.reactor.isolation import (
    TunnelPool,
    current_key,
    isolate,
    isolated_port,
    set_isolation_key,
    set_key_function,
)


class Loop:
    """The part of the reactor a pool uses, in virtual time and in the calling thread."""

    def __init__(self) -> None:
        self.time = 0.0
        self.soon: list[Callable[[], object]] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> float:
        return self.time

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        result = fn(*args)
        while self.soon:
            self.soon.pop(0)()
        return result

    def call_soon(self, fn: Callable[[], object]) -> None:
        self.soon.append(fn)

    def call_later(self, delay: float, fn: Callable[[], object]) -> Any:
        entry = (self.time + delay, fn)
        self.timers.append(entry)
        loop = self

        class Timer:
            def cancel(self) -> None:
                if entry in loop.timers:
                    loop.timers.remove(entry)

        return Timer()

    def run(self, seconds: float) -> None:
        end = self.time + seconds
        while self.timers and min(self.timers)[0] <= end:
            entry = min(self.timers, key=lambda one: one[0])
            self.timers.remove(entry)
            self.time = entry[0]
            entry[1]()
        self.time = end


class Port:
    def __init__(self) -> None:
        self.in_use = False
        self.closed = 0
        self.over = threading.Event()

    @property
    def device(self) -> Port:
        return self

    def shutdown(self, timeout: float) -> None:
        self.closed = errno.ENETDOWN
        self.over.set()


class World:
    def __init__(self, **options: Any) -> None:
        self.loop = Loop()
        self.made: list[Port] = []
        self.pool: TunnelPool[Any] = TunnelPool(self.loop, self.make, **options)  # type: ignore[arg-type]

    def make(self) -> Port:
        self.made.append(Port())
        return self.made[-1]


def test_a_key_keeps_its_tunnel_and_another_key_has_another() -> None:
    world = World()
    one = world.pool.get("a")
    assert world.pool.get("b") is not one
    assert world.pool.get("a") is one
    assert len(world.made) == 2


def test_beyond_the_limit_the_tunnel_unused_for_longest_goes() -> None:
    world = World(limit=2)
    first, second = world.pool.get("a"), world.pool.get("b")
    world.loop.time = 1.0
    world.pool.get("a")
    world.loop.time = 2.0
    world.pool.get("c")
    assert second.over.wait(5)
    assert not first.over.is_set()
    assert len(world.pool) == 2


def test_a_tunnel_in_use_or_just_handed_out_is_not_taken_away() -> None:
    world = World(limit=1)
    kept = world.pool.get("a")
    with pytest.raises(OSError) as full:
        world.pool.get("b")
    assert full.value.errno == errno.ENOBUFS
    world.loop.time, kept.in_use = 10.0, True
    with pytest.raises(OSError):
        world.pool.get("b")
    kept.in_use = False
    assert world.pool.get("b") is not kept
    assert kept.over.wait(5)


def test_a_tunnel_that_failed_is_replaced() -> None:
    world = World()
    failed = world.pool.get("a")
    failed.closed = errno.ENETDOWN
    assert world.pool.get("a") is not failed


def test_nothing_is_warm_before_the_first_key_and_a_warm_tunnel_is_the_next_ones() -> None:
    world = World(warm=2)
    assert world.made == []
    world.pool.get("a")
    assert len(world.made) == 3
    assert world.pool.get("b") is world.made[1]
    assert len(world.made) == 4
    world.made[2].closed = errno.ENETDOWN
    assert world.pool.get("c") is world.made[3]


def test_idle_tunnels_are_shut_down_and_busy_ones_stay() -> None:
    world = World(idle=60.0)
    idle, busy = world.pool.get("a"), world.pool.get("b")
    busy.in_use = True
    world.loop.run(100)
    assert idle.over.wait(5)
    assert not busy.over.is_set()
    busy.in_use = False
    world.loop.run(100)
    assert busy.over.wait(5)
    assert len(world.pool) == 0
    assert world.loop.timers == []


def test_a_closed_pool_has_shut_everything_down_and_gives_nothing() -> None:
    world = World(warm=1)
    world.pool.get("a")
    world.pool.close()
    assert [port.closed for port in world.made] == [errno.ENETDOWN] * 2
    with pytest.raises(OSError) as down:
        world.pool.get("a")
    assert down.value.errno == errno.ENETDOWN


@pytest.fixture
def keyed() -> Iterator[list[str]]:
    """The default tunnel has keys; the list holds those asked for."""
    asked: list[str] = []

    class Keyed:
        def isolate(self, key: str) -> str:
            asked.append(key)
            return f"port of {key}"

    before = provider.install(Keyed)  # type: ignore[arg-type]
    try:
        yield asked
    finally:
        provider.install(before)
        set_key_function(None)
        set_isolation_key("")


def test_inside_the_block_the_key_decides_and_outside_none_does(keyed: list[str]) -> None:
    with isolate("task 1"):
        assert provider.current() == "port of task 1"
        with isolate("task 2"):
            assert provider.current() == "port of task 2"
        assert current_key() == "task 1"
    assert provider.current() is provider.peek()
    assert keyed == ["task 1", "task 2"]


def test_a_key_is_its_threads_own(keyed: list[str]) -> None:
    seen: list[str] = []
    with isolate("mine"):
        thread = threading.Thread(target=lambda: seen.append(current_key()))
        thread.start()
        thread.join()
    assert seen == [""]


def test_a_function_gives_the_key_where_no_block_does(keyed: list[str]) -> None:
    assert set_key_function(lambda: "by function") is None
    assert provider.current() == "port of by function"
    with isolate("by block"):
        assert provider.current() == "port of by block"


def test_isolation_that_cannot_be_given_is_refused() -> None:
    with pytest.raises(OSError) as refused:
        isolated_port(object(), "a")  # type: ignore[arg-type]
    assert refused.value.errno == errno.EOPNOTSUPP
    with pytest.raises(ValueError, match="non-empty"), isolate(""):
        pass
    assert isolation.current_key() == ""
