"""The last good directory, as a file to start from when nym-api cannot be reached.

The file is ours alone, but it lies on a disk, so it is read like anything else from outside.
Source: design.md section 8a.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from smolmix_sync.address import Recipient
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.strict_json import JsonObject, compact, load_object_untrusted, optional
from smolmix_sync.mixnet.topology.epochs import KeyRotationInfo
from smolmix_sync.mixnet.topology.fetch import Directory
from smolmix_sync.mixnet.topology.network_json import network_from_json_untrusted, network_to_json
from smolmix_sync.mixnet.topology.node import Node
from smolmix_sync.mixnet.topology.skimmed import MAX_BODY_SIZE

__all__ = ["decode_cache_untrusted", "encode_cache"]

_FORMAT: Final = 1
# Ours: a clock that was set back a little must not make the file worthless.
_FUTURE: Final = 3600.0


def _extra(node: Node) -> dict[str, Any]:
    return {
        "performance": node.performance,
        "exit_ipr": node.exit_ipr,
        "build_version": node.build_version,
        "ipr": None if node.ipr is None else str(node.ipr),
        "location": node.location,
    }


def encode_cache(directory: Directory, unix_now: float) -> str:
    """Return the file's content."""
    topology = directory.topology
    return compact(
        {
            "format": _FORMAT,
            "saved_at": int(unix_now),
            "key_rotation": directory.key_rotation.to_json(),
            "topology": network_to_json(topology),
            "extra": {str(node_id): _extra(node) for node_id, node in topology.nodes.items()},
        }
    )


def decode_cache_untrusted(text: str | bytes, unix_now: float) -> Directory:
    """Return the directory of a file that is not older than one key rotation.

    Raises:
        WireError: the content cannot be read, or is too old: its Sphinx keys are not in use any more.
    """
    fields = load_object_untrusted(text, MAX_BODY_SIZE)
    fields.integer("format", _FORMAT, _FORMAT)
    key_rotation = KeyRotationInfo.from_json_untrusted(fields.object("key_rotation"))
    age = unix_now - fields.u64("saved_at")
    if not -_FUTURE <= age <= key_rotation.rotation_duration:
        raise WireError("the cached topology is too old")
    topology = network_from_json_untrusted(fields.object("topology"))
    extra = fields.object("extra")
    nodes = {
        node_id: _with_extra(node, extra.object(str(node_id))) for node_id, node in topology.nodes.items()
    }
    topology = dataclasses.replace(topology, nodes=nodes)
    if not topology.is_routable():
        raise WireError("the cached topology has no routes")
    return Directory(topology, key_rotation)


def _with_extra(node: Node, fields: JsonObject) -> Node:
    ipr = optional(fields, "ipr", fields.text)
    return dataclasses.replace(
        node,
        performance=fields.integer("performance", 0, 100),
        exit_ipr=fields.boolean("exit_ipr"),
        build_version=optional(fields, "build_version", fields.text),
        ipr=None if ipr is None else Recipient.parse(ipr),
        location=optional(fields, "location", fields.text),
    )
