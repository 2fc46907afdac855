"""The device: up and down, who waits, who is told, and what leaves."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.loopnet import V4, make_stack

from smolmix_sync.netstack import Stack
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import ReactorLoop

LIMIT = 10.0


@pytest.fixture
def loop() -> Iterator[ReactorLoop]:
    made = ReactorLoop("test").start()
    yield made
    made.stop()


class Waiting:
    """Records how its waiting ended."""

    def __init__(self) -> None:
        self.outcome: list[Any] = []
        self.told = threading.Event()

    def on_up(self) -> None:
        self.outcome.append("up")
        self.told.set()

    def on_down(self, errno: int) -> None:
        self.outcome.append(errno)
        self.told.set()


class Owner:
    """Records events."""

    def __init__(self) -> None:
        self.masks: list[int] = []
        self.told = threading.Event()

    def on_event(self, mask: int) -> None:
        self.masks.append(mask)
        self.told.set()


def outer_stack() -> Stack:
    """A stack whose packets have to leave."""
    return Stack("198.51.100.9", None, urandom=os.urandom)


def test_device_without_a_stack_is_down(loop: ReactorLoop) -> None:
    device = Device(loop)
    assert not device.up
    assert device.addresses == ()
    assert device.pending() == (0, 0)
    assert loop.call(device.data_to_send) == []
    loop.call(device.receive_packet, b"x")
    assert device.dropped == 1
    with pytest.raises(OSError) as caught:
        device.require_stack()
    assert caught.value.errno == errno.ENETDOWN
    loop.call(device.set_down)


def test_who_waits_proceeds_when_it_comes_up(loop: ReactorLoop) -> None:
    device, early, late, left = Device(loop), Waiting(), Waiting(), Waiting()
    loop.call(device.when_up, early)
    loop.call(device.when_up, left)
    loop.call(device.stop_waiting, left)
    loop.call(device.set_up, make_stack())
    loop.call(device.when_up, late)
    assert (early.outcome, late.outcome, left.outcome) == (["up"], ["up"], [])
    assert device.addresses[0] == V4


def test_nobody_waits_for_a_device_that_was_lost(loop: ReactorLoop) -> None:
    device, before, after = Device(loop), Waiting(), Waiting()
    loop.call(device.set_up, make_stack())
    loop.call(device.set_down)
    loop.call(device.when_up, before)
    assert before.outcome == [errno.ENETDOWN]
    loop.call(device.set_up, make_stack())
    loop.call(device.when_up, after)
    assert after.outcome == ["up"]


def test_who_waits_gives_up_in_time(loop: ReactorLoop) -> None:
    device, one, two = Device(loop, connect_timeout=0.05), Waiting(), Waiting()
    loop.call(device.when_up, one)
    loop.call(device.when_up, two, 0.01)
    assert one.told.wait(LIMIT)
    assert one.outcome == two.outcome == [errno.ENETDOWN]


def test_threads_wait_for_it(loop: ReactorLoop) -> None:
    device = Device(loop, connect_timeout=0.05)
    for timeout in (None, 0.01, 0):
        with pytest.raises(OSError) as caught:
            device.wait_up(timeout)
        assert caught.value.errno == errno.ENETDOWN
    device.connect_timeout = 60
    threading.Timer(0.05, lambda: loop.call(device.set_up, make_stack())).start()
    device.wait_up(LIMIT)
    device.wait_up(0)


def test_closed_device_stays_closed(loop: ReactorLoop) -> None:
    device, waiting, late = Device(loop), Waiting(), Waiting()
    loop.call(device.when_up, waiting)
    loop.call(device.close, errno.ECONNABORTED)
    loop.call(device.when_up, late)
    assert waiting.outcome == late.outcome == [errno.ECONNABORTED]
    for action in (device.check, lambda: device.wait_up(1), lambda: loop.call(device.set_up, make_stack())):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.ECONNABORTED


def test_the_end_of_the_reactor_closes_it() -> None:
    loop = ReactorLoop().start()
    device, waiting = Device(loop), Waiting()
    loop.call(device.when_up, waiting)
    loop.stop()
    assert waiting.outcome == [errno.ENETDOWN]
    assert device.closed == errno.ENETDOWN


def test_output_is_announced_and_pulled(loop: ReactorLoop) -> None:
    device = Device(loop, outer_stack())
    announced = threading.Event()
    device.on_output = announced.set
    loop.call(lambda: device.require_stack().connect("203.0.113.5", 80, loop.now()) and device.kick())
    assert announced.wait(LIMIT)
    assert sum(device.pending()) > 0
    [syn] = loop.call(device.data_to_send, 1500)
    assert syn[0] >> 4 == 4
    loop.call(device.receive_packet, syn)  # our own packet back: dropped, and nothing breaks


def test_unanswered_syn_is_sent_again_by_the_timer(loop: ReactorLoop) -> None:
    device = Device(loop, outer_stack())
    packets: list[bytes] = []
    device.on_output = lambda: packets.extend(device.data_to_send())
    loop.call(lambda: device.require_stack().connect("203.0.113.5", 80, loop.now()) and device.kick())
    until = time.monotonic() + LIMIT
    while len(packets) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_waiting_output_does_not_spin(loop: ReactorLoop) -> None:
    device = Device(loop, outer_stack())
    calls: list[float] = []
    device.on_output = lambda: calls.append(loop.now())  # a shaper that has no slot yet
    loop.call(lambda: device.require_stack().connect("203.0.113.5", 80, loop.now()) and device.kick())
    time.sleep(0.2)
    assert 1 <= len(calls) < 60


def test_going_down_tells_every_owner(loop: ReactorLoop) -> None:
    device, owner = Device(loop, make_stack()), Owner()
    conn = loop.call(lambda: device.require_stack().connect("203.0.113.5", 80, loop.now()))
    loop.call(device.own, conn, owner)
    loop.call(device.set_down, errno.ENETDOWN)
    assert owner.masks
    assert conn.error == errno.ENETDOWN
    assert not device.up
    loop.call(device.set_up, make_stack())
    assert device.up


def test_disowned_objects_are_silent(loop: ReactorLoop) -> None:
    device, owner = Device(loop, make_stack()), Owner()
    conn = loop.call(lambda: device.require_stack().connect(V4, 80, loop.now()))
    loop.call(device.own, conn, owner)
    loop.call(device.disown, conn)
    loop.call(device.kick)
    time.sleep(0.02)
    assert owner.masks == []


def test_flush_waits_for_orphans_no_longer_than_it_may(loop: ReactorLoop) -> None:
    device = Device(loop, outer_stack())
    assert device.flush(1.0)
    conn = loop.call(lambda: device.require_stack().connect("203.0.113.5", 80, loop.now()))

    def orphan() -> None:
        conn.send(b"never acknowledged")
        conn.shutdown_write()
        device.own(conn, Owner())
        device.disown(conn, orphan=True)
        device.kick()

    device.on_output = lambda: device.data_to_send()
    loop.call(orphan)
    began = time.monotonic()
    assert not device.flush(0.1)
    assert time.monotonic() - began < LIMIT / 2
    loop.stop()
    assert not device.flush(1.0)
