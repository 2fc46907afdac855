"""A mixnet in virtual time, made of localnet's own sans-IO cores: nym-api, gateways, mix nodes, exits, an internet.

What localnet does in processes with asyncio happens here on one heap of events, so that a day takes minutes and the
same seed gives the same day. The faults are knobs of :class:`Weather` and methods of the nodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import dns.message
import h11
from support.chaos_clock import VirtualReactor
from support.chaos_wire import ServerEnd, Wire
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from smolmix_sync.errors import WireError
from smolmix_sync.ipr import IpPacketRouter, RouterConfig
from smolmix_sync.ipr.router import PacketAccepted, SendReply
from smolmix_sync.localnet import httpd, plan, sphinxnode
from smolmix_sync.localnet.config import LocalNetConfig, build_hosts
from smolmix_sync.localnet.nameserver import Zone
from smolmix_sync.localnet.nym_api import NymApi
from smolmix_sync.mixnet.client import ClientKeys, MessageReceived, MixnetCore
from smolmix_sync.mixnet.gateway import (
    ClientTable,
    ForwardPacket,
    GatewayServerSession,
    PingWanted,
    ProbeFinished,
    ServerSettings,
    ServerState,
    SessionClosed,
)
from smolmix_sync.mixnet.gateway.final_hop import split_payload_untrusted
from smolmix_sync.mixnet.reply_controller import SurbDemand
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import FinalHop, NodeAddress, PacketSize, open_untrusted
from smolmix_sync.mixnet.topology.timestamps import Timestamp
from smolmix_sync.netstack import CLOSED, Conn, Stack, StackConfig, TcpSettings
from smolmix_sync.netstack.listener import Incoming
from smolmix_sync.netstack.udp import Datagram

__all__ = ["ChaosNetwork", "Weather", "pattern"]

API_HOST, API_PORT = "127.0.0.1", 8000
#: Where the services of the internet live.
PEER = "198.51.100.10"
ECHO, SINK, SOURCE = 7, 9, 80
_MAX_DELAY = 10.0
_BURST = 16


def pattern(seed: int, length: int) -> bytes:
    """Return the octets of a transfer."""
    return random.Random(seed).randbytes(length)


@dataclass
class Weather:
    """What happens to Sphinx packets between two nodes; probabilities, and seconds.

    Attributes:
        loss, duplicates, truncated, corrupted: shares of the packets.
        link: the shortest time from node to node.
        jitter: as much longer at most, drawn for every packet: it reorders.
        late, lateness: share of the packets held up, and for how long at most.
    """

    loss: float = 0.0
    duplicates: float = 0.0
    truncated: float = 0.0
    corrupted: float = 0.0
    link: float = 0.005
    jitter: float = 0.01
    late: float = 0.0
    lateness: float = 5.0


class _Ports:
    """Port numbers for a plan, without binding any."""

    def __init__(self) -> None:
        self._numbers = itertools.count(20_000)

    def reserve(self, name: str, *, address: str | None = None) -> int:
        return next(self._numbers)


class ChaosNetwork:
    """The whole network, and the knobs.

    Attributes:
        weather: of all links between nodes.
        counts: what happened, by name.
        requests: targets asked of nym-api.
    """

    def __init__(
        self,
        reactor: VirtualReactor,
        rng: random.Random,
        clock: Any,
        *,
        exits: int = 2,
        mixes: int = 2,
        ipr_versions: tuple[int, ...] = (8, 9, 10),
        epoch_seconds: float = 3600.0,
        open_packet: Callable[[bytes, bytes], Any] = open_untrusted,
    ) -> None:
        self.reactor = reactor
        self.loop = reactor.loop
        self.random = rng
        self.urandom = rng.randbytes
        self.clock = clock
        self.open_packet = open_packet
        self.weather = Weather()
        self.counts: Counter[str] = Counter()
        self.wire = Wire(self.loop)
        self.config = LocalNetConfig(
            exits=exits, mixes_per_layer=mixes, ipr_versions=ipr_versions, noise=False
        )
        self.rotation_id = 1
        self.rotated_at = self.loop.time
        self.epoch = 24
        self.epoch_seconds = epoch_seconds
        self.plans = plan.make_nodes(self.config, cast(Any, _Ports()))
        self.nodes: dict[str, ChaosNode] = {}
        self.by_address: dict[NodeAddress, ChaosNode] = {}
        self.hidden: set[str] = set()
        #: Whether nodes pass packets on to none but those of the directory.
        self.strict = False
        self.zone = Zone(build_hosts(self.config))
        self.directory = self._announced()
        for one in self.plans:
            kind = {"mixnode": ChaosNode, "gateway": ChaosGateway, "exit": ChaosExit}[one.kind]
            node = kind(self, one)
            self.nodes[one.name] = node
            self.by_address[one.mix_address] = node
        self.api = ChaosApi(self)
        self.wire.listen(API_HOST, API_PORT, self.api.accept)

    # --- the directory ---

    def _announced(self) -> plan.Directory:
        shown = [one for one in self.plans if one.name not in self.hidden]
        directory = plan.make_directory(self.config, shown, self._timestamp(), self.rotation_id)
        roles = dataclasses.replace(directory.topology.rewarded_set, epoch_id=self.epoch)
        topology = dataclasses.replace(directory.topology, absolute_epoch_id=self.epoch, rewarded_set=roles)
        return dataclasses.replace(directory, topology=topology)

    def _timestamp(self) -> Timestamp:
        return Timestamp.from_unix(self.clock.true_time())

    def announce(self) -> None:
        """Let nym-api and the exits' own clients have the directory as it is now."""
        self.directory = self._announced()
        self.api.program._directory = self.directory
        for node in self.exits:
            node.learn()

    def next_epoch(self) -> None:
        self.epoch += 1
        self.announce()

    def rotate(self) -> None:
        """Give every node a new key; the one before is good for one epoch more."""
        self.rotation_id += 1
        self.epoch = self.rotation_id * 24
        self.plans = [one.with_new_sphinx_key() for one in self.plans]
        for one in self.plans:
            self.nodes[one.name].add_key(one, self.rotation_id)
        self.rotated_at = self.loop.time
        self.announce()
        self.loop.at(self.loop.time + self.epoch_seconds, self._expire, self.rotation_id)

    def _expire(self, rotation_id: int) -> None:
        for node in self.nodes.values():
            node.expire_before(rotation_id)

    @property
    def exits(self) -> list[ChaosExit]:
        return [node for node in self.nodes.values() if isinstance(node, ChaosExit)]

    @property
    def gateways(self) -> list[ChaosGateway]:
        return [node for node in self.nodes.values() if isinstance(node, ChaosGateway)]

    def gateway_of(self, identity: bytes) -> ChaosGateway:
        return next(node for node in self.gateways if node.plan.identity == identity)

    def exit_of(self, recipient: Any) -> ChaosExit:
        return next(node for node in self.exits if node.plan.ipr == recipient)

    # --- links between nodes ---

    def forward(self, address: NodeAddress, packet: bytes, rotation: int) -> None:
        """Carry a packet to a node, whatever the weather is."""
        weather, rng = self.weather, self.random
        node = self.by_address.get(address)
        if node is None or (self.strict and node.name in self.hidden):
            self.counts["unroutable"] += 1
            return
        copies = 1
        if weather.loss and rng.random() < weather.loss:
            self.counts["lost"] += 1
            return
        if weather.duplicates and rng.random() < weather.duplicates:
            self.counts["duplicated"] += 1
            copies = 2
        if weather.truncated and rng.random() < weather.truncated:
            self.counts["truncated"] += 1
            packet = packet[: rng.randrange(len(packet))]
        if weather.corrupted and rng.random() < weather.corrupted:
            self.counts["corrupted"] += 1
            where = rng.randrange(len(packet) or 1)
            packet = packet[:where] + bytes([packet[where] ^ 1 << rng.randrange(8)]) + packet[where + 1 :]
        for _ in range(copies):
            delay = weather.link + rng.random() * weather.jitter
            if weather.late and rng.random() < weather.late:
                delay += rng.random() * weather.lateness
                self.counts["held up"] += 1
            self.loop.at(self.loop.time + delay, node.receive, packet, rotation)


