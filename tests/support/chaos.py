"""One client in a virtual network: set up, watched all the time, and asked for its figures at the end.

Everything of the client is production code, from ``TunnelSession`` down; the seams are ``connect_tcp``, the clock and
the source of random octets. See ``chaos_clock``, ``chaos_wire``, ``chaos_network`` and ``chaos_traffic``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
import pytest
from support import chaos_sphinx
from support.chaos_clock import ChaosFailure, VirtualReactor, in_virtual_time
from support.chaos_network import API_HOST, API_PORT, ChaosNetwork
from support.chaos_traffic import Traffic

from smolmix_sync.address import base58_encode
from smolmix_sync.config import TunnelConfig
from smolmix_sync.mixnet.sphinx import open_untrusted
from smolmix_sync.reactor import gateway, nymapi
from smolmix_sync.reactor.report import TunnelState
from smolmix_sync.reactor.session import TunnelSession
from smolmix_sync.reactor.shaper import SendRecord

__all__ = ["ChaosFailure", "ChaosWorld", "SlotTrace", "live"]


class SlotTrace:
    """Looks at the gaps between main slots, in windows in which the link was up.

    Args:
        mean: what the gaps should be.
    """

    def __init__(self, mean: float) -> None:
        self.mean = mean
        self.gaps = 0
        self.total = 0.0
        #: Gaps by the share of exponential gaps that are shorter, in hundredths: all are as likely.
        self.bins = [0] * 100
        self._last: float | None = None
        self._missed = 0

    def note(self, at: float, missed: int) -> None:
        """Take one slot; *missed* counts those that carried nothing (a full queue, no topology)."""
        last, self._last = self._last, at
        before, self._missed = self._missed, missed
        if last is not None and missed == before:
            gap = at - last
            self.gaps += 1
            self.total += gap
            self.bins[min(99, int(-math.expm1(-gap / self.mean) * 100))] += 1

    def interrupt(self) -> None:
        """The next gap is none of a chain: the link was down."""
        self._last = None

    def check(self) -> None:
        """Fail if these are no exponential gaps of that mean."""
        if self.gaps < 500:
            return
        mean = self.total / self.gaps
        if abs(mean - self.mean) > 5 * self.mean / math.sqrt(self.gaps):
            raise ChaosFailure(f"the mean gap is {mean * 1000:.3f} ms over {self.gaps} slots")
        if self.off * math.sqrt(self.gaps) > 2.2:  # Kolmogorov and Smirnov: one in 8000 runs
            raise ChaosFailure(f"the gaps are not exponential: {self.off:.4f} off over {self.gaps} slots")

    @property
    def off(self) -> float:
        """The largest distance from the exponential distribution."""
        reached, worst = 0, 0.0
        for index, count in enumerate(self.bins, start=1):
            reached += count
            worst = max(worst, abs(reached / max(1, self.gaps) - index / 100))
        return worst


@dataclass
class Watermarks:
    """The most there ever was of everything that a peer could make grow."""

    most: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, value: float, limit: float, at: float) -> None:
        if value > self.most.get(name, -1):
            self.most[name] = value
        if value > limit:
            raise ChaosFailure(f"{name}: {value} of at most {limit} at {at:.1f}")


class ChaosWorld:
    """A client and its network.

    Attributes:
        states: (time, state, reason) of every change.
        grace: whether a flow may end now, by design.md 8a; see ``allowed``.
    """

    def __init__(
        self, reactor: VirtualReactor, rng: random.Random, clock: Any, net: ChaosNetwork, **settings: Any
    ) -> None:
        self.reactor = reactor
        self.loop = reactor.loop
        self.random = rng
        self.clock = clock
        self.net = net
        self.config = TunnelConfig(nym_api=(f"http://{API_HOST}:{API_PORT}",), **settings)
        self.states: list[tuple[float, str, str]] = []
        self.progress: list[tuple[float, str, str]] = []
        self.session = TunnelSession(
            reactor, self.config, on_state=self._on_state, on_progress=self._on_progress
        )
        self.traffic = Traffic(reactor, self.session.device, rng)
        self.traces: dict[float, SlotTrace] = {}
        self.trace = self._trace_for(self.config.traffic.sending_delay)
        self.marks = Watermarks()
        self.problems: list[str] = []
        self._watching: Any = None
        self.cpu = 0.0

    # --- life ---

    def start(self, limit: float = 60.0) -> None:
        """Bring the tunnel up; fail if it is not READY in time."""
        self.session.start()
        self._watching = gevent.spawn(self._watch)
        self.wait_state(TunnelState.READY, limit)

    def wait_state(self, state: TunnelState, limit: float) -> float:
        """Wait for a state; return how long it took."""
        began = self.reactor.now()
        self.wait(lambda: self.session.state is state, limit, f"the state {state.name}")
        return self.reactor.now() - began

    def wait(self, condition: Callable[[], object], limit: float, what: str) -> float:
        """Wait until something is so."""
        began = self.reactor.now()
        while not condition():
            if self.reactor.now() - began > limit:
                raise ChaosFailure(
                    f"{what} did not come in {limit:g} s; {self.session.state} {self.session.reason}"
                )
            gevent.sleep(0.02)
        return self.reactor.now() - began

    def sleep(self, seconds: float) -> None:
        """Let time pass, and look whether all is well."""
        gevent.sleep(seconds)
        self.check()

    def finish(self) -> None:
        """Let the programs end, then the tunnel, and look at what is left."""
        self.traffic.finish()
        self.check()
        self.session.shutdown(10.0)
        self._watching.kill()
        gevent.sleep(0.5)
        for trace in self.traces.values():
            if self.config.traffic.poisson:
                trace.check()
        if self.session.device._owners or self.session.device._orphans:
            raise ChaosFailure("something is left in the device after the end")

    def check(self) -> None:
        self.traffic.check()
        if self.problems:
            raise ChaosFailure("\n".join(self.problems[:10]))
        if self.reactor.errors:
            raise ChaosFailure("logged as an error:\n" + "\n".join(self.reactor.errors[:3]))

    # --- what the session says ---

    def _on_state(self) -> None:
        self.states.append((self.reactor.now(), self.session.state.name, self.session.reason))
        del self.states[:-5000]

    def _on_progress(self, step: Any) -> None:
        self.progress.append((self.reactor.now(), step.stage, step.detail))
        del self.progress[:-5000]

    # --- looking all the time ---

    def _watch(self) -> None:
        while True:
            try:
                self._look()
            except ChaosFailure as failure:
                self.problems.append(str(failure))
            gevent.sleep(1.0)

    def _look(self) -> None:
        mix = self.session.mix
        if mix is None:
            return
        if mix.shaper.trace is None:
            self._attach(mix)
        note, at = self.marks.note, self.reactor.now()
        if mix.link is not None:
            note("frames to the gateway", len(mix.link._frames), gateway.FRAME_LIMIT + 4, at)
            note("control frames", len(mix.link._control), gateway.FRAME_LIMIT, at)
        note("greenlets of the client", len(mix._greenlets), 4, at)
        note("timers of the reactor and the model", self.loop.timers, 100_000, at)
        core = mix.core
        if core is not None:
            self._look_at_core(core, note, at)
        device = self.session.device
        note("owners in the device", len(device._owners), 8 + 2 * self.traffic.open + 64, at)
        note("orphans in the device", len(device._orphans), 2000, at)
        note("waiting for the device", len(device._waiting), 64, at)
        stack = device.stack
        if stack is not None:
            note("connections in the stack", len(stack.connections), 4096, at)

    def _attach(self, mix: Any) -> None:
        """Hear of every packet that leaves, and of every loss of the link."""
        stats, on_link = mix.shaper.stats, mix.on_link

        def sent(record: SendRecord) -> None:
            if record.kind != "loop":
                self.trace.note(record.time, stats.blocked + stats.idle)

        def link(up: bool, reason: str) -> None:
            self.trace.interrupt()
            on_link(up, reason)

        mix.shaper.trace = sent
        mix.on_link = link

    def _trace_for(self, mean: float) -> SlotTrace:
        return self.traces.setdefault(mean, SlotTrace(mean))

    def pace(self, factor: float) -> None:
        """Slow the shaper down: to let the client rest in virtual time is to let the processor rest."""
        traffic = self.config.traffic
        shaper = self.session.mix.shaper  # type: ignore[union-attr]
        shaper._main.mean = traffic.sending_delay * factor
        shaper._cover.mean = traffic.cover_delay * factor
        self.trace = self._trace_for(traffic.sending_delay * factor)
        self.trace.interrupt()

    @staticmethod
    def _look_at_core(core: Any, note: Callable[[str, float, float, float], None], at: float) -> None:
        settings = core._config
        note("packets without their ack", core.awaiting_ack, settings.max_pending_acks, at)
        note("packets to send again", len(core._again), settings.max_pending_acks, at)
        note("events of the core", len(core._events), settings.max_events, at)
        note(
            "packets in lanes",
            core._control.packets + core._data.packets,
            2 * settings.max_queued_packets,
            at,
        )
        note("reply keys", len(core._reply_keys), settings.max_reply_keys, at)
        note("sender tags", len(core._tags._tags), settings.max_recipients, at)
        note("fragment sets", len(core.reconstructor._sets), settings.max_fragment_sets, at)
        note("octets in fragment sets", core.reconstructor._bytes, settings.max_reassembly_bytes, at)
        note("finished sets remembered", len(core.reconstructor._recent), settings.max_recent_sets, at)


def live(
    seed: int,
    body: Callable[[ChaosWorld], Any],
    *,
    exits: int = 2,
    mixes: int = 2,
    ipr_versions: tuple[int, ...] = (8, 9, 10),
    epoch_seconds: float = 3600.0,
    before: Callable[[ChaosNetwork], None] | None = None,
    started: bool = True,
    real_sphinx: bool = False,
    pinned: bool = True,
    **settings: Any,
) -> Any:
    """Run *body* with a world that is READY (unless *started* is False), and finish the world afterwards.

    With *pinned* the gateway is the one that is no exit: what happens to one does not happen to the other.
    """

    def run(reactor: VirtualReactor, rng: random.Random, clock: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if not real_sphinx:
                chaos_sphinx.install(patch)
            net = ChaosNetwork(
                reactor,
                rng,
                clock,
                exits=exits,
                mixes=mixes,
                ipr_versions=ipr_versions,
                epoch_seconds=epoch_seconds,
                open_packet=open_untrusted if real_sphinx else chaos_sphinx.cheap_open,
            )
            patch.setattr(gateway, "connect_tcp", net.wire.dial)
            patch.setattr(nymapi, "connect_tcp", net.wire.dial)
            if before is not None:
                before(net)
            if pinned:
                settings["preferred_gateway"] = base58_encode(net.nodes["entry"].plan.identity)
            world = ChaosWorld(reactor, rng, clock, net, **settings)
            if started:
                world.start()
            result = body(world)
            world.finish()
            return result

    return in_virtual_time(seed, run)
