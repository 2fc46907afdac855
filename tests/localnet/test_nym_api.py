"""The directory answers every request of a client, in every encoding, with CORS."""

from __future__ import annotations

import dataclasses
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import pytest

from smolmix_sync.localnet.ca import CertificateAuthority
from smolmix_sync.localnet.config import LocalNetConfig
from smolmix_sync.localnet.plan import Directory, PortBook, make_directory, make_nodes
from smolmix_sync.mixnet.topology.bincode import decode_skimmed_untrusted
from smolmix_sync.mixnet.topology.described import DescribedPage
from smolmix_sync.mixnet.topology.epochs import Health, KeyRotationInfo, decode_rewarded_set_untrusted
from smolmix_sync.mixnet.topology.network_json import decode_network_untrusted, encode_network
from smolmix_sync.mixnet.topology.skimmed import SkimmedPage
from smolmix_sync.mixnet.topology.timestamps import Timestamp

pytestmark = pytest.mark.interop

LOOPBACK = "127.0.0.1"


class Api:
    def __init__(self, bench: Any, **switches: Any) -> None:
        config = LocalNetConfig(wrong_key=("mix2",))
        ports = PortBook(LOOPBACK, {})
        self.nodes = make_nodes(config, ports)
        self.directory = make_directory(config, self.nodes, Timestamp(1_800_000_000))
        self.authority = CertificateAuthority()
        self.node, _ = bench.node(
            "nym_api",
            name="nym-api",
            ports={kind: ports.reserve(kind) for kind in ("http", "https")},
            directory=self.directory.to_json(),
            leaf=dataclasses.asdict(self.authority.issue([LOOPBACK])),
            switches=switches,
        )
        bench.on_end(ports.close)

    def get(self, path: str, method: str = "GET", data: bytes | None = None, tls: bool = False) -> Any:
        scheme = "https" if tls else "http"
        url = f"{scheme}://{LOOPBACK}:{self.node.config['ports'][scheme]}/api/{path}"
        request = urllib.request.Request(url, data, method=method)
        context = ssl.create_default_context(cadata=self.authority.pem)
        return urllib.request.urlopen(request, timeout=5, context=context if tls else None)


def test_client_gets_a_consistent_topology(bench: Any) -> None:
    api = Api(bench)
    rotation = KeyRotationInfo.decode_untrusted(api.get("v1/epoch/key-rotation-info").read())
    assert rotation.current_rotation_id == 1
    rewarded = decode_rewarded_set_untrusted(api.get("v1/nym-nodes/rewarded-set").read())
    assert rewarded == api.directory.topology.rewarded_set
    mixes = SkimmedPage.decode_untrusted(
        api.get("v2/unstable/nym-nodes/skimmed/mixnodes/active?page=0").read()
    )
    gateways = SkimmedPage.decode_untrusted(
        api.get("v2/unstable/nym-nodes/skimmed/entry-gateways?page=0").read()
    )
    assert mixes.metadata.agrees_with(gateways.metadata)
    assert mixes.metadata.absolute_epoch_id == rewarded.epoch_id == rotation.current_absolute_epoch_id
    assert [node.role for node in mixes.nodes] == [1, 2, 3]
    assert [node.role for node in gateways.nodes] == ["EntryGateway", "ExitGateway"]
    assert mixes.pagination.total == len(mixes.nodes) == 3
    for page in (mixes, gateways):
        for skimmed in page.nodes:
            assert skimmed.to_node() is not None


def test_bincode_says_the_same_as_json(bench: Any) -> None:
    api = Api(bench)
    path = "v2/unstable/nym-nodes/skimmed?page=0"
    binary = api.get(path + "&output=bincode")
    assert binary.headers["Content-Type"] == "application/bincode"
    assert decode_skimmed_untrusted(binary.read()) == SkimmedPage.decode_untrusted(api.get(path).read())


def test_described_nodes_name_the_router_and_the_version(bench: Any) -> None:
    page = DescribedPage.decode_untrusted(Api(bench).get("v2/nym-nodes/described?page=0").read())
    routers = [node for node in page.nodes if node.ipr is not None]
    assert [node.build.build_version for node in routers] == ["1.37.0"]
    assert routers[0].ipr is not None
    assert routers[0].ipr.gateway == routers[0].identity


