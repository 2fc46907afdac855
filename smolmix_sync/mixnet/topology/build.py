"""From nym-api's lists to one consistent, filtered topology.

Source: spec/topology.md sections 6 and 11.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smolmix_sync.crypto import x25519_is_small_order
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.topology.described import DescribedNode
from smolmix_sync.mixnet.topology.node import Node
from smolmix_sync.mixnet.topology.selection import MINIMUM_PERFORMANCE
from smolmix_sync.mixnet.topology.skimmed import Metadata, SkimmedNode
from smolmix_sync.mixnet.topology.topology import RewardedSet, Topology

__all__ = ["NodeList", "build_topology", "with_described"]


@dataclass(frozen=True, slots=True)
class NodeList:
    """All pages of one skimmed list."""

    metadata: Metadata
    nodes: Sequence[SkimmedNode]


def build_topology(
    rewarded_set: RewardedSet,
    lists: Sequence[NodeList],
    *,
    described: Iterable[DescribedNode] = (),
    minimum_performance: int = MINIMUM_PERFORMANCE,
) -> Topology:
    """Return the topology of one round of answers; *lists* in the order mix nodes, gateways.

    Whether it is routable is for the caller to check.

    Raises:
        WireError: the answers describe different moments; fetch all of them again.
    """
    metadata = lists[0].metadata
    if not all(metadata.agrees_with(other.metadata) for other in lists[1:]):
        raise WireError("the lists of nodes describe different epochs")
    # An API that does not say gives 0; newer clients refuse what we accept then.
    if rewarded_set.epoch_id not in (0, metadata.absolute_epoch_id):
        raise WireError("the rewarded set is of another epoch than the lists of nodes")
    nodes: dict[int, Node] = {}
    for node_list in lists:
        for skimmed in node_list.nodes:
            node = skimmed.to_node()
            if node is None or x25519_is_small_order(node.sphinx_key):
                continue  # no packet can be made for such a key
            if node.performance >= minimum_performance:
                nodes[node.node_id] = node
    topology = Topology(
        nodes, rewarded_set, metadata.rotation_id, metadata.absolute_epoch_id, metadata.refreshed_at
    )
    return with_described(topology, described)


def with_described(topology: Topology, described: Iterable[DescribedNode]) -> Topology:
    """Return *topology* with the versions and router addresses its nodes gave of themselves."""
    by_identity = {node.identity: node for node in described}
    if not by_identity:
        return topology
    nodes: dict[int, Node] = {}
    for node_id, node in topology.nodes.items():
        more = by_identity.get(node.identity)
        if more is not None:
            node = dataclasses.replace(
                node,
                build_version=more.build.build_version,
                ipr=more.ipr,
                location=more.location,
                exit_ipr=node.exit_ipr or more.declared.exit_ipr,
            )
        nodes[node_id] = node
    return dataclasses.replace(topology, nodes=nodes)
