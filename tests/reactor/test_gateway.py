from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from support.fakegateway import FakeGateway
from support.greenlets import in_greenlet, wait_until

from smolmix_sync.errors import GatewayAuthError
from smolmix_sync.mixnet.gateway.client import GatewayClient
from smolmix_sync.mixnet.gateway.events import Refusal
from smolmix_sync.mixnet.gateway.server import ServerSettings
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress
from smolmix_sync.mixnet.topology import EntryDetails
from smolmix_sync.reactor import gateway as gateway_module
from smolmix_sync.reactor.gateway import (
    CLOCK_SKEW,
    FRAME_LIMIT,
    GatewayEndpoint,
    GatewayLink,
    GatewayRefusal,
    endpoints_of,
)
from smolmix_sync.reactor.loop import ReactorLoop

PACKET = MixPacket(NodeAddress("127.0.0.1", 1789), bytes(2413), 1)


@pytest.fixture
def loop() -> Iterator[ReactorLoop]:
    reactor = ReactorLoop().start()
    yield reactor
    reactor.stop()


class Owner:
    def __init__(self, gateway: FakeGateway, **kwargs: Any) -> None:
        self.gateway = gateway
        self.lost: list[str] = []
        self.payloads: list[bytes] = []
        self.writable = 0
        self.kwargs = kwargs
        self.seed = os.urandom(32)
        self.client = GatewayClient(self.seed, gateway.identity, urandom=os.urandom)
        self.link: GatewayLink | None = None

    def open(self, timeout: float = 5.0) -> GatewayLink:
        self.link = GatewayLink(
            self.client,
            on_payload=lambda payload, now: self.payloads.append(payload),
            on_lost=self.lost.append,
            on_writable=self.count,
            **self.kwargs,
        )
        self.link.open(GatewayEndpoint("127.0.0.1", self.gateway.port), timeout=timeout)
        return self.link

    def count(self) -> None:
        self.writable += 1


@pytest.mark.interop
def test_link_registers_claims_bandwidth_and_forwards(loop: ReactorLoop) -> None:
    with FakeGateway() as gateway:
        owner = Owner(gateway)
        link = in_greenlet(loop, owner.open)
        assert link.is_open
        assert owner.client.bandwidth == 64 * 1024**3
        assert loop.call(link.forward, PACKET)
        wait_until(lambda: gateway.packets)
        assert gateway.packets[0][1] == PACKET
        loop.call(link.close)
        assert owner.lost == []


@pytest.mark.interop
def test_successor_authenticates_with_the_same_key(loop: ReactorLoop) -> None:
    with FakeGateway() as gateway:
        owner = Owner(gateway)
        link = in_greenlet(loop, owner.open)
        key = link.shared_key
        gateway.drop_all()
        wait_until(lambda: owner.lost)
        owner.client = owner.client.successor()
        link = in_greenlet(loop, owner.open)
        assert link.shared_key == key
        assert gateway.connections == 2
        loop.call(link.close)


@pytest.mark.interop
def test_gateway_that_wants_tickets_is_reported_as_such(loop: ReactorLoop) -> None:
    with FakeGateway(settings=ServerSettings(enforce_tickets=True)) as gateway:
        with pytest.raises(GatewayRefusal) as caught:
            in_greenlet(loop, Owner(gateway).open)
        assert caught.value.kind is Refusal.TICKETS_REQUIRED


@pytest.mark.interop
def test_wrong_gateway_key_is_refused(loop: ReactorLoop) -> None:
    with FakeGateway() as gateway:
        owner = Owner(gateway)
        owner.client = GatewayClient(owner.seed, os.urandom(32), urandom=os.urandom)
        with pytest.raises(GatewayRefusal) as caught:
            in_greenlet(loop, owner.open)
        assert caught.value.kind is Refusal.HANDSHAKE


