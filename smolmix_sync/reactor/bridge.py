"""The bridge between IP and the mixnet: one exit session, asked for one packet per send slot.

At a slot: control and retransmissions of the message layer, then what the stack has, pulled so that it
fills exactly one Sphinx packet, then reply SURBs the exit is short of, then cover. Nothing is made ahead
of its slot, so an acknowledgement is as new as the packet that carries it.

Source: design.md sections 2 and 7; spec/message-layer.md section 13; spec/ipr.md sections 6 and 7.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig
from smolmix_sync.ipr import IprClient, IprClientConfig, IprState
from smolmix_sync.ipr.events import (
    Connected,
    IprClientEvent,
    KeepaliveDue,
    PacketsReceived,
    PolicyRefused,
    PongReceived,
)
from smolmix_sync.mixnet.client import CONTROL_LANE, MessageReceived, MixnetCore
from smolmix_sync.mixnet.sphinx import MixPacket
from smolmix_sync.netstack import Conn, Stack, State, Udp
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.liveness import ExitWatch, SessionProbes
from smolmix_sync.reactor.loop import ReactorLoop, Timer
from smolmix_sync.reactor.tap import PacketTap

__all__ = ["Bridge", "BridgeSettings", "BridgeStats", "PacketPort"]

#: From the specification: SURBs that nym-node's exit keeps for asking for more (10 + 50).
EXIT_RESERVE = 60
#: Ours: what a stock is worth beyond the reserve before the first measurement: one window of 10 segments, twice.
_MIN_WINDOW = 20
#: Ours: round trip assumed before one was measured, seconds.
_FIRST_RTT = 0.5
#: Ours: replies per second from which on a download is under way, and how far attached SURBs may exceed the
#: target then; the exit holds no more than it asked for plus what is under way.
_BULK_RATE = 10.0
_BULK_SURPLUS = 100
#: From the specification: 17 SURBs fill five packets exactly.
_TOP_UP = 17


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """What of the configuration the bridge needs.

    Attributes:
        open_surbs: SURBs with the connect request.
        data_surbs: most SURBs beside one data message.
        surb_stock: SURBs kept at the exit when idle slots can carry them.
        keepalive_interval: seconds without a packet of ours before one is made.
        resequence_hold: seconds an early message waits.
        connect_timeout: seconds for the exit's answer, all versions together.
        connect_retry: seconds after which an unanswered connect request is repeated.
    """

    open_surbs: int = 17
    data_surbs: int = 3
    surb_stock: int = 200
    keepalive_interval: float = 25.0
    resequence_hold: float = 0.06
    connect_timeout: float = 60.0
    connect_retry: float = 6.0


@dataclass(slots=True)
class BridgeStats:
    """What went through.

    Attributes:
        packets_sent: IP packets to the exit.
        packets_received: IP packets from the exit.
        messages_sent: IPR Data messages.
        surbs_attached: SURBs that travelled beside data.
        surbs_topped_up: SURBs sent by themselves.
        stocks_written_off: times silence made us send SURBs anew.
        foreign_messages: mixnet messages that were not this exit's replies.
    """

    packets_sent: int = 0
    packets_received: int = 0
    messages_sent: int = 0
    surbs_attached: int = 0
    surbs_topped_up: int = 0
    stocks_written_off: int = 0
    foreign_messages: int = 0


class PacketPort(Protocol):
    """Who makes and takes IP packets: a stack, or a program."""

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        """Return packets for a bundle of *room* octets."""
        ...

    def receive_data(self, packet: bytes, now: float) -> None:
        """Take one packet."""
        ...


class Bridge:
    """One session with one exit. Reactor thread only.

    Args:
        loop: the reactor.
        core: the mixnet client.
        exit_address: the exit's IP packet router.
        version: IPR version to connect with.
        settings: see :class:`BridgeSettings`.
        wake: tells the shaper that there is something to send.
        on_event: gets the session's events except packets.
        on_silent: called once, with a sentence, when nothing comes back through the exit any more.
    """

    def __init__(
        self,
        loop: ReactorLoop,
        core: MixnetCore,
        exit_address: Recipient,
        version: int,
        settings: BridgeSettings,
        *,
        wake: Callable[[], object],
        on_event: Callable[[IprClientEvent], object],
        on_silent: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self.core = core
        self.exit_address = exit_address
        self._settings = settings
        self._wake = wake
        self._on_event = on_event
        self._on_silent = on_silent
        self.ipr = IprClient(
            version,
            urandom=os.urandom,
            config=IprClientConfig(
                connect_timeout=settings.connect_timeout,
                v10_connect_timeout=min(15.0, settings.connect_timeout * 0.75),
                connect_retry=settings.connect_retry,
                keepalive_interval=settings.keepalive_interval,
                resequence_hold=settings.resequence_hold,
            ),
        )
        self.stats = BridgeStats()
        #: Shown the IP packets of both directions.
        self.tap: PacketTap | None = None
        self._stack: PacketPort | None = None
        self._device: Device | None = None
        self._timer: Timer | None = None
        self._closed = False
        self.watch = ExitWatch(
            loop,
            settings.keepalive_interval,
            ping=self._send_ping,
            on_lost=self._silent,
            on_starved=self._refill,
        )
        self._rate = 0.0
        self._rate_count = 0
        self._rate_at = loop.now()
        self._connect_at = self._rate_at
        self.rtt = _FIRST_RTT

    # --- life ---

    def connect(self) -> None:
        """Ask the exit for addresses; a ``Connected``, ``ConnectRefused`` or ``ConnectTimedOut`` event follows."""
        now = self._loop.now()
        self._connect_at = now
        self.ipr.connect(now, time.time())
        self._after_ipr(now)

    def adopt(
        self, *, on_event: Callable[[IprClientEvent], object], on_silent: Callable[[str], object]
    ) -> None:
        """Report to somebody else from now on."""
        self._on_event = on_event
        self._on_silent = on_silent

    def disconnect(self) -> None:
        """Tell the exit that the addresses are free; nothing waits for the answer."""
        if self.ipr.state is IprState.CONNECTED:
            now = self._loop.now()
            self.ipr.disconnect(now)
            self._after_ipr(now)

    def close(self) -> None:
        """Stop timers and forget the exit."""
        self._closed = True
        self.watch.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.core.forget(self.exit_address)

    def use_stack(self, stack: PacketPort) -> None:
        """Exchange packets with *stack*, which no device serves."""
        self._stack = stack
        self._wake()

    def use_device(self, device: Device, stack: Stack, config: TunnelConfig) -> None:
        """Exchange packets with *device*, which serves *stack* from now on, and watch over the session."""
        self._stack = None
        self._device = device
        device.on_output = self._on_output
        self.watch.start(SessionProbes(device, stack, config, self._wake))

    @property
    def connected(self) -> bool:
        """Whether the exit gave us addresses."""
        return self.ipr.state is IprState.CONNECTED and not self._closed

    def _on_output(self) -> None:
        self._wake()

    # --- the shaper's questions ---

    def next_packet(self, now: float) -> MixPacket | None:
        """Return one real packet; see the module's first lines for the order."""
        core = self.core
        if not core.urgent(now):
            # The pulled message goes to the data lane, which is empty now but for other users of the client.
            self._pull(now)
        packet = core.next_packet(now)
        if packet is None and self._fill(now, self._target(now)):
            packet = core.next_packet(now)
        return packet

    def idle_packet(self, now: float) -> MixPacket | None:
        """Return a packet of SURBs while the exit can take more, else cover: both look the same outside."""
        if self._fill(now, self._settings.surb_stock):
            packet = self.core.next_packet(now)
            if packet is not None:
                return packet
        return self.core.cover_packet(now)

    def cover_packet(self, now: float) -> MixPacket | None:
        """Return one loop cover packet."""
        return self.core.cover_packet(now)

    # --- outwards ---

    def _pull(self, now: float) -> None:
        if self.ipr.state is not IprState.CONNECTED:
            return
        room = self.ipr.bundle_room(self.core.room(1, 0))
        if self._device is not None:
            packets = self._device.data_to_send(room)
        elif self._stack is not None:
            packets = self._stack.data_to_send(now, room)
        else:
            return
        if not packets:
            return
        if self.tap is not None and self.tap.active:
            self.tap.sent(packets)
        message = self.ipr.encode_data(packets, now)
        surbs = self._surbs_beside(len(message), now)
        if self.core.send(self.exit_address, message, now, surbs=surbs):
            self.stats.messages_sent += 1
            self.stats.packets_sent += len(packets)
            self.stats.surbs_attached += surbs
            self.watch.sent(now)
        self._arm()

    def _surbs_beside(self, size: int, now: float) -> int:
        """Return how many SURBs to attach: the deficit, as far as they ride for free."""
        target = self._target(now)
        if self._reply_rate(now) > _BULK_RATE:
            # The estimate counts answers that wait for slots of their own. What rides along for free now
            # keeps the exit from asking for more of those.
            target += _BULK_SURPLUS
        most = min(self._settings.data_surbs, self._deficit(now, target))
        while most > 0 and self.core.packets_needed(size, most) > 1:
            most -= 1
        return max(0, most)

    def _target(self, now: float) -> int:
        """Return how many SURBs the exit should hold: the downlink's bandwidth-delay product and its reserve."""
        # Three round trips' worth: SURBs under way to the exit and replies under way to us are no stock, and
        # an exit that has to ask answers of its own accord more than it needs, in packets of their own.
        in_flight = self._reply_rate(now) * self.rtt * 3
        return min(self._settings.surb_stock, EXIT_RESERVE + max(_MIN_WINDOW, int(in_flight)))

    def _deficit(self, now: float, target: int) -> int:
        return target - self.core.surbs_outstanding(self.exit_address, now)

    def _fill(self, now: float, target: int) -> bool:
        """Queue a message of SURBs alone if the stock is below *target*; return whether one was queued."""
        if self.ipr.state is not IprState.CONNECTED:
            return False
        count = min(_TOP_UP, self._deficit(now, target))
        if count <= 0 or not self.core.send_surbs(self.exit_address, count, now):
            return False
        self.stats.surbs_topped_up += count
        return True

    def _reply_rate(self, now: float) -> float:
        """Return replies per second, over the last half second or so."""
        elapsed = now - self._rate_at
        if elapsed >= 0.25:
            used = self.core.stats.surbs_used
            self._rate += 0.5 * ((used - self._rate_count) / elapsed - self._rate)
            self._rate_count = used
            self._rate_at = now
        return self._rate

    def _send_control(self, now: float) -> None:
        messages = self.ipr.data_to_send(now)
        for message in messages:
            if self.ipr.state is IprState.CONNECTED:
                surbs = self._surbs_beside(len(message), now)
            else:
                # Every connect request brings the SURBs of its own answer: those of the one before may be lost.
                asking = self.ipr.state is IprState.CONNECTING and message is messages[-1]
                surbs = self._settings.open_surbs if asking else 0
            self.core.send(self.exit_address, message, now, surbs=surbs, lane=CONTROL_LANE)
            self._wake()

    # --- inwards ---

    def receive(self, event: MessageReceived, now: float) -> None:
        """Take one mixnet message; only replies of this exit count."""
        # A "reply" that did not come through a SURB can be from anybody who knows our address.
        if not event.is_reply or event.replier != self.exit_address:
            self.stats.foreign_messages += 1
            return
        self.watch.heard(now)
        self.ipr.receive_data(event.message, now)
        self._after_ipr(now)

    def _after_ipr(self, now: float) -> None:
        """Take the session's events and output, and set its timer."""
        while not self._closed and (event := self.ipr.next_event()) is not None:
            if isinstance(event, PacketsReceived):
                self._deliver(event.packets, now)
            elif isinstance(event, KeepaliveDue):
                self.watch.keepalive()
            else:
                if isinstance(event, PolicyRefused):
                    self.watch.heard_data(now)
                    if event.address is not None:
                        self._refuse(event.address)
                if isinstance(event, PongReceived):
                    self.rtt += 0.25 * (event.rtt - self.rtt)
                elif isinstance(event, Connected):
                    self.rtt = max(0.05, now - self._connect_at)
                self._on_event(event)
        if self._closed:
            return
        if self.ipr.wants_to_send:
            self._send_control(now)
        self._arm()

    def _deliver(self, packets: list[bytes], now: float) -> None:
        self.stats.packets_received += len(packets)
        self.watch.heard_data(now)
        if self.tap is not None and self.tap.active:
            self.tap.received(packets)
        if self._device is not None:
            for packet in packets:
                self._device.receive_packet(packet)
        elif self._stack is not None:
            for packet in packets:
                self._stack.receive_data(packet, now)
            self._wake()

    def _refuse(self, address: tuple[str, int]) -> None:
        """End what tries to reach a destination the exit's policy forbids: it would wait for ever."""
        device = self._device
        if device is None:
            return
        for thing in list(device._owners):
            if not isinstance(thing, (Conn, Udp)) or thing.remote != address:
                continue
            if isinstance(thing, Udp) or thing.state is State.SYN_SENT:
                thing.fail(errno.EACCES)
        device.kick()

    # --- time ---

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.ipr.next_deadline()
        if deadline is not None and not self._closed:
            self._timer = self._loop.call_later(deadline - self._loop.now(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.now()
        self.ipr.handle_deadline(now)
        self._after_ipr(now)

    def _send_ping(self) -> None:
        if self.ipr.state is IprState.CONNECTED:
            now = self._loop.now()
            self.ipr.ping(now)
            self._after_ipr(now)

    def _refill(self) -> None:
        """Count nothing that the exit was given, so that the next slots carry SURBs."""
        self.stats.stocks_written_off += 1
        self.core.write_off_surbs(self.exit_address)
        self._wake()

    def _silent(self, reason: str) -> None:
        self._on_silent(reason)
