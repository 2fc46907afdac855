"""A malicious nym-api: a page of attacks. It is trusted to say who is in the network, and for nothing else: it cannot send
us elsewhere, stop the reactor, fill the memory, or have us knock at the doors of our own network."""

from __future__ import annotations

import json
import math
import os
import random
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.api_relay import ApiRelay
from support.contacts import recorded_contacts
from support.greenlets import in_greenlet
from support.hostile_directory import Bodies, RawServer, honest_bodies, read, trickle, twisted
from support.mixnet_world import World

from smolmix_sync.address import base58_encode
from smolmix_sync.config import TunnelConfig
from smolmix_sync.crypto import ed25519_public_from_seed, x25519, x25519_base, x25519_is_small_order
from smolmix_sync.errors import GatewayError, NoExit, TopologyError, WireError
from smolmix_sync.localnet import LocalNet
from smolmix_sync.mixnet.topology.fetch import (
    DESCRIBED,
    ENTRY_GATEWAYS,
    KEY_ROTATION_INFO,
    MIXNODES_ACTIVE,
    REWARDED_SET,
    Directory,
    DirectoryFetch,
)
from smolmix_sync.mixnet.topology.refresh import TopologyRefresher
from smolmix_sync.mixnet.topology.selection import choose_exits, entry_candidates
from smolmix_sync.reactor._real import connect_tcp, is_public
from smolmix_sync.reactor.directory import DirectoryClient
from smolmix_sync.reactor.gateway import GatewayEndpoint, GatewayLink
from smolmix_sync.reactor.loop import ReactorLoop
from smolmix_sync.reactor.nymapi import BaseUrl, http_get
from smolmix_sync.tunnel import Tunnel

SMALL = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.fixture(scope="module")
def bodies(net: LocalNet) -> Bodies:
    return honest_bodies(net.nym_api)


@pytest.fixture(scope="module")
def loop() -> Iterator[ReactorLoop]:
    reactor = ReactorLoop().start()
    yield reactor
    reactor.stop()


