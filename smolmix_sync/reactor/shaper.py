"""The traffic shaper: when a packet may leave, and that something leaves at every slot.

Paced, the gaps between slots are exponential whatever there is to send; a slot without real traffic
carries cover. Unpaced, a packet leaves as soon as the gateway's queue has room.

The shaper knows neither packets nor protocols: it asks *source* at each slot.

Source: design.md section 7; spec/message-layer.md sections 11.3 and 11.4.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from smolmix_sync.config import TrafficProfile
from smolmix_sync.mixnet.poisson import PoissonSlots
from smolmix_sync.mixnet.sphinx import MixPacket
from smolmix_sync.reactor.loop import ReactorLoop, Timer

__all__ = ["PacketSink", "PacketSource", "RealSource", "SendRecord", "Shaper", "ShaperStats"]

#: Ours: packets sent in a row without looking at sockets and timers (about 5 ms of work).
_TURN = 8
#: Ours: after a stall (suspend, a blocked machine) slots of the last second are made up for, not more.
_MAX_BEHIND = 0.25


class RealSource(Protocol):
    """Who has packets: a bridge."""

    def next_packet(self, now: float) -> MixPacket | None:
        """Return one real packet, or None."""
        ...

    def idle_packet(self, now: float) -> MixPacket | None:
        """Return what a slot carries when there is nothing real: more SURBs, or cover."""
        ...

    def cover_packet(self, now: float) -> MixPacket | None:
        """Return one loop cover packet."""
        ...


class PacketSource(RealSource, Protocol):
    """Who has packets and can work ahead: a mixnet session."""

    def prepare(self, now: float) -> bool:
        """Do a small piece of work ahead of need; False when there is none."""
        ...


class PacketSink(Protocol):
    """Where packets go: the gateway link."""

    def room(self) -> int:
        """Return how many packets it takes now."""
        ...

    def forward(self, packet: MixPacket) -> bool:
        """Take one packet."""
        ...


@dataclass(slots=True)
class SendRecord:
    """One packet handed to the gateway, for the trace hook.

    Attributes:
        time: monotonic seconds.
        slot: the time the slot was due; equals ``time`` when unpaced.
        kind: ``real``, ``cover`` (at an idle slot) or ``loop`` (the cover stream).
    """

    time: float
    slot: float
    kind: str


@dataclass(slots=True)
class ShaperStats:
    """What the shaper did.

    Attributes:
        slots: main slots that came.
        blocked: slots lost because the gateway's queue was full.
        idle: slots that carried nothing (no cover wanted or possible).
        real: packets with content.
        cover: cover packets at idle slots.
        loop: packets of the loop cover stream.
    """

    slots: int = 0
    blocked: int = 0
    idle: int = 0
    real: int = 0
    cover: int = 0
    loop: int = 0


class Shaper:
    """Sends from a source to a sink by a traffic profile. Reactor thread only.

    Args:
        loop: the reactor.
        profile: pace and cover.
        source: who has packets.
        urandom: randomness of the gaps.

    Attributes:
        trace: called with a :class:`SendRecord` for every packet; for tests and benchmarks.
    """

    def __init__(
        self,
        loop: ReactorLoop,
        profile: TrafficProfile,
        source: PacketSource,
        *,
        urandom: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._loop = loop
        self._profile = profile
        self._source = source
        self._sink: PacketSink | None = None
        self._main = PoissonSlots(profile.sending_delay, urandom, max_behind=_MAX_BEHIND)
        self._cover = PoissonSlots(profile.cover_delay, urandom, max_behind=_MAX_BEHIND)
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._turn_queued = False
        self._preparing = False
        self.trace: Callable[[SendRecord], object] | None = None
        self.stats = ShaperStats()

    # --- life ---

    def start(self, sink: PacketSink) -> None:
        """Send to *sink* from now on."""
        self._sink = sink
        now = self._loop.now()
        if self._profile.poisson:
            self._main.start(now)
        if self._profile.cover:
            self._cover.start(now)
        self.wake()

    def stop(self) -> None:
        """Send nothing until the next start."""
        self._sink = None
        self._main.stop()
        self._cover.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def running(self) -> bool:
        """Whether there is a sink."""
        return self._sink is not None

    def wake(self) -> None:
        """Look again soon: the source has something, or the sink has room. Cheap, any number of times."""
        if self._sink is not None and not self._turn_queued:
            self._turn_queued = True
            self._loop.call_soon(self._turn)

    # --- the turns ---

    def _turn(self) -> None:
        self._turn_queued = False
        if self._sink is None:
            return
        more = self._paced_turn() if self._profile.poisson else self._unpaced_turn()
        self._cover_turn()
        if more:
            self.wake()
        elif not self._preparing:
            self._preparing = True
            self._loop.call_soon(self._prepare)
        self._arm()

    def _prepare(self) -> None:
        """Work ahead between two slots, one piece per iteration of the hub."""
        self._preparing = False
        if self._sink is None or self._turn_queued:
            return
        now = self._loop.now()
        due = self._main.next_deadline()
        # The slot gets its own time: a piece takes a quarter of a millisecond, on a busy machine more.
        if (due is None or due - now > 0.002) and self._source.prepare(now):
            self._preparing = True
            self._loop.call_soon(self._prepare)

    def _paced_turn(self) -> bool:
        """Serve the slots that are due; return whether more are."""
        for _ in range(_TURN):
            now = self._loop.now()
            due = self._main.next_deadline()
            if due is None or not self._main.take(now):
                return False
            self.stats.slots += 1
            self._serve_slot(now, due)
        return True

    def _serve_slot(self, now: float, due: float) -> None:
        sink = self._sink
        if sink is None or sink.room() <= 0:
            # Nothing is made for a queue that is full: packets and ACKs would be old when they leave.
            self.stats.blocked += 1
            return
        packet = self._source.next_packet(now)
        if packet is not None:
            self.stats.real += 1
            self._send(packet, due, "real")
            return
        packet = self._source.idle_packet(now) if self._profile.cover else None
        if packet is None:
            self.stats.idle += 1
            return
        self.stats.cover += 1
        self._send(packet, due, "cover")

    def _unpaced_turn(self) -> bool:
        """Send what there is, a few packets at a time; return whether there may be more."""
        for _ in range(_TURN):
            sink = self._sink
            if sink is None:
                return False
            if sink.room() <= 0:
                self.stats.blocked += 1
                return False  # the link wakes us
            now = self._loop.now()
            packet = self._source.next_packet(now)
            if packet is None:
                return False
            self.stats.real += 1
            self._send(packet, now, "real")
        return True

    def _cover_turn(self) -> None:
        now = self._loop.now()
        due = self._cover.next_deadline()
        if due is None or not self._cover.take(now):
            return
        sink = self._sink
        if sink is None or sink.room() <= 0:
            return
        packet = self._source.cover_packet(now)
        if packet is not None:
            self.stats.loop += 1
            self._send(packet, due, "loop")

    def _send(self, packet: MixPacket, slot: float, kind: str) -> None:
        sink = self._sink
        if sink is not None and sink.forward(packet) and self.trace is not None:
            self.trace(SendRecord(self._loop.now(), slot, kind))

    # --- time ---

    def _arm(self) -> None:
        if self._sink is None:
            return
        deadlines = [d for d in (self._main.next_deadline(), self._cover.next_deadline()) if d is not None]
        if not deadlines:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        due = min(deadlines)
        if self._timer is not None:
            if self._timer_due == due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(due - self._loop.now(), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._turn_queued = True  # we are the turn
        self._turn()
