"""Our nodes, our clients and the Rust ones in one network with real nym-nodes, with Noise between nodes and without.

The networks need ``NYM_NODE`` and root as those of ``test_realnet.py`` do, the Rust clients need cargo
(docs/interop.rst).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop import realnet
from interop.mixednet import NAME, OUR_ENTRY, OUR_MIX, OUR_PLAIN_MIX, MixedNet, Told
from support.transfers import body

from smolmix_sync.client import MixnetClient
from smolmix_sync.localnet import LocalNet
from smolmix_sync.localnet.__main__ import describe

_MISSING = realnet.missing()
# The first test of a machine may wait for several hundred crates to be compiled.
pytestmark = [pytest.mark.interop, pytest.mark.long, pytest.mark.timeout(3600)]
on_real_nodes = pytest.mark.skipif(_MISSING is not None, reason=f"realnet: {_MISSING}")

CRATE = Path(__file__).parent / "smolmix_peer"
SIZES = (1, 1500, 10_000)
MOST = 30_000
#: How a link with Noise begins: version, pattern, handshake, and the length of the first message.
NOISE_BEGINS = b"\1\1\0\0\x30\0\0\0"
NOISE = {False: "without noise", True: "with noise"}
Json = dict[str, Any]


@pytest.fixture(scope="module", params=NOISE, ids=list(NOISE.values()))
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixedNet]:
    with MixedNet(tmp_path_factory.mktemp("mixednet"), request.param) as net:
        yield net


@pytest.fixture(scope="module")
def message_peer() -> Path:
    """The real nym-sdk's message client."""
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("cargo is not installed: the real nym-sdk cannot be built")
    target = Path(os.environ.get("CARGO_TARGET_DIR", CRATE / "target"))
    command = [cargo, "build", "--release", "--locked", "--manifest-path", str(CRATE / "Cargo.toml")]
    jobs = os.environ.get("CARGO_BUILD_JOBS", str(os.cpu_count() or 1))
    subprocess.run([*command, "-j", jobs, "--target-dir", str(target)], check=True, timeout=3500)
    return target / "release" / "message_peer"


def uses(client: Told) -> None:
    """Send some of everything through the tunnel, in both directions."""
    assert client.ask("resolve", name=NAME) == {"addresses": ["198.51.100.10"]}
    fetched = client.ask("fetch", url=f"http://{NAME}/bytes/{MOST}")
    assert fetched["length"] == MOST
    assert fetched["sha256"] == hashlib.sha256(hashlib.shake_128(b"realnet").digest(MOST)).hexdigest()
    sent = client.ask("upload", url=f"http://{NAME}/upload", size=MOST)
    assert (sent["length"], sent["sha256"]) == (MOST, sent["expected"])


def grown(net: MixedNet, name: str, before: dict[str, int]) -> dict[str, int]:
    """Return what a node of ours has counted since *before*; it may have refused or lost nothing."""
    after = net.counters(name)
    since = {counter: value - before.get(counter, 0) for counter, value in after.items()}
    for counter in (
        "bad_packets",
        "noise_refused",
        "noise_failed",
        "lost_no_link",
        "broken_links",
        "unroutable",
    ):
        assert since.get(counter, 0) == 0, since
    return since


# --- clients of ours ---


@on_real_nodes
def test_our_client_does_not_notice_how_real_nodes_speak_to_each_other(mixed: MixedNet) -> None:
    known = len(mixed.flows())
    with mixed.tunnel(mixed.use("mix2")) as client:
        assert client.setup["seconds"] < 5
        uses(client)
    # It spoke to the directory and to its gateway, to both as without Noise.
    flows = mixed.flows()
    asked = {(port, octets) for _, _, _, port, octets in flows[known:] if port in (8000, 9001)}
    assert {(8000, b"GET /api"), (9001, b"GET / HT")} <= asked <= {
        (8000, b"GET /api"), (8000, b"POST /ap"), (9001, b"GET / HT"),
    }  # fmt: skip
    mix_ports = {node["mix_port"] for node in mixed.nodes.values()}
    elsewhere = [flow for flow in flows if mix_ports.isdisjoint((flow[1], flow[3]))]
    assert not any(octets == NOISE_BEGINS for *_, octets in elsewhere)
    # The links between the nodes are what has changed, all of them.
    real = ("mix1", "mix2", "mix3", "entry", "exit")
    links = {name: mixed.mix_links()["127.0.0.1", name] for name in real}
    for name, beginnings in links.items():
        assert all(octets == NOISE_BEGINS if mixed.noise else octets[0] in (7, 8) for octets in beginnings), (
            name
        )


# --- nodes of ours ---


