"""The requests a client makes to nym-api, and what comes of their answers, without the HTTP.

Source: spec/topology.md sections 2, 3 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.topology import bincode
from smolmix_sync.mixnet.topology.build import NodeList, build_topology
from smolmix_sync.mixnet.topology.described import DescribedNode, DescribedPage
from smolmix_sync.mixnet.topology.epochs import KeyRotationInfo, decode_rewarded_set_untrusted
from smolmix_sync.mixnet.topology.fields import MAX_NODES
from smolmix_sync.mixnet.topology.selection import MINIMUM_PERFORMANCE
from smolmix_sync.mixnet.topology.skimmed import Metadata, SkimmedNode, SkimmedPage
from smolmix_sync.mixnet.topology.topology import RewardedSet, Topology

__all__ = [
    "ALL_NODES",
    "BINCODE_TYPE",
    "DESCRIBED",
    "ENTRY_GATEWAYS",
    "EXIT_GATEWAYS",
    "KEY_ROTATION_INFO",
    "MIXNODES_ACTIVE",
    "REWARDED_SET",
    "Directory",
    "DirectoryFetch",
]

KEY_ROTATION_INFO: Final = "v1/epoch/key-rotation-info"
REWARDED_SET: Final = "v1/nym-nodes/rewarded-set"
MIXNODES_ACTIVE: Final = "v2/unstable/nym-nodes/skimmed/mixnodes/active"
ENTRY_GATEWAYS: Final = "v2/unstable/nym-nodes/skimmed/entry-gateways"
EXIT_GATEWAYS: Final = "v2/unstable/nym-nodes/skimmed/exit-gateways"
ALL_NODES: Final = "v2/unstable/nym-nodes/skimmed"
DESCRIBED: Final = "v2/nym-nodes/described"

BINCODE_TYPE: Final = "application/bincode"

# Ours: nym-api answers everything in one page.
_MAX_PAGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Directory:
    """What one round of requests told: the topology, and when its keys change."""

    topology: Topology
    key_rotation: KeyRotationInfo


class _Pages:
    """The pages of one list received so far."""

    def __init__(self) -> None:
        self.page = 0
        self.metadata: Metadata | None = None
        self.nodes: list[SkimmedNode] = []
        self.described: list[DescribedNode] = []
        self.received = 0

    def add_untrusted(self, items: int, total: int) -> bool:
        """Count a page; tell whether another must be fetched."""
        self.received += items
        if self.received >= total:
            return False
        if not items:
            raise WireError("an empty page of a list that is not complete")
        if self.received > MAX_NODES or self.page + 1 >= _MAX_PAGES:
            raise WireError("a list has too many pages")
        self.page += 1
        return True


class DirectoryFetch:
    """One round of requests.

    Ask ``pending()`` for paths to GET below the API's base URL, in any order and at once if you like, and give
    each body to ``receive_untrusted``; repeat until ``pending()`` is empty, then take ``result()``. After a
    WireError from either, one new round is worth trying: an epoch may have changed in between.

    Source: spec/topology.md sections 3, 6 and 11.
    """

    def __init__(
        self,
        *,
        discover_exits: bool = True,
        extended: bool = False,
        minimum_performance: int = MINIMUM_PERFORMANCE,
    ) -> None:
        """Plan the requests.

        Args:
            discover_exits: fetch the self-descriptions too, for router addresses and versions.
            extended: fetch all nodes, not just active mix nodes and entry gateways.
            minimum_performance: nodes below this percentage are left out.
        """
        self._minimum = minimum_performance
        self._lists = (ALL_NODES,) if extended else (MIXNODES_ACTIVE, ENTRY_GATEWAYS)
        self._pages = {base: _Pages() for base in self._lists}
        self._key_rotation: KeyRotationInfo | None = None
        self._rewarded_set: RewardedSet | None = None
        self._pending = [KEY_ROTATION_INFO, REWARDED_SET, *(f"{base}?page=0" for base in self._lists)]
        if discover_exits:
            self._pages[DESCRIBED] = _Pages()
            self._pending.append(f"{DESCRIBED}?page=0")

    def pending(self) -> list[str]:
        """Return the paths, with their queries, whose answers are missing."""
        return list(self._pending)

    def receive_untrusted(self, path: str, body: bytes, content_type: str | None = None) -> None:
        """Take the body of a 200 answer to one of the pending paths.

        Raises:
            WireError: the body cannot be read, or its pages do not fit together.
            ValueError: *path* is not pending.
        """
        self._pending.remove(path)
        base = path.partition("?")[0]
        if base == KEY_ROTATION_INFO:
            self._key_rotation = KeyRotationInfo.decode_untrusted(body)
            return
        binary = (content_type or "").partition(";")[0].strip().lower() == BINCODE_TYPE
        if base == REWARDED_SET:
            self._rewarded_set = (
                bincode.decode_rewarded_set_untrusted(body) if binary else decode_rewarded_set_untrusted(body)
            )
            return
        pages = self._pages[base]
        more = self._described(pages, body) if base == DESCRIBED else self._skimmed(pages, body, binary)
        if more:
            self._pending.append(f"{base}?page={pages.page}")

    def _skimmed(self, pages: _Pages, body: bytes, binary: bool) -> bool:
        page = bincode.decode_skimmed_untrusted(body) if binary else SkimmedPage.decode_untrusted(body)
        if pages.metadata is None:
            pages.metadata = page.metadata
        elif not pages.metadata.agrees_with(page.metadata):
            raise WireError("Inconsistent paged metadata")
        pages.nodes.extend(page.nodes)
        return pages.add_untrusted(len(page.nodes), page.pagination.total)

    def _described(self, pages: _Pages, body: bytes) -> bool:
        page = DescribedPage.decode_untrusted(body, skip_malformed=True)
        pages.described.extend(page.nodes)
        return pages.add_untrusted(page.records, page.pagination.total)

    def result(self) -> Directory:
        """Return what the answers tell together, every request being answered.

        Raises:
            WireError: the answers are of different epochs.
            TopologyError: no routes can be chosen in this topology.
        """
        assert not self._pending
        assert self._key_rotation is not None
        assert self._rewarded_set is not None
        lists: list[NodeList] = []
        for base in self._lists:
            pages = self._pages[base]
            assert pages.metadata is not None
            lists.append(NodeList(pages.metadata, pages.nodes))
        described = self._pages[DESCRIBED].described if DESCRIBED in self._pages else ()
        topology = build_topology(
            self._rewarded_set, lists, described=described, minimum_performance=self._minimum
        )
        topology.check_routable()
        return Directory(topology, self._key_rotation)
