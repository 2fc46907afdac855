"""Self-described nodes, version 2: where the addresses of IP packet routers and node versions come from.

Source: spec/topology.md section 4 (Described).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.strict_json import (
    JsonObject,
    check_text,
    compact,
    load_object_untrusted,
    nested,
    optional,
)
from smolmix_sync.mixnet.topology.fields import (
    MAX_IPS,
    MAX_NODES,
    identity_untrusted,
    ip_untrusted,
    key_untrusted,
)
from smolmix_sync.mixnet.topology.skimmed import MAX_BODY_SIZE, DeclaredRoles, Pagination
from smolmix_sync.mixnet.topology.timestamps import EPOCH, Timestamp

__all__ = ["BuildInformation", "DescribedNode", "DescribedPage", "SphinxKey"]

_NODE_TYPES: Final = ("nym_node", "legacy_mixnode", "legacy_gateway")


@dataclass(frozen=True, slots=True)
class SphinxKey:
    """A Sphinx key and the rotation it is for."""

    rotation_id: int
    public_key: bytes

    @classmethod
    def decode_untrusted(cls, fields: JsonObject) -> SphinxKey:
        """Read the object.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        return cls(fields.u32("rotation_id"), key_untrusted(fields.text("public_key")))

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {"rotation_id": self.rotation_id, "public_key": base58_encode(self.public_key)}


@dataclass(frozen=True, slots=True)
class BuildInformation:
    """Which program a node runs."""

    binary_name: str = "nym-node"
    build_timestamp: str = "2026-05-15T06:00:00.000000000Z"
    build_version: str = "0.0.0"
    commit_sha: str = ""
    commit_timestamp: str = "2026-05-15T06:00:00.000000000Z"
    commit_branch: str = ""
    rustc_version: str = ""
    rustc_channel: str = "stable"
    cargo_profile: str = "release"
    cargo_triple: str = ""

    @classmethod
    def decode_untrusted(cls, fields: JsonObject) -> BuildInformation:
        """Read the object.

        Raises:
            WireError: a field is missing or no string.
        """
        values = {name: fields.text(name) for name in cls.__dataclass_fields__ if name != "cargo_triple"}
        # the triple came later than the others, and may be absent
        triple = fields.text("cargo_triple") if "cargo_triple" in fields.fields else ""
        return cls(**values, cargo_triple=triple)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class DescribedNode:
    """What a node says about itself.

    *authenticator*, *wireguard* and *lewes_protocol* are kept as JSON: nothing here reads them.
    *ip_packet_router* is the text as the node gave it; :attr:`ipr` is None when it is no address.
    """

    node_id: int
    identity: bytes
    x25519: bytes
    sphinx_key: SphinxKey
    ip_addresses: tuple[str, ...]
    build: BuildInformation
    ws_port: int
    contract_node_type: str = "nym_node"
    last_polled: Timestamp = EPOCH
    hostname: str | None = None
    next_sphinx_key: SphinxKey | None = None
    noise_key: tuple[int, bytes] | None = None
    declared: DeclaredRoles = field(default=DeclaredRoles())
    location: str | None = None
    verloc_port: int | None = None
    mix_port: int | None = None
    accepted_terms: bool = False
    network_requester: tuple[str, bool] | None = None
    ip_packet_router: str | None = None
    wss_port: int | None = None
    authenticator: Any = None
    wireguard: Any = None
    lewes_protocol: Any = None

    @property
    def ipr(self) -> Recipient | None:
        """The address of the node's IP packet router, if it has a valid one."""
        if self.ip_packet_router is None:
            return None
        try:
            return Recipient.parse(self.ip_packet_router)
        except WireError:
            return None

    @classmethod
    def decode_untrusted(cls, value: object) -> DescribedNode:
        """Read one record.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        fields = JsonObject(value)
        node_type = fields.text("contract_node_type")
        if node_type not in _NODE_TYPES:
            raise WireError("unknown type of node")
        description = fields.object("description")
        host = description.object("host_information")
        keys = host.object("keys")
        auxiliary = _default(description, "auxiliary_details", {})
        ports = _default(auxiliary, "announce_ports", {})
        websockets = description.object("mixnet_websockets")
        requester = optional(description, "network_requester", description.object)
        router = optional(description, "ip_packet_router", description.object)
        polled = description.text("last_polled") if "last_polled" in description.fields else ""
        return cls(
            node_id=fields.u32("node_id"),
            identity=identity_untrusted(keys.text("ed25519")),
            x25519=key_untrusted(keys.text("x25519")),
            sphinx_key=SphinxKey.decode_untrusted(keys.object("current_x25519_sphinx_key")),
            ip_addresses=tuple(
                ip_untrusted(check_text(ip, "ip_address")) for ip in host.array("ip_address", MAX_IPS)
            ),
            build=BuildInformation.decode_untrusted(description.object("build_information")),
            ws_port=websockets.u16("ws_port"),
            contract_node_type=node_type,
            last_polled=Timestamp.parse_lenient(polled),
            hostname=optional(host, "hostname", host.text),
            next_sphinx_key=optional(
                keys,
                "pre_announced_x25519_sphinx_key",
                lambda name: SphinxKey.decode_untrusted(keys.object(name)),
            ),
            noise_key=optional(keys, "x25519_versioned_noise", lambda name: _noise_key(keys.object(name))),
            declared=(
                DeclaredRoles.decode_untrusted(description.object("declared_role"))
                if "declared_role" in description.fields
                else DeclaredRoles()
            ),
            location=optional(auxiliary, "location", auxiliary.text),
            verloc_port=optional(ports, "verloc_port", ports.u16),
            mix_port=optional(ports, "mix_port", ports.u16),
            accepted_terms=auxiliary.boolean("accepted_operator_terms_and_conditions", False),
            network_requester=(
                None
                if requester is None
                else (requester.text("address"), requester.boolean("uses_exit_policy"))
            ),
            ip_packet_router=None if router is None else router.text("address"),
            wss_port=optional(websockets, "wss_port", websockets.u16),
            authenticator=description.fields.get("authenticator"),
            wireguard=description.fields.get("wireguard"),
            lewes_protocol=description.fields.get("lewes_protocol"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, fields in nym-api's order."""
        noise, requester, router = self.noise_key, self.network_requester, self.ip_packet_router
        following = self.next_sphinx_key
        return {
            "node_id": self.node_id,
            "contract_node_type": self.contract_node_type,
            "description": {
                "last_polled": self.last_polled.own(),
                "host_information": {
                    "ip_address": list(self.ip_addresses),
                    "hostname": self.hostname,
                    "keys": {
                        "ed25519": base58_encode(self.identity),
                        "x25519": base58_encode(self.x25519),
                        "current_x25519_sphinx_key": self.sphinx_key.to_json(),
                        "pre_announced_x25519_sphinx_key": None if following is None else following.to_json(),
                        "x25519_versioned_noise": (
                            None
                            if noise is None
                            else {"supported_version": noise[0], "x25519_pubkey": base58_encode(noise[1])}
                        ),
                    },
                },
                "declared_role": self.declared.to_json(),
                "auxiliary_details": {
                    "location": self.location,
                    "announce_ports": {"verloc_port": self.verloc_port, "mix_port": self.mix_port},
                    "accepted_operator_terms_and_conditions": self.accepted_terms,
                },
                "build_information": self.build.to_json(),
                "network_requester": (
                    None if requester is None else {"address": requester[0], "uses_exit_policy": requester[1]}
                ),
                "ip_packet_router": None if router is None else {"address": router},
                "authenticator": self.authenticator,
                "wireguard": self.wireguard,
                "mixnet_websockets": {"ws_port": self.ws_port, "wss_port": self.wss_port},
                "lewes_protocol": self.lewes_protocol,
            },
        }