@on_real_nodes
def test_our_mix_node_carries_everything_between_real_ones(mixed: MixedNet) -> None:
    before = mixed.counters(OUR_MIX)
    with mixed.tunnel(mixed.use(OUR_MIX)) as client:
        uses(client)
    since = grown(mixed, OUR_MIX, before)
    assert since["forwarded"] > 2 * MOST / 2000
    assert since["packets_in"] == since["forwarded"]
    now = mixed.counters(OUR_MIX)
    links = (now["noise_links_in"], now["noise_links_out"])
    assert links == ((1, 1) if mixed.noise else (0, 0))
    assert all(
        beginning == NOISE_BEGINS if mixed.noise else beginning[0] == 7
        for beginning in mixed.mix_links()["127.0.0.1", OUR_MIX]
    )


@on_real_nodes
def test_our_mix_node_that_announces_no_noise_has_plain_links_to_real_ones(mixed: MixedNet) -> None:
    before = mixed.counters(OUR_PLAIN_MIX)
    with mixed.tunnel(mixed.use(OUR_PLAIN_MIX)) as client:
        uses(client)
    since = grown(mixed, OUR_PLAIN_MIX, before)
    assert since["packets_in"] == since["forwarded"] > 2 * MOST / 2000
    links = mixed.mix_links()
    assert {octets[0] for octets in links["127.0.0.1", OUR_PLAIN_MIX]} == {7}
    assert {octets[0] for octets in links[mixed.nodes[OUR_PLAIN_MIX]["address"], "mix3"]} == {7}


@on_real_nodes
def test_our_entry_gateway_serves_with_real_mix_nodes_and_a_real_exit(mixed: MixedNet) -> None:
    before = mixed.counters(OUR_ENTRY)
    with mixed.tunnel(mixed.use("mix2", gateway=OUR_ENTRY)) as client:
        assert mixed.nodes[OUR_ENTRY]["identity"] in client.setup["address"]
        uses(client)
    since = grown(mixed, OUR_ENTRY, before)
    assert since["registrations"] == 1
    assert since["from_clients"] > MOST / 2000
    assert since["delivered"] > MOST / 2000
    assert since["acks_delivered"] > 0
    now = mixed.counters(OUR_ENTRY)
    links = (now["noise_links_in"], now["noise_links_out"])
    assert links == ((1, 1) if mixed.noise else (0, 0))


@on_real_nodes
def test_our_entry_gateway_and_our_mix_node_serve_together_with_real_nodes(mixed: MixedNet) -> None:
    gateway, mix = mixed.counters(OUR_ENTRY), mixed.counters(OUR_MIX)
    with mixed.tunnel(mixed.use(OUR_MIX, gateway=OUR_ENTRY)) as client:
        uses(client)
    assert grown(mixed, OUR_ENTRY, gateway)["delivered"] > MOST / 2000
    assert grown(mixed, OUR_MIX, mix)["forwarded"] > 2 * MOST / 2000


@on_real_nodes
def test_real_nodes_come_back_to_our_mix_node_when_it_was_restarted(mixed: MixedNet) -> None:
    with mixed.tunnel(mixed.use(OUR_MIX)) as client:
        assert client.ask("keep")["right"]
        mixed.ours[OUR_MIX].ask("restart", 30)
        assert client.ask("use")["right"], "what was lost with the links has been sent again"
        uses(client)
    now = mixed.counters(OUR_MIX)
    assert now["forwarded"] > 2 * MOST / 2000
    assert (now["noise_links_in"], now["noise_links_out"]) == ((1, 1) if mixed.noise else (0, 0))


@on_real_nodes
def test_our_mix_node_treats_strange_links_as_a_real_one_does(mixed: MixedNet) -> None:
    kinds = ["plain", "silence", "wrong_key", "other_version", "other_pattern"]
    if mixed.noise:
        kinds += ["noise", "forged", "empty"]  # after a handshake
    seen: dict[str, dict[str, Json]] = {}
    for name in ("mix1", OUR_MIX):
        with Told(mixed, "mixed_probe.py") as probe:
            key = mixed.nodes[name]["noise"] or mixed.ours[OUR_MIX].setup["noise_key"]
            port = mixed.nodes[name]["mix_port"]
            seen[name] = {kind: probe.ask(kind, port=port, key=key) for kind in kinds}
            for kind, told in seen[name].items():
                print(name, kind, told)
    for kind in kinds:
        real, ours = seen["mix1"][kind], seen[OUR_MIX][kind]
        assert (real["closed"], real["answered"]) == (ours["closed"], ours["answered"]), kind
        # At once, or when the time for a handshake is over.
        assert (real.get("seconds", 0) > 1) == (ours.get("seconds", 0) > 1), kind
    still_open = {kind for kind in kinds if not seen["mix1"][kind]["closed"]}
    assert still_open == ({"noise"} if mixed.noise else {"plain", "silence"})


# --- messages between a client of ours and the Rust one ---


