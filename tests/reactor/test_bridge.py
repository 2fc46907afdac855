"""The bridge in virtual time: a real core, a real router at the exit, a mixnet between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.mixnet_world import Client, World

from smolmix_sync.address import Recipient
from smolmix_sync.ipr import IpPacketRouter, RouterConfig
from smolmix_sync.ipr.events import Connected, IprClientEvent
from smolmix_sync.ipr.router import PacketAccepted, SendReply
from smolmix_sync.mixnet.client import MessageReceived, MixnetEvent
from smolmix_sync.netstack import Stack
from smolmix_sync.reactor.bridge import EXIT_RESERVE, Bridge, BridgeSettings

UNIX = 1_800_000_000.0


class WorldTimer:
    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def fire(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None:
            callback(*self.args)

    def cancel(self) -> None:
        self.callback = None


class WorldLoop:
    """The part of the reactor a bridge uses, on the world's clock."""

    def __init__(self, world: World) -> None:
        self.world = world

    def now(self) -> float:
        return self.world.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> WorldTimer:
        timer = WorldTimer(callback, args)
        self.world.at(self.world.now + max(0.0, delay), timer.fire)
        return timer


class Exit:
    """A core and a router behind it; packets of clients are kept in ``accepted``."""

    def __init__(self, world: World, **config: Any) -> None:
        self.world = world
        self.client = world.client(8, rate=1000.0, surb_threshold_buffer=50)
        self.client.on_event = self.on_event
        self.router = IpPacketRouter(config=RouterConfig(**config), urandom=world.urandom)
        self.accepted: list[bytes] = []
        self.silent = False
        self.tick()

    def tick(self) -> None:
        deadline = self.router.next_deadline()
        if deadline is not None and deadline <= self.world.now:
            self.router.handle_deadline(self.world.now)
            self.take()
        self.world.at(self.world.now + 0.01, self.tick)

    def on_event(self, event: MixnetEvent) -> None:
        if isinstance(event, MessageReceived) and not self.silent:
            self.router.receive_data(event.message, event.sender_tag, self.world.now)
            self.take()

    def take(self) -> None:
        while (event := self.router.next_event()) is not None:
            if isinstance(event, SendReply):
                self.client.core.send_reply(event.sender_tag, event.message, self.world.now)
            elif isinstance(event, PacketAccepted):
                self.accepted.append(event.packet)

    def send(self, packet: bytes) -> None:
        self.router.packet_from_network(packet, self.world.now)
        self.take()


