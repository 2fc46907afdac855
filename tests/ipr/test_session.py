"""Client and router joined by a mixnet that delays, reorders, doubles and loses messages, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smolmix_sync.ipr import client as ipr
from smolmix_sync.ipr.lp import StreamFrame, StreamMessageType
from smolmix_sync.ipr.router import (
    ClientDisconnected,
    IpPacketRouter,
    PacketAccepted,
    RouterConfig,
    SendReply,
)
from smolmix_sync.ipr.values import IpPair

TAG = b"T" * 16


def packet(source: str, destination: str, number: int) -> bytes:
    a, b = (IpPair(host, "::").encode()[:4] for host in (source, destination))
    body = struct.pack(">HHHHI", 7, 7, 12, 0, number)
    return struct.pack(">BBHHHBBH", 0x45, 0, 32, 0, 0, 64, 17, 0) + a + b + body


def number_of(data: bytes) -> int:
    return int.from_bytes(data[-4:], "big")


@dataclass
class World:
    """One client, one router, one heap of what happens when."""

    seed: int
    version: int = 10
    loss: float = 0.0
    duplication: float = 0.0
    mean_delay: float = 0.15
    versions: frozenset[int] = frozenset({8, 9, 10})
    client_config: ipr.IprClientConfig = field(default_factory=ipr.IprClientConfig)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.client = ipr.IprClient(self.version, urandom=self.rng.randbytes, config=self.client_config)
        self.router = IpPacketRouter(
            urandom=self.rng.randbytes,
            config=RouterConfig(versions=self.versions, send_open_ack=True),
            policy=lambda host, port: host != "9.9.9.9",
        )
        self.heap: list[tuple[float, int, Any]] = []
        self.order = 0
        self.events: list[ipr.IprClientEvent] = []
        self.accepted: list[bytes] = []
        self.gone: list[ClientDisconnected] = []
        self.reliable = True

    def at(self, when: float, action: Any) -> None:
        self.order += 1
        heapq.heappush(self.heap, (when, self.order, action))

    def carry(self, deliver: Any, reliable: bool) -> None:
        """Deliver after a random delay, maybe twice, maybe (unless resent by the ack layer) never."""
        if not reliable and self.rng.random() < self.loss:
            return
        copies = 2 if self.rng.random() < self.duplication and not reliable else 1
        for _ in range(copies):
            self.at(self.now + 0.05 + self.rng.expovariate(1 / self.mean_delay), deliver)

    def send(self, message: bytes) -> None:
        """The client's messages are resent by the ack layer, so none is lost."""
        self.carry(lambda: self.router.receive_data(message, TAG, self.now), reliable=True)

    def collect(self) -> None:
        for message in self.client.data_to_send(self.now):
            self.send(message)
        while (event := self.client.next_event()) is not None:
            self.events.append(event)
        while (out := self.router.next_event()) is not None:
            if isinstance(out, SendReply):
                reply = out.message
                self.carry(
                    lambda reply=reply: self.client.receive_data(reply, self.now),
                    reliable=out.max_retransmissions > 0,
                )
            elif isinstance(out, PacketAccepted):
                self.accepted.append(out.packet)
            elif isinstance(out, ClientDisconnected):
                self.gone.append(out)

    def run(self, until: float) -> None:
        self.collect()
        spins = 0
        while True:
            candidates = [
                deadline
                for machine in (self.client, self.router)
                if (deadline := machine.next_deadline()) is not None
            ]
            timer = min(candidates, default=float("inf"))
            event = self.heap[0][0] if self.heap else float("inf")
            if min(timer, event) > until:
                break
            spins = spins + 1 if min(timer, event) <= self.now else 0
            assert spins < 10_000, "a machine spins"
            self.now = max(self.now, min(timer, event))
            if event <= timer:
                heapq.heappop(self.heap)[2]()
            else:
                for machine in (self.client, self.router):
                    machine.handle_deadline(self.now)
                    after = machine.next_deadline()
                    assert after is None or after > self.now
            self.collect()
        self.now = until

    def connect(self) -> ipr.Connected:
        self.client.connect(self.now, 1.8e9)
        while self.now < 90:
            self.run(self.now + 1)
            for event in self.events:
                if isinstance(event, ipr.Connected):
                    return event
        raise AssertionError("not connected")

    def received(self) -> list[int]:
        return [
            number_of(data)
            for event in self.events
            if isinstance(event, ipr.PacketsReceived)
            for data in event.packets
        ]


