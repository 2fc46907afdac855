"""The recorded answers of nym-api and network.json files, against our parsers and writers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support import vectors

from smolmix_sync.address import Recipient, base58_decode, base58_encode
from smolmix_sync.errors import TopologyError, WireError
from smolmix_sync.mixnet.strict_json import JsonObject, compact
from smolmix_sync.mixnet.topology import bincode, epochs
from smolmix_sync.mixnet.topology.described import DescribedPage
from smolmix_sync.mixnet.topology.epochs import Health, KeyRotationInfo
from smolmix_sync.mixnet.topology.network_json import (
    decode_network_untrusted,
    decode_wasm_network_untrusted,
    encode_network,
    encode_wasm_network,
    node_from_json_untrusted,
    node_to_json,
)
from smolmix_sync.mixnet.topology.performance import Performance
from smolmix_sync.mixnet.topology.selection import entry_urls, latency_probe_url
from smolmix_sync.mixnet.topology.skimmed import Metadata, SkimmedNode, SkimmedPage


def _check_epoch(text: str, binary: bytes | None) -> str:
    value = epochs.decode_epoch_untrusted(text)
    if binary is not None:
        assert bincode.encode_epoch(value) == binary
        assert bincode.decode_epoch_untrusted(binary) == value
    return epochs.encode_epoch(value)


def _check_rewarded_set(text: str, binary: bytes | None) -> str:
    value = epochs.decode_rewarded_set_untrusted(text)
    if binary is not None:
        assert bincode.encode_rewarded_set(value) == binary
        assert bincode.decode_rewarded_set_untrusted(binary) == value
    return epochs.encode_rewarded_set(value)


def _check_skimmed(text: str, binary: bytes | None) -> str:
    value = SkimmedPage.decode_untrusted(text)
    if binary is not None:
        assert bincode.encode_skimmed(value) == binary
        assert bincode.decode_skimmed_untrusted(binary) == value
    return value.encode()


def _check_health(text: str, binary: bytes | None) -> str:
    value = Health.decode_untrusted(text)
    if binary is not None:
        assert bincode.encode_health(value) == binary
        assert bincode.decode_health_untrusted(binary) == value
    return value.encode()


def _check_rotation(text: str, binary: bytes | None) -> str:
    assert binary is None
    return KeyRotationInfo.decode_untrusted(text).encode()


def _check_described(text: str, binary: bytes | None) -> str:
    page = DescribedPage.decode_untrusted(text)
    for node in page.nodes:
        assert (node.ipr is None) == (node.ip_packet_router is None)
    return page.encode()


BODIES = {
    "epoch/current": _check_epoch,
    "rewarded-set": _check_rewarded_set,
    "nym-nodes/skimmed": _check_skimmed,
    "api-status/health": _check_health,
    "key-rotation-info": _check_rotation,
    "nym-nodes/described": _check_described,
}


def _check_answer(case: dict[str, Any]) -> None:
    [check] = [check for part, check in BODIES.items() if part in case["path"]]
    result = case["result"]
    text = json.dumps(case["json"])
    if not result["ok"]:
        with pytest.raises(WireError):
            check(text, None)
        return
    binary = result["bincode_le_hex"]
    raw = bytes.fromhex(binary) if isinstance(binary, str) else None
    assert check(text, raw) == result["canonical"]


def test_nym_api_vectors() -> None:
    vectors.run("topology_api.json", {"vectors": _check_answer})


def _rewrite(value: dict[str, Any]) -> str:
    """Parse and write again whatever kind of object this is: the file has three."""
    if "absolute_epoch_id" in value:
        return compact(Metadata.decode_untrusted(JsonObject(value)).to_json())
    if "entry_gateways" in value:
        return epochs.encode_rewarded_set(epochs.decode_rewarded_set_untrusted(json.dumps(value)))
    return compact(SkimmedNode.decode_untrusted(value).to_json())


def _check_accept(case: dict[str, Any]) -> None:
    if case["ok"]:
        assert _rewrite(case["json"]) == case["canonical"]
    else:
        with pytest.raises(WireError):
            _rewrite(case["json"])


def _check_performance(case: dict[str, Any]) -> None:
    assert Performance.parse_untrusted(case["performance"]).percent == case["rounded"]


def _bracketed(url: str | None) -> str | None:
    """Put the brackets around IPv6 literals that the Rust client leaves out."""
    if url is None or url.count(":") <= 2:
        return url
    scheme, rest = url.split("://")
    host, _, port = rest.rpartition(":")
    return f"{scheme}://[{host}]:{port}"


def _check_routing(case: dict[str, Any]) -> None:
    node = SkimmedNode.decode_untrusted(case["skimmed"]).to_node()
    if "routing_node" not in case:
        assert node is None
        return
    assert node is not None
    assert node_to_json(node) == case["routing_node"]
    back = node_from_json_untrusted(case["routing_node"])
    assert (back.address, back.identity, back.sphinx_key) == (node.address, node.identity, node.sphinx_key)
    assert (back.entry, back.supported_roles) == (node.entry, node.supported_roles)
    for key, options in (
        ("with_fallback", {}),
        ("with_fallback_no_hostname", {"no_hostname": True}),
        ("with_fallback_prefer_v6", {"prefer_ipv6": True}),
        ("with_fallback_prefer_v6_no_hostname", {"no_hostname": True, "prefer_ipv6": True}),
    ):
        expected = [_bracketed(url) for url in case[key] if url is not None]
        assert entry_urls(node, **options) == expected, key
    for key, options in (("ws_no_tls", {}), ("ws_no_tls_prefer_v6", {"prefer_ipv6": True})):
        assert next(iter(entry_urls(node, **options)), None) == _bracketed(case[key])
    assert next(iter(entry_urls(node, force_tls=True)), None) == case["ws_tls"]
    assert latency_probe_url(node) == _bracketed(case["ws_entry_address"])


def test_node_vectors() -> None:
    checks = {"accept": _check_accept, "performance": _check_performance, "routing": _check_routing}
    vectors.run("topology_nodes.json", checks)


def _check_network(case: dict[str, Any]) -> None:
    result, text = case["result"], json.dumps(case["json"])
    if not result["ok"]:
        with pytest.raises(WireError):
            decode_network_untrusted(text)
        return
    topology = decode_network_untrusted(text)
    assert topology.is_empty is result["is_empty"]
    assert topology.is_routable() is result["minimally_routable"]
    assert topology.key_rotation_id == result["key_rotation_id"]
    for number in (1, 2, 3):
        assert sorted(node.node_id for node in topology.layer(number)) == sorted(result[f"layer{number}"])
    assert sorted(node.node_id for node in topology.entry_gateways()) == sorted(result["entry"])
    assert sorted(node.node_id for node in topology.exit_gateways()) == sorted(result["exit"])
    assert sorted(node.node_id for node in topology.entry_capable()) == sorted(result["entry_capable"])
    for egress in result["egress"]:
        for key, ignore in (("ignore_roles", True), ("strict", False)):
            identity = base58_decode(egress["identity"])
            if egress[key] == "ok":
                found = topology.egress(identity, ignore_epoch_roles=ignore)
                assert found.node_id == egress["node_id"]
            else:
                with pytest.raises(TopologyError, match=re.escape(egress[key])):
                    topology.egress(identity, ignore_epoch_roles=ignore)
    assert decode_network_untrusted(encode_network(topology)) == topology
    assert decode_wasm_network_untrusted(encode_wasm_network(topology)) == topology


def test_network_json_vectors() -> None:
    vectors.run("topology_network.json", {"vectors": _check_network})


def _check_recipient(case: dict[str, Any]) -> None:
    identity, encryption, gateway = vectors.unhex(case, "identity_hex", "encryption_hex", "gateway_hex")
    recipient = Recipient(identity, encryption, gateway)
    assert recipient.encode().hex() == case["hex"]
    assert str(recipient) == case["text"]
    assert (
        Recipient.parse(case["text"]) == Recipient.decode_untrusted(bytes.fromhex(case["hex"])) == recipient
    )
    assert base58_decode(base58_encode(gateway)) == gateway


def _check_recipient_octets(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["hex"])
    if case["ok"]:
        assert Recipient.decode_untrusted(data).encode() == data
    else:
        with pytest.raises(WireError):
            Recipient.decode_untrusted(data)


def _check_recipient_text(case: dict[str, Any]) -> None:
    if case["ok"]:
        assert str(Recipient.parse(case["text"])) == case["text"]
    else:
        with pytest.raises(WireError):
            Recipient.parse(case["text"])


def test_recipient_vectors() -> None:
    checks = {
        "vectors": _check_recipient,
        "parse_bytes": _check_recipient_octets,
        "parse_text": _check_recipient_text,
    }
    vectors.run("topology_recipient.json", checks)