class _Key(sphinxnode._Key):
    """A key whose memory of packets is that of minutes, not of half a million packets."""

    def __init__(self, rotation_id: int, private: bytes) -> None:
        super().__init__(rotation_id, private)
        self.replays = sphinxnode.ReplayFilter(20_000)


class ChaosNode:
    """A mix node; see ``localnet.sphinxnode`` for the same with sockets."""

    forwards = True

    def __init__(self, net: ChaosNetwork, mine: plan.SphinxNode) -> None:
        self.net = net
        self.plan = mine
        self.name = mine.name
        self.keys = [_Key(net.rotation_id, mine.keys.sphinx_private)]
        self.up = True
        self.life = 0
        self.counts: Counter[str] = Counter()

    def add_key(self, mine: plan.SphinxNode, rotation_id: int) -> None:
        self.plan = mine
        self.keys = [_Key(rotation_id, mine.keys.sphinx_private), self.keys[0]]

    def expire_before(self, rotation_id: int) -> None:
        self.keys = [key for key in self.keys if key.rotation_id >= rotation_id]

    # --- faults ---

    def stop(self) -> None:
        """Be gone, with everything that waits here."""
        self.up = False
        self.life += 1

    def start(self) -> None:
        """Come back with nothing but the keys."""
        self.up = True
        self.keys = [_Key(key.rotation_id, key.private) for key in self.keys]

    def restart(self, away: float) -> None:
        self.counts["restarts"] += 1
        self.stop()
        self.net.loop.at(self.net.loop.time + away, self.start)

    # --- packets ---

    def receive(self, packet: bytes, rotation: int) -> None:
        if not self.up:
            self.net.counts["to a node that is down"] += 1
            return
        keys = [key for key in self.keys if rotation == key.rotation or 0 in (rotation, key.rotation)]
        if not keys:
            self.net.counts["expired key"] += 1
            return
        for key in keys:
            try:
                opened = self.net.open_packet(packet, key.private)
            except WireError:
                continue
            if key.replays.seen(opened.replay_tag):
                self.net.counts["replays"] += 1
                return
            try:
                hop = opened.finish_untrusted()
            except WireError:
                break
            self._passed_on(hop, rotation)
            return
        # The ack of a reply travels under the rotation of the reply's SURB, whatever key it was made for.
        self.net.counts["bad acks" if len(packet) == PacketSize.ACK.packet_size else "bad packets"] += 1

    def _passed_on(self, hop: Any, rotation: int) -> None:
        if isinstance(hop, FinalHop):
            self.deliver(hop, rotation)
            return
        if not self.forwards:
            self.net.counts["not my role"] += 1
            return
        loop = self.net.loop
        delay = min(hop.delay_ns / 1e9, _MAX_DELAY)
        loop.at(loop.time + delay, self._onwards, self.life, hop.next_address, hop.packet, rotation)

    def _onwards(self, life: int, address: NodeAddress, packet: bytes, rotation: int) -> None:
        if life == self.life:
            self.net.forward(address, packet, rotation)
        else:
            self.net.counts["lost in a restart"] += 1

    def deliver(self, hop: FinalHop, rotation: int) -> None:
        self.net.counts["not my role"] += 1


