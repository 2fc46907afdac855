"""The network as a whole: it starts, can be broken and mended, and ends with whoever started it."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support.raw_tunnel import RawTunnel

from smolmix_sync.address import Recipient, base58_decode
from smolmix_sync.config import process_overrides
from smolmix_sync.localnet import ControlError, LocalNet, LocalNetConfig, LocalNetFailed
from smolmix_sync.localnet.control import ControlClient
from smolmix_sync.mixnet.sphinx import FrameDecoder
from smolmix_sync.mixnet.topology.network_json import decode_network_untrusted

pytestmark = [pytest.mark.interop, pytest.mark.slow]

NODES = ("entry", "mix1", "mix2", "mix3", "exit", "nym-api", "services")


def open_tunnel(net: LocalNet) -> RawTunnel:
    gateway = base58_decode(net.gateway_identity)
    return RawTunnel(net.network_json, gateway, Recipient.parse(net.ipr_address))


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], timeout: float = 8.0) -> bool:
    deadline = time.monotonic() + timeout
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_every_node_is_a_process_of_its_own(net: LocalNet) -> None:
    pids = net.pids
    assert set(pids) == {*NODES, "supervisor"}
    assert len(set(pids.values())) == len(pids)
    assert os.getpid() not in pids.values()
    assert tuple(net.nodes) == NODES


def test_nothing_is_left_when_the_block_ends() -> None:
    descriptors = set(os.listdir("/proc/self/fd"))
    with LocalNet() as net:
        pids = list(net.pids.values())
        directory = net.ca_path.parent
        assert process_overrides()["nym_api"] == (net.nym_api,)
    assert process_overrides() == {}
    assert gone(pids, 0.1)
    assert not directory.exists()
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_two_networks_run_beside_each_other(net: LocalNet) -> None:
    with LocalNet(set_default=False) as other:
        assert other.nym_api != net.nym_api
        assert other.gateway_identity != net.gateway_identity
        assert not set(other.pids.values()) & set(net.pids.values())


PARENT = textwrap.dedent("""
    import os, sys, threading, time
    from smolmix_sync.localnet import LocalNet

    def work():
        net = LocalNet(set_default=False).start()
        print(net.ca_path.parent, *net.pids.values(), flush=True)
        return net

    if sys.argv[1] == "thread":
        threading.Thread(target=work).start()
    else:
        net = work()
    if sys.argv[1] == "exit":
        sys.exit(0)
    if sys.argv[1] == "fork" and os.fork() == 0:
        print("child", os.getpid(), flush=True)
        time.sleep(60)
    if sys.argv[1] == "stop":
        net.stop()
    time.sleep(60)