class Port:
    """A program's own IP packets."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.received: list[bytes] = []

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        assert room is not None
        taken: list[bytes] = []
        while self.out and (not taken or len(self.out[0]) + 2 <= room):
            room -= len(self.out[0]) + 2
            taken.append(self.out.pop(0))
        return taken

    def receive_data(self, packet: bytes, now: float) -> None:
        self.received.append(packet)


class Tunnel:
    """A client whose slots are served by a bridge."""

    def __init__(
        self, seed: int = 1, *, version: int = 10, rate: float = 50.0, loss: float = 0.0, **config: Any
    ) -> None:
        self.world = World(seed, loss=loss)
        self.exit = Exit(self.world, **config)
        self.client = self.world.client(7, rate=rate)
        self.events: list[IprClientEvent] = []
        self.silent: list[str] = []
        self.bridge = Bridge(
            WorldLoop(self.world),  # type: ignore[arg-type]
            self.client.core,
            self.exit.client.core.address,
            version,
            BridgeSettings(),
            wake=lambda: None,
            on_event=self.events.append,
            on_silent=self.silent.append,
        )
        self.client.on_event = self.on_event
        self.sent: list[tuple[float, str]] = []
        self._serve_slots()
        self.port = Port()

    def _serve_slots(self) -> None:
        client, world = self.client, self.world

        def next_deadline() -> float | None:
            return min(
                d for d in (client.core.next_deadline(), client.slots.next_deadline()) if d is not None
            )

        def handle_deadline() -> None:
            client.core.handle_deadline(world.now)
            while client.slots.take(world.now):
                packet, kind = self.bridge.next_packet(world.now), "real"
                if packet is None:
                    packet, kind = self.bridge.idle_packet(world.now), "idle"
                if packet is not None:
                    self.sent.append((world.now, kind))
                    world.forward(packet.first_hop, packet.packet, packet.key_rotation)

        client.next_deadline = next_deadline  # type: ignore[method-assign]
        client.handle_deadline = handle_deadline  # type: ignore[method-assign]

    def on_event(self, event: MixnetEvent) -> None:
        if isinstance(event, MessageReceived):
            self.bridge.receive(event, self.world.now)

    def connect(self) -> Connected:
        self.bridge.connect()
        assert self.world.run(20, until=lambda: self.events)
        event = self.events.pop(0)
        assert isinstance(event, Connected)
        self.bridge.use_stack(self.port)
        return event

    @property
    def outstanding(self) -> int:
        return self.client.core.surbs_outstanding(self.bridge.exit_address, self.world.now)

    def packet(self, size: int, number: int = 0) -> bytes:
        """Return an IPv4 UDP packet of *size* octets from our address, without checksums."""
        ips = self.bridge.ipr.ips
        assert ips is not None
        source = bytes(map(int, ips.ipv4.split(".")))
        head = bytes([0x45, 0]) + size.to_bytes(2, "big") + bytes(4) + bytes([64, 17, 0, 0])
        body = number.to_bytes(4, "big")
        return (head + source + bytes([198, 51, 100, 10]) + bytes([0, 9, 0, 9, 0, 8, 0, 0]) + body).ljust(
            size, b"\0"
        )


@pytest.mark.parametrize("version", [8, 9, 10])
def test_exit_answers_the_connect_request(version: int) -> None:
    tunnel = Tunnel(version=version)
    event = tunnel.connect()
    assert event.version == version
    assert event.ips == tunnel.bridge.ipr.ips
    assert tunnel.bridge.connected


@pytest.mark.parametrize("version", [9, 10])
def test_connect_request_that_overtakes_the_open_frame_brings_the_surbs_of_its_answer(version: int) -> None:
    # A real exit drops an answer to a sender whose SURBs it does not hold (yet).
    tunnel = Tunnel(version=version)
    send = tunnel.client.core.send
    calls: list[int] = []

    def open_frame_last(recipient: Recipient, message: bytes, now: float, **options: Any) -> bool:
        calls.append(options.get("surbs", 0))
        if len(calls) > 1:
            return send(recipient, message, now, **options)
        world = tunnel.world
        world.at(now + 8.0, lambda: send(recipient, message, world.now, **options))
        return True

    tunnel.client.core.send = open_frame_last  # type: ignore[method-assign]
    began = tunnel.world.now
    tunnel.connect()
    assert tunnel.world.now - began < 4, "answered before the Open frame was there"
    assert calls[:2] == [0, BridgeSettings().open_surbs]


def test_idle_slots_fill_the_stock_and_then_carry_cover() -> None:
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.world.run(5)
    assert 150 < tunnel.outstanding <= 200
    sent = len(tunnel.sent)
    tunnel.world.run(4)
    assert (len(tunnel.sent) - sent) / 4 == pytest.approx(50, rel=0.3), "every slot carries something"
    assert tunnel.client.core.stats.cover_sent > 100


def test_full_packet_takes_exactly_one_slot() -> None:
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.world.run(5)
    before = tunnel.client.core.stats.packets_sent
    tunnel.port.out = [tunnel.packet(1500, n) for n in range(40)]
    tunnel.world.run(3, until=lambda: not tunnel.port.out)
    tunnel.world.run(1)
    assert len(tunnel.exit.accepted) == 40
    assert {len(packet) for packet in tunnel.exit.accepted} == {1500}
    assert tunnel.bridge.stats.messages_sent == 40
    assert tunnel.client.core.stats.packets_sent - before <= 45


def test_small_packets_share_a_slot() -> None:
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.port.out = [tunnel.packet(40, n) for n in range(100)]
    tunnel.world.run(3)
    assert len(tunnel.exit.accepted) == 100
    assert tunnel.bridge.stats.messages_sent <= 4


def test_surbs_ride_with_small_packets_while_the_exit_is_short_of_them() -> None:
    tunnel = Tunnel()
    tunnel.connect()
    bridge = tunnel.bridge
    tunnel.port.out = [tunnel.packet(52)]
    now = tunnel.world.now
    while tunnel.client.core.urgent(now):
        assert bridge.next_packet(now) is not None
    held = tunnel.outstanding
    assert held < EXIT_RESERVE + 20
    assert bridge.next_packet(now) is not None
    assert bridge.stats.surbs_attached == 3
    tunnel.world.run(5)
    attached = bridge.stats.surbs_attached
    assert tunnel.outstanding > 150
    tunnel.port.out = [tunnel.packet(52)]
    tunnel.world.run(1)
    assert bridge.stats.surbs_attached == attached, "none while the stock is full"


def test_packets_come_back_in_order_and_use_surbs() -> None:
    tunnel = Tunnel()
    tunnel.connect()
    ips = tunnel.bridge.ipr.ips
    assert ips is not None
    tunnel.world.run(5)
    target = bytes(map(int, ips.ipv4.split(".")))
    packets = []
    for number in range(300):
        packet = bytearray(tunnel.packet(1300, number))
        packet[12:16], packet[16:20] = bytes([198, 51, 100, 10]), target
        packets.append(bytes(packet))
    for packet in packets:
        tunnel.exit.send(packet)
    tunnel.world.run(20, until=lambda: len(tunnel.port.received) >= 300)
    assert sorted(tunnel.port.received) == sorted(packets)
    assert tunnel.bridge.stats.packets_received == 300
    assert tunnel.client.core.stats.surbs_used >= 300


def test_stock_is_refilled_by_what_the_download_acknowledges() -> None:
    tunnel = Tunnel()
    tunnel.connect()
    ips = tunnel.bridge.ipr.ips
    assert ips is not None
    tunnel.world.run(5)
    target = bytes(map(int, ips.ipv4.split(".")))
    for number in range(900):
        packet = bytearray(tunnel.packet(1300, number))
        packet[12:16], packet[16:20] = bytes([198, 51, 100, 10]), target
        tunnel.exit.send(bytes(packet))
    began = tunnel.world.now
    seen = 0
    while len(tunnel.port.received) < 900 and tunnel.world.now < began + 30:
        tunnel.world.run(0.02)
        if len(tunnel.port.received) > seen:
            seen = len(tunnel.port.received)
            tunnel.port.out.append(tunnel.packet(52))
    # 50 slots a second carry at most 150 SURBs beside acknowledgements, 170 by themselves.
    assert len(tunnel.port.received) == 900
    assert tunnel.world.now - began < 7.5


def test_messages_of_others_are_counted_and_ignored() -> None:
    tunnel = Tunnel()
    tunnel.connect()
    stranger: Client = tunnel.world.client(7)
    stranger.core.send(tunnel.client.core.address, b"\x03\x00hello", tunnel.world.now, surbs=1)
    tunnel.world.run(3)
    assert tunnel.bridge.stats.foreign_messages == 1
    assert tunnel.port.received == []


def test_lost_packets_are_repaired_by_the_message_layer() -> None:
    tunnel = Tunnel(seed=3, loss=0.03)
    tunnel.connect()
    tunnel.port.out = [tunnel.packet(1000, n) for n in range(100)]
    tunnel.world.run(30, until=lambda: len(tunnel.exit.accepted) >= 100)
    assert {packet[28:32] for packet in tunnel.exit.accepted} == {n.to_bytes(4, "big") for n in range(100)}
    assert tunnel.client.core.stats.retransmissions > 0


def test_closed_bridge_leaves_no_timer_and_nothing_in_the_core() -> None:
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.bridge.watch.start(None)
    tunnel.bridge.close()
    assert not tunnel.bridge.connected
    assert tunnel.outstanding == 0
    tunnel.world.run(3)
    assert tunnel.silent == []


def test_stack_serves_as_the_port() -> None:
    tunnel = Tunnel()
    event = tunnel.connect()
    stack = Stack(event.ips.ipv4, urandom=tunnel.world.urandom)
    tunnel.bridge.use_stack(stack)
    udp = stack.udp()
    udp.sendto(b"datagram", "198.51.100.10", 9)
    tunnel.world.run(3)
    assert len(tunnel.exit.accepted) == 1
    assert tunnel.exit.accepted[0].endswith(b"datagram")