@pytest.mark.interop
def test_clock_that_is_off_is_reported_by_name_with_both_clocks(
    loop: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeGateway() as gateway:
        owner = Owner(gateway)
        in_greenlet(loop, owner.open).close()
        client = owner.client = owner.client.successor()
        shifted = SimpleNamespace(time=lambda: time.time() + 300)
        monkeypatch.setattr(gateway_module, "time", shifted)
        with pytest.raises(GatewayRefusal) as caught:
            in_greenlet(loop, owner.open)
        assert caught.value.kind is Refusal.CLOCK_SKEW
        public = caught.value.public()
        assert isinstance(public, GatewayAuthError)
        assert str(public).startswith(CLOCK_SKEW)
        got, ours = map(int, re.findall(r"\d{9,}", str(public)))
        assert got - ours in (299, 300, 301)
        owner.client = client.successor()  # registers, which is not dated
        assert in_greenlet(loop, owner.open).is_open


@pytest.mark.interop
def test_link_that_is_lost_as_soon_as_it_is_ready_was_never_open(
    loop: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump = GatewayLink._pump

    def pump_and_lose(link: GatewayLink) -> None:
        pump(link)
        if link._ready.ready():
            link._lose("it broke")

    monkeypatch.setattr(GatewayLink, "_pump", pump_and_lose)
    with FakeGateway() as gateway:
        owner = Owner(gateway)
        with pytest.raises(OSError, match="it broke"):
            in_greenlet(loop, owner.open)
        assert owner.lost == []


@pytest.mark.interop
def test_silent_port_times_out(loop: ReactorLoop) -> None:
    with FakeGateway() as gateway:
        gateway.paused = True
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            in_greenlet(loop, lambda: Owner(gateway).open(0.5))
        assert time.monotonic() - started < 3


@pytest.mark.interop
def test_closed_port_is_an_error_at_once(loop: ReactorLoop) -> None:
    gateway = FakeGateway()
    gateway.listener.close()
    with pytest.raises(ConnectionRefusedError):
        in_greenlet(loop, Owner(gateway).open)


@pytest.mark.interop
def test_pings_of_the_gateway_are_answered(loop: ReactorLoop) -> None:
    with FakeGateway() as gateway:
        owner = Owner(gateway)
        link = in_greenlet(loop, owner.open)
        gateway.ping_all(b"12345678")
        wait_until(lambda: b"12345678" in gateway.pongs)
        loop.call(link.close)


@pytest.mark.interop
def test_unanswered_ping_means_that_the_link_is_lost(loop: ReactorLoop) -> None:
    with FakeGateway(answer_pings=False) as gateway:
        owner = Owner(gateway, ping_interval=0.2, pong_timeout=0.3)
        in_greenlet(loop, owner.open)
        wait_until(lambda: owner.lost, 5)
        assert "ping" in owner.lost[0]


@pytest.mark.interop
def test_answered_pings_keep_the_link(loop: ReactorLoop) -> None:
    with FakeGateway() as gateway:
        owner = Owner(gateway, ping_interval=0.1, pong_timeout=0.5)
        link = in_greenlet(loop, owner.open)
        time.sleep(1.0)
        assert owner.lost == []
        loop.call(link.close)


@pytest.mark.interop
def test_frames_wait_in_a_bounded_queue_while_the_window_is_closed(loop: ReactorLoop) -> None:
    with FakeGateway(receive_buffer=4096) as gateway:
        owner = Owner(gateway)
        link = in_greenlet(loop, owner.open)
        gateway.paused = True
        sent = 0
        for _ in range(5000):
            if loop.call(link.forward, PACKET):
                sent += 1
            elif loop.call(lambda: link.backlog) >= FRAME_LIMIT:
                time.sleep(0.001)
                if not loop.call(link.room):
                    break
        assert loop.call(lambda: link.backlog) == FRAME_LIMIT
        assert not loop.call(link.forward, PACKET)
        gateway.paused = False
        wait_until(lambda: len(gateway.packets) == sent)
        assert owner.writable >= 1
        loop.call(link.close)


def test_endpoints_prefer_ipv4_literals_and_bracket_ipv6() -> None:
    entry = EntryDetails(("2001:db8::5", "192.0.2.5"), 9000, "gw.example", 9001)
    urls = [endpoint.url for endpoint in endpoints_of(entry)]
    assert urls == ["ws://192.0.2.5:9000", "ws://[2001:db8::5]:9000"]
    assert [e.url for e in endpoints_of(entry, force_tls=True)] == ["wss://gw.example:9001"]
    assert endpoints_of(EntryDetails(("192.0.2.5",), 9000), force_tls=True) == []


def _stall(loop: ReactorLoop, owner: Owner, gateway: FakeGateway) -> float:
    """Close the gateway's window for five seconds while it pings; return the worst lateness of a 10 ms timer."""
    late: list[float] = [0.0]
    stop: list[bool] = []

    def clock() -> None:
        due = loop.now()
        while not stop:
            due += 0.01
            gevent.sleep(max(0.0, due - loop.now()))
            late[0] = max(late[0], loop.now() - due)
            due = max(due, loop.now())

    def feed() -> None:
        assert owner.link is not None
        while not stop:
            while owner.link.forward(PACKET):
                pass
            gevent.sleep(0.005)

    loop.spawn(clock)
    loop.spawn(feed)
    gateway.paused = True
    for _ in range(50):
        gateway.ping_all(os.urandom(8))
        time.sleep(0.1)
    gateway.paused = False
    time.sleep(0.3)
    stop.append(True)
    time.sleep(0.05)
    return late[0]


@pytest.mark.interop
@pytest.mark.slow
def test_hub_keeps_time_while_the_gateway_reads_nothing_and_pings(loop: ReactorLoop) -> None:
    with FakeGateway(receive_buffer=4096) as gateway:
        owner = Owner(gateway)
        link = in_greenlet(loop, owner.open)
        assert _stall(loop, owner, gateway) < 0.1
        assert owner.lost == []
        wait_until(lambda: len(gateway.pongs) >= 30)
        loop.call(link.close)
