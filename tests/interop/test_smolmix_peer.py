"""The real smolmix and the real nym-sdk (published crates, see smolmix_peer/) as clients of our localnet."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.transfers import body

from smolmix_sync.client import MixnetClient
from smolmix_sync.localnet import LocalNet
from smolmix_sync.localnet.__main__ import describe

# The first test of a machine waits for several hundred crates to be compiled.
pytestmark = [pytest.mark.interop, pytest.mark.long, pytest.mark.timeout(3600)]

CRATE = Path(__file__).parent / "smolmix_peer"
MEGABYTE = 1_000_000
SITE = "http://www.localnet"
Line = dict[str, Any]


class Peers:
    """The two programs of the crate."""

    def __init__(self, directory: Path, network: Path) -> None:
        self.directory, self.network = directory, network

    def start(self, program: str, *arguments: str, network: Path | None = None) -> subprocess.Popen[str]:
        command = [str(self.directory / program), "--network", str(network or self.network), *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def run(
        self, program: str, *arguments: str, network: Path | None = None, timeout: float = 300
    ) -> list[Line]:
        process = self.start(program, *arguments, network=network)
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
            process.wait()
        lines = [json.loads(line) for line in output.splitlines()]
        assert process.returncode == 0, lines
        return lines

    def smolmix(self, *arguments: str, network: Path | None = None) -> tuple[Line, dict[str, Line]]:
        """Open a tunnel and do some steps; return what the set-up said, and the steps by their text."""
        lines = self.run("smolmix_peer", *arguments, network=network)
        for line in lines:
            print(json.dumps(line))
        assert not [line for line in lines if line["step"] == "unexpected"], lines
        by_step = {line["step"]: line for line in lines}
        assert by_step["end"]["wrong_version"] == 0
        return by_step["setup"], by_step


def write_network(net: LocalNet, path: Path) -> Path:
    path.write_text(json.dumps(describe(net)))
    return path


@pytest.fixture(scope="module")
def programs() -> Path:
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("cargo is not installed: the real smolmix cannot be built")
    target = Path(os.environ.get("CARGO_TARGET_DIR", CRATE / "target"))
    jobs = os.environ.get("CARGO_BUILD_JOBS", str(os.cpu_count() or 1))
    command = [
        cargo,
        "build",
        "--release",
        "--locked",
        "-j",
        jobs,
        "--manifest-path",
        str(CRATE / "Cargo.toml"),
    ]
    subprocess.run([*command, "--target-dir", str(target)], check=True, timeout=3500)
    return target / "release"


@pytest.fixture(scope="module")
def peers(programs: Path, net: LocalNet, tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(programs, write_network(net, tmp_path_factory.mktemp("peers") / "network.json"))


@pytest.mark.parametrize("version", [9, 10])
def test_the_real_smolmix_sets_up_a_tunnel(peers: Peers, version: int) -> None:
    setup, _ = peers.smolmix("--ipr-version", str(version))
    assert setup["version"] == version
    assert setup["mtu"] == (1420 if version == 10 else None)
    assert setup["seconds"] < 15


@pytest.mark.parametrize("version", [9, 10])
def test_the_real_smolmix_fetches_a_page_resolves_names_and_sends_datagrams(
    peers: Peers, version: int
) -> None:
    page, name, datagrams = f"get={SITE}/", "resolve=echo.localnet", "udp=echo.localnet:7,10,1000"
    _, steps = peers.smolmix("--ipr-version", str(version), page, name, datagrams)
    assert steps[page]["status"] == 200
    assert steps[name]["addresses"] == ["198.51.100.10"]
    assert steps[datagrams]["echoed"] >= 5


@pytest.mark.parametrize("version", [9, 10])
def test_the_real_smolmix_downloads_a_megabyte(peers: Peers, version: int) -> None:
    step = f"get={SITE}/bytes/{MEGABYTE}"
    _, steps = peers.smolmix("--ipr-version", str(version), step)
    assert steps[step]["length"] == MEGABYTE


@pytest.mark.parametrize("version", [9, 10])
def test_the_real_smolmix_uploads_a_megabyte(peers: Peers, version: int) -> None:
    # With its window of 512 KiB, smolmix 1.21.6 uploads some 4 kB/s: it goes back to the first missing segment.
    step = f"upload={SITE}/upload,{MEGABYTE}"
    flags = ("--unpaced", "--hop-delay", "1", "--tcp-buffer", "32768", "--deadline", "280")
    _, steps = peers.smolmix("--ipr-version", str(version), *flags, step)
    assert steps[step]["length"] == MEGABYTE


def test_the_real_smolmix_runs_ten_connections_at_once(peers: Peers) -> None:
    step = f"parallel=10,{SITE}/bytes/20000"
    _, steps = peers.smolmix(step)
    assert steps[step]["length"] == 200_000


def test_the_real_smolmix_learns_v10_from_the_directory(peers: Peers) -> None:
    setup, steps = peers.smolmix()
    assert setup["version"] == 10
    assert "fallback" not in steps


def test_the_real_smolmix_falls_back_to_v9_where_the_exit_is_older_than_the_directory_says(
    peers: Peers, tmp_path: Path
) -> None:
    with LocalNet(build_version="1.37.0", ipr_versions=(8, 9), set_default=False) as net:
        setup, steps = peers.smolmix(f"get={SITE}/", network=write_network(net, tmp_path / "network.json"))
    assert setup["version"] == 9
    assert steps["fallback"] == {"step": "fallback", "from": 10, "to": 9}
    assert 15 <= setup["seconds"] < 30


def test_the_real_smolmix_chooses_v9_for_an_older_node(peers: Peers, tmp_path: Path) -> None:
    with LocalNet(build_version="1.31.0", set_default=False) as net:
        setup, steps = peers.smolmix(f"get={SITE}/", network=write_network(net, tmp_path / "network.json"))
    assert setup["version"] == 9
    assert "fallback" not in steps


def test_a_stored_client_authenticates_instead_of_registering_again(
    peers: Peers, net: LocalNet, tmp_path: Path
) -> None:
    def counts() -> tuple[int, int]:
        stats = net.stats()["entry"]
        return stats["registrations"], stats["authentications"]

    registered, authenticated = counts()
    addresses = set()
    for _ in range(2):
        lines = peers.run("message_peer", "--storage", str(tmp_path), "--sizes", "1", "echo", "--count", "0")
        addresses.add(lines[0]["address"])
    assert len(addresses) == 1
    assert counts()[0] - registered == 1
    assert counts()[1] - authenticated >= 1


def test_two_real_clients_exchange_messages_and_replies(peers: Peers) -> None:
    lines = peers.run("message_peer", "pair")
    for line in lines:
        print(json.dumps(line))
    assert [line["size"] for line in lines if line["step"] == "anonymous"] == [1, 1500, 10_000, 100_000]
    assert [line["tag"] for line in lines if line["step"] == "plain"] == [False, False]


def test_our_client_gets_replies_from_a_real_one(peers: Peers, net: LocalNet) -> None:
    sizes = (1, 1500, 10_000, 60_000)
    process = peers.start("message_peer", "echo", "--count", str(len(sizes)))
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["address"]
        with MixnetClient(**net.client_settings()) as client:  # type: ignore[arg-type]
            for seed, size in enumerate(sizes):
                client.send(address, body(size, seed), surbs=10)
                received = client.receive(timeout=60)
                assert received.data == body(size, seed)
                assert received.is_reply
        told = [json.loads(line) for line in process.stdout]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    echoes = [line["sha256"] for line in told if line["step"] == "echo"]
    assert echoes == [hashlib.sha256(body(size, seed)).hexdigest() for seed, size in enumerate(sizes)]


def test_a_real_client_gets_replies_from_ours(peers: Peers, net: LocalNet) -> None:
    with MixnetClient(**net.client_settings()) as client:  # type: ignore[arg-type]
        process = peers.start("message_peer", "--sizes", "1,1500,60000", "send", str(client.nym_address))
        assert process.stdout is not None
        try:
            for size in (1, 1500, 60_000):
                received = client.receive(timeout=60)
                assert len(received.data) == size
                assert received.sender_tag is not None
                client.send_reply(received.sender_tag, received.data)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
    steps = [json.loads(line)["step"] for line in output.splitlines()]
    assert steps == ["connected", "echoed", "echoed", "echoed", "end"]
