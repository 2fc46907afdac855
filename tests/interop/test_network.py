"""It is a mixnet: packets change at every hop, every node has its part, and no part can be left out."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support.transfers import body, download, upload

from smolmix_sync.errors import TunnelError
from smolmix_sync.localnet import LocalNet
from smolmix_sync.mixnet.sphinx.framing import FrameDecoder
from smolmix_sync.tunnel import Tunnel

pytestmark = [pytest.mark.interop, pytest.mark.slow]

HOPS = ("entry", "mix1", "mix2", "mix3", "exit")


def test_every_hop_counts_the_packets_of_a_transfer(net: LocalNet, tunnel: Tunnel) -> None:
    before = net.stats()
    download(tunnel, 50_000)
    after = net.stats()
    for hop in HOPS:
        # 50 000 octets are at least 32 packets one way, and every packet that arrives is acknowledged.
        assert after[hop]["packets_in"] - before[hop]["packets_in"] > 32, hop


def windows(data: bytes) -> set[bytes]:
    return {data[at : at + 32] for at in range(len(data) - 31)}


def test_no_link_carries_plaintext_and_no_two_links_share_32_octets(tmp_path: Path) -> None:
    marker = b"find me if you can, on any link! " * 40
    with (
        # Noise would hide what the packets themselves have in common.
        LocalNet(capture_dir=str(tmp_path), noise=False, set_default=False) as net,
        Tunnel(**net.client_settings()) as tunnel,
    ):
        assert upload(tunnel, marker)["length"] == len(marker)
        download(tunnel, 5_000)
    captures = {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    big = {name: data[:250_000] for name, data in captures.items() if len(data) > 10_000}
    assert len(big) >= 5, {name: len(data) for name, data in captures.items()}
    for name, data in captures.items():
        assert marker[:33] not in data, name
        assert b"find me" not in data, name
        assert b"www.localnet" not in data, name
        assert b"HTTP/1.1 200" not in data, name
    seen: dict[bytes, str] = {}
    for name, data in big.items():
        for window in windows(data):
            assert seen.setdefault(window, name) == name, f"{name} and {seen[window]} share {window.hex()}"


def test_tunnel_is_never_ready_over_a_mix_with_another_key() -> None:
    with LocalNet(wrong_key=("mix2",), set_default=False) as net:
        with pytest.raises(TunnelError):
            Tunnel(**net.client_settings(), connect_timeout=12.0)
        stats = net.stats()
        assert stats["mix1"]["packets_out"] > 0
        assert stats["mix3"]["packets_in"] == 0


def test_traffic_stops_without_a_mix_and_comes_back_with_it() -> None:
    with LocalNet(set_default=False) as net, Tunnel(**net.client_settings()) as tunnel:
        with tunnel.create_connection(("echo.localnet", 7), timeout=20) as sock:
            sock.sendall(b"one")
            assert sock.recv(3) == b"one"
            mix = net.node("mix2")
            mix.kill()
            sock.settimeout(4)
            sock.sendall(b"two")
            with pytest.raises(TimeoutError):
                sock.recv(3)
            mix.start()
            sock.settimeout(30)
            assert sock.recv(3) == b"two"


def test_replayed_packet_is_counted_and_goes_no_further(tmp_path: Path) -> None:
    with LocalNet(capture_dir=str(tmp_path), noise=False, set_default=False) as net:
        with Tunnel(**net.client_settings()) as tunnel:
            download(tunnel, 1_000)
        link = next(path for path in tmp_path.iterdir() if "entry" in path.name and "mix1" in path.name)
        decoder = FrameDecoder()
        decoder.receive_data(link.read_bytes())
        frame = decoder.next_frame_untrusted()
        assert frame is not None
        assert wait_until_quiet(net)
        before = net.stats()
        with socket.create_connection(net.node("mix1").ports["mix"], timeout=5) as replay:
            replay.sendall(link.read_bytes()[: 4 + len(frame.packet)])
            deadline = time.monotonic() + 5
            while net.stats()["mix1"]["replays"] == before["mix1"]["replays"] and time.monotonic() < deadline:
                time.sleep(0.05)
        time.sleep(0.3)
        after = net.stats()
        assert after["mix1"]["replays"] == before["mix1"]["replays"] + 1
        assert after["mix2"]["packets_in"] == before["mix2"]["packets_in"]
        assert after["exit"]["packets_in"] == before["exit"]["packets_in"]


def wait_until_quiet(net: LocalNet) -> bool:
    last: object = None
    for _ in range(100):
        stats = net.stats()
        now = [stats[hop]["packets_in"] for hop in HOPS]
        if now == last:
            return True
        last = now
        time.sleep(0.3)
    return False


CLIENT = textwrap.dedent("""
    import os, urllib.request
    import smolmix_sync
    assert os.getuid() == 65534
    with smolmix_sync.patch_all():
        with urllib.request.urlopen("http://www.localnet/bytes/3000", timeout=30) as answer:
            assert len(answer.read()) == 3000
    smolmix_sync.disconnect()
    print("done")
""")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_client_of_another_user_needs_only_what_a_client_may_know(net: LocalNet) -> None:
    # The capability lets the other user read an interpreter below a closed home directory, and nothing else.
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    drop += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    done = subprocess.run(
        [*drop, sys.executable, "-c", CLIENT],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **net.environment()},
        capture_output=True, text=True, timeout=90, cwd="/", check=False,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr
    # The control socket, the one door to the network's insides, is shut to that user.
    mode = net.control_path.stat()
    assert (mode.st_uid, mode.st_mode & 0o777) == (os.geteuid(), 0o600)


def test_upload_of_random_octets_is_the_same_at_the_service(tunnel: Tunnel) -> None:
    assert upload(tunnel, body(10_000, 3))["length"] == 10_000
