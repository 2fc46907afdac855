"""The skimmed node lists of nym-api: one record per node, in pages.

Source: spec/topology.md section 4; nym-api-requests ``nym_nodes``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from smolmix_sync.address import base58_encode
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import NodeAddress
from smolmix_sync.mixnet.strict_json import (
    JsonObject,
    check_text,
    compact,
    load_object_untrusted,
    nested,
    optional,
)
from smolmix_sync.mixnet.topology.epochs import Interval
from smolmix_sync.mixnet.topology.fields import (
    MAX_IPS,
    MAX_NODES,
    identity_untrusted,
    ip_untrusted,
    key_untrusted,
)
from smolmix_sync.mixnet.topology.node import EntryDetails, Node, SupportedRoles
from smolmix_sync.mixnet.topology.performance import Performance
from smolmix_sync.mixnet.topology.timestamps import EPOCH, Timestamp

__all__ = [
    "MAX_BODY_SIZE",
    "DeclaredRoles",
    "Metadata",
    "Pagination",
    "SkimmedEntry",
    "SkimmedNode",
    "SkimmedPage",
    "Status",
]

#: Ours: the whole network is about half a megabyte.
MAX_BODY_SIZE: Final = 32 << 20

#: None, ``"no-updates"``, or the interval of a fresh answer.
Status = Interval | Literal["no-updates"] | None

_ROLE_NAMES: Final = {
    "EntryGateway": "EntryGateway",
    "entry": "EntryGateway",
    "gateway": "EntryGateway",
    "ExitGateway": "ExitGateway",
    "exit": "ExitGateway",
    "Standby": "Standby",
    "Inactive": "Inactive",
}


@dataclass(frozen=True, slots=True)
class DeclaredRoles:
    """What a node says it does."""

    mixnode: bool = False
    entry: bool = False
    exit_nr: bool = False
    exit_ipr: bool = False

    @classmethod
    def decode_untrusted(cls, fields: JsonObject) -> DeclaredRoles:
        """Read the object; all four fields are required.

        Raises:
            WireError: one is missing or no boolean.
        """
        names = ("mixnode", "entry", "exit_nr", "exit_ipr")
        return cls(*(fields.boolean(name) for name in names))

    def to_json(self) -> dict[str, bool]:
        """Return the JSON object."""
        return {
            "mixnode": self.mixnode,
            "entry": self.entry,
            "exit_nr": self.exit_nr,
            "exit_ipr": self.exit_ipr,
        }

    def supported(self) -> SupportedRoles:
        """Return the roles as routing knows them; an exit does both network requests and IP packets."""
        return SupportedRoles(self.mixnode, self.entry, self.exit_nr and self.exit_ipr)


@dataclass(frozen=True, slots=True)
class SkimmedEntry:
    """A gateway's websocket, as nym-api lists it."""

    hostname: str | None
    ws_port: int
    wss_port: int | None

    @classmethod
    def decode_untrusted(cls, fields: JsonObject) -> SkimmedEntry:
        """Read the object.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        return cls(
            optional(fields, "hostname", fields.text),
            fields.u16("ws_port"),
            optional(fields, "wss_port", fields.u16),
        )

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {"hostname": self.hostname, "ws_port": self.ws_port, "wss_port": self.wss_port}


@dataclass(frozen=True, slots=True)
class SkimmedNode:
    """One node of a list.

    *role* is ``"EntryGateway"``, ``"ExitGateway"``, ``"Standby"``, ``"Inactive"``, or the layer of a mix node
    as an integer. Clients route by the rewarded set, not by it.
    """

    node_id: int
    identity: bytes
    ip_addresses: tuple[str, ...]
    mix_port: int
    sphinx_key: bytes
    role: str | int
    declared: DeclaredRoles = DeclaredRoles()
    entry: SkimmedEntry | None = None
    performance: Performance = field(default=Performance(0))

    @classmethod
    def decode_untrusted(cls, value: object) -> SkimmedNode:
        """Read one record.

        Raises:
            WireError: a field is missing, of the wrong type or out of range.
        """
        fields = JsonObject(value)
        roles = fields.fields.get("supported_roles")
        return cls(
            node_id=fields.u32("node_id"),
            identity=identity_untrusted(fields.text("ed25519_identity_pubkey")),
            ip_addresses=tuple(
                ip_untrusted(check_text(ip, "ip_addresses")) for ip in fields.array("ip_addresses", MAX_IPS)
            ),
            mix_port=fields.u16("mix_port"),
            sphinx_key=key_untrusted(fields.text("x25519_sphinx_pubkey")),
            role=_role_untrusted(fields.value("role", "epoch_role")),
            declared=(
                DeclaredRoles.decode_untrusted(nested(roles, "supported_roles"))
                if "supported_roles" in fields.fields
                else DeclaredRoles()
            ),
            entry=optional(fields, "entry", lambda name: SkimmedEntry.decode_untrusted(fields.object(name))),
            performance=Performance.parse_untrusted(fields.text("performance")),
        )

    def to_json(self) -> dict[str, object]:
        """Return the JSON object, fields in nym-api's order."""
        return {
            "node_id": self.node_id,
            "ed25519_identity_pubkey": base58_encode(self.identity),
            "ip_addresses": list(self.ip_addresses),
            "mix_port": self.mix_port,
            "x25519_sphinx_pubkey": base58_encode(self.sphinx_key),
            "role": {"Mixnode": {"layer": self.role}} if isinstance(self.role, int) else self.role,
            "supported_roles": self.declared.to_json(),
            "entry": None if self.entry is None else self.entry.to_json(),
            "performance": str(self.performance),
        }

    def to_node(self) -> Node | None:
        """Return the node for routing; None if it has no address and has to be skipped."""
        if not self.ip_addresses:
            return None
        entry = self.entry
        return Node(
            node_id=self.node_id,
            identity=self.identity,
            sphinx_key=self.sphinx_key,
            address=NodeAddress(self.ip_addresses[0], self.mix_port),
            supported_roles=self.declared.supported(),
            entry=(
                None
                if entry is None
                else EntryDetails(self.ip_addresses, entry.ws_port, entry.hostname, entry.wss_port)
            ),
            performance=self.performance.percent,
            exit_ipr=self.declared.exit_ipr,
        )


