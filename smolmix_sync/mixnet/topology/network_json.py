"""``network.json``: a whole topology in a file, in the shapes of serde and of the browser client.

Source: spec/topology.md section 10; common/topology/src/lib.rs, wasm_helpers.rs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from smolmix_sync.address import base58_encode
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import UNKNOWN_ROTATION_ID
from smolmix_sync.mixnet.strict_json import (
    JsonObject,
    check_text,
    compact,
    load_object_untrusted,
    nested,
    optional,
)
from smolmix_sync.mixnet.topology.epochs import rewarded_set_from_json_untrusted, rewarded_set_to_json
from smolmix_sync.mixnet.topology.fields import (
    MAX_IPS,
    MAX_NODES,
    check_identity,
    identity_untrusted,
    ip_untrusted,
    key_untrusted,
    socket_address_untrusted,
)
from smolmix_sync.mixnet.topology.node import EntryDetails, Node, SupportedRoles
from smolmix_sync.mixnet.topology.skimmed import MAX_BODY_SIZE
from smolmix_sync.mixnet.topology.timestamps import EPOCH, Timestamp
from smolmix_sync.mixnet.topology.topology import Topology

__all__ = [
    "decode_network_untrusted",
    "decode_wasm_network_untrusted",
    "encode_network",
    "encode_wasm_network",
    "network_from_json_untrusted",
    "network_to_json",
    "node_from_json_untrusted",
    "node_to_json",
]

_KEY_SIZE: Final = 32

#: Names in the browser's shape of the fields of a node.
_WASM_NAMES: Final = {
    "node_id": "nodeId",
    "mix_host": "mixHost",
    "entry": "entry",
    "identity_key": "identityKey",
    "sphinx_key": "sphinxKey",
    "supported_roles": "supportedRoles",
}
_SERDE_NAMES: Final = {name: name for name in _WASM_NAMES}


def _only(fields: JsonObject, names: Collection[str]) -> JsonObject:
    """Refuse fields the browser client does not know."""
    if not set(fields.fields) <= set(names):
        raise WireError("unknown field")
    return fields


def _entry_untrusted(fields: JsonObject) -> EntryDetails:
    ips = fields.array("ip_addresses", MAX_IPS)
    return EntryDetails(
        tuple(ip_untrusted(check_text(ip, "ip_addresses")) for ip in ips),
        fields.u16("clients_ws_port"),
        optional(fields, "hostname", fields.text),
        optional(fields, "clients_wss_port", fields.u16),
    )


def _roles_untrusted(fields: JsonObject) -> SupportedRoles:
    return SupportedRoles(*(fields.boolean(name) for name in ("mixnode", "mixnet_entry", "mixnet_exit")))


def _serde_key(fields: JsonObject, name: str) -> bytes:
    key = fields.octets(name, limit=_KEY_SIZE)
    if len(key) != _KEY_SIZE:
        raise WireError(f"field {name!r} has {len(key)} octets, not 32")
    return key


def node_from_json_untrusted(value: object, *, wasm: bool = False) -> Node:
    """Read one node; *wasm* chooses the browser's shape.

    Raises:
        WireError: a field is missing, of the wrong type or out of range.
    """
    names = _WASM_NAMES if wasm else _SERDE_NAMES
    fields = JsonObject(value)
    if wasm:
        _only(fields, names.values())
        identity = identity_untrusted(fields.text(names["identity_key"]))
        sphinx_key = key_untrusted(fields.text(names["sphinx_key"]))
    else:
        identity = check_identity(_serde_key(fields, "identity_key"))
        sphinx_key = _serde_key(fields, "sphinx_key")
    return Node(
        node_id=fields.u32(names["node_id"]),
        identity=identity,
        sphinx_key=sphinx_key,
        address=socket_address_untrusted(fields.text(names["mix_host"])),
        supported_roles=_roles_untrusted(fields.object(names["supported_roles"])),
        entry=optional(fields, "entry", lambda name: _entry_untrusted(fields.object(name))),
    )


def node_to_json(node: Node, *, wasm: bool = False) -> dict[str, Any]:
    """Return the JSON object of one node."""
    names = _WASM_NAMES if wasm else _SERDE_NAMES
    entry, roles = node.entry, node.supported_roles

    def key(value: bytes) -> str | list[int]:
        return base58_encode(value) if wasm else list(value)

    return {
        names["node_id"]: node.node_id,
        names["mix_host"]: str(node.address),
        names["entry"]: (
            None
            if entry is None
            else {
                "ip_addresses": list(entry.ip_addresses),
                "clients_ws_port": entry.clients_ws_port,
                "hostname": entry.hostname,
                "clients_wss_port": entry.clients_wss_port,
            }
        ),
        names["identity_key"]: key(node.identity),
        names["sphinx_key"]: key(node.sphinx_key),
        names["supported_roles"]: {
            "mixnode": roles.mixnode,
            "mixnet_entry": roles.mixnet_entry,
            "mixnet_exit": roles.mixnet_exit,
        },
    }


def _nodes_untrusted(fields: JsonObject, read: Callable[[object], Node]) -> dict[int, Node]:
    if len(fields.fields) > MAX_NODES:
        raise WireError("too many nodes")
    nodes: dict[int, Node] = {}
    for name, value in fields.fields.items():
        if not name.isascii() or not name.isdigit() or len(name) > 10 or int(name) > 0xFFFF_FFFF:
            raise WireError("node_details has a key that is no node id")
        nodes[int(name)] = read(value)
    return nodes


def network_from_json_untrusted(
    fields: JsonObject, now: Timestamp = EPOCH, *, wasm: bool = False
) -> Topology:
    """Read a topology from parsed JSON; *now* dates one without metadata.

    Raises:
        WireError: some field is missing or of the wrong type.
    """
    rotation_id, epoch_id, refreshed_at = UNKNOWN_ROTATION_ID, 0, now
    if "metadata" in fields.fields:
        metadata = fields.object("metadata")
        rotation_id, epoch_id = metadata.u32("key_rotation_id"), metadata.u32("absolute_epoch_id")
        refreshed_at = Timestamp.parse_rfc3339_untrusted(metadata.text("refreshed_at"))
    set_name, details_name = ("rewardedSet", "nodeDetails") if wasm else ("rewarded_set", "node_details")
    if wasm:
        _only(fields, ("metadata", set_name, details_name))
    rewarded_set = rewarded_set_from_json_untrusted(fields.object(set_name), epoch_required=True)
    nodes = _nodes_untrusted(
        nested(fields.value(details_name), details_name),
        lambda value: node_from_json_untrusted(value, wasm=wasm),
    )
    return Topology(nodes, rewarded_set, rotation_id, epoch_id, refreshed_at)


def decode_network_untrusted(text: str | bytes, now: Timestamp = EPOCH) -> Topology:
    """Read a ``network.json``; *now* dates one without metadata.

    Raises:
        WireError: not JSON, or some field is missing or of the wrong type.
    """
    return network_from_json_untrusted(load_object_untrusted(text, MAX_BODY_SIZE), now, wasm=False)


def decode_wasm_network_untrusted(text: str | bytes, now: Timestamp = EPOCH) -> Topology:
    """Read the browser's shape: camelCase, keys in base58, unknown fields refused.

    Raises:
        WireError: not JSON, or some field is missing, unknown or of the wrong type.
    """
    return network_from_json_untrusted(load_object_untrusted(text, MAX_BODY_SIZE), now, wasm=True)


def network_to_json(topology: Topology, *, wasm: bool = False) -> dict[str, Any]:
    """Return the JSON object of *topology*."""
    set_name, details_name = ("rewardedSet", "nodeDetails") if wasm else ("rewarded_set", "node_details")
    return {
        "metadata": {
            "key_rotation_id": topology.key_rotation_id,
            "absolute_epoch_id": topology.absolute_epoch_id,
            "refreshed_at": topology.refreshed_at.rfc3339(),
        },
        set_name: rewarded_set_to_json(topology.rewarded_set),
        details_name: {
            str(node_id): node_to_json(node, wasm=wasm) for node_id, node in topology.nodes.items()
        },
    }


def encode_network(topology: Topology) -> str:
    """Return the ``network.json`` of *topology*, as real clients read it."""
    return compact(network_to_json(topology))


def encode_wasm_network(topology: Topology) -> str:
    """Return *topology* in the browser's shape."""
    return compact(network_to_json(topology, wasm=True))