class ChaosGateway(ChaosNode):
    """A gateway: websockets of clients, and the last hop; see ``localnet.gateway``."""

    forwards = False

    def __init__(self, net: ChaosNetwork, mine: plan.SphinxNode) -> None:
        super().__init__(net, mine)
        self.clients = ClientTable()
        self.links: dict[GatewayServerSession, _ClientLink] = {}
        self.local_clients: dict[bytes, Callable[[bytes], None]] = {}
        self.settings = ServerSettings()
        self.where = (mine.address, mine.ports["ws"])
        #: What clients' websockets are told, by way of a test: refuse packets for want of bandwidth.
        net.wire.listen(*self.where, self._accept)

    def _accept(self, end: ServerEnd) -> _ClientLink:
        return _ClientLink(self, end)

    def stop(self) -> None:
        """Every connection is reset, and new ones are refused."""
        super().stop()
        self.net.wire.down.add(self.where)
        for link in list(self.links.values()):
            link.end.close(104)

    def start(self) -> None:
        super().start()
        self.net.wire.down.discard(self.where)

    def forget_clients(self) -> None:
        """Lose the database."""
        self.clients = ClientTable()

    def empty_balances(self) -> None:
        """Have every client used up what it claimed."""
        for record in self.clients.records.values():
            record.balance = 0

    def cut(self) -> None:
        """Reset every websocket."""
        for link in list(self.links.values()):
            link.end.close(104)

    def go_silent(self) -> None:
        """Let every connection that there is now lead nowhere, without a word."""
        for link in list(self.links.values()):
            link.end.silent = True

    def stall(self, seconds: float) -> None:
        """Read nothing from clients for a while."""
        for link in list(self.links.values()):
            link.end.pause(seconds)

    def deliver(self, hop: FinalHop, rotation: int) -> None:
        net = self.net
        try:
            final = split_payload_untrusted(hop.message, rotation)
        except WireError:
            net.counts["bad packets"] += 1
            return
        local = self.local_clients.get(hop.destination)
        if local is not None:
            local(final.message)
        else:
            session = self.clients.deliver(hop.destination, final.message, net.loop.time)
            if session is not None and session in self.links:
                self.links[session].flush()
        if final.ack is not None:
            net.forward(final.ack.first_hop, final.ack.packet, final.ack.key_rotation)

    def event(self, link: _ClientLink, event: object) -> None:
        match event:
            case ForwardPacket(packet):
                self.net.counts["from clients"] += 1
                self.net.forward(packet.first_hop, packet.packet, packet.key_rotation)
            case PingWanted(payload):
                link.say(Ping(payload=payload))
            case ProbeFinished(newcomer):
                if newcomer in self.links:
                    self.links[newcomer].flush()
            case SessionClosed():
                link.write_output()
                link.end.close()
            case _:
                self.net.counts[type(event).__name__] += 1
                for other in list(self.links.values()):
                    if other.session.state is ServerState.CLOSED:
                        other.flush()


