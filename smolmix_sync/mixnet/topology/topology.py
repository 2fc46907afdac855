"""The routable topology: nodes, who mixes in which layer, and the routes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from smolmix_sync.address import base58_encode
from smolmix_sync.errors import TopologyError
from smolmix_sync.mixnet.sphinx import UNKNOWN_ROTATION_ID, Hop, key_rotation_byte
from smolmix_sync.mixnet.topology.chance import choose
from smolmix_sync.mixnet.topology.node import Node
from smolmix_sync.mixnet.topology.timestamps import EPOCH, Timestamp

__all__ = ["RewardedSet", "Topology"]

_EMPTY = (
    "the provided network topology is empty - there are no valid nodes on it"
    " - the network request(s) probably failed"
)
_NO_LAYER = "one (or more) of mixing layers does not have any valid nodes available"
_NO_NODE = "no node with identity {identity} is known"
_NO_EGRESS = (
    "could not use node with identity {identity} as egress"
    " since it didn't get assigned valid role in the current epoch"
)


@dataclass(frozen=True, slots=True)
class RewardedSet:
    """Which node ids have which role in one epoch.

    Source: spec/topology.md section 4.
    """

    epoch_id: int = 0
    entry_gateways: tuple[int, ...] = ()
    exit_gateways: tuple[int, ...] = ()
    layer1: tuple[int, ...] = ()
    layer2: tuple[int, ...] = ()
    layer3: tuple[int, ...] = ()
    standby: tuple[int, ...] = ()

    @property
    def layers(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The ids of the three mixing layers."""
        return (self.layer1, self.layer2, self.layer3)

    def is_mixing(self, node_id: int) -> bool:
        """Tell whether the role of this node is a mixing layer; gateway roles take precedence."""
        if node_id in self.entry_gateways or node_id in self.exit_gateways:
            return False
        return any(node_id in layer for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Topology:
    """One consistent view of the network.

    *refreshed_at* is by the directory's own clock.
    Source: spec/topology.md section 6; common/topology/src/lib.rs.
    """

    nodes: Mapping[int, Node]
    rewarded_set: RewardedSet
    key_rotation_id: int = UNKNOWN_ROTATION_ID
    absolute_epoch_id: int = 0
    refreshed_at: Timestamp = EPOCH
    _by_identity: dict[bytes, Node] = field(init=False, repr=False, compare=False)
    _layers: tuple[list[Node], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_identity = {node.identity: node for node in self.nodes.values()}
        object.__setattr__(self, "_by_identity", by_identity)
        object.__setattr__(self, "_layers", tuple(self._known(ids) for ids in self.rewarded_set.layers))

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    @property
    def key_rotation(self) -> int:
        """The key-rotation octet of packets built on this topology: 0 unknown, 1 odd, 2 even."""
        return key_rotation_byte(self.key_rotation_id)

    @property
    def is_empty(self) -> bool:
        """Whether no node is known."""
        return not self.nodes

    def layer(self, number: int) -> list[Node]:
        """Return the known nodes of mixing layer 1, 2 or 3."""
        return self._layers[number - 1]

    def entry_gateways(self) -> list[Node]:
        """Return the known nodes that are entry gateways in this epoch."""
        return self._known(self.rewarded_set.entry_gateways)

    def exit_gateways(self) -> list[Node]:
        """Return the known nodes that are exit gateways in this epoch."""
        return self._known(self.rewarded_set.exit_gateways)

    def entry_capable(self) -> list[Node]:
        """Return the nodes that accept clients, whatever their role in this epoch."""
        return [node for node in self if node.supported_roles.mixnet_entry]

    def _known(self, ids: tuple[int, ...]) -> list[Node]:
        return [self.nodes[node_id] for node_id in sorted(set(ids)) if node_id in self.nodes]

    def gateway(self, identity: bytes) -> Node | None:
        """Return the node with this Ed25519 identity, whatever its role."""
        return self._by_identity.get(identity)

    def is_routable(self) -> bool:
        """Tell whether every layer has a known node and some gateway is assigned."""
        assigned = self.rewarded_set.entry_gateways or self.rewarded_set.exit_gateways
        return bool(assigned) and all(self._layers)

    def check_routable(self) -> None:
        """Raise unless routes can be chosen.

        Raises:
            TopologyError: no node is known, or a layer or the gateways are empty.
        """
        if self.is_empty:
            raise TopologyError(_EMPTY)
        if not self.is_routable():
            raise TopologyError(_NO_LAYER)

    def egress(self, identity: bytes, *, ignore_epoch_roles: bool = True) -> Node:
        """Return the last node of a route to a client of this gateway.

        Raises:
            TopologyError: no such node, or it mixes in this epoch and *ignore_epoch_roles* is false.
        """
        node = self._by_identity.get(identity)
        if node is None:
            raise TopologyError(_NO_NODE.format(identity=base58_encode(identity)))
        if not ignore_epoch_roles and self.rewarded_set.is_mixing(node.node_id):
            raise TopologyError(_NO_EGRESS.format(identity=base58_encode(identity)))
        return node

    def route_to(self, gateway_identity: bytes, urandom: Callable[[int], bytes]) -> list[Hop]:
        """Return four hops: a uniformly random node of each layer, then the gateway.

        Raises:
            TopologyError: a layer is empty or the gateway is unknown.
        """
        egress = self.egress(gateway_identity)
        if not all(self._layers):
            raise TopologyError(_EMPTY if self.is_empty else _NO_LAYER)
        route = [choose(layer, urandom).hop for layer in self._layers]
        route.append(egress.hop)
        return route
