"""A mixnet in virtual time: nodes that really unwrap, links that lose, delay and repeat, clients that are cores.

Same seed, same run. Nothing sleeps and nothing is mocked but the wire.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from smolmix_sync.crypto import ed25519_public_from_seed, x25519_base
from smolmix_sync.mixnet.client import ClientKeys, MessageReceived, MixnetCore, MixnetEvent
from smolmix_sync.mixnet.poisson import PoissonSlots
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import FinalHop, MixPacket, NodeAddress, PacketSize, unwrap_untrusted
from smolmix_sync.mixnet.topology import Node, RewardedSet, Topology

SURB_ACK_SIZE = 405


class WorldNode:
    """A mix node or gateway with one Sphinx key per key rotation parity."""

    def __init__(self, node_id: int, urandom: Callable[[int], bytes]) -> None:
        self.node_id = node_id
        self.identity = ed25519_public_from_seed(urandom(32))
        self.address = NodeAddress(f"127.0.{node_id}.1", 1789)
        self.keys: dict[int, bytes] = {}
        self.urandom = urandom

    def key(self, rotation: int) -> bytes:
        return self.keys.setdefault(rotation, self.urandom(32))


class World:
    """Six mix nodes, two gateways, and any number of clients."""

    def __init__(
        self,
        seed: int = 1,
        *,
        loss: float = 0.0,
        duplicates: float = 0.0,
        link: float = 0.01,
        jitter: float = 0.0,
        rotation_id: int = 4,
    ) -> None:
        self.random = random.Random(seed)
        self.urandom = self.random.randbytes
        self.loss = loss
        self.duplicates = duplicates
        self.link = link
        self.jitter = jitter
        self.now = 1000.0
        self.nodes = [WorldNode(node_id, self.urandom) for node_id in range(1, 9)]
        self.by_address = {node.address: node for node in self.nodes}
        self.clients: dict[bytes, Client] = {}
        self.set_rotation(rotation_id)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self.lost = 0
        self.undeliverable = 0

    def set_rotation(self, rotation_id: int) -> None:
        """Let the network rotate its keys; nodes keep the key of the other parity."""
        self.rotation_id = rotation_id
        parity = 1 if rotation_id & 1 else 2
        nodes = {
            node.node_id: Node(node.node_id, node.identity, x25519_base(node.key(parity)), node.address)
            for node in self.nodes
        }
        roles = RewardedSet(0, (7,), (8,), (1, 2), (3, 4), (5, 6))
        self.topology = Topology(nodes, roles, key_rotation_id=rotation_id)
        for client in self.clients.values():
            client.core.set_topology(self.topology, self.now)

    def expire(self, rotation: int) -> None:
        """Let the nodes delete their keys of one parity."""
        for node in self.nodes:
            node.keys[rotation] = self.urandom(32)

    def client(self, gateway: int = 7, *, rate: float = 200.0, **settings: object) -> Client:
        core = MixnetCore(
            ClientKeys.generate(self.urandom),
            self.nodes[gateway - 1].identity,
            config=TrafficSettings(**settings),  # type: ignore[arg-type]
            urandom=self.urandom,
        )
        core.set_topology(self.topology, self.now)
        client = Client(self, core, rate)
        self.clients[core.address.identity] = client
        return client

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, action))

    def forward(self, address: NodeAddress, packet: bytes, rotation: int) -> None:
        if self.random.random() < self.loss:
            self.lost += 1
            return
        delay = self.link + self.random.random() * self.jitter
        self.at(self.now + delay, lambda: self._arrive(address, packet, rotation))

    def _arrive(self, address: NodeAddress, packet: bytes, rotation: int) -> None:
        node = self.by_address[address]
        try:
            result = unwrap_untrusted(packet, node.key(rotation))
        except ValueError:
            self.undeliverable += 1
            return
        if not isinstance(result, FinalHop):
            wait = result.delay_ns / 1e9
            next_address, next_packet = result.next_address, result.packet
            self.at(self.now + wait, lambda: self.forward(next_address, next_packet, rotation))
            return
        message = result.message
        if PacketSize.of_packet_untrusted(packet) is not PacketSize.ACK:
            ack, message = message[:SURB_ACK_SIZE], message[SURB_ACK_SIZE:]
            self.forward(NodeAddress.decode_untrusted(ack), ack[19:], rotation)
        copies = 2 if self.random.random() < self.duplicates else 1
        for _ in range(copies):
            delay = self.link + self.random.random() * self.jitter
            self.at(self.now + delay, lambda: self.clients[result.destination].receive(message))

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> bool:
        """Let the time pass; return whether *until* came true."""
        end = self.now + seconds
        while self.now < end:
            if until is not None and until():
                return True
            deadlines = [client.next_deadline() for client in self.clients.values()]
            if self._heap:
                deadlines.append(self._heap[0][0])
            due = min((deadline for deadline in deadlines if deadline is not None), default=end)
            self.now = max(self.now, min(due, end))
            while self._heap and self._heap[0][0] <= self.now:
                heapq.heappop(self._heap)[2]()
            for client in self.clients.values():
                client.handle_deadline()
        return until is not None and until()


class Client:
    """A core, with Poisson slots that only carry real traffic (cover would slow the tests down)."""

    def __init__(self, world: World, core: MixnetCore, rate: float) -> None:
        self.world = world
        self.core = core
        self.slots = PoissonSlots(1 / rate, world.urandom)
        self.slots.start(world.now)
        self.events: list[MixnetEvent] = []
        self.on_event: Callable[[MixnetEvent], None] | None = None
        self.online = True
        self.sent: list[MixPacket] = []

    @property
    def messages(self) -> list[MessageReceived]:
        return [event for event in self.events if isinstance(event, MessageReceived)]

    def receive(self, payload: bytes) -> None:
        self.core.receive_data(payload, self.world.now)
        while (event := self.core.next_event()) is not None:
            self.events.append(event)
            if self.on_event is not None:
                self.on_event(event)

    def next_deadline(self) -> float | None:
        deadlines = [self.core.next_deadline()]
        if self.core.queued(self.world.now):
            deadlines.append(self.slots.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self) -> None:
        now = self.world.now
        self.core.handle_deadline(now)
        deadline = self.core.next_deadline()
        assert deadline is None or deadline > now, "a deadline in the past"
        while self.slots.take(now):
            packet = self.core.next_packet(now)
            if packet is not None:
                self.sent.append(packet)
                if self.online:
                    self.world.forward(packet.first_hop, packet.packet, packet.key_rotation)
