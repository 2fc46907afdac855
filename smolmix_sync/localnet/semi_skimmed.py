"""The list of nym-api that nodes read: the skimmed records, each with the node's Noise key.

Source: spec/sphinx.md section 18.1; nym-api-requests ``SemiSkimmedNodeV1``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from smolmix_sync.address import base58_encode
from smolmix_sync.mixnet.noise import NOISE_VERSION
from smolmix_sync.mixnet.sphinx import NodeAddress
from smolmix_sync.mixnet.strict_json import JsonObject, load_object_untrusted, optional
from smolmix_sync.mixnet.topology.fields import MAX_NODES, key_untrusted
from smolmix_sync.mixnet.topology.skimmed import MAX_BODY_SIZE, Pagination, SkimmedNode, SkimmedPage

__all__ = ["SemiSkimmedPage", "encode_semi_skimmed"]


def encode_semi_skimmed(page: SkimmedPage, noise_keys: Mapping[int, bytes]) -> str:
    """Return the JSON body for the nodes of *page*; a node without a key in *noise_keys* announces none."""

    def key(node_id: int) -> dict[str, object] | None:
        public = noise_keys.get(node_id)
        if public is None:
            return None
        return {"supported_version": NOISE_VERSION, "x25519_pubkey": base58_encode(public)}

    fields = page.to_json()
    fields["nodes"]["data"] = [
        {"basic": node.to_json(), "x25519_noise_versioned_key": key(node.node_id)} for node in page.nodes
    ]
    return json.dumps(fields, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class SemiSkimmedPage:
    """What a node needs of one page: who there is, and who speaks Noise."""

    pagination: Pagination
    count: int  #: records on this page
    ips: frozenset[str]
    noise_keys: Mapping[NodeAddress, bytes]  #: by mix listener, at every address of the node

    @classmethod
    def decode_untrusted(cls, body: bytes) -> SemiSkimmedPage:
        """Read a JSON body.

        A key of a later version counts as well: the node that announces it is asked in version 1.

        Raises:
            WireError: not JSON, or some field is missing or of the wrong type.
        """
        listing = load_object_untrusted(body, MAX_BODY_SIZE).object("nodes")
        ips: set[str] = set()
        noise_keys: dict[NodeAddress, bytes] = {}
        records = listing.array("data", MAX_NODES)
        for record in records:
            fields = JsonObject(record)
            node = SkimmedNode.decode_untrusted(fields.fields.get("basic"))
            ips.update(node.ip_addresses)
            key = optional(fields, "x25519_noise_versioned_key", fields.object)
            if key is not None:
                public = key_untrusted(key.text("x25519_pubkey"))
                noise_keys.update((NodeAddress(ip, node.mix_port), public) for ip in node.ip_addresses)
        return cls(
            Pagination.decode_untrusted(listing.object("pagination")),
            len(records),
            frozenset(ips),
            noise_keys,
        )
