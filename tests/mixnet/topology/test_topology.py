"""Routes, choices, epochs, fetching, refreshing and caching of the topology."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.crypto import ed25519_public_from_seed, x25519_base
from smolmix_sync.errors import NoExit, TopologyError, WireError
from smolmix_sync.mixnet.sphinx import NodeAddress
from smolmix_sync.mixnet.topology import (
    BuildInformation,
    DeclaredRoles,
    DescribedNode,
    DescribedPage,
    Directory,
    DirectoryFetch,
    EntryDetails,
    Health,
    KeyRotationInfo,
    Metadata,
    Node,
    NodeList,
    Pagination,
    Performance,
    RefreshDue,
    RewardedSet,
    SkimmedEntry,
    SkimmedNode,
    SkimmedPage,
    SphinxKey,
    SupportedRoles,
    Timestamp,
    Topology,
    TopologyChanged,
    TopologyCleared,
    TopologyRefresher,
    bincode,
    build_topology,
    choose_by_latency,
    choose_exits,
    choose_gateway,
    decode_cache_untrusted,
    decode_epoch_untrusted,
    decode_network_untrusted,
    decode_rewarded_set_untrusted,
    decode_wasm_network_untrusted,
    encode_cache,
    encode_epoch,
    encode_network,
    encode_rewarded_set,
    encode_wasm_network,
    entry_candidates,
    entry_urls,
    explicit_exit,
    latency_probe_url,
)
from smolmix_sync.mixnet.topology.chance import uniform, weighted_order
from smolmix_sync.mixnet.topology.fields import socket_address_untrusted

NOON = 1_763_726_400.0


def randomness(seed: int = 0) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def identity(number: int) -> bytes:
    return ed25519_public_from_seed(key(f"identity {number}"))


def skimmed(number: int, *, gateway: bool = False, performance: str = "1", **changes: object) -> SkimmedNode:
    node = SkimmedNode(
        node_id=number,
        identity=identity(number),
        ip_addresses=(f"192.0.2.{number}",),
        mix_port=1789,
        sphinx_key=x25519_base(key(f"sphinx {number}")),
        role="EntryGateway" if gateway else number,
        declared=DeclaredRoles(not gateway, gateway, gateway, gateway),
        entry=SkimmedEntry(f"gw{number}.example.net", 9000, 9001) if gateway else None,
        performance=Performance.parse_untrusted(performance),
    )
    return dataclasses.replace(node, **changes)  # type: ignore[arg-type]


def recipient(number: int) -> Recipient:
    return Recipient(identity(100 + number), x25519_base(key(f"ipr {number}")), identity(number))


def described(number: int, version: str = "1.37.0", **changes: object) -> DescribedNode:
    node = DescribedNode(
        node_id=number,
        identity=identity(number),
        x25519=x25519_base(key(f"sphinx {number}")),
        sphinx_key=SphinxKey(90, x25519_base(key(f"sphinx {number}"))),
        ip_addresses=(f"192.0.2.{number}",),
        build=BuildInformation(build_version=version),
        ws_port=9000,
        declared=DeclaredRoles(False, True, True, True),
        ip_packet_router=str(recipient(number)),
    )
    return dataclasses.replace(node, **changes)  # type: ignore[arg-type]


METADATA = Metadata(2177, 90, Timestamp(int(NOON), 500_000_000))
REWARDED = RewardedSet(2177, (5,), (6,), (1, 4), (2,), (3,), (7,))
MIXES = [skimmed(number) for number in (1, 2, 3, 4)]
GATEWAYS = [skimmed(number, gateway=True) for number in (5, 6, 7)]
LISTS = [NodeList(METADATA, MIXES), NodeList(METADATA, GATEWAYS)]
DESCRIBED = [described(5), described(6, "1.30.0"), described(7, "1.29.9")]
ROTATION = KeyRotationInfo(24, 17, 2177, Timestamp(int(NOON)), 3600)


def topology() -> Topology:
    return build_topology(REWARDED, LISTS, described=DESCRIBED)


def directory() -> Directory:
    return Directory(topology(), ROTATION)


# Routes.


def test_routes_go_through_each_layer_to_the_gateway() -> None:
    network, urandom = topology(), randomness()
    firsts: Counter[bytes] = Counter()
    for _ in range(400):
        route = network.route_to(identity(6), urandom)
        assert [hop.public_key for hop in route[1:]] == [
            network.nodes[number].sphinx_key for number in (2, 3, 6)
        ]
        firsts[route[0].public_key] += 1
    assert set(firsts) == {network.nodes[1].sphinx_key, network.nodes[4].sphinx_key}
    assert min(firsts.values()) > 140


def test_layer_ids_without_details_are_not_drawn() -> None:
    network = build_topology(dataclasses.replace(REWARDED, layer1=(1, 99, 98, 97)), LISTS)
    assert [node.node_id for node in network.layer(1)] == [1]
    assert network.route_to(identity(5), randomness())[0] == network.nodes[1].hop


def test_topology_that_gives_no_route_says_so() -> None:
    empty = Topology({}, RewardedSet())
    with pytest.raises(TopologyError, match="topology is empty"):
        empty.check_routable()
    lame = build_topology(dataclasses.replace(REWARDED, layer3=()), LISTS)
    with pytest.raises(TopologyError, match="mixing layers does not have"):
        lame.check_routable()
    with pytest.raises(TopologyError, match="mixing layers does not have"):
        lame.route_to(identity(5), randomness())
    with pytest.raises(TopologyError, match="no node with identity"):
        topology().route_to(identity(50), randomness())
    topology().check_routable()


def test_key_rotation_octet_follows_the_rotation_id() -> None:
    assert topology().key_rotation == 2
    assert dataclasses.replace(topology(), key_rotation_id=91).key_rotation == 1
    assert Topology({}, RewardedSet()).key_rotation == 0


def test_gateway_is_found_by_identity() -> None:
    found = topology().gateway(identity(5))
    assert found is not None
    assert found.node_id == 5
    assert topology().gateway(identity(9)) is None


# Building.


def test_bad_performers_and_nodes_without_address_are_left_out() -> None:
    lists = [
        NodeList(METADATA, [*MIXES, skimmed(8, performance="0.4999")]),
        NodeList(METADATA, [*GATEWAYS, skimmed(9, gateway=True, ip_addresses=())]),
    ]
    assert sorted(build_topology(REWARDED, lists).nodes) == [1, 2, 3, 4, 5, 6, 7]
    assert 8 in build_topology(REWARDED, lists, minimum_performance=49).nodes


def test_later_records_replace_earlier_ones_of_the_same_id() -> None:
    lists = [LISTS[0], NodeList(METADATA, [*GATEWAYS, skimmed(1, gateway=True)])]
    assert build_topology(REWARDED, lists).nodes[1].entry is not None


def test_answers_of_different_epochs_are_refused() -> None:
    for changed in ({"absolute_epoch_id": 2178}, {"rotation_id": 91}, {"status": "no-updates"}):
        other = NodeList(dataclasses.replace(METADATA, **changed), GATEWAYS)  # type: ignore[arg-type]
        with pytest.raises(WireError):
            build_topology(REWARDED, [LISTS[0], other])
    later = NodeList(dataclasses.replace(METADATA, refreshed_at=Timestamp(1)), GATEWAYS)
    build_topology(REWARDED, [LISTS[0], later])
    with pytest.raises(WireError):
        build_topology(dataclasses.replace(REWARDED, epoch_id=2176), LISTS)
    build_topology(dataclasses.replace(REWARDED, epoch_id=0), LISTS)


# Choosing.


def test_gateway_choice_is_uniform() -> None:
    urandom = randomness()
    counts = Counter(choose_gateway(topology(), urandom).node_id for _ in range(600))
    assert set(counts) == {5, 6, 7}
    assert min(counts.values()) > 140


def test_gateway_asked_for_is_chosen_or_named_in_the_error() -> None:
    assert choose_gateway(topology(), randomness(), identity=identity(6)).node_id == 6
    with pytest.raises(TopologyError, match=base58_encode(identity(50))):
        choose_gateway(topology(), randomness(), identity=identity(50))
    with pytest.raises(TopologyError, match="does not accept clients"):
        choose_gateway(topology(), randomness(), identity=identity(1))


def test_useless_gateways_are_not_chosen_again() -> None:
    chosen = choose_gateway(topology(), randomness(), exclude={identity(5), identity(7)})
    assert chosen.node_id == 6
    with pytest.raises(TopologyError, match="no gateways"):
        choose_gateway(topology(), randomness(), exclude={identity(5), identity(6), identity(7)})


def test_forced_tls_needs_a_name_and_a_port() -> None:
    plain = dataclasses.replace(GATEWAYS[0], entry=SkimmedEntry("gw5.example.net", 9000, None))
    network = build_topology(REWARDED, [LISTS[0], NodeList(METADATA, [plain])])
    with pytest.raises(TopologyError, match="wss"):
        choose_gateway(network, randomness(), force_tls=True)
    with pytest.raises(TopologyError, match="by wss"):
        choose_gateway(network, randomness(), force_tls=True, identity=identity(5))
    assert choose_gateway(topology(), randomness(), force_tls=True).entry is not None


def test_gateways_that_also_mix_are_left_out_on_request() -> None:
    both = dataclasses.replace(GATEWAYS[0], declared=DeclaredRoles(True, True, True, True))
    network = build_topology(REWARDED, [LISTS[0], NodeList(METADATA, [both])])
    assert len(entry_candidates(network)) == 1
    assert entry_candidates(network, ignore_declared_mixnode=False) == []
    assert entry_candidates(network, minimum_performance=101) == []


def test_ipv6_literals_are_bracketed_in_urls() -> None:
    node = Node(
        1,
        identity(1),
        key("x"),
        NodeAddress("::1", 1),
        entry=EntryDetails(("2001:db8::6", "192.0.2.6"), 9000),
    )
    assert entry_urls(node) == ["ws://[2001:db8::6]:9000", "ws://192.0.2.6:9000"]
    assert entry_urls(node, force_tls=True) == []
    assert latency_probe_url(node) == "ws://[2001:db8::6]:9000"
    assert latency_probe_url(dataclasses.replace(node, entry=None)) is None


def test_near_gateways_are_preferred_when_measured() -> None:
    near, far = topology().nodes[5], topology().nodes[6]
    urandom = randomness()
    counts = Counter(choose_by_latency([(near, 0.01), (far, 0.09)], urandom).node_id for _ in range(500))
    assert counts[5] > 8 * 500 // 10
    assert counts[6] > 0
    with pytest.raises(TopologyError):
        choose_by_latency([], urandom)


def test_exits_are_ordered_by_version_and_weight() -> None:
    exits = choose_exits(topology(), randomness())
    assert [(found.node.node_id, found.ipr_version) for found in exits if found.node] == [(5, 10), (6, 9)]
    assert exits[0].recipient == recipient(5)
    assert [found.recipient for found in choose_exits(topology(), randomness(), exclude={identity(5)})] == [
        recipient(6)
    ]


def test_exits_are_drawn_by_their_performance() -> None:
    gateways = [skimmed(5, gateway=True, performance="0.9"), skimmed(6, gateway=True, performance="0.6")]
    network = build_topology(
        REWARDED, [LISTS[0], NodeList(METADATA, gateways)], described=[described(5), described(6)]
    )
    urandom = randomness()
    counts = Counter(choose_exits(network, urandom)[0].recipient for _ in range(1000))
    assert 540 < counts[recipient(5)] < 660


@pytest.mark.parametrize(
    "changes",
    [
        {"ip_packet_router": None},
        {"ip_packet_router": "not an address"},
        {"ip_packet_router": str(Recipient(identity(1), key("e"), identity(60)))},
        {"build": BuildInformation(build_version="1.29.0")},
    ],
)
def test_exits_that_cannot_be_reached_are_left_out(changes: dict[str, object]) -> None:
    network = build_topology(REWARDED, LISTS, described=[described(5, **changes)])
    with pytest.raises(NoExit):
        choose_exits(network, randomness())


def test_exit_of_unknown_version_is_tried_last_and_with_version_9() -> None:
    network = build_topology(REWARDED, LISTS, described=[described(5, "dev"), described(6, "1.30.0")])
    assert [(found.recipient, found.ipr_version) for found in choose_exits(network, randomness())] == [
        (recipient(6), 9),
        (recipient(5), 9),
    ]


def test_explicit_exit_gets_the_version_of_its_gateway() -> None:
    assert explicit_exit(recipient(5), topology()).ipr_version == 10
    assert explicit_exit(recipient(7), topology()).ipr_version == 9
    with pytest.raises(NoExit):
        explicit_exit(recipient(50), topology())


def test_uniform_redraws_what_would_bias_it() -> None:
    draws = iter([b"\xff" * 8, (7).to_bytes(8, "big")])
    assert uniform(3, lambda size: next(draws)) == 1
    with pytest.raises(ValueError):
        uniform(0, randomness())


def test_weightless_items_are_never_drawn() -> None:
    assert weighted_order("abc", [0, 3, -1], randomness()) == ["b"]


# Epochs and keys.


def test_key_rotation_follows_the_clock() -> None:
    assert ROTATION.current_rotation_id == 90
    assert ROTATION.expected_epoch(NOON + 3600 * 23 + 5) == 2200
    assert ROTATION.expected_rotation(NOON + 3600 * 23 + 5) == 90
    assert ROTATION.expected_rotation(NOON + 3600 * 24) == 91
    assert ROTATION.expected_rotation_start(NOON + 3600 * 30) == NOON + 3600 * 24
    assert ROTATION.next_rotation(NOON) == NOON + 3600 * 24
    assert ROTATION.rotation_duration == 86_400.0
    assert ROTATION.rotation_of(3) == 0
    assert ROTATION.expected_epoch(0.0) == 0


def test_rotation_without_length_is_refused() -> None:
    for text in (
        ROTATION.encode().replace('"validity_epochs":24', '"validity_epochs":0'),
        ROTATION.encode().replace('"secs":3600', '"secs":0'),
    ):
        with pytest.raises(WireError):
            KeyRotationInfo.decode_untrusted(text)


@given(st.integers(1, 50), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(-(10**7), 10**8))
def test_every_moment_lies_in_the_rotation_expected_for_it(
    validity: int, initial: int, epoch: int, seconds: int
) -> None:
    info = KeyRotationInfo(validity, initial, initial + epoch, Timestamp(int(NOON)), 600)
    now = NOON + seconds
    if epoch + seconds // 600 >= 0:
        assert info.expected_rotation_start(now) <= now < info.next_rotation(now)


# Timestamps and decimals.


@given(st.integers(-62_000_000_000, 250_000_000_000), st.integers(0, 999_999_999), st.integers(-1439, 1439))
def test_timestamps_are_read_back_in_both_forms(seconds: int, nanos: int, offset: int) -> None:
    moment = Timestamp(seconds, nanos, offset * 60)
    if not 86_400 - 62_167_219_200 <= seconds < 253_402_214_400:
        return
    assert Timestamp.parse_rfc3339_untrusted(moment.rfc3339()) == moment
    assert Timestamp.parse_own_untrusted(moment.own()) == moment
    assert Timestamp.from_unix(moment.seconds).unix == seconds


@given(st.text(max_size=40))
@example("2026-02-29T00:00:00Z")
@example("2026-13-01T00:00:00Z")
@example("2026-01-01T24:00:00Z")
@example("2026-01-01T00:00:00+24:00")
@example("2026-01-01 00:00:00.0 +26")
def test_timestamp_garbage_raises_only_wire_error(text: str) -> None:
    for parse in (Timestamp.parse_rfc3339_untrusted, Timestamp.parse_own_untrusted):
        with pytest.raises(WireError):
            parse(text)
    assert Timestamp.parse_lenient(text).unix == 0


def test_leap_day_is_a_day_of_leap_years() -> None:
    assert Timestamp.parse_rfc3339_untrusted("2024-02-29T00:00:00Z").unix == 1_709_164_800


@given(st.integers(0, 10**18))
def test_performance_is_read_back_exactly(atomics: int) -> None:
    performance = Performance(atomics)
    assert Performance.parse_untrusted(str(performance)) == performance
    assert 0 <= performance.percent <= 100


def test_performance_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError):
        Performance(-1)
    assert Performance.from_percent(29).percent == 29
    for text in ("1.000000000000000001", "1e0", "+0.5", " 1", "0." + "1" * 19, "٠.٥", "1."):
        with pytest.raises(WireError):
            Performance.parse_untrusted(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3.4",
        ":80",
        "1.2.3.4:",
        "1.2.3.4:65536",
        "::1:80",
        "[1.2.3.4]:80",
        "[::1%1]:80",
        "a:1",
        "1.2.3.4:٣",
    ],
)
def test_socket_addresses_are_literals_with_a_port(text: str) -> None:
    with pytest.raises(WireError):
        socket_address_untrusted(text)


def test_socket_addresses_are_read() -> None:
    assert socket_address_untrusted("[2001:db8::1]:1789") == NodeAddress("2001:db8::1", 1789)
    assert str(socket_address_untrusted("[::ffff:1.2.3.4]:1")) == "[::ffff:1.2.3.4]:1"


# Bodies.

JSON_DECODERS = (
    SkimmedPage.decode_untrusted,
    DescribedPage.decode_untrusted,
    KeyRotationInfo.decode_untrusted,
    Health.decode_untrusted,
    decode_epoch_untrusted,
    decode_rewarded_set_untrusted,
    decode_network_untrusted,
    decode_wasm_network_untrusted,
    lambda text: decode_cache_untrusted(text, NOON),
)
BINARY_DECODERS = (
    bincode.decode_skimmed_untrusted,
    bincode.decode_rewarded_set_untrusted,
    bincode.decode_epoch_untrusted,
    bincode.decode_health_untrusted,
)


def bodies() -> list[str]:
    return [
        SkimmedPage.whole(METADATA, [*MIXES, *GATEWAYS]).encode(),
        DescribedPage.whole(DESCRIBED).encode(),
        ROTATION.encode(),
        Health(chain_status="stalled", stalled="2m").encode(),
        encode_rewarded_set(REWARDED),
        encode_network(topology()),
        encode_wasm_network(topology()),
        encode_cache(directory(), NOON),
    ]


BODIES = bodies()


def decode_all(decoders: tuple[Callable[..., object], ...], data: str | bytes) -> None:
    for decode in decoders:
        try:
            decode(data)
        except WireError:
            pass


@given(st.text(max_size=60) | st.binary(max_size=60))
@example(b"\xff")
@example("[" * 50_000)
def test_body_garbage_raises_only_wire_error(body: str | bytes) -> None:
    decode_all(JSON_DECODERS, body)


@given(st.binary(max_size=120))
@example(b"\xfd" + b"\xff" * 8)
@example(b"\xfe" + bytes(16))
def test_binary_garbage_raises_only_wire_error(body: bytes) -> None:
    decode_all(BINARY_DECODERS, body)


@settings(max_examples=150, deadline=None)
@given(st.integers(0), st.integers(0, 255))
def test_changed_octet_of_a_binary_page_raises_only_wire_error(position: int, octet: int) -> None:
    body = bytearray(bincode.encode_skimmed(SkimmedPage.whole(METADATA, GATEWAYS)))
    body[position % len(body)] = octet
    decode_all(BINARY_DECODERS, bytes(body))
    decode_all(BINARY_DECODERS, bytes(body[: position % len(body)]))


VALUES = [None, True, -1, 1.5, 1 << 70, "", "\ud800", "x" * 70, [], [1], {}, {"a": 1}, [[]], "NaN"]


def mutate(value: object, path: int, replacement: object) -> tuple[object, int]:
    """Replace the *path*-th value below *value* (depth first); the count left over tells if it was there."""
    if path == 0:
        return replacement, -1
    path -= 1
    if isinstance(value, dict):
        for name in value:
            changed, path = mutate(value[name], path, replacement)
            if path < 0:
                return {**value, name: changed}, -1
    elif isinstance(value, list):
        for index, item in enumerate(value):
            changed, path = mutate(item, path, replacement)
            if path < 0:
                return [*value[:index], changed, *value[index + 1 :]], -1
    return value, path


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(range(len(BODIES))), st.integers(0, 400), st.sampled_from(VALUES))
def test_any_value_of_a_wrong_type_raises_only_wire_error(body: int, path: int, value: object) -> None:
    changed, _ = mutate(json.loads(BODIES[body]), path, value)
    decode_all(JSON_DECODERS, json.dumps(changed))


def test_pages_are_read_back() -> None:
    page = SkimmedPage.whole(METADATA, [*MIXES, *GATEWAYS])
    assert SkimmedPage.decode_untrusted(page.encode()) == page
    assert bincode.decode_skimmed_untrusted(bincode.encode_skimmed(page)) == page
    about = DescribedPage.whole(
        [*DESCRIBED, described(8, noise_key=(1, key("n")), next_sphinx_key=SphinxKey(91, key("o")))]
    )
    assert DescribedPage.decode_untrusted(about.encode()) == about
    stalled = Health(chain_status="stalled", stalled="2m", uptime=1 << 40)
    assert Health.decode_untrusted(stalled.encode()) == stalled
    assert bincode.decode_health_untrusted(bincode.encode_health(stalled)) == stalled
    assert decode_epoch_untrusted(encode_epoch(None)) is None
    assert bincode.decode_epoch_untrusted(bincode.encode_epoch(None)) is None


def test_malformed_self_descriptions_do_not_hide_the_others() -> None:
    body = json.loads(DescribedPage.whole(DESCRIBED).encode())
    body["data"][1]["contract_node_type"] = "something new"
    text = json.dumps(body)
    with pytest.raises(WireError):
        DescribedPage.decode_untrusted(text)
    page = DescribedPage.decode_untrusted(text, skip_malformed=True)
    assert [node.node_id for node in page.nodes] == [5, 7]
    assert page.records == 3


def test_network_json_is_read_back_in_both_shapes() -> None:
    network = topology()
    for encode, decode in (
        (encode_network, decode_network_untrusted),
        (encode_wasm_network, decode_wasm_network_untrusted),
    ):
        back = decode(encode(network))
        assert back.rewarded_set == network.rewarded_set
        assert back.refreshed_at == network.refreshed_at
        assert {node.node_id: node.hop for node in back} == {node.node_id: node.hop for node in network}
        assert encode(back) == encode(network)


def test_browser_shape_refuses_unknown_fields() -> None:
    value = json.loads(encode_wasm_network(topology()))
    for spoilt in (
        {**value, "more": 1},
        {**value, "nodeDetails": {"1": {**value["nodeDetails"]["1"], "x": 1}}},
    ):
        with pytest.raises(WireError):
            decode_wasm_network_untrusted(json.dumps(spoilt))
    decode_network_untrusted(json.dumps({**json.loads(encode_network(topology())), "more": 1}))


def test_network_without_metadata_is_dated_by_the_reader() -> None:
    value = json.loads(encode_network(topology()))
    del value["metadata"]
    network = decode_network_untrusted(json.dumps(value), Timestamp(7))
    assert network.refreshed_at == Timestamp(7)
    assert network.key_rotation == 0


# Fetching.


def answers(
    *, described_nodes: list[DescribedNode] | None = None, gateways: list[SkimmedNode] | None = None
) -> dict[str, bytes]:
    about = DESCRIBED if described_nodes is None else described_nodes
    return {
        "v1/epoch/key-rotation-info": ROTATION.encode().encode(),
        "v1/nym-nodes/rewarded-set": encode_rewarded_set(REWARDED).encode(),
        "v2/unstable/nym-nodes/skimmed/mixnodes/active?page=0": SkimmedPage.whole(METADATA, MIXES)
        .encode()
        .encode(),
        "v2/unstable/nym-nodes/skimmed/entry-gateways?page=0": SkimmedPage.whole(
            METADATA, gateways or GATEWAYS
        )
        .encode()
        .encode(),
        "v2/unstable/nym-nodes/skimmed?page=0": SkimmedPage.whole(METADATA, [*MIXES, *GATEWAYS])
        .encode()
        .encode(),
        "v2/nym-nodes/described?page=0": DescribedPage.whole(about).encode().encode(),
    }


def run_fetch(fetch: DirectoryFetch, served: dict[str, bytes], content_type: str | None = None) -> Directory:
    rounds = 0
    while paths := fetch.pending():
        rounds += 1
        assert rounds < 20
        for path in paths:
            fetch.receive_untrusted(path, served[path], content_type)
    return fetch.result()


def test_directory_is_fetched_in_five_requests() -> None:
    fetch = DirectoryFetch()
    assert len(fetch.pending()) == 5
    assert run_fetch(fetch, answers()) == directory()


def test_directory_without_exits_or_of_all_nodes() -> None:
    assert run_fetch(DirectoryFetch(discover_exits=False), answers()).topology.nodes[5].ipr is None
    fetch = DirectoryFetch(extended=True)
    assert "v2/unstable/nym-nodes/skimmed?page=0" in fetch.pending()
    assert run_fetch(fetch, answers()) == directory()


def test_bodies_are_read_by_their_content_type() -> None:
    served = answers()
    served["v1/nym-nodes/rewarded-set"] = bincode.encode_rewarded_set(REWARDED)
    served["v2/unstable/nym-nodes/skimmed/mixnodes/active?page=0"] = bincode.encode_skimmed(
        SkimmedPage.whole(METADATA, MIXES)
    )
    fetch = DirectoryFetch()
    for path in fetch.pending():
        binary = "rewarded" in path or "mixnodes" in path
        fetch.receive_untrusted(path, served[path], "application/bincode; x=y" if binary else "text/html")
    assert fetch.result() == directory()


def paged(nodes: list[SkimmedNode], total: int, page: int, metadata: Metadata = METADATA) -> bytes:
    return SkimmedPage(metadata, Pagination(total, page, len(nodes)), tuple(nodes)).encode().encode()


BASE = "v2/unstable/nym-nodes/skimmed/entry-gateways"


def test_pages_are_followed_until_complete() -> None:
    served = answers()
    later = dataclasses.replace(METADATA, refreshed_at=Timestamp(9))
    served[f"{BASE}?page=0"] = paged(GATEWAYS[:1], 3, 0)
    served[f"{BASE}?page=1"] = paged(GATEWAYS[1:], 3, 1, later)
    assert run_fetch(DirectoryFetch(), served) == directory()


def test_pages_of_different_moments_and_empty_pages_are_refused() -> None:
    served = answers()
    served[f"{BASE}?page=0"] = paged(GATEWAYS[:1], 3, 0)
    served[f"{BASE}?page=1"] = paged(GATEWAYS[1:], 3, 1, dataclasses.replace(METADATA, rotation_id=91))
    with pytest.raises(WireError, match="Inconsistent paged metadata"):
        run_fetch(DirectoryFetch(), served)
    served[f"{BASE}?page=1"] = paged([], 3, 1)
    with pytest.raises(WireError, match="empty page"):
        run_fetch(DirectoryFetch(), served)


def test_endless_pages_are_refused() -> None:
    fetch, served = DirectoryFetch(), answers()
    with pytest.raises(WireError, match="too many pages"):
        for page in range(2000):
            served[f"{BASE}?page={page}"] = paged(GATEWAYS[:1], 1 << 60, page)
            for path in fetch.pending():
                fetch.receive_untrusted(path, served[path])


def test_unroutable_answers_give_no_directory() -> None:
    served = answers()
    served["v1/nym-nodes/rewarded-set"] = encode_rewarded_set(RewardedSet(2177)).encode()
    with pytest.raises(TopologyError):
        run_fetch(DirectoryFetch(), served)


def test_answer_that_was_not_asked_for_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError):
        DirectoryFetch().receive_untrusted("v1/else", b"{}")


# Refreshing.


def test_topology_is_asked_for_every_five_minutes() -> None:
    refresher = TopologyRefresher()
    refresher.start(0.0)
    assert refresher.next_event() == RefreshDue()
    assert refresher.next_deadline() is None
    refresher.succeeded(directory(), 3.0)
    assert refresher.next_event() == TopologyChanged(directory(), rotated=False)
    assert refresher.next_deadline() == 303.0
    refresher.handle_deadline(302.0)
    assert refresher.next_event() is None
    refresher.handle_deadline(303.0)
    assert refresher.next_event() == RefreshDue()
    refresher.succeeded(Directory(dataclasses.replace(topology(), key_rotation_id=91), ROTATION), 304.0)
    changed = refresher.next_event()
    assert isinstance(changed, TopologyChanged)
    assert changed.rotated


def test_topology_outlives_ten_failures_but_not_eleven() -> None:
    refresher = TopologyRefresher()
    refresher.start(0.0, directory())
    refresher.next_event()
    for index in range(11):
        now = 300.0 * (index + 1)
        refresher.handle_deadline(now)
        assert refresher.next_event() == RefreshDue()
        assert refresher.directory is not None
        refresher.failed(now)
    assert refresher.directory is None
    assert refresher.next_event() == TopologyCleared()
    assert refresher.next_deadline() == 3600.0
    refresher.succeeded(directory(), 3600.0)
    assert refresher.failures == 0
    assert refresher.directory == directory()


def test_each_failure_tries_the_next_url_first() -> None:
    refresher = TopologyRefresher()
    assert refresher.rotated_urls("abc") == ["a", "b", "c"]
    refresher.failed(0.0)
    assert refresher.rotated_urls("abc") == ["b", "c", "a"]
    assert refresher.rotated_urls("") == []


def test_first_directory_stays_when_refreshing_is_off() -> None:
    refresher = TopologyRefresher(refresh=False)
    refresher.start(0.0, directory())
    assert refresher.next_deadline() is None
    refresher.stop()
    assert refresher.directory == directory()


# Caching.


def test_cached_directory_is_good_for_one_key_rotation() -> None:
    text = encode_cache(directory(), NOON)
    for age in (-60.0, 0.0, 86_400.0):
        assert decode_cache_untrusted(text, NOON + age) == directory()
    for age in (-7200.0, 86_401.0):
        with pytest.raises(WireError, match="too old"):
            decode_cache_untrusted(text.encode(), NOON + age)


def test_country_is_what_the_operator_declares_and_is_kept_in_the_cache() -> None:
    network = build_topology(REWARDED, LISTS, described=[described(5, location="CH"), described(6)])
    places = {node.node_id: node.location for node in network}
    assert (places[5], places[6]) == ("CH", None)
    kept = dataclasses.replace(directory(), topology=network)
    assert decode_cache_untrusted(encode_cache(kept, NOON), NOON) == kept


def test_cached_directory_must_be_routable_and_of_our_format() -> None:
    lame = Directory(dataclasses.replace(topology(), rewarded_set=RewardedSet()), ROTATION)
    with pytest.raises(WireError, match="no routes"):
        decode_cache_untrusted(encode_cache(lame, NOON), NOON)
    with pytest.raises(WireError):
        decode_cache_untrusted(encode_cache(directory(), NOON).replace('"format":1', '"format":2'), NOON)


def test_nodes_know_their_hop_and_roles() -> None:
    node = topology().nodes[6]
    assert node.hop.public_key == node.sphinx_key
    assert node.supported_roles == SupportedRoles(False, True, True)
    assert len(list(topology())) == 7


def interval(**changes: object) -> dict[str, object]:
    return {
        "id": 3,
        "epochs_in_interval": 720,
        "current_epoch_start": "2026-05-15T09:00:00Z",
        "current_epoch_id": 17,
        "epoch_length": {"secs": 3600, "nanos": 0},
        "total_elapsed_epochs": 2177,
        **changes,
    }


def test_values_out_of_range_are_refused() -> None:
    good = decode_epoch_untrusted(json.dumps(interval()))
    assert good is not None
    for spoilt in (
        interval(epoch_length={"secs": 1, "nanos": 10**9}),
        interval(id=1 << 32),
        interval(current_epoch_start="2026-05-15 09:00:00.0 +00:00:00"),
    ):
        with pytest.raises(WireError):
            decode_epoch_untrusted(json.dumps(spoilt))
    binary = bytearray(bincode.encode_epoch(dataclasses.replace(good, epoch_nanos=999_999_999)))
    binary[binary.index(b"\xff\xc9\x9a\x3b") + 1] = 0xCA
    with pytest.raises(WireError, match="nanoseconds"):
        bincode.decode_epoch_untrusted(bytes(binary))
    with pytest.raises(ValueError, match="64 bits"):
        bincode.encode_health(Health(uptime=1 << 64))
    for text in (
        '{"status":"up","chain_status":"odd","uptime":1}',
        '{"status":"up","chain_status":1,"uptime":1}',
    ):
        with pytest.raises(WireError):
            Health.decode_untrusted(text)


def test_bodies_are_bounded() -> None:
    with pytest.raises(WireError, match="too long"):
        bincode.decode_skimmed_untrusted(bytes((32 << 20) + 1))
    with pytest.raises(WireError, match="longer than"):
        decode_rewarded_set_untrusted(b" " * ((4 << 20) + 1))
    ids = {**json.loads(encode_rewarded_set(REWARDED)), "layer1": [1] * 20_001}
    with pytest.raises(WireError, match="more than"):
        decode_rewarded_set_untrusted(json.dumps(ids))
    network = json.loads(encode_network(topology()))
    details = network["node_details"]
    for spoilt in (
        {str(number): details["1"] for number in range(20_001)},
        {"x": details["1"]},
        {"1": {**details["1"], "sphinx_key": [1] * 31}},
        {"1": {**details["1"], "identity_key": [2] + [0] * 31}},
    ):
        with pytest.raises(WireError):
            decode_network_untrusted(json.dumps({**network, "node_details": spoilt}))
    node = MIXES[0].to_json()
    for field, value in (
        ("x25519_sphinx_pubkey", "1" * 45),
        ("ed25519_identity_pubkey", base58_encode(b"\x02" + bytes(31))),
        ("ip_addresses", ["192.0.2.1"] * 65),
        ("ip_addresses", ["fe80::1%eth0"]),
        ("role", {"Mixnode": {"layer": 1}, "x": 1}),
    ):
        with pytest.raises(WireError):
            SkimmedNode.decode_untrusted({**node, field: value})
    page = json.loads(SkimmedPage.whole(METADATA, ()).encode())
    page["metadata"]["status"] = {"stale": {}}
    with pytest.raises(WireError):
        SkimmedPage.decode_untrusted(json.dumps(page))


def test_a_round_under_way_is_not_asked_for_again() -> None:
    refresher = TopologyRefresher()
    refresher.start(0.0)
    refresher.start(1.0)
    assert refresher.next_event() == RefreshDue()
    assert refresher.next_event() is None


def test_events_that_nobody_takes_do_not_pile_up() -> None:
    refresher = TopologyRefresher()
    refresher.start(0.0, directory())
    rotated = Directory(dataclasses.replace(topology(), key_rotation_id=91), ROTATION)
    for _ in range(3):
        refresher.succeeded(rotated, 1.0)
    assert refresher.next_event() == TopologyChanged(rotated, rotated=True)
    assert refresher.next_event() is None