class _ClientLink:
    """One websocket at a gateway."""

    def __init__(self, gateway: ChaosGateway, end: ServerEnd) -> None:
        self.gateway = gateway
        self.end = end
        self.websocket = WSConnection(ConnectionType.SERVER)
        self.session = GatewayServerSession(
            gateway.plan.keys.identity_seed,
            gateway.clients,
            urandom=gateway.net.urandom,
            settings=gateway.settings,
        )
        self._open = False
        self._text: list[str] = []
        self._binary: list[bytes] = []
        self._timer: list[Any] | None = None

    def data_received(self, data: bytes) -> None:
        self.websocket.receive_data(data)
        for event in self.websocket.events():
            self._websocket_event(event)
        self.flush()

    def connection_lost(self) -> None:
        self._disarm()
        self.gateway.links.pop(self.session, None)
        if self._open:
            self.session.connection_lost(self.gateway.net.loop.time)
            self._take_events()

    def _websocket_event(self, event: object) -> None:
        net = self.gateway.net
        now = net.loop.time
        match event:
            case Request():
                self.say(AcceptConnection())
                self._open = True
                self.gateway.links[self.session] = self
                self.session.start(now, net.clock.true_time())
            case Message():
                (self._text if isinstance(event, TextMessage) else self._binary).append(event.data)
                if event.message_finished:
                    self.session.update_clock(now, net.clock.true_time())
                    whole: str | bytes
                    if isinstance(event, TextMessage):
                        whole = "".join(self._text)
                        self._text.clear()
                    else:
                        whole = b"".join(self._binary)
                        self._binary.clear()
                    self.session.receive_data(whole, now)
                    self._take_events()
            case Ping(payload):
                self.session.receive_ping(bytes(payload), now)
                self.say(event.response())
            case Pong(payload):
                self.session.receive_pong(bytes(payload), now)
            case CloseConnection():
                self.end.close()
            case _:
                pass

    def say(self, event: Any) -> None:
        with contextlib.suppress(LocalProtocolError):
            self.end.write(self.websocket.send(event))

    def _take_events(self) -> None:
        while (event := self.session.next_event()) is not None:
            self.gateway.event(self, event)

    def write_output(self) -> None:
        for message in self.session.data_to_send(self.gateway.net.loop.time):
            self.say(TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message))

    def flush(self) -> None:
        if not self._open or self.end.over:
            return
        self.write_output()
        self._take_events()
        deadline = self.session.next_deadline()
        self._disarm()
        if deadline is not None and not self.end.over:
            self._timer = self.gateway.net.loop.at(deadline, self._deadline)

    def _disarm(self) -> None:
        if self._timer is not None:
            self.gateway.net.loop.cancel(self._timer)
            self._timer = None

    def _deadline(self) -> None:
        self._timer = None
        now = self.gateway.net.loop.time
        self.session.update_clock(now, self.gateway.net.clock.true_time())
        self.session.handle_deadline(now)
        self.flush()