def nodes(bodies: Bodies, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bodies[path]["nodes"]["data"]
    return found


def every_node(bodies: Bodies) -> list[dict[str, Any]]:
    return nodes(bodies, MIXNODES_ACTIVE) + nodes(bodies, ENTRY_GATEWAYS)


def field(path: str, name: str, value: Any) -> Callable[[Bodies], object]:
    """Give every node of a list a field."""

    def twist(bodies: Bodies) -> None:
        for node in nodes(bodies, path):
            node[name] = value

    return twist


def many(count: int) -> Callable[[Bodies], object]:
    def twist(bodies: Bodies) -> None:
        first = nodes(bodies, MIXNODES_ACTIVE)[0]
        listing = bodies[MIXNODES_ACTIVE]["nodes"]
        listing["data"] = [{**first, "node_id": number} for number in range(count)]
        listing["pagination"]["total"] = count

    return twist


def roles(**sets: Any) -> Callable[[Bodies], object]:
    def twist(bodies: Bodies) -> None:
        for name, value in sets.items():
            assert name in bodies[REWARDED_SET]
            bodies[REWARDED_SET][name] = value

    return twist


def set_total(path: str, total: int) -> Callable[[Bodies], object]:
    return lambda bodies: bodies[path]["nodes"]["pagination"].update(total=total)


def raw(path: str, octets: bytes) -> Callable[[Bodies], object]:
    def twist(bodies: Bodies) -> None:
        bodies[path] = octets

    return twist


def without_nodes(bodies: Bodies) -> None:
    for path in (MIXNODES_ACTIVE, ENTRY_GATEWAYS):
        bodies[path]["nodes"]["data"] = []
        bodies[path]["nodes"]["pagination"].update(total=0, size=0)


REFUSED: dict[str, Callable[[Bodies], object]] = {
    "no node mixes": roles(layer1=[], layer2=[], layer3=[]),
    "one layer is empty": roles(layer2=[]),
    "the layers are of nodes that there are not": roles(layer1=[4_000_000_000]),
    "there is no gateway": roles(entry_gateways=[], exit_gateways=[]),
    "there are no nodes at all": without_nodes,
    "there are a hundred thousand nodes": many(100_000),
    "there is one node more than is read": many(5_001),
    "a layer has a hundred thousand members": roles(layer1=list(range(100_000))),
    "the list is said to have 2**64 - 1 nodes, and every page is the same": set_total(MIXNODES_ACTIVE, 2**64 - 1),
    "the list is said to go on, and the next page is empty": lambda bodies: (
        without_nodes(bodies), set_total(MIXNODES_ACTIVE, 10)(bodies)
    ),
    "a node id is negative": field(MIXNODES_ACTIVE, "node_id", -1),
    "a node id is larger than an id can be": field(MIXNODES_ACTIVE, "node_id", 2**32),
    "a port is larger than a port can be": field(ENTRY_GATEWAYS, "mix_port", 65_536),
    "the performance is NaN": field(MIXNODES_ACTIVE, "performance", math.nan),
    "the performance is the text NaN": field(MIXNODES_ACTIVE, "performance", "NaN"),
    "the performance is infinite": field(MIXNODES_ACTIVE, "performance", "Infinity"),
    "the performance is more than one": field(MIXNODES_ACTIVE, "performance", "1.000000000000000001"),
    "the performance is negative": field(MIXNODES_ACTIVE, "performance", "-0.5"),
    "the performance has ten thousand digits": field(MIXNODES_ACTIVE, "performance", "0." + "9" * 10_000),
    "the identities are no keys": field(MIXNODES_ACTIVE, "ed25519_identity_pubkey", base58_encode(bytes([2]) + bytes(31))),
    "the keys are too short": field(MIXNODES_ACTIVE, "x25519_sphinx_pubkey", base58_encode(b"k" * 31)),
    "the keys are ten kilobytes long": field(MIXNODES_ACTIVE, "x25519_sphinx_pubkey", "1" * 10_000),
    "every Sphinx key is of small order": field(MIXNODES_ACTIVE, "x25519_sphinx_pubkey", base58_encode(SMALL)),
    "every Sphinx key is zero": field(MIXNODES_ACTIVE, "x25519_sphinx_pubkey", base58_encode(bytes(32))),
    "an address is a name": field(ENTRY_GATEWAYS, "ip_addresses", ["router.local"]),
    "an address has a port": field(ENTRY_GATEWAYS, "ip_addresses", ["192.0.2.1:22"]),
    "an address has a zone": field(ENTRY_GATEWAYS, "ip_addresses", ["fe80::1%eth0"]),
    "a node has ten thousand addresses": field(ENTRY_GATEWAYS, "ip_addresses", ["192.0.2.1"] * 10_000),
    "no node has an address": field(MIXNODES_ACTIVE, "ip_addresses", []),
    "the lists are of two epochs": lambda bodies: bodies[ENTRY_GATEWAYS]["metadata"].update(absolute_epoch_id=7),
    "the lists are of two key rotations": lambda bodies: bodies[ENTRY_GATEWAYS]["metadata"].update(rotation_id=77),
    "the rewarded set is of another epoch": roles(epoch_id=4_000_000),
    "the answer is an array": raw(REWARDED_SET, b"[]"),
    "the answer is a hundred thousand brackets": raw(MIXNODES_ACTIVE, b"[" * 100_000),
    "the answer is no UTF-8": raw(KEY_ROTATION_INFO, b'{"a":"\xff"}'),
    "the answer is empty": raw(ENTRY_GATEWAYS, b""),
    "the answer is forty megabytes": raw(MIXNODES_ACTIVE, b'{"x":"' + b"x" * (40 << 20) + b'"}'),
    "a number has a hundred thousand digits": raw(KEY_ROTATION_INFO, b'{"current_key_rotation_id":' + b"9" * 100_000),
}  # fmt: skip


@pytest.mark.interop
@pytest.mark.parametrize("twist", REFUSED.values(), ids=REFUSED)
def test_directory_is_refused(bodies: Bodies, twist: Callable[[Bodies], object]) -> None:
    changed = twisted(bodies, twist)
    began = time.process_time()
    with pytest.raises((WireError, TopologyError)):
        read(changed, rounds=30_000)
    assert time.process_time() - began < 5.0


def one_bad_node(**fields: Any) -> Callable[[Bodies], object]:
    """Add a node to layer 1 that is like another one but for some fields."""

    def twist(bodies: Bodies) -> None:
        first = nodes(bodies, MIXNODES_ACTIVE)[0]
        bad = {**first, "node_id": 4_000_000, "ed25519_identity_pubkey": key_text(), **fields}
        nodes(bodies, MIXNODES_ACTIVE).append(bad)
        bodies[MIXNODES_ACTIVE]["nodes"]["pagination"]["total"] += 1
        bodies[REWARDED_SET]["layer1"].append(4_000_000)

    return twist


def key_text() -> str:
    return base58_encode(ed25519_public_from_seed(os.urandom(32)))


def lonely(bodies: Bodies) -> None:
    """Leave one gateway, and no self-description."""
    del nodes(bodies, ENTRY_GATEWAYS)[1:]
    bodies[ENTRY_GATEWAYS]["nodes"]["pagination"]["total"] = 1
    bodies[DESCRIBED]["data"] = []
    bodies[DESCRIBED]["pagination"].update(total=0, size=0)


def same_identity(bodies: Bodies) -> None:
    first = nodes(bodies, MIXNODES_ACTIVE)[0]["ed25519_identity_pubkey"]
    for node in every_node(bodies):
        node["ed25519_identity_pubkey"] = first


def same_id(bodies: Bodies) -> None:
    extra = [
        {**node, "x25519_sphinx_pubkey": base58_encode(x25519_base(os.urandom(32)))}
        for node in every_node(bodies)
    ]
    nodes(bodies, MIXNODES_ACTIVE).extend(extra)
    bodies[MIXNODES_ACTIVE]["nodes"]["pagination"]["total"] += len(extra)


def entry(**fields: Any) -> Callable[[Bodies], object]:
    def twist(bodies: Bodies) -> None:
        for node in nodes(bodies, ENTRY_GATEWAYS):
            if node["entry"] is not None:
                node["entry"].update(fields)

    return twist


def described(name: str, value: Any) -> Callable[[Bodies], object]:
    def change(thing: Any) -> None:
        if isinstance(thing, dict):
            for key in thing:
                if key == name:
                    thing[key] = value
                else:
                    change(thing[key])
        elif isinstance(thing, list):
            for one in thing:
                change(one)

    return lambda bodies: change(bodies[DESCRIBED]["data"])


USABLE: dict[str, Callable[[Bodies], object]] = {
    "one node has a key of small order": one_bad_node(x25519_sphinx_pubkey=base58_encode(SMALL)),
    "one node has a key of zeros": one_bad_node(x25519_sphinx_pubkey=base58_encode(bytes(32))),
    "one node has no address": one_bad_node(ip_addresses=[]),
    "one node is of no use": one_bad_node(performance="0"),
    "there is one gateway, and nothing is said of exits": lonely,
    "all nodes have the same identity": same_identity,
    "every node is there twice, with another key": same_id,
    "the host names are those of this machine": entry(hostname="localhost"),
    "the host names have line breaks": entry(hostname="a\r\nHost: b"),
    "the host names are sixty kilobytes": entry(hostname="x" * 60_000),
    "the gateways listen on the mail port": entry(ws_port=25),
    "the versions are absurd": described("build_version", "999999999999999999999.0.0"),
    "the versions are sixty kilobytes": described("build_version", "1." * 30_000),
    "the router addresses are nonsense": described("address", "nobody@nowhere"),
    "the countries are control characters": described("location", "\x1b]0;x\x07"),
}  # fmt: skip


@pytest.mark.interop
@pytest.mark.parametrize("twist", USABLE.values(), ids=USABLE)
def test_what_is_wrong_is_left_out_and_the_rest_is_used(
    bodies: Bodies, twist: Callable[[Bodies], object]
) -> None:
    topology = read(twisted(bodies, twist)).topology
    assert topology.is_routable()
    for node in topology:
        assert not x25519_is_small_order(node.sphinx_key)
    gateway = entry_candidates(topology)[0]
    for _ in range(50):
        for hop in topology.route_to(gateway.identity, os.urandom):
            x25519(bytes(range(32)), hop.public_key)  # a packet can be made for every hop
    try:
        choose_exits(topology, os.urandom)
    except NoExit:
        pass


@pytest.mark.interop
def test_fields_of_every_wrong_type_raise_wire_errors_only(bodies: Bodies) -> None:
    wrong: list[Any] = [None, True, -1, 1.5, 2**70, "", "x", [], [[]], {}, {"a": {}}, math.nan, "\ud800"]
    tried = 0

    def walk(body: Any, path: str) -> None:
        nonlocal tried
        items: Any = (
            body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
        )
        for key, value in list(items):
            for other in wrong:
                body[key] = other
                tried += 1
                fetch = DirectoryFetch()
                try:
                    full = path if path in fetch.pending() else f"{path}?page=0"
                    fetch.receive_untrusted(full, json.dumps(changed[path]).encode(), "application/json")
                except WireError:
                    pass
            body[key] = value
            walk(value, path)

    changed = twisted(bodies, lambda bodies: [nodes(bodies, path).__delitem__(slice(1, None)) for path in
                                              (MIXNODES_ACTIVE, ENTRY_GATEWAYS)])  # fmt: skip
    changed[DESCRIBED]["data"] = changed[DESCRIBED]["data"][:1]
    for path in changed:
        walk(changed[path], path)
    assert tried > 1000


@pytest.mark.interop
def test_largest_directory_that_is_read_is_small_in_memory(bodies: Bodies) -> None:
    changed = twisted(bodies, many(5_000))
    octets = json.dumps(changed[MIXNODES_ACTIVE]).encode()
    fetch = DirectoryFetch()
    tracemalloc.start()
    began = time.process_time()
    try:
        fetch.receive_untrusted(f"{MIXNODES_ACTIVE}?page=0", octets, "application/json")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 15  # tracing is slow; see the heartbeat below
    assert peak < 80 << 20


def test_epochs_and_rotations_that_go_back_change_keys_and_nothing_else() -> None:
    world = World(seed=8, rotation_id=9)
    alice, bob = world.client(7), world.client(8)
    alice.core.send(bob.core.address, b"one", world.now, surbs=20)
    assert world.run(30, until=lambda: bob.messages)
    for rotation in (8, 3, 0, 9, 2**32 - 1, 9):
        world.set_rotation(rotation)
    for number in range(5):
        alice.core.send(bob.core.address, b"again", world.now)
        world.run(5)
        del number
    assert world.run(60, until=lambda: len(bob.messages) >= 6)
    refresher = TopologyRefresher(interval=60.0)
    older = Directory(world.topology, None)  # type: ignore[arg-type]
    for now in range(1000):
        refresher.succeeded(older, float(now))
    assert len(refresher._events) <= 2


# --- the wire ---

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def forever(sock: socket.socket, head: bytes, data: bytes, seconds: float = 1.5) -> None:
    until = time.monotonic() + seconds
    sock.sendall(head)
    while time.monotonic() < until:
        sock.sendall(data)


WIRE: dict[str, Callable[[socket.socket, str], object]] = {
    "it closes at once": lambda sock, line: None,
    "it sends us to another host": lambda sock, line: sock.sendall(
        b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9/api/\r\nContent-Length: 0\r\n\r\n"
    ),
    "it sends us to another host for a moment": lambda sock, line: sock.sendall(
        b"HTTP/1.1 307 Temporary\r\nLocation: https://198.51.100.1/\r\nContent-Length: 0\r\n\r\n"
    ),
    "its headers do not end": lambda sock, line: forever(sock, HEAD, b"X-Header: value\r\n" * 1000),
    "one header does not end": lambda sock, line: forever(sock, HEAD + b"X: ", b"x" * 65536),
    "its interim answers do not end": lambda sock, line: forever(sock, b"", b"HTTP/1.1 103 Hints\r\n\r\n" * 1000),
    "its body does not end": lambda sock, line: forever(sock, HEAD + b"\r\n", b" " * 65536),
    "its body is a terabyte": lambda sock, line: forever(
        sock, HEAD + b"Content-Length: 1099511627776\r\n\r\n", b" " * 65536
    ),
    "its body comes in chunks of one octet, without an end": lambda sock, line: forever(
        sock, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000
    ),
    "its chunks have lengths of a kilobyte": lambda sock, line: sock.sendall(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 1000 + b"\r\n"
    ),
    "its body comes an octet a second": lambda sock, line: trickle(sock, HEAD + b"\r\n" + b" " * 100, 0.1, 2.5),
    "it says nothing": lambda sock, line: time.sleep(1.5),
    "its body is compressed, as nobody asked": lambda sock, line: sock.sendall(
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08"
    ),
    "its body ends before its end": lambda sock, line: sock.sendall(HEAD + b"Content-Length: 100\r\n\r\n{}"),
    "it has two lengths": lambda sock, line: sock.sendall(
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
    ),
    "it speaks no HTTP": lambda sock, line: sock.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 10),
    "its answer is of bincode that is garbage": lambda sock, line: sock.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/bincode\r\nContent-Length: 9\r\n\r\n\xff" + b"\xff" * 8
    ),
    "its date is nonsense": lambda sock, line: sock.sendall(
        HEAD + b"Date: " + b"9" * 500 + b"\r\nContent-Length: 2\r\n\r\n{}"
    ),
}  # fmt: skip


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("answer", WIRE.values(), ids=WIRE)
def test_directory_cannot_be_had_and_the_reactor_goes_on(loop: ReactorLoop, answer: Any) -> None:
    gaps = [0.0]
    stop: list[bool] = []

    def beat(last: float) -> None:
        gaps[0] = max(gaps[0], loop.now() - last)
        if not stop:
            loop.call_later(0.01, beat, loop.now())

    with RawServer(answer) as server, recorded_contacts() as contacts:
        client = DirectoryClient(
            TunnelConfig(nym_api=(server.url,), nym_api_timeout=0.7, connect_timeout=3.0)
        )
        loop.post(lambda: beat(loop.now()))
        began = time.monotonic()
        with pytest.raises(TopologyError):
            in_greenlet(loop, lambda: client.refresh(loop.now()))
        assert time.monotonic() - began < 6.0
        stop.append(True)
        contacts.only(("127.0.0.1", server.port))
        for request in server.requests:
            names = {line.partition(b":")[0].lower() for line in request.split(b"\r\n")[1:] if line}
            assert names == {b"host", b"accept", b"accept-encoding", b"user-agent", b"connection"}
    assert gaps[0] < 1.0


