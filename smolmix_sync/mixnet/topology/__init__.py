"""What a client knows of the network, and whom it chooses there (spec/topology.md)."""

from __future__ import annotations

from smolmix_sync.mixnet.topology import bincode
from smolmix_sync.mixnet.topology.build import NodeList, build_topology, with_described
from smolmix_sync.mixnet.topology.cache import decode_cache_untrusted, encode_cache
from smolmix_sync.mixnet.topology.described import BuildInformation, DescribedNode, DescribedPage, SphinxKey
from smolmix_sync.mixnet.topology.epochs import (
    Health,
    Interval,
    KeyRotationInfo,
    decode_epoch_untrusted,
    decode_rewarded_set_untrusted,
    encode_epoch,
    encode_rewarded_set,
)
from smolmix_sync.mixnet.topology.fetch import Directory, DirectoryFetch
from smolmix_sync.mixnet.topology.network_json import (
    decode_network_untrusted,
    decode_wasm_network_untrusted,
    encode_network,
    encode_wasm_network,
)
from smolmix_sync.mixnet.topology.node import EntryDetails, Node, SupportedRoles
from smolmix_sync.mixnet.topology.performance import Performance
from smolmix_sync.mixnet.topology.refresh import (
    RefreshDue,
    TopologyChanged,
    TopologyCleared,
    TopologyRefresher,
)
from smolmix_sync.mixnet.topology.selection import (
    Exit,
    choose_by_latency,
    choose_exits,
    choose_gateway,
    entry_candidates,
    entry_urls,
    explicit_exit,
    latency_probe_url,
)
from smolmix_sync.mixnet.topology.skimmed import (
    DeclaredRoles,
    Metadata,
    Pagination,
    SkimmedEntry,
    SkimmedNode,
    SkimmedPage,
)
from smolmix_sync.mixnet.topology.timestamps import Timestamp
from smolmix_sync.mixnet.topology.topology import RewardedSet, Topology

__all__ = [
    "BuildInformation",
    "DeclaredRoles",
    "DescribedNode",
    "DescribedPage",
    "Directory",
    "DirectoryFetch",
    "EntryDetails",
    "Exit",
    "Health",
    "Interval",
    "KeyRotationInfo",
    "Metadata",
    "Node",
    "NodeList",
    "Pagination",
    "Performance",
    "RefreshDue",
    "RewardedSet",
    "SkimmedEntry",
    "SkimmedNode",
    "SkimmedPage",
    "SphinxKey",
    "SupportedRoles",
    "Timestamp",
    "Topology",
    "TopologyChanged",
    "TopologyCleared",
    "TopologyRefresher",
    "bincode",
    "build_topology",
    "choose_by_latency",
    "choose_exits",
    "choose_gateway",
    "decode_cache_untrusted",
    "decode_epoch_untrusted",
    "decode_network_untrusted",
    "decode_rewarded_set_untrusted",
    "decode_wasm_network_untrusted",
    "encode_cache",
    "encode_epoch",
    "encode_network",
    "encode_rewarded_set",
    "encode_wasm_network",
    "entry_candidates",
    "entry_urls",
    "explicit_exit",
    "latency_probe_url",
    "with_described",
]
