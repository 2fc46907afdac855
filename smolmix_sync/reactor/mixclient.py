"""A client of the mixnet that stays connected: directory, entry gateway, shaper and message core.

Everything above messages (exits, IP, sockets) is somebody else's: a tunnel session adds a bridge,
``MixnetClient`` uses it as it is.

Source: design.md sections 7 and 8a; spec/topology.md sections 3, 6 and 8.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from smolmix_sync.address import base58_decode, base58_encode
from smolmix_sync.config import ConfigError, TunnelConfig
from smolmix_sync.errors import (
    GatewayAuthError,
    GatewayError,
    SetupTimeout,
    SmolmixError,
    WireError,
)
from smolmix_sync.mixnet.client import MessageReceived, MixnetCore
from smolmix_sync.mixnet.gateway.client import GatewayClient
from smolmix_sync.mixnet.gateway.events import Refusal
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import MixPacket
from smolmix_sync.mixnet.topology import Node, Topology
from smolmix_sync.reactor._real import limited
from smolmix_sync.reactor.directory import DirectoryClient
from smolmix_sync.reactor.gateway import CLOCK_SKEW, GatewayLink, GatewayRefusal, endpoints_of
from smolmix_sync.reactor.identity import ClientIdentity, IdentityStore, Registration, storage_folder
from smolmix_sync.reactor.log import ReactorLogger
from smolmix_sync.reactor.loop import ReactorLoop, Timer
from smolmix_sync.reactor.shaper import RealSource, Shaper

__all__ = ["MixnetSession"]

_LOG = ReactorLogger("reactor")

#: Gateways tried in one round when none is pinned.
_GATEWAY_TRIES = 3
#: Seconds before each attempt to get a lost gateway back; the last one repeats. Source: design.md section 8a.
_BACK_OFF = (0.0, 1.0, 2.0, 4.0, 5.0)
#: Ours: failed rounds with one gateway after which another is chosen, if none is pinned.
_ROUNDS_BEFORE_CHANGE = 10


class MixnetSession:
    """Keeps one client connected. Reactor thread only, but for what says otherwise.

    Args:
        loop: the reactor.
        config: settings.
        on_message: gets every message with the time.
        on_link: called with (up, reason) when the gateway link comes or goes, after the first connect.
        on_progress: gets (stage, detail) during the set-up.
        fresh_identity: with ``client_id``: replace the kept identity by a new one.
    """

    def __init__(
        self,
        loop: ReactorLoop,
        config: TunnelConfig,
        *,
        on_message: Callable[[MessageReceived, float], object],
        on_link: Callable[[bool, str], object],
        on_progress: Callable[[str, str], object],
        fresh_identity: bool = False,
    ) -> None:
        self.loop = loop
        self.config = config
        self.on_message = on_message
        self.on_link = on_link
        self.on_progress = on_progress
        self.identity = ClientIdentity.generate()
        self._fresh_identity = fresh_identity
        self._store: IdentityStore | None = None
        self.directory = DirectoryClient(config)
        self.core: MixnetCore | None = None
        self.link: GatewayLink | None = None
        self.source: RealSource | None = None
        self.reconnects = 0
        self.shaper = Shaper(loop, config.traffic, _SessionSource(self))
        self._client: GatewayClient | None = None
        self._node: Node | None = None
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self._up = gevent.event.Event()
        self._closed = False
        self._lost_reason = ""
        self._refused_gateways: set[bytes] = set()
        self._leaving = False

    # --- life ---

    def connect(self) -> None:
        """Connect for the first time; blocks the calling greenlet.

        Raises:
            TopologyError: no directory, or no routes.
            GatewayError: no gateway would have us.
            SetupTimeout: a stage took too long.
        """
        try:
            self._open_identity()
            topology = self._first_topology()
            self._choose_and_open(topology)
        except BaseException:
            self.close()
            raise
        self._greenlets.append(gevent.spawn(self._refresh))

    def _open_identity(self) -> None:
        """Load the kept identity, if one is named."""
        if self.config.client_id is None:
            return
        folder = storage_folder(self.config)
        try:
            self._store = IdentityStore(folder, self.config.storage_passphrase)
            self.loop.guard_fd(self._store.lock_fd)
            if not self._fresh_identity:
                self.identity = self._store.load() or self.identity
            self._store.save(self.identity)
        except ConfigError:
            raise
        except OSError as error:
            raise SmolmixError(f"client_id: {folder}: {error.strerror}", error.errno) from None

    def _keep_identity(self) -> None:
        if self._store is not None:
            try:
                self._store.save(self.identity)
            except OSError as error:
                _LOG.warning("the identity was not saved: %s", error)

    def _first_topology(self) -> Topology:
        self.on_progress("topology", "asking the directory for nodes")
        topology = self.directory.refresh(self.loop.now())
        topology.check_routable()
        if self.directory.clock_skew:
            self.on_progress("topology", self.directory.clock_skew)
        return topology

    def _choose_and_open(self, topology: Topology) -> None:
        """Open a link to the chosen gateway, or to the next candidates if it will not have us."""
        failure: SmolmixError | None = None
        for node in self._candidates(topology)[:_GATEWAY_TRIES]:
            try:
                self._open(node, topology)
                return
            except GatewayRefusal as error:
                failure = error.public()
                self._refused_gateways.add(node.identity)
                _LOG.info("gateway %s refused: %s", base58_encode(node.identity), error)
            except TimeoutError as error:
                failure = SetupTimeout(f"gateway: {error}")
            except OSError as error:
                failure = GatewayError(f"gateway {base58_encode(node.identity)}: {error}")
        if failure is None:
            raise GatewayError("no entry gateway in the directory fits the settings")
        raise failure

    def _candidates(self, topology: Topology) -> list[Node]:
        """Return the gateways to try, in order: the pinned one alone; else ours first, then by chance."""
        config = self.config
        if config.preferred_gateway is not None:
            try:
                pinned = base58_decode(config.preferred_gateway)
            except WireError as error:
                raise GatewayError(f"preferred_gateway is not an identity key: {error}") from None
            node = topology.gateway(pinned)
            if node is None or node.entry is None:
                raise GatewayError(f"gateway {config.preferred_gateway} is not in the directory")
            found = [node]
        else:
            found = self.directory.gateways(self._refused_gateways)
            found.sort(key=lambda node: node.identity != self.identity.gateway)
        return [node for node in found if node.entry and endpoints_of(node.entry, force_tls=config.force_tls)]

    def _open(self, node: Node, topology: Topology) -> None:
        name = base58_encode(node.identity)
        self.on_progress("gateway", f"connecting to gateway {name}")
        identity = self.identity
        known = identity.registrations.get(node.identity)
        client = GatewayClient(
            identity.keys.identity_seed,
            node.identity,
            urandom=os.urandom,
            shared_key=known.shared_key if known is not None else None,
            last_auth_timestamp=known.last_auth if known is not None else 0,
        )
        self._dial(client, node)
        if self.core is None or self.core.address.gateway != node.identity:
            traffic = self.config.traffic
            self.core = MixnetCore(
                identity.keys,
                node.identity,
                config=TrafficSettings(
                    average_packet_delay=traffic.packet_delay,
                    average_ack_delay=traffic.ack_delay,
                    retransmission=not self.config.disable_retransmissions,
                ),
                urandom=os.urandom,
            )
        self._node = node
        self.core.set_topology(topology, self.loop.now())
        self._start_sending()

    def _dial(self, client: GatewayClient, node: Node) -> None:
        """Open a link with *client*, over the endpoints of *node*, registering anew if we are forgotten."""
        assert node.entry is not None
        config = self.config
        endpoints = endpoints_of(node.entry, force_tls=config.force_tls)
        until = self.loop.now() + config.gateway_timeout
        failure: OSError | None = None
        tries = 0
        while endpoints and tries < 4:
            tries += 1
            link = GatewayLink(
                client,
                on_payload=self._on_payload,
                on_lost=self._on_lost,
                on_writable=self.shaper.wake,
                ping_interval=config.gateway_ping_interval,
                pong_timeout=config.gateway_pong_timeout,
            )
            try:
                link.open(
                    endpoints[0],
                    timeout=max(0.1, until - self.loop.now()),
                    ca_file=str(config.bootstrap_ca_file) if config.bootstrap_ca_file else None,
                    addresses=config.bootstrap_addresses,
                    public=not self.directory.is_local,
                )
            except GatewayRefusal as error:
                client = client.successor()
                if error.kind is Refusal.NOT_REGISTERED:
                    self.identity.registrations.pop(node.identity, None)
                    continue
                if error.kind is Refusal.CLOCK_SKEW and node.identity in self.identity.registrations:
                    # Authentications are dated, registrations are not: only messages kept for us are lost.
                    _LOG.warning("%s: %s; registering anew", CLOCK_SKEW, error)
                    self.on_progress("gateway", f"{CLOCK_SKEW}; registering anew")
                    self.identity.registrations.pop(node.identity)
                    failure = error
                    continue
                if error.kind in (Refusal.ALREADY_CONNECTED, Refusal.STALE_TIMESTAMP):
                    # Our old connection is not dead for the gateway yet; it finds out within two seconds. Or a
                    # process that died before it could say so has used this second up.
                    gevent.sleep(1.1)
                    failure = error
                    continue
                raise
            except TimeoutError:
                raise
            except OSError as error:
                client = client.successor()
                failure = error
                endpoints.pop(0)
                continue
            if link.shared_key is not None:
                registration = Registration(link.shared_key, client.last_auth_timestamp)
                self.identity.registrations[node.identity] = registration
            self.identity.gateway = node.identity
            self._keep_identity()
            self._client = client
            self.link = link
            return
        raise failure or GatewayAuthError("the gateway does not accept our registration")

    def _start_sending(self) -> None:
        assert self.link is not None
        self._up.set()
        self.shaper.start(self.link)
        self.arm()

    def close(self) -> None:
        """End everything without a goodbye."""
        if self._closed:
            return
        self._closed = True
        self._up.clear()
        self.shaper.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.link is not None:
            self.link.close()
        if self._store is not None:
            self.loop.unguard_fd(self._store.lock_fd)
            self._store.close()
            self._store = None
        current = gevent.getcurrent()
        gevent.killall([one for one in self._greenlets if one is not current], block=False)

    def drain(self, timeout: float) -> None:
        """Wait until what is queued was handed to the kernel, at most *timeout* seconds."""
        with limited(timeout):
            while self.is_up and self.core is not None and self.core.queued(self.loop.now()):
                gevent.sleep(0.005)
            if self.link is not None:
                self.link.drain(timeout)

    # --- state ---

    @property
    def is_up(self) -> bool:
        """Whether packets can leave."""
        return self._up.is_set()

    @property
    def node(self) -> Node:
        """The entry gateway in use."""
        assert self._node is not None
        return self._node

    def wait_up(self, timeout: float | None = None) -> bool:
        """Wait for the link; return whether it is there."""
        return bool(self._up.wait(timeout))

    @property
    def bandwidth(self) -> int | None:
        """Octets left at the gateway."""
        return self._client.bandwidth if self._client is not None else None

    # --- reconnecting ---

    def drop_link(self, reason: str) -> None:
        """Behave as if the gateway's connection had broken."""
        link = self.link
        if link is not None and link.is_open:
            link.close()
            self._on_lost(reason)

    def _on_lost(self, reason: str) -> None:
        if self._closed or not self._up.is_set():
            return
        self._up.clear()
        self.shaper.stop()
        self._lost_reason = reason
        _LOG.info("gateway lost: %s", reason)
        self.on_link(False, reason)
        self._greenlets = [one for one in self._greenlets if not one.dead]
        self._greenlets.append(gevent.spawn(self._reconnect))

    def _reconnect(self) -> None:
        rounds = 0
        # Another gateway is another address of ours: no flow would survive it, and until then each of them may.
        change_at = self.loop.now() + self.config.reconnect_grace
        while not self._closed:
            gevent.sleep(_BACK_OFF[min(rounds, len(_BACK_OFF) - 1)])
            rounds += 1
            assert self._client is not None
            try:
                tried = rounds > _ROUNDS_BEFORE_CHANGE and self.loop.now() >= change_at
                if (tried or self._leaving) and self.config.preferred_gateway is None:
                    self._refused_gateways = {self.node.identity}
                    self._choose_and_open(self.directory.refresh(self.loop.now()))
                else:
                    self._client = self._client.successor()
                    self._dial(self._client, self.node)
                    self._start_sending()
            except OSError as error:
                _LOG.info("gateway attempt %d: %s", rounds, error)
                self.on_progress("gateway", f"attempt {rounds}: {error}")
                continue
            except Exception:  # a bug of ours; without this greenlet the tunnel would never come back
                _LOG.exception("the attempt to reconnect failed")
                continue
            self.reconnects += 1
            self._leaving = False
            self.on_link(True, "")
            return

    def _refresh(self) -> None:
        """Keep the topology fresh."""
        while not self._closed:
            gevent.sleep(self.directory.next_refresh_in(self.loop.now()))
            try:
                topology: Topology | None = self.directory.refresh(self.loop.now())
            except SmolmixError as error:
                _LOG.warning("topology not refreshed: %s", error)
                topology = self.directory.topology
            self._use_topology(topology)

    def _use_topology(self, topology: Topology | None) -> None:
        """Build later packets from a new snapshot.

        A gateway that is missing there may still serve us for as long as its key is good: flows would not survive
        another one. If what goes through it does not come back, :meth:`leave_gateway` is asked for.
        """
        core = self.core
        if core is None or topology is core.topology:
            return
        if topology is not None and topology.gateway(self.node.identity) is None:
            old = core.topology
            node = old.gateway(self.node.identity) if old is not None else None
            if old is None or node is None or old.key_rotation_id != topology.key_rotation_id:
                self.leave_gateway()
            else:
                topology = dataclasses.replace(topology, nodes={**topology.nodes, node.node_id: node})
        core.set_topology(topology, self.loop.now())
        self.wake()  # what waited for a route may be all there is to do

    @property
    def has_routes(self) -> bool:
        """Whether packets can be built and the directory knows our gateway; else silence is no fault of an exit."""
        topology = self.directory.topology
        return topology is not None and topology.gateway(self.node.identity) is not None

    def leave_gateway(self) -> bool:
        """Change to another gateway if the directory does not know ours any more; return whether that was begun."""
        topology = self.directory.topology
        if topology is None or self.has_routes or self.config.preferred_gateway is not None or not self.is_up:
            return False
        self._leaving = True
        self.drop_link("the entry gateway is not in the directory any more")
        return True

    # --- packets ---

    def wake(self) -> None:
        """Have the shaper look for packets."""
        self.shaper.wake()
        self.arm()

    def _on_payload(self, payload: bytes, now: float) -> None:
        core = self.core
        if core is None:
            return
        core.receive_data(payload, now)
        self._take_events(now)
        self.wake()

    def _take_events(self, now: float) -> None:
        core = self.core
        while core is not None and (event := core.next_event()) is not None:
            if isinstance(event, MessageReceived):
                self.on_message(event, now)

    def arm(self) -> None:
        """Set the timer of the core's deadlines."""
        core = self.core
        if core is None or self._closed:
            return
        deadline = core.next_deadline()
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return  # it fires earlier, and arms again
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.loop.call_later(deadline - self.loop.now(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        core = self.core
        if core is None or self._closed:
            return
        now = self.loop.now()
        core.handle_deadline(now)
        self._take_events(now)
        self.wake()


class _SessionSource:
    """What the shaper asks: the bridge if there is one, else the bare core."""

    def __init__(self, session: MixnetSession) -> None:
        self._session = session

    def next_packet(self, now: float) -> MixPacket | None:
        session = self._session
        if session.source is not None:
            packet = session.source.next_packet(now)
        else:
            packet = session.core.next_packet(now) if session.core is not None else None
        if packet is not None:
            session.arm()  # its acknowledgement is awaited
        return packet

    def idle_packet(self, now: float) -> MixPacket | None:
        session = self._session
        if session.source is not None:
            return session.source.idle_packet(now)
        return self.cover_packet(now)

    def cover_packet(self, now: float) -> MixPacket | None:
        core = self._session.core
        return core.cover_packet(now) if core is not None else None

    def prepare(self, now: float) -> bool:
        core = self._session.core
        return core is not None and core.prepare(now)
