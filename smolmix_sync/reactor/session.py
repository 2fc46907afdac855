"""The session of a tunnel: from nothing to an exit that answers, and back after every loss.

One greenlet walks the stages in order (topology, gateway, exit, probe) and afterwards sleeps until
something is lost; losses are only noted where they happen, and repaired here.

Source: design.md section 8a and decision 14.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import (
    IprError,
    NoExit,
    SetupTimeout,
    SmolmixError,
    TunnelFailed,
)
from smolmix_sync.ipr import IpPair
from smolmix_sync.ipr.events import (
    Connected,
    Disconnected,
    FellBack,
    InfoReceived,
    IprClientEvent,
    PolicyRefused,
)
from smolmix_sync.ipr.version import CLIENT_MTU_FALLBACK
from smolmix_sync.mixnet.client import MessageReceived
from smolmix_sync.mixnet.topology.selection import Exit
from smolmix_sync.netstack import Stack, StackConfig, TcpSettings
from smolmix_sync.reactor.bridge import Bridge
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.exitmemory import ExitMemory, exit_memory_path
from smolmix_sync.reactor.exits import check_link, exit_choices, open_bridge
from smolmix_sync.reactor.log import ReactorLogger, printable
from smolmix_sync.reactor.loop import ReactorLoop, Timer
from smolmix_sync.reactor.mixclient import MixnetSession
from smolmix_sync.reactor.probe import ExitProbe
from smolmix_sync.reactor.report import Heartbeat, Progress, TunnelState, TunnelStats
from smolmix_sync.reactor.resolver import ResolverConfig, system_hosts
from smolmix_sync.reactor.tap import PacketTap

__all__ = ["IpPair", "Progress", "TunnelSession", "TunnelState", "TunnelStats"]

_LOG = ReactorLogger("reactor.session")

#: Tries of exits while the tunnel is set up for the first time. Source: design.md section 8a.
_EXIT_TRIES = 2
#: Seconds between rounds of exits once the tunnel has been READY.
_EXIT_PAUSE = (1.0, 2.0, 4.0, 5.0)


#: Ours: how long an acknowledgement waits for company when send slots pace it anyway.
_PACED_ACK_DELAY = 0.001
#: Ours: segments in the first flight, and octets on their way, where nothing paces.
_UNPACED_WINDOW = 32
_UNPACED_SEND_BUFFER = 1 << 20
#: How often, every 100 ms, a late answer over IPv6 is looked for.
_IPV6_LOOKS = 100


class TunnelSession:
    """Everything of a tunnel that lives in the reactor.

    Args:
        loop: the reactor.
        config: settings.
        on_state: called in the reactor thread after every change of ``state``.
        on_progress: called in the reactor thread with every step.
        mix: a connected client to use instead of making one; it stays its owner's at shutdown.
        bridge: with *mix*: a session with an exit that is connected already.
        fresh_identity: with ``client_id``: replace the kept identity by a new one.

    Attributes:
        state: where it stands; any thread may read it.
        reason: one sentence why.
        error: the exception behind FAILED and long losses, for those who wait.
        device: the network device of the sockets; exists from the start.
    """

    def __init__(
        self,
        loop: ReactorLoop,
        config: TunnelConfig,
        *,
        on_state: Callable[[], object],
        on_progress: Callable[[Progress], object],
        mix: MixnetSession | None = None,
        bridge: Bridge | None = None,
        fresh_identity: bool = False,
    ) -> None:
        self.loop = loop
        self.config = config
        self.state = TunnelState.CONNECTING
        self.reason = "not started"
        self.error: SmolmixError | None = None
        self.device = Device(
            loop,
            connect_timeout=config.connect_timeout,
            resolver=ResolverConfig(
                primary=config.primary_dns,
                fallback=config.fallback_dns,
                timeout=config.dns_timeout,
                hosts=system_hosts() if config.hosts == "system" else {},
                https=config.dns_transport == "https",
                ca_file=str(config.bootstrap_ca_file) if config.bootstrap_ca_file else None,
            ),
        )
        self.device.warn_plaintext = config.warn_plaintext
        self.mtu = config.mtu or CLIENT_MTU_FALLBACK
        self.ips: IpPair | None = None
        self.exit: Recipient | None = None
        self.mix: MixnetSession | None = mix
        self._mix_is_ours = mix is None
        self._bridge: Bridge | None = bridge
        self._stack: Stack | None = None
        self._fresh_identity = fresh_identity
        self._on_state = on_state
        self._on_progress = on_progress
        self._started_at = loop.now()
        self._ready_at: float | None = None
        self._stage = "topology"
        self.tap = PacketTap(loop)
        self._heartbeat = Heartbeat(loop, self._beat, self._signs_of_life)
        self._greenlet: gevent.Greenlet[..., Any] | None = None
        self._news = gevent.event.Event()
        self._grace: Timer | None = None
        self._exit_lost = ""
        self._lost_exits: set[Recipient] = set()
        self._memory = ExitMemory(exit_memory_path(config))
        self._policy_refusals = 0

    # --- life (reactor thread) ---

    def start(self) -> None:
        """Begin the set-up."""
        self._started_at = self.loop.now()
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            self._first_set_up()
        except SmolmixError as error:
            self._fail(error)
            return
        except Exception as error:
            _LOG.exception("the set-up failed")
            self._fail(TunnelFailed(f"{self._stage}: {error}"))
            return
        self._serve()

    def _first_set_up(self) -> None:
        limit = self.config.connect_timeout
        timer = gevent.Timeout.start_new(limit)
        try:
            if self.mix is None:
                self.mix = MixnetSession(
                    self.loop,
                    self.config,
                    on_message=self._on_message,
                    on_link=self._on_link,
                    on_progress=self._progress,
                    fresh_identity=self._fresh_identity,
                )
                self.mix.connect()
            else:
                self._adopt(self.mix)
            if self._bridge is not None and self._bridge.connected:
                self._take_over(self._bridge)
            else:
                self._open_exit(_EXIT_TRIES)
        except gevent.Timeout as late:
            if late is not timer:
                raise
            raise SetupTimeout(f"{self._stage}: not finished within {limit:g} s") from None
        finally:
            timer.close()
        self._ready()

    def _adopt(self, mix: MixnetSession) -> None:
        mix.on_message = self._on_message
        mix.on_link = self._on_link
        mix.on_progress = self._progress

    def _serve(self) -> None:
        """Repair what is lost, for as long as the tunnel lives."""
        attempt = 0
        while True:
            self._news.wait()
            self._news.clear()
            try:
                if self._repair():
                    attempt = 0
            except SmolmixError as error:
                _LOG.info("attempt to repair the tunnel: %s", error)
                self.error = error
                self._set_state(TunnelState.RECONNECTING, str(error))
                gevent.sleep(_EXIT_PAUSE[min(attempt, len(_EXIT_PAUSE) - 1)])
                attempt += 1
                self._news.set()
            except Exception:
                _LOG.exception("the repair failed")
                gevent.sleep(_EXIT_PAUSE[-1])
                self._news.set()

    def _repair(self) -> bool:
        """Bring the tunnel back to READY if something is missing; return whether it is READY."""
        mix = self.mix
        assert mix is not None
        if self._exit_lost:
            reason, self._exit_lost = self._exit_lost, ""
            self._drop_exit(reason)
        if not mix.is_up:
            return False  # the link's return is news
        if self._bridge is None:
            if mix.leave_gateway():
                return False
            self._open_exit(None)
        elif self.state is not TunnelState.READY:
            self._bridge.watch.resume()
        self._ready()
        return True

    def _ready(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self.state is not TunnelState.READY:
            self._ready_at = self.loop.now()
            self.error = None
            self._lost_exits.clear()
            self._progress("ready", "the tunnel is ready")
            self._set_state(TunnelState.READY, "the exit answers")

    def _fail(self, error: SmolmixError) -> None:
        self.error = error
        self._close_parts()
        self.device.close(errno.ENETDOWN)
        self._set_state(TunnelState.FAILED, str(error))

    def shutdown(self, timeout: float) -> None:
        """End the session: disconnect from the exit, empty the queue, close. Blocks the calling greenlet."""
        if self.state in (TunnelState.SHUTDOWN, TunnelState.SHUTTING_DOWN):
            return
        failed = self.state is TunnelState.FAILED
        self._set_state(TunnelState.SHUTTING_DOWN, "shutdown was asked for")
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        if not failed:
            self.device.close(errno.ENETDOWN)
            if self._bridge is not None and self.mix is not None and self.mix.is_up:
                self._bridge.disconnect()
                self.mix.drain(min(timeout, 1.0))
        self._close_parts()
        self._set_state(TunnelState.SHUTDOWN, "shut down")

    def _close_parts(self) -> None:
        self._heartbeat.stop()
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None
        if self.mix is not None:
            self.mix.source = None
            if self._mix_is_ours:
                self.mix.close()

    # --- commands (reactor thread) ---

    def reconnect(self) -> None:
        """Drop the gateway's link and connect again, with the same identity and exit."""
        if self.mix is not None:
            self.mix.drop_link("a reconnect was asked for")

    # --- state ---

    def _set_state(self, state: TunnelState, reason: str) -> None:
        if (state, reason) == (self.state, self.reason):
            return
        self.state = state
        self.reason = reason
        if state is not TunnelState.READY:
            self._ready_at = None
        self._on_state()

    def _progress(self, stage: str, detail: str) -> None:
        self._stage = stage
        self._on_progress(Progress(stage, detail, self.loop.now() - self._started_at))
        if stage == "ready":
            self._heartbeat.stop()
        else:
            self._heartbeat.step(stage, detail)

    def _beat(self, stage: str, detail: str, waiting: float) -> None:
        self._on_progress(Progress(stage, detail, self.loop.now() - self._started_at, waiting))

    def _signs_of_life(self) -> int:
        core = self.mix.core if self.mix is not None else None
        if core is None:
            return 0
        return core.stats.acks_received + core.stats.messages_received + core.stats.replies_received

    # --- what is lost ---

    def _on_link(self, up: bool, reason: str) -> None:
        if not up:
            if self._bridge is not None:
                self._bridge.watch.pause()
            if self.state is TunnelState.READY:
                self._set_state(TunnelState.RECONNECTING, reason)
            if self._grace is None and self.device.up:
                self._grace = self.loop.call_later(self.config.reconnect_grace, self._grace_over)
            return
        self._new_core_needs_new_exit()
        self._news.set()

    def _new_core_needs_new_exit(self) -> None:
        """Leave the exit if the link came back through another gateway: our address is a new one."""
        mix = self.mix
        if mix is not None and self._bridge is not None and mix.core is not self._bridge.core:
            self._exit_lost = "the entry gateway changed"

    def _grace_over(self) -> None:
        self._grace = None
        if self.state is not TunnelState.READY:
            self.error = TunnelFailed(f"the gateway is lost: {self.reason}")
            self._drop_exit("the gateway was lost for too long")

    def _lose_exit(self, reason: str) -> None:
        if self._bridge is not None and self.mix is not None and self.mix.has_routes:
            self._memory.failed(self._bridge.exit_address, reason)
        self._exit_lost = reason
        self._news.set()

    def _drop_exit(self, reason: str) -> None:
        """Forget the exit and give every flow ENETDOWN."""
        bridge, self._bridge = self._bridge, None
        if bridge is not None:
            self._lost_exits.add(bridge.exit_address)
            bridge.close()
        if self.mix is not None:
            self.mix.source = None
        self.error = self.error or IprError(reason)
        self._set_state(TunnelState.RECONNECTING, reason)
        self.device.set_down(errno.ENETDOWN)
        self.ips = None

    # --- the exit ---

    def _open_exit(self, tries: int | None) -> None:
        """Connect to an exit and hear something through it; raises what the last one failed with."""
        assert self.mix is not None
        self._progress("exit", "choosing an exit")
        choices = exit_choices(
            self.mix, self.config.ipr_address, self._lost_exits | self._memory.quarantined()
        )
        failure: SmolmixError = NoExit("no exit in the directory fits the settings")
        if tries and self.config.ipr_address is None:
            choices = (choices * tries)[:tries]  # the only one there is gets another try
        for choice in choices:
            limit = self.config.ipr_timeout
            if self.config.ipr_address is not None:
                limit = max(limit, self.config.connect_timeout)
            try:
                self._try_exit(choice, limit)
                self._memory.worked(choice.recipient)
                return
            except SmolmixError as error:
                failure = error
                _LOG.info("exit failed: %s", error)
                self._lost_exits.add(choice.recipient)
                if not self.mix.is_up:
                    break
                if self.mix.has_routes:
                    self._memory.failed(choice.recipient, str(error))
        raise failure

    def _try_exit(self, choice: Exit, limit: float) -> None:
        mix = self.mix
        assert mix is not None
        name = base58_encode(choice.recipient.gateway)
        self._progress("exit", f"connecting to the exit at {name}")
        until = self.loop.now() + limit
        bridge, connected = open_bridge(
            mix, self.config, choice, until, on_event=self._on_ipr_event, on_silent=self._lose_exit
        )
        self._bridge = bridge
        bridge.tap = self.tap
        try:
            stack = self._stack = self._make_stack(connected)
            bridge.use_stack(stack)
            self._progress("probe", f"waiting for an answer through the exit at {name}")
            self._prove(stack, mix, until)
        except BaseException:
            self._bridge = None
            mix.source = None
            bridge.close()
            raise
        self._go_up(bridge, stack, connected)

    def _make_stack(self, connected: Connected) -> Stack:
        config = self.config
        if connected.ips.ipv4 in (config.primary_dns, config.fallback_dns):
            raise IprError("the exit gave us the address of a resolver, whose answers would then be our own")
        self.mtu = config.mtu or connected.mtu or CLIENT_MTU_FALLBACK
        tcp = TcpSettings()
        if config.tcp_buffer_size is not None:
            tcp = TcpSettings(
                sndbuf=config.tcp_buffer_size,
                rcvbuf=config.tcp_buffer_size,
                rcvbuf_max=config.tcp_buffer_size,
            )
        if config.tcp_keepalive is not None:
            tcp.keepalive = True
            tcp.keep_idle = tcp.keep_interval = config.tcp_keepalive
        stack_config = StackConfig(tcp=tcp, rx_mtu=self.mtu, tx_mtu=config.mtu or StackConfig().tx_mtu)
        if config.traffic.poisson:
            # A slot comes every 20 ms and collects acknowledgements by itself; one that finds none would
            # carry cover instead of SURBs and the newest window.
            stack_config = dataclasses.replace(
                stack_config, ack_delay=_PACED_ACK_DELAY, ooo_ack_delay=_PACED_ACK_DELAY
            )
        else:
            # Nothing holds the line back: a small upload goes out in one flight. Source: spec/netstack.md 4.
            stack_config = dataclasses.replace(stack_config, initial_window=_UNPACED_WINDOW)
            if config.tcp_buffer_size is None:
                tcp.sndbuf = _UNPACED_SEND_BUFFER
        # Loopback and our own addresses are nothing an exit could carry: patch_all(loopback="mix") meets itself there.
        return Stack(
            connected.ips.ipv4, connected.ips.ipv6, config=stack_config, urandom=os.urandom, loopback=True
        )

    def _prove(self, stack: Stack, mix: MixnetSession, until: float) -> None:
        """Hear something through the exit, and learn whether it has IPv6."""
        probe = ExitProbe(stack, self.config, self.loop, mix.wake)
        try:
            probe.run(until, lambda: check_link(mix))
        except BaseException:
            probe.close()
            raise
        # Exits hand out IPv6 addresses whether or not they can use them.
        self.device.ipv6 = probe.ipv6_works
        if probe.ipv6_works:
            probe.close()
        else:
            gevent.spawn(self._await_ipv6, probe, stack)

    def _await_ipv6(self, probe: ExitProbe, stack: Stack) -> None:
        for _ in range(_IPV6_LOOKS):
            if probe.ipv6_works or self._stack is not stack:
                break
            gevent.sleep(0.1)
        if probe.ipv6_works and self._stack is stack:
            self.device.ipv6 = True
        probe.close()
        self.device.kick()

    def _go_up(self, bridge: Bridge, stack: Stack, connected: Connected) -> None:
        self.ips = connected.ips
        self.exit = bridge.exit_address
        self.device.set_up(stack)
        bridge.use_device(self.device, stack, self.config)

    def _take_over(self, bridge: Bridge) -> None:
        """Use a session that somebody else connected (``Tunnel.from_stream``)."""
        ips = bridge.ipr.ips
        assert ips is not None
        mix = self.mix
        assert mix is not None
        bridge.adopt(on_event=self._on_ipr_event, on_silent=self._lose_exit)
        bridge.tap = self.tap
        connected = Connected(ips, bridge.ipr.mtu, bridge.ipr.version)
        stack = self._make_stack(connected)
        self._stack = stack
        mix.source = bridge
        bridge.use_stack(stack)
        self._progress("probe", "waiting for an answer through the exit")
        self._prove(stack, mix, self.loop.now() + self.config.ipr_timeout)
        self._go_up(bridge, stack, connected)

    # --- events ---

    def _on_message(self, event: MessageReceived, now: float) -> None:
        if self._bridge is not None:
            self._bridge.receive(event, now)

    def _on_ipr_event(self, event: IprClientEvent) -> None:
        if isinstance(event, FellBack):
            self._progress("exit", f"no answer yet; trying version {event.version}")
        elif isinstance(event, Disconnected):
            if not event.requested:
                self._lose_exit(f"the exit ended the session: {printable(event.reason)}")
        elif isinstance(event, PolicyRefused):
            # Where to is nobody's business but the program's: it gets EACCES, others a number.
            self._policy_refusals += 1
            _LOG.debug("the exit's policy refuses a destination")
        elif isinstance(event, InfoReceived):
            # Its words may name a destination, too.
            _LOG.debug("the exit sends a notice of %d characters", len(event.message))

    # --- numbers ---

    def stats(self) -> TunnelStats:
        """Return the counters (reactor thread)."""
        mix = self.mix
        core = mix.core if mix is not None else None
        if mix is None or core is None:
            return TunnelStats(state=self.state.name)
        counted = core.stats
        bridge = self._bridge
        now = self.loop.now()
        dropped = {name: getattr(counted, name) for name in dir(type(counted)) if name.startswith("dropped_")}
        if bridge is not None:
            dropped["foreign_messages"] = bridge.stats.foreign_messages
            dropped["ipr_malformed"] = bridge.ipr.stats.dropped_malformed
            dropped["ipr_foreign"] = bridge.ipr.stats.dropped_foreign
        dropped["policy_refused"] = self._policy_refusals
        return TunnelStats(
            state=self.state.name,
            uptime=now - self._ready_at if self._ready_at is not None else 0.0,
            packets_sent=counted.packets_sent,
            cover_sent=counted.cover_sent,
            retransmissions=counted.retransmissions,
            acks_received=counted.acks_received,
            messages_received=counted.messages_received + counted.replies_received,
            surbs_sent=counted.surbs_sent,
            surbs_used=counted.surbs_used,
            surbs_at_exit=core.surbs_outstanding(bridge.exit_address, now) if bridge is not None else 0,
            ip_packets_sent=bridge.stats.packets_sent if bridge is not None else 0,
            ip_packets_received=bridge.stats.packets_received if bridge is not None else 0,
            tcp_retransmissions=self._stack.tcp_retransmissions if self._stack is not None else 0,
            reconnects=mix.reconnects,
            send_backlog=mix.link.backlog if mix.link is not None else 0,
            slots_blocked=mix.shaper.stats.blocked,
            bandwidth=mix.bandwidth,
            rtt=bridge.rtt if bridge is not None else 0.0,
            dropped={name: count for name, count in dropped.items() if count},
        )
