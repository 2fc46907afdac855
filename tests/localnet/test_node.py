"""One node in a network of others: what it announces, what it learns, and what it refuses to pass on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smolmix_sync.address import base58_decode
from smolmix_sync.localnet import LocalNet, LocalNetFailed, LocalNode
from smolmix_sync.localnet.node import load_keys
from smolmix_sync.localnet.plan import NodeKeys
from smolmix_sync.mixnet.sphinx import Hop, NodeAddress, PacketSize, build_packet, encode_frame
from smolmix_sync.mixnet.topology.network_json import decode_network_untrusted

pytestmark = pytest.mark.interop

NOWHERE = "http://127.0.0.1:9/api/"
ELSEWHERE = "127.0.0.9"


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    """A network whose directory does not know our node."""
    with LocalNet(set_default=False) as net:
        yield net


def wait_for(stats: Callable[[], dict[str, int]], counter: str, value: int = 1) -> dict[str, int]:
    deadline = time.monotonic() + 10
    while (counters := stats()).get(counter, 0) < value:
        assert time.monotonic() < deadline, (counter, counters)
        time.sleep(0.02)
    return counters


def hop_of(facts: dict[str, Any]) -> Hop:
    return Hop(NodeAddress(facts["address"], facts["mix_port"]), base58_decode(facts["sphinx_key"]))


def send(hop: Hop, following: Hop, rotation: int = 1) -> None:
    packet = build_packet(
        b"", [hop, following], [0, 0], bytes(32), size=PacketSize.REGULAR, urandom=os.urandom
    )
    # From where no Noise is announced, so plain.
    address = (hop.address.ip, hop.address.port)
    with socket.create_connection(address, timeout=5, source_address=(ELSEWHERE, 0)) as link:
        link.sendall(encode_frame(packet, rotation, 8))
        time.sleep(0.05)


def mix1(net: LocalNet) -> Hop:
    node = decode_network_untrusted(net.network_json.read_bytes()).nodes[2]
    return Hop(node.address, node.sphinx_key)


def test_our_mix_node_passes_packets_on_to_the_nodes_of_the_directory(net: LocalNet) -> None:
    before = net.node("mix1").stats()
    with LocalNode("mix", net.nym_api) as node:
        wait_for(node.stats, "directory_readings")
        for rotation in (0, 1, 2):
            send(hop_of(node.facts()), mix1(net), rotation)
        stats = wait_for(node.stats, "packets_out", 3)
        after = wait_for(net.node("mix1").stats, "packets_in", before["packets_in"] + 3)
    assert (stats["forwarded"], stats["noise_links_out"]) == (3, 1)
    assert after["noise_links_in"] == before["noise_links_in"] + 1
    assert after["not_my_role"] == 3, "they ended at a mix node; our key is for every rotation"


def test_our_node_without_noise_is_refused_where_its_neighbours_share_an_address(net: LocalNet) -> None:
    before = net.node("mix1").stats()["noise_refused"]
    with LocalNode("mix", net.nym_api, noise=False) as node:
        wait_for(node.stats, "directory_readings")
        send(hop_of(node.facts()), mix1(net))
        wait_for(net.node("mix1").stats, "noise_refused", before + 1)


def test_our_node_without_noise_has_plain_links_from_an_address_of_its_own(net: LocalNet) -> None:
    before = net.node("mix1").stats()
    with LocalNode("mix", net.nym_api, noise=False, address=ELSEWHERE) as node:
        wait_for(node.stats, "directory_readings")
        send(hop_of(node.facts()), mix1(net))
        after = wait_for(net.node("mix1").stats, "packets_in", before["packets_in"] + 1)
    assert after["noise_links_in"] == before["noise_links_in"]


def test_a_packet_for_an_address_that_no_node_has_goes_nowhere(net: LocalNet) -> None:
    stranger = Hop(NodeAddress("127.0.0.77", 1789), os.urandom(32))
    with LocalNode("mix", net.nym_api) as node:
        wait_for(node.stats, "directory_readings")
        send(hop_of(node.facts()), stranger)
        stats = wait_for(node.stats, "unroutable")
    assert stats["packets_out"] == 0


def test_a_node_waits_for_a_directory_that_is_not_up_yet() -> None:
    with LocalNode("mix", NOWHERE, refresh=0.05) as node:
        stats = wait_for(node.stats, "directory_failures", 3)
        assert "directory_readings" not in stats


def test_a_node_that_cannot_start_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="mix"):
            LocalNode("mix", NOWHERE, mix_port=taken.getsockname()[1])
    with pytest.raises(ValueError, match="exit"):
        LocalNode("exit", NOWHERE)


def test_a_node_that_has_ended_has_no_counters() -> None:
    node = LocalNode("mix", NOWHERE).start()
    assert node.alive
    node.stop()
    node.stop()
    assert not node.alive
    with pytest.raises(LocalNetFailed):
        node.stats()


def test_keys_are_kept_in_a_file_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    assert load_keys(path) == load_keys(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert NodeKeys.generate() != load_keys(path)
    for nonsense in ("", "{}", "[]", '{"identity_seed": 7}'):
        path.write_text(nonsense)
        with pytest.raises(ValueError, match="holds no keys"):
            load_keys(path)


def test_the_command_prints_what_to_announce_and_at_the_end_the_counters(
    net: LocalNet, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "smolmix_sync", "localnet", "node", "--nym-api", net.nym_api, "--json"]
    told = []
    for extra in (["--role", "entry"], ["--role", "mix", "--no-noise"]):
        program = subprocess.Popen(
            [*command, "--keys", str(tmp_path / "keys.json"), *extra], stdout=subprocess.PIPE
        )
        assert program.stdout is not None
        with program.stdout:
            facts = json.loads(program.stdout.readline())
            with socket.create_connection((facts["address"], facts["mix_port"]), timeout=5):
                pass
            if facts["role"] == "entry":
                with socket.create_connection((facts["address"], facts["ws_port"]), timeout=5):
                    pass
            program.send_signal(signal.SIGTERM)
            counters = json.loads(program.stdout.readline())
            assert counters["packets_in"] == counters["noise_failed"] == 0
            assert program.wait(10) == 0
        told.append(facts)
    entry, mix = told
    assert entry["identity"] == mix["identity"]
    assert (entry["noise_key"] is None, mix["noise_key"] is None) == (False, True)
    assert mix["ws_port"] is None


def test_the_command_reports_a_taken_port(net: LocalNet) -> None:
    _, port = net.node("mix1").ports["mix"]
    command = ["localnet", "node", "--role", "mix", "--nym-api", NOWHERE, "--mix-port", str(port)]
    done = subprocess.run(
        [sys.executable, "-m", "smolmix_sync", *command], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
