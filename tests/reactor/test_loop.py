"""The reactor's thread: what goes in, what comes out, how it ends."""

from __future__ import annotations

import errno
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from support.greenlets import wait_until

from smolmix_sync.reactor.loop import ReactorLoop, shared_loop

LIMIT = 10.0


@pytest.fixture
def loop() -> Iterator[ReactorLoop]:
    made = ReactorLoop("test").start()
    yield made
    made.stop()


def wait(event: threading.Event) -> None:
    assert event.wait(LIMIT)


def test_commands_run_in_the_reactor_in_order(loop: ReactorLoop) -> None:
    seen: list[Any] = []
    for number in range(100):
        loop.post(seen.append, number)
    assert loop.call(lambda: loop.inside())
    assert not loop.inside()
    assert seen == list(range(100))


def test_call_returns_or_raises(loop: ReactorLoop) -> None:
    assert loop.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        loop.call(divmod, 1, 0)
    assert loop.call(lambda: loop.call(lambda: 5)) == 5


def test_failing_command_is_logged_outside_and_harms_nobody(
    loop: ReactorLoop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        loop.post(divmod, 1, 0)
        assert loop.call(lambda: 1) == 1
        done = threading.Event()
        loop.defer(done.set)
        wait(done)
    assert "ZeroDivisionError" in caplog.text


def test_greenlets_may_block(loop: ReactorLoop) -> None:
    done = threading.Event()
    inside: list[bool] = []

    def work() -> None:
        gevent.sleep(0.01)
        inside.append(loop.inside())
        done.set()

    loop.spawn(work)
    wait(done)
    done.clear()
    loop.call(loop.spawn, work)
    wait(done)
    assert inside == [True, True]


def test_error_in_a_greenlet_goes_to_the_log(loop: ReactorLoop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        loop.spawn(divmod, 1, 0)
        loop.call(lambda: None)
        done = threading.Event()
        loop.call(loop.call_later, 0.01, loop.defer, done.set)
        wait(done)
    assert "ZeroDivisionError" in caplog.text


def test_timers_fire_in_order_and_can_be_cancelled(loop: ReactorLoop) -> None:
    seen: list[str] = []
    done = threading.Event()

    def arm() -> None:
        loop.call_later(0.03, lambda: (seen.append("late"), done.set()))
        loop.call_later(0.01, seen.append, "early")
        cancelled = loop.call_later(0.02, seen.append, "never")
        cancelled.cancel()
        cancelled.cancel()
        loop.call_soon(seen.append, "soon")
        loop.call_later(-1, seen.append, "now")

    loop.call(arm)
    wait(done)
    assert seen[-2:] == ["early", "late"]
    assert set(seen) == {"soon", "now", "early", "late"}


def test_watchers_report_readiness_until_stopped(loop: ReactorLoop) -> None:
    reading, writing = os.pipe()
    seen: list[bytes] = []
    done = threading.Event()

    def readable() -> None:
        seen.append(os.read(reading, 1))
        done.set()

    try:
        watcher = loop.call(loop.watch_read, reading, readable)
        os.write(writing, b"a")
        time.sleep(0.02)
        assert not seen
        loop.call(watcher.start)
        loop.call(watcher.start)
        wait(done)
        loop.call(watcher.stop)
        assert not watcher.active
        os.write(writing, b"b")
        loop.call(lambda: None)
        assert seen == [b"a"]
        loop.call(watcher.close)
        loop.call(watcher.close)
        loop.call(watcher.start)
        assert not watcher.active
    finally:
        os.close(reading)
        os.close(writing)


def test_callbacks_run_outside_the_reactor_in_order(loop: ReactorLoop) -> None:
    seen: list[Any] = []
    done = threading.Event()

    def fail() -> None:
        raise ValueError("user code")

    loop.defer(fail)
    for number in range(10):
        loop.defer(lambda n=number: seen.append((n, loop.inside())))
    loop.defer(done.set)
    wait(done)
    assert seen == [(number, False) for number in range(10)]


def test_hanging_callback_does_not_grow_the_queue_for_ever(loop: ReactorLoop) -> None:
    release = threading.Event()
    loop.defer(release.wait, LIMIT)
    for _ in range(loop._deferred.LIMIT + 100):
        loop.defer(int)
    assert loop._deferred.dropped >= 99
    release.set()


def test_after_stop_everything_is_enetdown() -> None:
    loop = ReactorLoop().start()
    assert loop.running
    loop.stop()
    loop.stop()
    assert not loop.running
    for action in (lambda: loop.post(int), lambda: loop.call(int), loop.start, lambda: loop.spawn(int)):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.ENETDOWN


def test_stopping_a_loop_that_never_ran_is_nothing() -> None:
    loop = ReactorLoop()
    loop.stop()
    assert not loop.running


def test_stop_may_come_from_inside() -> None:
    loop = ReactorLoop().start()
    loop.post(loop.stop)
    until = time.monotonic() + LIMIT
    while loop.running:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_stop_runs_what_was_to_be_told(loop: ReactorLoop) -> None:
    told = threading.Event()
    loop.at_stop(told.set)
    loop.stop()
    assert told.is_set()


def test_the_process_shares_one_loop() -> None:
    assert shared_loop() is shared_loop()
    assert shared_loop().running


def test_many_threads_call_at_once(loop: ReactorLoop) -> None:
    total: list[int] = []

    def work() -> None:
        for _ in range(200):
            loop.call(total.append, 1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(total) == 1600


def test_two_loops_do_not_know_each_other(loop: ReactorLoop) -> None:
    other = ReactorLoop("other").start()
    try:
        assert other.call(lambda: loop.call(lambda: (loop.inside(), other.inside()))) == (True, False)
    finally:
        other.stop()


def test_no_greenlet_is_left_suspended_when_a_reactor_ends() -> None:
    ended: list[str] = []

    def wait() -> None:
        try:
            gevent.sleep(1000)
        finally:
            ended.append("waiting")
            gevent.spawn(gevent.sleep, 1000)  # what is killed may start something

    hubs = []
    for _ in range(5):
        loop = ReactorLoop().start()
        hubs.append(loop.hub)
        loop.spawn(wait)
        loop.spawn(gevent.sleep, 1000)
        loop.call(lambda: None)
        wait_until(lambda loop=loop: loop.call(_waiting, loop.hub) >= 2)  # type: ignore[misc]
        loop.stop()
    gc.collect()
    assert ended == ["waiting"] * 5
    assert [_waiting(hub) for hub in hubs] == [0] * 5
    assert all(hub.dead for hub in hubs)


def _waiting(hub: Any) -> int:
    return sum(
        isinstance(one, gevent.Greenlet) and one.parent is hub and bool(one) and not one.dead
        for one in gc.get_objects()
    )


def test_a_reactor_ends_whatever_objects_the_program_has(monkeypatch: pytest.MonkeyPatch) -> None:
    class Thing:
        pass

    thing = Thing()
    proxy = weakref.proxy(thing)
    del thing
    problems: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", problems.append)
    ReactorLoop("test").start().stop()
    assert problems == []
    assert type(proxy) is weakref.ProxyType


def test_no_reactor_starts_while_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolmix_sync.reactor.loop._ending", -1)
    with pytest.raises(OSError, match="ending") as caught:
        ReactorLoop("late").start()
    assert caught.value.errno == errno.ENETDOWN


def test_a_reactor_starts_for_the_programs_last_hooks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolmix_sync.reactor.loop._ending", threading.get_ident())
    ReactorLoop("hook").start().stop()
    monkeypatch.setattr("smolmix_sync.reactor._originals.exit_over", lambda: True)
    with pytest.raises(OSError, match="ending"):
        ReactorLoop("late").start()