def test_announced_key_is_the_nodes_own_unless_a_wrong_one_is_asked_for(bench: Any) -> None:
    from smolmix_sync.crypto import x25519_base

    api = Api(bench)
    page = SkimmedPage.decode_untrusted(api.get("v2/unstable/nym-nodes/skimmed").read())
    announced = {node.node_id: node.sphinx_key for node in page.nodes}
    wrong = {n.name for n in api.nodes if announced[n.node_id] != x25519_base(n.keys.sphinx_private)}
    assert wrong == {"mix2"}


def test_browser_may_ask_from_any_page(bench: Any) -> None:
    api = Api(bench)
    for method in ("OPTIONS", "GET"):
        answer = api.get("v1/api-status/health", method)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Allow-Headers"] == "*"


def test_requests_are_remembered_for_who_watches(bench: Any) -> None:
    api = Api(bench)
    api.get("v1/api-status/health?x=1")
    asked = api.node.request("command", command="requests", arguments={})
    target = "/api/v1/api-status/health?x=1"
    assert asked == [{"method": "GET", "target": target, "accept": None, "origin": None}]


def test_https_says_the_same(bench: Any) -> None:
    assert Health.decode_untrusted(Api(bench).get("v1/api-status/health", tls=True).read()).status == "up"


def test_unknown_paths_and_a_directory_that_is_down_are_errors(bench: Any) -> None:
    api = Api(bench)
    with pytest.raises(urllib.error.HTTPError) as caught:
        api.get("v1/no-such-thing")
    assert caught.value.code == 404
    caught.value.close()
    api.node.request("set", switches={"down": True})
    with pytest.raises(urllib.error.HTTPError) as caught:
        api.get("v1/nym-nodes/rewarded-set")
    assert caught.value.code == 503
    caught.value.close()


def test_real_nodes_find_what_they_ask_for(bench: Any) -> None:
    api = Api(bench)
    assert json.load(api.get("v1/nym-nodes/refresh-described", "POST", b"{}")) is None
    body = json.dumps({"addresses": [LOOPBACK, "192.0.2.1"]}).encode()
    answer = json.load(api.get("v1/unstable/nym-nodes/by-addresses", "POST", body))
    assert set(answer["existence"]) == {LOOPBACK, "192.0.2.1"}
    assert answer["existence"]["192.0.2.1"] is None


def test_directory_survives_its_own_json() -> None:
    ports = PortBook(LOOPBACK, {})
    config = LocalNetConfig(exits=2, mixes_per_layer=2, hostname="gateway.example")
    directory = make_directory(config, make_nodes(config, ports), Timestamp(1_800_000_000))
    ports.close()
    again = Directory.from_json(json.loads(json.dumps(directory.to_json())))
    assert again == directory
    assert decode_network_untrusted(encode_network(again.topology)).is_routable()
    assert len(again.topology.layer(2)) == 2


def test_older_clients_find_the_older_lists(bench: Any) -> None:
    api = Api(bench)
    old = json.load(api.get("v1/unstable/nym-nodes/skimmed/entry-gateways/all"))
    assert set(old) == {"status", "refreshed_at", "nodes"}
    assert len(old["nodes"]["data"]) == 2


def test_list_of_all_nodes_can_be_narrowed(bench: Any) -> None:
    api = Api(bench)
    path = "v2/unstable/nym-nodes/skimmed"
    mixes = SkimmedPage.decode_untrusted(api.get(f"{path}?role=active-mixnode").read())
    assert len(mixes.nodes) == 3
    epoch = json.load(api.get("v1/epoch/current"))["current_epoch_id"]
    same = SkimmedPage.decode_untrusted(api.get(f"{path}?epoch_id={epoch}").read())
    assert (same.metadata.status, same.nodes) == ("no-updates", ())


def test_rewarded_set_is_served_as_bincode(bench: Any) -> None:
    from smolmix_sync.mixnet.topology.bincode import decode_rewarded_set_untrusted as decode

    api = Api(bench)
    answer = api.get("v1/nym-nodes/rewarded-set?output=bincode")
    assert answer.headers["Content-Type"] == "application/bincode"
    assert decode(answer.read()) == api.directory.topology.rewarded_set
