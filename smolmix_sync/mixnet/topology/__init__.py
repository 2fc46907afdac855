"""What a client knows of the network, and whom it chooses there (spec/topology.md)."""

from __future__ import annotations

from smolmix_sync.mixnet.topology.node import EntryDetails, Node, SupportedRoles
from smolmix_sync.mixnet.topology.topology import RewardedSet, Topology

__all__ = ["EntryDetails", "Node", "RewardedSet", "SupportedRoles", "Topology"]