class Rust:
    """The Rust message client, in the namespace of *net* or outside of any."""

    def __init__(self, program: Path, net: MixedNet | None, *arguments: str) -> None:
        command = [str(program), *arguments]
        self.process = subprocess.Popen(
            command if net is None else net.inside(*command),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            env=None if net is None else net.environment(),
        )  # fmt: skip

    def __enter__(self) -> Rust:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> Json:
        assert self.process.stdout is not None
        told: Json = json.loads(self.process.stdout.readline())
        assert told["step"] != "failed", told
        return told

    def rest(self) -> list[Json]:
        output, _ = self.process.communicate(timeout=120)
        told = [json.loads(line) for line in output.splitlines()]
        assert self.process.returncode == 0, told
        return told


def exchange(net: MixedNet, message_peer: Path, ours: Json, theirs: Json) -> None:
    """Let our client and the Rust one write to each other, each answer going by the SURBs of its question."""
    network = ["--nym-api", theirs["nym_api"], "--gateway", theirs["preferred_gateway"]]
    with net.messages(ours) as client:
        with Rust(message_peer, net, *network, "echo", "--count", str(len(SIZES))) as peer:
            address = peer.line()["address"]
            assert address.endswith(theirs["preferred_gateway"])
            for seed, size in enumerate(SIZES):
                sent = body(size, seed)
                told = client.ask("echoed", recipient=address, data=sent.hex())
                assert (bytes.fromhex(told["data"]), told["is_reply"]) == (sent, True)
            digests = [line["sha256"] for line in peer.rest() if line["step"] == "echo"]
            assert digests == [
                hashlib.sha256(body(size, seed)).hexdigest() for seed, size in enumerate(SIZES)
            ]
        sizes = ["--sizes", ",".join(map(str, SIZES))]
        with Rust(message_peer, net, *network, *sizes, "send", client.setup["address"]) as peer:
            assert [client.ask("answer")["size"] for _ in SIZES] == list(SIZES)
            assert [line["step"] for line in peer.rest()] == ["connected", *["echoed"] * len(SIZES), "end"]


@on_real_nodes
def test_our_client_and_the_rust_one_write_to_each_other_over_real_nodes(
    mixed: MixedNet, message_peer: Path
) -> None:
    exchange(mixed, message_peer, mixed.use("mix2"), mixed.use("mix2", gateway="exit"))


@on_real_nodes
def test_our_client_and_the_rust_one_write_to_each_other_over_our_nodes_among_real_ones(
    mixed: MixedNet, message_peer: Path
) -> None:
    gateway, mix = mixed.counters(OUR_ENTRY), mixed.counters(OUR_MIX)
    exchange(mixed, message_peer, mixed.use(OUR_MIX), mixed.use(OUR_MIX, gateway=OUR_ENTRY))
    exchange(mixed, message_peer, mixed.use(OUR_MIX, gateway=OUR_ENTRY), mixed.use(OUR_MIX))
    assert grown(mixed, OUR_ENTRY, gateway)["registrations"] == 3, "the Rust client twice, ours once"
    assert grown(mixed, OUR_MIX, mix)["forwarded"] > 0


@pytest.mark.parametrize("noise", NOISE, ids=list(NOISE.values()))
def test_our_client_and_the_rust_one_write_to_each_other_over_localnet(
    noise: bool, message_peer: Path, tmp_path: Path
) -> None:
    with LocalNet(noise=noise, set_default=False) as net:
        network = tmp_path / "network.json"
        network.write_text(json.dumps(describe(net)))
        with MixnetClient(**net.client_settings()) as client:  # type: ignore[arg-type]
            arguments = ["--network", str(network), "echo", "--count", str(len(SIZES))]
            with Rust(message_peer, None, *arguments) as peer:
                address = peer.line()["address"]
                for seed, size in enumerate(SIZES):
                    client.send(address, body(size, seed), surbs=10)
                    received = client.receive(timeout=60)
                    assert (received.data, received.is_reply) == (body(size, seed), True)
                peer.rest()
            sizes = ",".join(map(str, SIZES))
            arguments = ["--network", str(network), "--sizes", sizes, "send", str(client.nym_address)]
            with Rust(message_peer, None, *arguments) as peer:
                for size in SIZES:
                    received = client.receive(timeout=60)
                    assert len(received.data) == size
                    assert received.sender_tag is not None
                    client.send_reply(received.sender_tag, received.data)
                assert [line["step"] for line in peer.rest()][1:] == [*["echoed"] * len(SIZES), "end"]
        stats = net.stats()
    for name in ("entry", "mix1", "mix2", "mix3"):
        assert (stats[name]["noise_links_in"] > 0) == noise, stats[name]
        assert stats[name]["noise_refused"] == stats[name]["noise_failed"] == 0, stats[name]