class ChaosExit(ChaosGateway):
    """A gateway with an IP packet router and an internet behind it; see ``localnet.exit``.

    Attributes:
        mute: swallows what clients say to the router, and says nothing.
        ip_loss: share of IP packets lost behind the exit, in each direction.
    """

    core: MixnetCore
    router: IpPacketRouter
    internet: Internet

    def __init__(self, net: ChaosNetwork, mine: plan.SphinxNode) -> None:
        super().__init__(net, mine)
        self.mute = False
        self.ip_loss = 0.0
        self._timer: list[Any] | None = None
        self._woken = False
        self._fresh()

    def _fresh(self) -> None:
        """Begin with empty tables: clients, SURBs and connections are forgotten."""
        net, keys = self.net, self.plan.keys
        self.core = MixnetCore(
            ClientKeys(keys.ipr_identity_seed, keys.ipr_encryption, keys.ipr_ack_key),
            self.plan.identity,
            config=TrafficSettings(surb_threshold_buffer=50, epoch_duration=net.epoch_seconds),
            urandom=net.urandom,
        )
        self.router = IpPacketRouter(
            urandom=net.urandom, config=RouterConfig(versions=frozenset(net.config.ipr_versions))
        )
        self.internet = Internet(self)
        self.local_clients = {self.core.address.identity: self._receive}
        self.learn()

    def learn(self) -> None:
        self.core.set_topology(self.net.directory.topology, self.net.loop.time)

    def start(self) -> None:
        super().start()
        self._fresh()

    def lose_surbs(self) -> None:
        """Forget every SURB, and nothing else."""
        for sender in self.core.replies._senders.values():
            sender.fresh.clear()
            sender.stale.clear()

    def ask_for_surbs(self, requests: int, count: int) -> None:
        """Ask every client for far more SURBs than anybody needs."""
        replies = self.core.replies
        for sender in replies._senders.values():
            for _ in range(min(requests, sender.available)):
                replies._demands.append(SurbDemand(sender.tag, count, sender.take()))
        self.wake()

    def _receive(self, payload: bytes) -> None:
        if not self.mute:
            self.core.receive_data(payload, self.net.loop.time)
            self.wake()

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self.net.loop.run_callback(self._run)

    def _run(self) -> None:
        self._woken = False
        if not self.up or self.mute:
            return
        now = self.net.loop.time
        stack = self.internet.stack
        for machine in (self.core, self.router, stack):
            deadline = machine.next_deadline()
            if deadline is not None and deadline <= now:
                machine.handle_deadline(now)
        while (event := self.core.next_event()) is not None:
            if isinstance(event, MessageReceived):
                self.router.receive_data(event.message, event.sender_tag, now)
        self._from_router(now)
        self.internet.run(now)
        for packet in stack.data_to_send(now):
            if not self._lost_behind():
                self.router.packet_from_network(packet, now)
        self._from_router(now)
        for _ in range(_BURST):
            mix_packet = self.core.next_packet(now)
            if mix_packet is None:
                break
            self.net.forward(mix_packet.first_hop, mix_packet.packet, mix_packet.key_rotation)
        else:
            self.wake()
        self._arm(now)

    def _lost_behind(self) -> bool:
        return bool(self.ip_loss) and self.net.random.random() < self.ip_loss

    def _from_router(self, now: float) -> None:
        while (event := self.router.next_event()) is not None:
            if isinstance(event, SendReply):
                limit = event.max_retransmissions
                if not self.core.send_reply(event.sender_tag, event.message, now, max_retransmissions=limit):
                    self.net.counts["replies refused"] += 1
            elif isinstance(event, PacketAccepted):
                if not self._lost_behind():
                    self.internet.stack.receive_data(event.packet, now)
            else:
                self.net.counts[type(event).__name__] += 1

    def _arm(self, now: float) -> None:
        loop = self.net.loop
        if self._timer is not None:
            loop.cancel(self._timer)
            self._timer = None
        deadlines = [one.next_deadline() for one in (self.core, self.router, self.internet.stack)]
        due = [deadline for deadline in deadlines if deadline is not None]
        if due:
            self._timer = loop.at(max(min(due), now + 0.001), self._on_timer, self.life)

    def _on_timer(self, life: int) -> None:
        self._timer = None
        if life == self.life:
            self._run()


class _Service:
    """One connection at a service of the internet."""

    def __init__(self, conn: Conn, port: int) -> None:
        self.conn = conn
        self.port = port
        self.out = bytearray()
        self.asked = bytearray()
        self.received = 0
        self.digest = 0
        self.said_all = False

    def run(self) -> None:
        conn = self.conn
        while conn.readable():
            data = conn.recv(65536)
            if self.port == ECHO:
                self.out += data
            elif self.port == SINK:
                self.asked += data
            elif self.port == SOURCE and not self.said_all:
                self.asked += data
                if len(self.asked) >= 16:
                    seed, length = (int.from_bytes(self.asked[i : i + 8], "big") for i in (0, 8))
                    self.out += pattern(seed, length)
                    self.said_all = True
        if conn.eof() and not self.said_all:
            self.said_all = True
            if self.port == SINK:  # what came is sent back as a whole, for the client to compare
                import hashlib

                self.out += hashlib.sha256(self.asked).digest()
        if self.out and not conn.error:
            sent = conn.send(bytes(self.out[:262144]))
            del self.out[:sent]
        if self.said_all and not self.out and not conn.error:
            conn.close()