@pytest.mark.interop
def test_body_is_never_larger_than_its_limit(loop: ReactorLoop) -> None:
    with RawServer(lambda sock, line: forever(sock, HEAD + b"\r\n", b" " * 65536, 5)) as server:
        base = BaseUrl.parse(server.url)
        with pytest.raises(WireError, match="larger than"):
            in_greenlet(loop, lambda: http_get(base, "x", timeout=10, max_body=1 << 20))


# --- a whole tunnel ---


class Twister(ApiRelay):
    """A relay that twists what it passes on."""

    def __init__(self, upstream: str, twist: Callable[[Bodies], object]) -> None:
        super().__init__(upstream)
        self.twist = twist

    def answer(self, path: str) -> tuple[int, str, bytes]:
        status, kind, body = super().answer(path)
        name = path.removeprefix("/api/").partition("?")[0]
        changed = {name: json.loads(body)}
        try:
            self.twist(changed)
        except KeyError:
            pass  # about another body
        return status, kind, json.dumps(changed[name]).encode()


def outward(bodies: Bodies) -> None:
    """Let every gateway be in somebody's own network."""
    for node in nodes(bodies, ENTRY_GATEWAYS):
        node["ip_addresses"] = ["127.0.0.1", "192.168.1.1", "169.254.169.254"]


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize(
    ("twist", "errors"),
    [
        pytest.param(outward, GatewayError, id="gateways at addresses of our own network"),
        pytest.param(entry(hostname="x" * 60_000, ws_port=1), GatewayError, id="names of sixty kilobytes"),
        pytest.param(roles(layer3=[]), TopologyError, id="a layer without nodes"),
        pytest.param(many(100_000), TopologyError, id="a hundred thousand nodes"),
    ],
)
def test_tunnel_fails_as_documented_and_dials_nobody(
    net: LocalNet, monkeypatch: pytest.MonkeyPatch, twist: Any, errors: Any
) -> None:
    # A localnet may be on loopback; for this client the network is of the internet.
    monkeypatch.setattr(DirectoryClient, "is_local", False)
    with Twister(net.nym_api, twist) as relay, recorded_contacts() as contacts:
        port = int(relay.url.split(":")[2].split("/")[0])
        settings = {**net.client_settings(), "nym_api": (relay.url,), "connect_timeout": 12.0}
        began = time.monotonic()
        with pytest.raises(errors), Tunnel(**settings):
            pass
        assert time.monotonic() - began < 15
        contacts.only(("127.0.0.1", port))