@pytest.mark.parametrize(
    ("version", "served", "spoken"), [(10, {10, 9}, 10), (10, {9}, 9), (9, {10, 9}, 9), (8, {8}, 8)]
)
def test_client_and_router_agree_on_a_version(version: int, served: set[int], spoken: int) -> None:
    world = World(1, version, versions=frozenset(served))
    event = world.connect()
    assert (event.version, event.mtu) == (spoken, 1420 if spoken == 10 else None)
    assert any(isinstance(other, ipr.FellBack) for other in world.events) is (version != spoken)
    assert world.router.addresses() == {TAG: event.ips}


def test_an_exit_that_serves_neither_is_given_up() -> None:
    world = World(1, versions=frozenset({8}))
    world.client.connect(0.0, 1.8e9)
    world.run(100)
    assert world.events == [ipr.FellBack(9), ipr.ConnectTimedOut()]


@settings(max_examples=25, deadline=None)
@example(379, 9, 0.0, 0.0, 0.0)
@given(
    st.integers(0, 2**32),
    st.sampled_from([8, 9, 10]),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([0.0, 0.06, 1.0]),
)
def test_every_packet_that_arrives_is_delivered_as_often_as_it_arrived(
    seed: int, version: int, loss: float, duplication: float, hold: float
) -> None:
    config = ipr.IprClientConfig(resequence_hold=hold)
    world = World(seed, version, loss, duplication, client_config=config)
    ips = world.connect().ips
    start, arrived = world.now, Counter[int]()
    take = world.client.receive_data

    def counting(message: bytes, now: float) -> None:
        before = world.client.stats.packets_received + len(world.client._resequencer)
        take(message, now)
        if version >= 9 and StreamFrame.decode_untrusted(message).msg_type is StreamMessageType.OPEN_ACK:
            return  # it may come after the answer to the connect request
        arrived["messages"] += 1
        assert world.client.stats.packets_received + len(world.client._resequencer) >= before

    world.client.receive_data = counting  # type: ignore[method-assign]
    for n in range(60):
        # One bundle each: further apart than the exit's 20 ms.
        inbound = packet("1.1.1.1", ips.ipv4, n)
        world.at(start + n * 0.03, lambda data=inbound: world.router.packet_from_network(data, world.now))
        outbound = packet(ips.ipv4, "1.1.1.1", n)
        world.at(
            start + n * 0.03,
            lambda data=outbound: world.send(world.client.encode_data([data], world.now)),
        )
    world.run(start + 20)
    assert sorted(number_of(data) for data in world.accepted) == list(range(60))
    received = world.received()
    assert len(received) == arrived["messages"]
    if not loss:
        assert set(received) == set(range(60))
    if not loss and not duplication and hold == 1.0 and version > 8:
        inversions = sum(a > b for a, b in itertools.pairwise(received))
        assert inversions <= 2
    assert len(world.client._resequencer) == 0
    assert world.client.stats.dropped_malformed == world.client.stats.dropped_foreign == 0


def test_a_refusal_comes_back_and_the_session_goes_on() -> None:
    world = World(3)
    ips = world.connect().ips
    world.send(world.client.encode_data([packet(ips.ipv4, "9.9.9.9", 0)], world.now))
    world.client.ping(world.now)
    world.run(world.now + 5)
    assert ipr.PolicyRefused("9.9.9.9:7", ("9.9.9.9", 7)) in world.events
    assert any(isinstance(event, ipr.PongReceived) for event in world.events)
    assert world.client.state is ipr.IprState.CONNECTED


@pytest.mark.parametrize("obeys", [True, False])
def test_a_session_lives_on_as_long_as_its_keepalives_are_sent(obeys: bool) -> None:
    world = World(4)
    ips = world.connect().ips
    seen = 0
    for _ in range(300):
        world.run(world.now + 1)
        due = sum(isinstance(event, ipr.KeepaliveDue) for event in world.events)
        if obeys and due > seen:
            world.send(world.client.encode_data([packet(ips.ipv4, "1.1.1.1", due)], world.now))
        seen = due
    world.run(world.now + 2)
    if obeys:
        assert world.gone == []
        assert world.client.state is ipr.IprState.CONNECTED
        assert len(world.accepted) == seen
        assert 300 // 27 <= seen <= 300 // 25
    else:
        assert [gone.reason for gone in world.gone] == ["timeout"]
        assert world.events[-1] == ipr.Disconnected("client mixnet traffic timeout", False)


def test_a_disconnect_frees_the_addresses() -> None:
    world = World(5)
    world.connect()
    world.client.disconnect(world.now)
    world.run(world.now + 10)
    assert world.events[-1] == ipr.Disconnected("disconnected", True)
    assert world.router.addresses() == {}