""")


@pytest.mark.parametrize("how", ["kill", "exit", "fork", "thread"])
def test_network_ends_with_its_parent(how: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    directory, *words = parent.stdout.readline().split()
    pids = [int(word) for word in words]
    assert len(pids) == 8
    child = int(parent.stdout.readline().split()[1]) if how == "fork" else None
    try:
        if how != "exit":
            time.sleep(0.3)
            assert all(alive(pid) for pid in pids)
            parent.kill()
        parent.wait(10)
        assert gone(pids)
        assert not Path(directory).exists()
    finally:
        parent.stdout.close()
        if child is not None:
            os.kill(child, signal.SIGKILL)


def test_supervisor_that_is_killed_takes_the_nodes_with_it() -> None:
    net = LocalNet(set_default=False).start()
    pids = net.pids
    os.kill(pids["supervisor"], signal.SIGKILL)
    assert gone(list(pids.values()))
    assert not net.alive
    net.stop()


def test_forked_child_leaves_the_network_alone(net: LocalNet) -> None:
    child = os.fork()
    if child == 0:
        net.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert net.stats()["mix1"] is not None


def test_node_is_killed_and_comes_back_as_itself() -> None:
    with LocalNet(set_default=False) as net:
        node = net.node("mix2")
        before = (node.pid, node.ports, node.identity)
        node.kill()
        assert node.pid is None
        assert "mix2" not in net.stats()
        with pytest.raises(ControlError, match="down"):
            node.stats()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(node.ports["mix"], timeout=2)
        node.start()
        after = (node.pid, node.ports, node.identity)
        assert after[0] != before[0]
        assert after[1:] == before[1:]
        with open_tunnel(net) as tunnel:
            tunnel.connect()


def test_paused_node_holds_traffic_until_it_is_resumed() -> None:
    with LocalNet(set_default=False) as net, open_tunnel(net) as tunnel:
        tunnel.connect()
        net.node("mix3").pause()
        assert tunnel.stack is not None
        udp = tunnel.stack.udp()
        udp.sendto(b"held", "198.51.100.10", 7)
        with pytest.raises(TimeoutError):
            tunnel.run(udp.readable, 1.0)
        net.node("mix3").resume()
        tunnel.run(udp.readable, 5.0)


def test_drop_switch_drops_and_survives_a_restart() -> None:
    with LocalNet(drop={"mix1": 0.5}, set_default=False) as net, open_tunnel(net) as tunnel:
        node = net.node("mix1")
        node.set(drop=1.0)
        with pytest.raises(TimeoutError):
            tunnel.connect(1.5)
        stats = node.stats()
        assert stats["dropped"] == stats["packets_in"] > 0
        node.restart()
        with pytest.raises(TimeoutError):
            tunnel.run(lambda: tunnel.ipr_events, 2.0)
        assert node.stats()["packets_out"] == 0


def test_wrong_key_stops_every_packet_at_that_node() -> None:
    with LocalNet(wrong_key=("mix2",), set_default=False) as net, open_tunnel(net) as tunnel:
        with pytest.raises(TimeoutError):
            tunnel.connect(1.5)
        stats = net.stats()
        assert stats["mix2"]["bad_packets"] == stats["mix2"]["packets_in"] > 0
        assert stats["mix3"]["packets_in"] == 0


def test_captured_links_hold_frames_and_a_replay_of_one_is_counted(tmp_path: Path) -> None:
    with (
        LocalNet(capture_dir=str(tmp_path), noise=False, set_default=False) as net,
        open_tunnel(net) as tunnel,
    ):
        tunnel.connect()
        links = {"client-to-entry", "entry-to-websockets", "entry-to-mix1", "mix1-to-mix2", "mix2-to-mix3",
                 "mix3-to-exit", "mix3-to-entry", "exit-to-mix1"}  # fmt: skip
        assert {path.stem for path in tmp_path.iterdir()} == links
        decoder = FrameDecoder()
        decoder.receive_data((tmp_path / "entry-to-mix1.bin").read_bytes())
        frame = decoder.next_frame_untrusted()
        assert frame is not None
        before = net.node("mix1").stats()["replays"]
        with socket.create_connection(net.node("mix1").ports["mix"], timeout=5) as link:
            link.sendall((tmp_path / "entry-to-mix1.bin").read_bytes()[: 4 + len(frame.packet)])
            deadline = time.monotonic() + 5
            while net.node("mix1").stats()["replays"] == before:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_two_exits_and_layers_of_two() -> None:
    config = LocalNetConfig(exits=2, mixes_per_layer=2)
    with LocalNet(config, set_default=False) as net:
        assert len(net.ipr_addresses) == 2
        assert {"mix1", "mix1b", "mix3b", "exit2"} <= set(net.nodes)
        for address in net.ipr_addresses:
            gateway = base58_decode(net.gateway_identity)
            with RawTunnel(net.network_json, gateway, Recipient.parse(address)) as tunnel:
                tunnel.connect()


def test_keys_rotate_without_stopping_a_client_that_has_not_noticed() -> None:
    with LocalNet(set_default=False) as net, open_tunnel(net) as tunnel:
        tunnel.connect()
        assert tunnel.stack is not None
        udp = tunnel.stack.udp()
        before = net.network_json.read_bytes()
        assert net.rotate_keys() == 2
        after = net.network_json.read_bytes()
        assert after != before
        for noticed in (False, True):
            if noticed:
                tunnel.core.set_topology(decode_network_untrusted(after), time.monotonic())
            udp.sendto(b"still there", "198.51.100.10", 7)
            tunnel.run(udp.readable)
            assert udp.recv() is not None
        net.node("mix2").restart()  # with both keys
        udp.sendto(b"and after a restart", "198.51.100.10", 7)
        tunnel.run(udp.readable)
        assert net.rotate_keys() == 3
        with open_tunnel(net) as newcomer:
            newcomer.connect()


def test_silent_exit_never_answers(net: LocalNet) -> None:
    node = net.node("exit")
    node.set(silent=True)
    try:
        with open_tunnel(net) as tunnel, pytest.raises(TimeoutError):
            tunnel.connect(1.0)
    finally:
        node.set(silent=False)


def test_secrets_are_not_on_the_disk(net: LocalNet) -> None:
    directory = net.ca_path.parent
    assert sorted(path.name for path in directory.iterdir()) == ["ca.pem", "control.sock", "network.json"]
    for name in ("ca.pem", "network.json"):
        assert "PRIVATE" not in (directory / name).read_text()
    assert net.control_path.stat().st_mode & 0o777 == 0o600
    for pid in net.pids.values():
        with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            assert b"PRIVATE" not in environ.read() + cmdline.read()


def test_ports_and_address_can_be_fixed() -> None:
    with socket.create_server(("127.0.0.2", 0)) as sock:
        port = sock.getsockname()[1]
    with LocalNet(address="127.0.0.2", ports={"nym-api.http": port}, set_default=False) as net:
        assert net.nym_api == f"http://127.0.0.2:{port}/api/"
        assert {host for node in net.nodes.values() for host, _ in node.ports.values()} == {
            "127.0.0.2", "127.0.0.1",
        }  # fmt: skip
        with open_tunnel(net) as tunnel:
            tunnel.connect()


def test_taken_port_is_named(net: LocalNet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(LocalNetFailed, match=f"mix2.mix: 127.0.0.1 port {port}"):
            LocalNet(ports={"mix2.mix": port}, set_default=False).start()


def test_bad_switches_are_refused_before_anything_starts() -> None:
    for switches in (
        {"drop": {"mix9": 0.1}},
        {"frame_version": 6},
        {"rotation_id": 0},
        {"allow": {"x": 1}},
        {"ports": {"nym-api": 1}},
        {"ports": {"mix7.mix": 1}},
    ):
        with pytest.raises(ValueError):
            LocalNet(**switches)  # type: ignore[arg-type]


def test_exit_policy_that_does_not_read_is_reported() -> None:
    with pytest.raises(LocalNetFailed, match="exit"):
        LocalNet(exit_policy="accept everything", set_default=False).start()


def test_threads_may_control_at_once(net: LocalNet) -> None:
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(net.stats())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 8
    assert all(set(answer) == set(NODES) for answer in answers)


def test_foreground_program_prints_what_a_client_needs_and_ends_on_sigint(tmp_path: Path) -> None:
    export = tmp_path / "network.json"
    command = [sys.executable, "-m", "smolmix_sync.localnet", "--json", "--network-json", str(export)]
    program = subprocess.Popen([*command, "--drop", "mix1=5"], stdout=subprocess.PIPE)
    assert program.stdout is not None
    with program.stdout:
        facts = json.loads(program.stdout.readline())
        pids = [node["pid"] for node in ControlClient(facts["control"]).request("nodes").values()]
        url = facts["environment"]["SMOLMIX_NYM_API"] + "v1/api-status/health"
        assert json.load(urllib.request.urlopen(url, timeout=5))["status"] == "up"
        assert json.loads(export.read_bytes())["rewarded_set"]["layer2"] == [3]
        context = ssl.create_default_context(cafile=facts["ca"])
        host, port = facts["nodes"]["nym-api"]["https"]
        with urllib.request.urlopen(
            f"https://{host}:{port}/api/v1/api-status/health", timeout=5, context=context
        ) as answer:
            assert answer.status == 200
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 0
    assert gone(pids)