class Internet:
    """What is behind an exit: a stack that answers for every address, and services on it."""

    def __init__(self, owner: ChaosExit) -> None:
        self.owner = owner
        config = StackConfig(
            tcp=TcpSettings(nodelay=True, sndbuf=4 << 20, user_timeout=900.0),  # as servers do
            rx_mtu=1420,
            tx_mtu=1420,
            echo_rate=1000.0,
            icmp_rate=1000.0,
            max_incoming=1024,
        )
        self.stack = Stack("10.0.0.1", "fc00::1", config=config, urandom=owner.net.urandom, any_address=True)
        self.services: dict[Conn, _Service] = {}
        self.accepted = 0

    def run(self, now: float) -> None:
        for thing, mask in self.stack.events():
            if isinstance(thing, Incoming):
                host, port = thing.local
                if (host == PEER and port in (ECHO, SINK, SOURCE)) or port == 53:
                    conn = thing.accept()
                    self.services[conn] = _Service(conn, port)
                    self.accepted += 1
                else:
                    thing.refuse()
            elif isinstance(thing, Datagram):
                self._datagram(thing)
            elif isinstance(thing, Conn) and thing in self.services:
                self.services[thing].run()
                if mask & CLOSED or thing.error:
                    self.services.pop(thing, None)

    def _datagram(self, datagram: Datagram) -> None:
        answer: bytes | None = None
        if datagram.dst[1] == 53:
            with contextlib.suppress(Exception):
                message = self.owner.net.zone.answer(dns.message.from_wire(datagram.payload))
                answer = message.to_wire() if message is not None else None
        elif datagram.dst[1] == ECHO:
            answer = datagram.payload
        if answer is not None:
            self.stack.send_udp(datagram.dst, datagram.src, answer)


class ChaosApi:
    """nym-api: localnet's own answers over a virtual connection.

    Attributes:
        mode: "up", "down" (503), "garbage" (half a body that says it is whole), "mute" (no answer).
        requests: how often each target was asked for.
    """

    def __init__(self, net: ChaosNetwork) -> None:
        self.net = net
        self.mode = "up"
        self.program = NymApi({"name": "nym-api"}, lambda kept: None)
        self.program._directory = net.directory
        self.program._began = net.clock.true_time()
        self.program._log = deque(maxlen=16)
        self.requests: Counter[str] = Counter()

    def accept(self, end: ServerEnd) -> _ApiConnection:
        return _ApiConnection(self, end)


class _ApiConnection:
    def __init__(self, api: ChaosApi, end: ServerEnd) -> None:
        self._api = api
        self._end = end
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request = event
            elif isinstance(event, h11.EndOfMessage):
                self._answer()
                return
            elif event is h11.NEED_DATA or not isinstance(event, h11.Data):
                return

    def connection_lost(self) -> None:
        pass

    def _answer(self) -> None:
        api, request = self._api, self._request
        assert request is not None
        target = request.target.decode()
        api.requests[f"{request.method.decode()} {target}"] += 1
        if api.mode == "mute":
            return
        api.program.switches["down"] = api.mode == "down"
        asked = httpd.Request("GET", target, [], cast(Any, None), ("127.0.0.1", 1), False)
        coroutine = api.program._answer(asked)
        try:
            coroutine.send(None)
        except StopIteration as done:
            response = done.value
        body = cast(bytes, response.body)
        if api.mode == "garbage":
            body = body[: len(body) // 2] + api.net.urandom(16)
        date = email.utils.formatdate(api.net.clock.true_time(), usegmt=True)
        headers = [
            *response.headers,
            ("Content-Length", str(len(body))),
            ("Date", date),
            ("Connection", "close"),
        ]
        out = self._http.send(h11.Response(status_code=response.status, headers=headers))
        out += self._http.send(h11.Data(data=body)) + self._http.send(h11.EndOfMessage())
        self._end.write(out)
        self._end.close()