def _role_untrusted(value: object) -> str | int:
    if isinstance(value, str):
        name = _ROLE_NAMES.get(value)
        if name is None:
            raise WireError("unknown role")
        return name
    fields = nested(value, "role")
    if list(fields.fields) != ["Mixnode"]:
        raise WireError("unknown role")
    return fields.object("Mixnode").u8("layer")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a page says about the moment it describes."""

    absolute_epoch_id: int
    rotation_id: int
    refreshed_at: Timestamp = EPOCH
    status: Status = None

    @classmethod
    def decode_untrusted(cls, fields: JsonObject) -> Metadata:
        """Read the object.

        Raises:
            WireError: a field is missing or of the wrong type; a strange ``refreshed_at`` is no error.
        """
        status: Status = None
        if fields.has("status"):
            value = fields.value("status")
            if value == "no-updates":
                status = "no-updates"
            else:
                variant = nested(value, "status")
                if list(variant.fields) != ["fresh"]:
                    raise WireError("unknown status")
                status = Interval.decode_untrusted(variant.object("fresh"))
        return cls(
            fields.u32("absolute_epoch_id"),
            fields.u32("rotation_id"),
            Timestamp.parse_lenient(fields.text("refreshed_at")),
            status,
        )

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        status: object = self.status
        if isinstance(self.status, Interval):
            status = {"fresh": self.status.to_json()}
        return {
            "status": status,
            "absolute_epoch_id": self.absolute_epoch_id,
            "rotation_id": self.rotation_id,
            "refreshed_at": self.refreshed_at.own(),
        }

    def agrees_with(self, other: Metadata) -> bool:
        """Tell whether both describe the same moment; the refresh time may differ."""
        return (self.status, self.absolute_epoch_id, self.rotation_id) == (
            other.status,
            other.absolute_epoch_id,
            other.rotation_id,
        )


@dataclass(frozen=True, slots=True)
class Pagination:
    """Which part of a list a page is."""

    total: int
    page: int
    size: int

    @classmethod
    def decode_untrusted(cls, fields: JsonObject) -> Pagination:
        """Read the object.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        return cls(fields.u64("total"), fields.u32("page"), fields.u64("size"))

    def to_json(self) -> dict[str, int]:
        """Return the JSON object."""
        return {"total": self.total, "page": self.page, "size": self.size}


@dataclass(frozen=True, slots=True)
class SkimmedPage:
    """One answer of a skimmed endpoint."""

    metadata: Metadata
    pagination: Pagination
    nodes: tuple[SkimmedNode, ...] = field(default=(), repr=False)

    @classmethod
    def whole(cls, metadata: Metadata, nodes: Iterable[SkimmedNode]) -> SkimmedPage:
        """Return everything as page 0, as nym-api does."""
        items = tuple(nodes)
        return cls(metadata, Pagination(len(items), 0, len(items)), items)

    @classmethod
    def decode_untrusted(cls, body: str | bytes) -> SkimmedPage:
        """Read a JSON body.

        Raises:
            WireError: not JSON, or some field is missing or of the wrong type.
        """
        fields = load_object_untrusted(body, MAX_BODY_SIZE)
        listing = fields.object("nodes")
        return cls(
            Metadata.decode_untrusted(fields.object("metadata")),
            Pagination.decode_untrusted(listing.object("pagination")),
            tuple(SkimmedNode.decode_untrusted(node) for node in listing.array("data", MAX_NODES)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "metadata": self.metadata.to_json(),
            "nodes": {
                "pagination": self.pagination.to_json(),
                "data": [node.to_json() for node in self.nodes],
            },
        }

    def encode(self) -> str:
        """Return the JSON body as nym-api writes it."""
        return compact(self.to_json())