def _default(fields: JsonObject, name: str, default: dict[str, Any]) -> JsonObject:
    return nested(fields.fields.get(name, default), name)


def _noise_key(fields: JsonObject) -> tuple[int, bytes]:
    return fields.u8("supported_version"), key_untrusted(fields.text("x25519_pubkey"))


@dataclass(frozen=True, slots=True)
class DescribedPage:
    """One answer of ``v2/nym-nodes/described``; *records* counts those left out as well."""

    pagination: Pagination
    nodes: tuple[DescribedNode, ...] = field(default=(), repr=False)
    records: int = 0

    @classmethod
    def whole(cls, nodes: Iterable[DescribedNode]) -> DescribedPage:
        """Return everything as page 0, as nym-api does."""
        items = tuple(nodes)
        return cls(Pagination(len(items), 0, len(items)), items, len(items))

    @classmethod
    def decode_untrusted(cls, body: str | bytes, *, skip_malformed: bool = False) -> DescribedPage:
        """Read a JSON body; with *skip_malformed* records that cannot be read are left out.

        Nodes write these records themselves, newer ones with fields and kinds we do not know yet.

        Raises:
            WireError: not JSON, or some field is missing or of the wrong type.
        """
        fields = load_object_untrusted(body, MAX_BODY_SIZE)
        nodes: list[DescribedNode] = []
        records = fields.array("data", MAX_NODES)
        for record in records:
            try:
                nodes.append(DescribedNode.decode_untrusted(record))
            except WireError:
                if not skip_malformed:
                    raise
        pagination = Pagination.decode_untrusted(fields.object("pagination"))
        return cls(pagination, tuple(nodes), len(records))

    def encode(self) -> str:
        """Return the JSON body as nym-api writes it."""
        nodes = [node.to_json() for node in self.nodes]
        return compact({"pagination": self.pagination.to_json(), "data": nodes})
