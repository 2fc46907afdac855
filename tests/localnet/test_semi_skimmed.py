"""The list that nodes read: what was encoded decodes, and nonsense is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.address import base58_encode
from smolmix_sync.crypto import ed25519_public_from_seed
from smolmix_sync.errors import WireError
from smolmix_sync.localnet.semi_skimmed import SemiSkimmedPage, encode_semi_skimmed
from smolmix_sync.mixnet.sphinx import NodeAddress
from smolmix_sync.mixnet.topology.skimmed import Metadata, SkimmedNode, SkimmedPage


def node(node_id: int, *ips: str) -> SkimmedNode:
    return SkimmedNode(node_id, ed25519_public_from_seed(bytes([node_id]) * 32), ips, 1789, b"s" * 32, 1)


PAGE = SkimmedPage.whole(
    Metadata(100, 4), [node(1, "192.0.2.1", "2001:db8::1"), node(2, "192.0.2.2"), node(3)]
)


def test_keys_are_found_at_every_address_of_the_node_and_at_its_mix_port() -> None:
    page = SemiSkimmedPage.decode_untrusted(encode_semi_skimmed(PAGE, {1: b"n" * 32}).encode())
    assert page.noise_keys == {
        NodeAddress("192.0.2.1", 1789): b"n" * 32,
        NodeAddress("2001:db8::1", 1789): b"n" * 32,
    }
    assert page.ips == {"192.0.2.1", "2001:db8::1", "192.0.2.2"}
    assert (page.count, page.pagination.total) == (3, 3)


def test_a_key_of_a_later_version_counts() -> None:
    fields = json.loads(encode_semi_skimmed(PAGE, {2: b"n" * 32}))
    fields["nodes"]["data"][1]["x25519_noise_versioned_key"]["supported_version"] = 7
    page = SemiSkimmedPage.decode_untrusted(json.dumps(fields).encode())
    assert set(page.noise_keys) == {NodeAddress("192.0.2.2", 1789)}


@pytest.mark.parametrize(
    "key",
    [7, [], {}, {"supported_version": 1}, {"supported_version": 1, "x25519_pubkey": base58_encode(b"short")}],
)
def test_a_key_that_is_none_is_refused(key: Any) -> None:
    fields = json.loads(encode_semi_skimmed(PAGE, {}))
    fields["nodes"]["data"][0]["x25519_noise_versioned_key"] = key
    with pytest.raises(WireError):
        SemiSkimmedPage.decode_untrusted(json.dumps(fields).encode())


@pytest.mark.parametrize("record", [None, 3, {}, {"basic": None}, {"basic": {}}])
def test_a_record_that_is_none_is_refused(record: Any) -> None:
    fields = json.loads(encode_semi_skimmed(PAGE, {}))
    fields["nodes"]["data"][0] = record
    with pytest.raises(WireError):
        SemiSkimmedPage.decode_untrusted(json.dumps(fields).encode())


@given(st.binary(max_size=200))
def test_nonsense_raises_wire_errors_only(body: bytes) -> None:
    with pytest.raises(WireError):
        SemiSkimmedPage.decode_untrusted(body)
