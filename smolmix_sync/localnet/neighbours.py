"""What a node in a network of others learns from its nym-api: whom it may send to, and who speaks Noise.

A node of a localnet is told by the supervisor instead.

Source: nym-node/src/node/shared_network.rs; spec/sphinx.md sections 16 and 18.1.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from smolmix_sync.errors import WireError
from smolmix_sync.localnet.semi_skimmed import SemiSkimmedPage
from smolmix_sync.mixnet.sphinx import NodeAddress
from smolmix_sync.mixnet.topology.fields import MAX_NODES
from smolmix_sync.mixnet.topology.skimmed import MAX_BODY_SIZE

__all__ = ["LOOK_AGAIN", "REFRESH", "Neighbours", "fetch_neighbours"]

# From the reference's default settings.
#: Seconds between two readings of the directory.
REFRESH = 300.0
#: Seconds after which it is read again, at the earliest, because of a packet for an address that is not in it.
LOOK_AGAIN = 30.0
# Ours: a directory that hangs must not keep the node from asking again.
_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Neighbours:
    """All nodes of the network, as the directory lists them."""

    ips: frozenset[str]
    noise_keys: Mapping[NodeAddress, bytes]


def fetch_neighbours(nym_api: str) -> Neighbours:
    """Read every page of the list for nodes; blocks.

    Args:
        nym_api: base URL, with or without ``/api``; no proxy of the environment is used.

    Raises:
        OSError: there is no answer, or one with an error status.
        WireError: the answer is not such a list.
    """
    base = nym_api.rstrip("/").removesuffix("/api")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ips: frozenset[str] = frozenset()
    noise_keys: dict[NodeAddress, bytes] = {}
    count = number = 0
    while True:
        url = f"{base}/api/v2/unstable/nym-nodes/semi-skimmed?no_legacy=false&page={number}"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                page = SemiSkimmedPage.decode_untrusted(answer.read(MAX_BODY_SIZE + 1))
        except http.client.HTTPException as error:
            raise WireError(f"nym-api does not speak HTTP: {error!r}") from error
        ips |= page.ips
        noise_keys.update(page.noise_keys)
        count += page.count
        number += 1
        if page.count == 0 or count >= min(page.pagination.total, MAX_NODES):
            return Neighbours(ips, noise_keys)