@pytest.mark.interop
@pytest.mark.slow
def test_reactor_goes_on_while_the_largest_directory_is_read(net: LocalNet, loop: ReactorLoop) -> None:
    gaps: list[float] = []
    stop: list[bool] = []

    def beat(last: float) -> None:
        gaps.append(loop.now() - last)
        if not stop:
            loop.call_later(0.01, beat, loop.now())

    with Twister(net.nym_api, many(4_900)) as relay:
        client = DirectoryClient(TunnelConfig(nym_api=(relay.url,)))
        loop.post(lambda: beat(loop.now()))
        in_greenlet(loop, lambda: client.refresh(loop.now()))
        stop.append(True)
    assert max(gaps) < 2.0, max(gaps)


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("127.0.0.1", False), ("10.0.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False), ("fe80::1", False),
        ("fd00::1", False), ("::ffff:127.0.0.1", False), ("ff02::1", False), ("8.8.8.8", True),
        ("2606:4700::1111", True), ("::ffff:8.8.8.8", True),
    ],
)  # fmt: skip
def test_addresses_of_the_internet_are_told_from_others(host: str, public: bool) -> None:
    assert is_public(host) is public


@pytest.mark.interop
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "::1", "x" * 64, "a..b", "a\0b", "a\r\nb", "", "a b"]
)
def test_host_that_a_directory_names_is_no_way_into_this_machine(loop: ReactorLoop, host: str) -> None:
    from smolmix_sync.mixnet.gateway import GatewayClient

    with socket.create_server(("127.0.0.1", 0)) as listener, recorded_contacts() as contacts:
        port = listener.getsockname()[1]
        with pytest.raises(OSError):
            in_greenlet(loop, lambda: connect_tcp(host, port, timeout=5, public=True))
        client = GatewayClient(
            bytes(32), ed25519_public_from_seed(b"g" * 32), urandom=random.Random(1).randbytes
        )
        link = GatewayLink(client, on_payload=lambda payload, now: None, on_lost=lambda reason: None)
        with pytest.raises(OSError):
            in_greenlet(loop, lambda: link.open(GatewayEndpoint(host, port), timeout=5, public=True))
        assert contacts.dialled == []


def test_directory_is_one_of_our_own_network_only_by_the_users_word() -> None:
    def local(**settings: Any) -> bool:
        return DirectoryClient(TunnelConfig(**settings)).is_local

    assert not local(nym_api=("https://validator.nymtech.net/api/",))
    assert not local(nym_api=("https://8.8.8.8/api/", "https://nym.example/api/"))
    assert local(nym_api=("http://127.0.0.1:8000/api/",))
    assert local(nym_api=("https://10.1.2.3/api/",))
    assert local(nym_api=("https://api.test/",), bootstrap_addresses={"api.test": "192.168.7.7"})
    assert not local(nym_api=("https://api.test/",), bootstrap_addresses={"api.test": "8.8.4.4"})
