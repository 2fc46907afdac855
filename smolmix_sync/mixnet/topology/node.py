"""One node of the network, as routes and connections need it."""

from __future__ import annotations

from dataclasses import dataclass, field

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.sphinx import Hop, NodeAddress

__all__ = ["EntryDetails", "Node", "SupportedRoles"]


@dataclass(frozen=True, slots=True)
class SupportedRoles:
    """What a node offers to do; routes follow the rewarded set, not this."""

    mixnode: bool = False
    mixnet_entry: bool = False
    mixnet_exit: bool = False


@dataclass(frozen=True, slots=True)
class EntryDetails:
    """Where clients reach a gateway; the addresses are IP literals, ports of the websocket."""

    ip_addresses: tuple[str, ...]
    clients_ws_port: int
    hostname: str | None = None
    clients_wss_port: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A node that can be routed through.

    *performance* is a whole percent, 100 when its source (network.json) has none. *exit_ipr*,
    *build_version*, *ipr* and *location* come from nym-api alone; *ipr* is the address of the node's IP packet
    router, *location* a country as its operator declares it.
    Source: spec/topology.md sections 4, 6 and 10.
    """

    node_id: int
    identity: bytes
    sphinx_key: bytes
    address: NodeAddress
    supported_roles: SupportedRoles = SupportedRoles()
    entry: EntryDetails | None = None
    performance: int = 100
    exit_ipr: bool = False
    build_version: str | None = None
    ipr: Recipient | None = None
    location: str | None = None
    _hop: Hop = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hop", Hop(self.address, self.sphinx_key))

    @property
    def hop(self) -> Hop:
        """The node as one hop of a Sphinx route."""
        return self._hop
