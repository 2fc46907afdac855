"""Noticing that an exit is gone, or that it has forgotten us; and keeping it from forgetting.

An exit answers pings of clients it has no addresses for, and drops their packets without a word. So a pong
proves little: only a packet (or a refusal of one) that came back through our session does. Probes get
harder one after the other: ICMP echo, then DNS over UDP to both resolvers, then TCP as well, because at the
set-up only one of them need have worked.

Source: design.md sections 7 and 8a; spec/ipr.md section 7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from smolmix_sync.config import TunnelConfig
from smolmix_sync.netstack import Ping, Stack
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import ReactorLoop, Timer
from smolmix_sync.reactor.probe import ExitProbe

__all__ = ["ExitWatch", "SessionProbes"]

#: From the specification: three probes in 30 s.
PROBES = 3
PROBE_INTERVAL = 10.0
#: Ours: how long packets of ours may stay unanswered before the first probe.
SILENCE = 10.0
#: Ours: how long they may before the exit is taken to have no SURB left; doubled each time, up to the second.
STARVED = (1.0, 8.0)
#: Ours: how often that may be since our last packet. Most last packets are acknowledgements, which nobody answers.
WRITE_OFFS = 2
_TICK = 1.0


class ExitWatch:
    """Counts unanswered probes. Reactor thread only.

    Args:
        loop: the reactor.
        interval: seconds of silence after which a probe goes out in any case.
        ping: sends an IPR ping.
        on_lost: called once, with a sentence.
        on_starved: called when the exit may be silent for want of SURBs.
    """

    def __init__(
        self,
        loop: ReactorLoop,
        interval: float,
        *,
        ping: Callable[[], object],
        on_lost: Callable[[str], object],
        on_starved: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._ping = ping
        self._on_lost = on_lost
        self._on_starved = on_starved
        self._probes: SessionProbes | None = None
        self._timer: Timer | None = None
        self._paused = False
        self._heard_at = self._data_at = loop.now()
        self._sent_at = 0.0
        self._first_at = 0.0
        self._probe_at: float | None = None
        self._attempts = 0
        self._waiting_since: float | None = None
        self._patience = STARVED[0]
        self._write_offs = 0
        self.probes_sent = 0

    def start(self, probes: SessionProbes | None) -> None:
        """Begin; without *probes* (packets are a program's own) a pong is all there is to go by."""
        self._probes = probes
        self._heard_at = self._data_at = self._loop.now()
        self._tick()

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._probes is not None:
            self._probes.close()
            self._probes = None

    def pause(self) -> None:
        """Ask nothing: the gateway's link is down, silence says nothing about the exit."""
        self._paused = True
        self._probe_at = None
        self._waiting_since = None

    def resume(self) -> None:
        """Ask at once: the exit may have forgotten us meanwhile."""
        self._paused = False
        self._begin(self._loop.now())

    # --- what happens ---

    def sent(self, now: float) -> None:
        """Note that IP packets left."""
        self._sent_at = now
        self._write_offs = 0
        if self._waiting_since is None:
            self._waiting_since = now

    def heard(self, now: float) -> None:
        """Note that the exit said something, whatever it was."""
        self._heard_at = now
        self._waiting_since = None
        self._patience = STARVED[0]
        if self._probes is None:
            self.heard_data(now)

    def heard_data(self, now: float) -> None:
        """Note that something came back through our session."""
        self._data_at = now
        if self._probe_at is not None:
            self._probe_at = None
            if self._probes is not None:
                self._probes.answered()

    def keepalive(self) -> None:
        """Make an IP packet of ours: exits count nothing else as a sign of life."""
        if self._probes is not None:
            self._probes.echo()
        if self._probe_at is None and not self._paused:
            self._begin(self._loop.now(), echo=False)

    # --- asking ---

    def _begin(self, now: float, *, echo: bool = True) -> None:
        self._attempts = 0
        self._first_at = now
        self._ask(now, echo=echo)

    def _ask(self, now: float, *, echo: bool = True) -> None:
        self._probe_at = now
        self.probes_sent += 1
        self._ping()
        if self._probes is not None:
            if echo:
                self._probes.echo()
            if self._attempts:
                self._probes.ask(tcp=self._attempts > 1)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(min(_TICK, PROBE_INTERVAL / 4), self._tick)
        if self._paused:
            return
        now = self._loop.now()
        self._look_for_starvation(now)
        if self._probe_at is None:
            unanswered = self._sent_at > self._data_at and now - self._data_at >= SILENCE
            if unanswered or now - self._data_at >= self._interval:
                self._begin(now)
        elif now - self._probe_at >= PROBE_INTERVAL:
            self._attempts += 1
            if self._attempts < PROBES:
                self._ask(now)
                return
            self._paused = True
            self._probe_at = None
            if self._heard_at > self._first_at:
                self._on_lost("the exit answers, but has forgotten us")
            else:
                self._on_lost("the exit does not answer")

    def _look_for_starvation(self, now: float) -> None:
        """Say that the stock of SURBs may be an illusion.

        Messages of SURBs are lost like others, and while nothing comes back no count of ours can show it.
        """
        since = self._waiting_since
        if since is not None and now - since >= self._patience:
            self._write_offs += 1
            self._waiting_since = now if self._write_offs < WRITE_OFFS else None
            self._patience = min(2 * self._patience, STARVED[1])
            self._on_starved()


class SessionProbes:
    """Packets of ours through the session, made by the device's own stack. Reactor thread only.

    Args:
        device: serves *stack*; ignores events of the objects made here.
        stack: the stack of this session.
        config: names the resolvers.
        wake: tells the shaper.
    """

    def __init__(
        self, device: Device, stack: Stack, config: TunnelConfig, wake: Callable[[], object]
    ) -> None:
        self._device = device
        self._stack = stack
        self._config = config
        self._wake = wake
        self._ping: Ping = stack.ping()
        self._sequence = 0
        self._questions: ExitProbe | None = None

    def echo(self) -> None:
        """Send an ICMP echo request to the first resolver."""
        while self._ping.recv() is not None:
            pass
        self._sequence = (self._sequence + 1) & 0xFFFF
        with contextlib.suppress(OSError):  # no buffer: then other packets are on their way
            self._ping.send(self._config.primary_dns, self._sequence)
        self._device.kick()

    def ask(self, *, tcp: bool) -> None:
        """Send the questions of the set-up."""
        self.answered()
        if self._device.stack is self._stack:
            self._questions = ExitProbe(self._stack, self._config, self._device.loop, self._wake)
            self._questions.ask(tcp=tcp)
            self._device.kick()

    def answered(self) -> None:
        """Leave nothing of the questions in the stack."""
        if self._questions is not None:
            self._questions.close()
            self._questions = None
            self._device.kick()

    def close(self) -> None:
        """Leave nothing at all."""
        self.answered()
        self._ping.close()
