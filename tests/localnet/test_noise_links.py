"""Links between nodes: inside Noise where the directory announces it, plain elsewhere, refused where it is not spoken."""

from __future__ import annotations

import json
import os
import select
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.raw_tunnel import RawTunnel

from smolmix_sync.address import Recipient, base58_decode, base58_encode
from smolmix_sync.crypto import x25519_base
from smolmix_sync.errors import WireError
from smolmix_sync.localnet import LocalNet
from smolmix_sync.localnet.links import NoisePeers
from smolmix_sync.localnet.semi_skimmed import SemiSkimmedPage
from smolmix_sync.mixnet.noise import HANDSHAKE_TIMEOUT, NoiseLink, NoiseState
from smolmix_sync.mixnet.sphinx import (
    FinalHop,
    FrameDecoder,
    Hop,
    MixFrame,
    NodeAddress,
    PacketSize,
    build_packet,
    encode_frame,
    unwrap_untrusted,
)
from smolmix_sync.mixnet.topology.described import DescribedPage

pytestmark = pytest.mark.interop

ELSEWHERE = "127.0.0.9"
FRAME_SIZE = 4 + PacketSize.REGULAR.packet_size
MESSAGE = b"a message"
Keys = dict[str, str]


def packet_for(route: list[Hop]) -> bytes:
    return build_packet(
        MESSAGE, route, [0] * len(route), bytes(32), size=PacketSize.REGULAR, urandom=os.urandom
    )


class NoisePeer:
    """A node of the test: listens, and speaks Noise if it has a key."""

    def __init__(self, address: str, private: bytes | None) -> None:
        self.private = private
        self.sphinx = os.urandom(32)
        self.listener = socket.create_server((address, 0))
        self.listener.settimeout(5)
        self.address = NodeAddress(address, self.listener.getsockname()[1])
        self.hop = Hop(self.address, x25519_base(self.sphinx))
        self.octets = b""  #: everything that came, as it was on the wire

    def receive_frame(self) -> tuple[MixFrame, str]:
        """Return the first frame of the next link, and the address that the link came from."""
        connection, (source, _) = self.listener.accept()
        with connection:
            connection.settimeout(5)
            decoder = FrameDecoder()
            noise = None
            if self.private is not None:
                noise = NoiseLink.responder(self.private, urandom=os.urandom, now=0.0)
            while (frame := decoder.next_frame_untrusted()) is None:
                data = connection.recv(65536)
                assert data, "the node closed the link"
                self.octets += data
                if noise is None:
                    decoder.receive_data(data)
                    continue
                noise.receive_data(data)
                while (plaintext := noise.next_data_untrusted()) is not None:
                    decoder.receive_data(plaintext)
                for answer in noise.data_to_send():
                    connection.sendall(answer)
            return frame, source

    def opens(self, frame: MixFrame) -> bool:
        final = unwrap_untrusted(frame.packet, self.sphinx)
        return isinstance(final, FinalHop) and final.message == MESSAGE


@pytest.fixture
def peer_at(bench: Any) -> Callable[..., NoisePeer]:
    def make(address: str = "127.0.0.1", private: bytes | None = None) -> NoisePeer:
        peer = NoisePeer(address, private)
        bench.on_end(peer.listener.close)
        return peer

    return make


@pytest.fixture
def own_key() -> bytes:
    return os.urandom(32)


def mixnode(bench: Any, own_key: bytes, keys: Keys) -> tuple[Any, Hop]:
    """Start a mix node with a Noise key; *keys* are those that the directory announces."""
    node, hop = bench.node(
        "mixnode", known_ips=["127.0.0.1", ELSEWHERE], noise={"private": own_key.hex(), "keys": keys}
    )
    return node, hop


def announced(*peers: NoisePeer) -> Keys:
    return {str(peer.address): x25519_base(peer.private or bytes(32)).hex() for peer in peers}


def closed(link: socket.socket, within: float) -> bool:
    """Tell whether the other end closes *link* in time, without a word."""
    readable, _, _ = select.select([link], [], [], within)
    if not readable:
        return False
    try:
        return link.recv(1) == b""
    except ConnectionResetError:
        return True


def from_address(source: str, hop: Hop) -> socket.socket:
    return socket.create_connection((hop.address.ip, hop.address.port), timeout=5, source_address=(source, 0))


def shake_hands(link: socket.socket, responder_key: bytes) -> NoiseLink:
    noise = NoiseLink.initiator(os.urandom(32), responder_key, urandom=os.urandom, now=0.0)
    while True:
        for data in noise.data_to_send():
            link.sendall(data)
        if noise.state is NoiseState.OPEN:
            return noise
        data = link.recv(65536)
        assert data, "the node closed the link"
        noise.receive_data(data)
        assert noise.next_data_untrusted() is None


# --- the rules alone ---


def test_a_link_is_in_noise_if_the_directory_has_a_key_for_that_address_and_port() -> None:
    listed = NodeAddress("192.0.2.1", 1789)
    peers = NoisePeers(os.urandom(32), {listed: b"k" * 32})
    assert peers.key_of(listed) == b"k" * 32
    assert peers.key_of(NodeAddress("192.0.2.1", 1790)) is None
    assert peers.key_of(NodeAddress("192.0.2.2", 1789)) is None


def test_noise_is_expected_from_every_address_that_announces_it_on_any_port() -> None:
    peers = NoisePeers(os.urandom(32), {NodeAddress("192.0.2.1", 1789): b"k" * 32})
    assert peers.expects_noise("192.0.2.1")
    assert peers.expects_noise("::ffff:192.0.2.1"), "as a socket for both families reports it"
    assert not peers.expects_noise("192.0.2.2")
    assert not peers.expects_noise("2001:db8::1")


def test_a_node_without_a_key_speaks_to_nobody_in_noise() -> None:
    listed = NodeAddress("192.0.2.1", 1789)
    peers = NoisePeers(None, {listed: b"k" * 32})
    assert peers.key_of(listed) is None
    assert not peers.expects_noise("192.0.2.1")


def test_what_the_directory_says_later_holds_for_later_links() -> None:
    old, new = NodeAddress("192.0.2.1", 1789), NodeAddress("192.0.2.2", 1789)
    peers = NoisePeers(os.urandom(32), {old: b"k" * 32})
    peers.learn({new: b"n" * 32})
    assert (peers.key_of(old), peers.key_of(new)) == (None, b"n" * 32)
    assert not peers.expects_noise("192.0.2.1")


# --- a node that opens a link ---


def test_frames_to_a_node_that_announces_noise_are_inside_it(
    bench: Any, peer_at: Any, own_key: bytes
) -> None:
    peer = peer_at(private=os.urandom(32))
    node, hop = mixnode(bench, own_key, announced(peer))
    with from_address(ELSEWHERE, hop) as link:
        link.sendall(encode_frame(packet_for([hop, peer.hop]), 1, 8))
        frame, _ = peer.receive_frame()
    assert peer.opens(frame)
    handshake, data = peer.octets[: 56 + 72], peer.octets[56 + 72 :]
    assert (handshake[:8], handshake[56:64]) == (b"\1\1\0\0\x30\0\0\0", b"\1\1\0\0\x40\0\0\0")
    assert data[:8] == b"\1\1\1" + (FRAME_SIZE + 16).to_bytes(2, "big") + bytes(3)
    assert len(data) == 8 + FRAME_SIZE + 16
    windows = {frame.packet[at : at + 8] for at in range(len(frame.packet) - 7)}
    assert not any(peer.octets[at : at + 8] in windows for at in range(len(peer.octets) - 7))
    assert encode_frame(frame.packet, 1, 8)[:4] not in data[8:16]
    stats = node.wait_for("packets_out", 1)
    assert (stats["noise_links_out"], stats["noise_failed"]) == (1, 0)
    assert stats["bytes_out"] == len(peer.octets)


def test_a_second_packet_uses_the_open_link(bench: Any, peer_at: Any, own_key: bytes) -> None:
    peer = peer_at(private=os.urandom(32))
    node, hop = mixnode(bench, own_key, announced(peer))
    with from_address(ELSEWHERE, hop) as link:
        link.sendall(b"".join(encode_frame(packet_for([hop, peer.hop]), 1, 8) for _ in range(5)))
        peer.receive_frame()
    stats = node.wait_for("packets_out", 5)
    assert stats["noise_links_out"] == 1


def test_a_node_that_announces_no_noise_gets_plain_frames(bench: Any, peer_at: Any, own_key: bytes) -> None:
    plain, other = peer_at(), peer_at(private=os.urandom(32))
    node, hop = mixnode(bench, own_key, announced(other))
    with from_address(ELSEWHERE, hop) as link:
        link.sendall(encode_frame(packet_for([hop, plain.hop]), 1, 8))
        frame, source = plain.receive_frame()
    assert plain.opens(frame)
    assert plain.octets == encode_frame(frame.packet, 1, 8)
    assert source == "127.0.0.1", "the other end judges by the address that the node announces"
    assert node.stats()["noise_links_out"] == 0


def test_a_node_that_announces_noise_and_does_not_speak_it_gets_no_packet(
    bench: Any, peer_at: Any, own_key: bytes
) -> None:
    mute = peer_at()
    node, hop = mixnode(bench, own_key, announced(mute))
    began = time.monotonic()
    with from_address(ELSEWHERE, hop) as link:
        link.sendall(encode_frame(packet_for([hop, mute.hop]), 1, 8))
        connection, _ = mute.listener.accept()
        with connection:
            connection.settimeout(5)
            assert len(connection.recv(65536)) == 56
            assert closed(connection, 4)
    assert time.monotonic() - began > HANDSHAKE_TIMEOUT - 0.1
    stats = node.wait_for("noise_failed", 1)
    assert (stats["packets_out"], stats["lost_no_link"]) == (0, 1)


def test_a_node_with_another_key_than_announced_gets_no_packet(
    bench: Any, peer_at: Any, own_key: bytes
) -> None:
    peer = peer_at(private=os.urandom(32))
    keys = announced(peer)
    peer.private = os.urandom(32)
    node, hop = mixnode(bench, own_key, keys)
    with from_address(ELSEWHERE, hop) as link:
        link.sendall(encode_frame(packet_for([hop, peer.hop]), 1, 8))
        with pytest.raises(WireError):
            peer.receive_frame()
    stats = node.wait_for("noise_failed", 1)
    assert (stats["packets_out"], stats["lost_no_link"]) == (0, 1)


def test_a_key_of_low_order_in_the_directory_costs_one_link(bench: Any, peer_at: Any, own_key: bytes) -> None:
    peer = peer_at()
    node, hop = mixnode(bench, own_key, {str(peer.address): bytes(32).hex()})
    with from_address(ELSEWHERE, hop) as link:
        link.sendall(encode_frame(packet_for([hop, peer.hop]), 1, 8))
        stats = node.wait_for("noise_failed", 1)
        assert (stats["packets_out"], stats.get("failed_tasks", 0)) == (0, 0)


# --- a node that accepts a link ---


@pytest.fixture
def accepting(bench: Any, peer_at: Any, own_key: bytes) -> tuple[Any, Hop, NoisePeer]:
    """A node that knows of Noise at 127.0.0.1, and passes packets on to a plain peer elsewhere."""
    plain = peer_at(ELSEWHERE)
    node, hop = mixnode(bench, own_key, {"127.0.0.1:1789": x25519_base(os.urandom(32)).hex()})
    return node, hop, plain


def test_a_node_takes_frames_inside_noise_however_they_are_cut(
    accepting: tuple[Any, Hop, NoisePeer], own_key: bytes
) -> None:
    node, hop, plain = accepting
    frame = encode_frame(packet_for([hop, plain.hop]), 1, 8)
    with from_address("127.0.0.1", hop) as link:
        noise = shake_hands(link, x25519_base(own_key))
        for part in (frame[:1], frame[1:700], frame[700:]):
            noise.send(part)
        data = b"".join(noise.data_to_send())
        for at in range(0, len(data), 500):
            link.sendall(data[at : at + 500])
        received, _ = plain.receive_frame()
    assert plain.opens(received)
    stats = node.stats()
    assert (stats["noise_links_in"], stats["noise_refused"], stats["packets_in"]) == (1, 0, 1)


def test_frames_may_come_together_with_the_end_of_the_handshake(
    accepting: tuple[Any, Hop, NoisePeer], own_key: bytes
) -> None:
    node, hop, plain = accepting
    with from_address("127.0.0.1", hop) as link:
        noise = NoiseLink.initiator(os.urandom(32), x25519_base(own_key), urandom=os.urandom, now=0.0)
        link.sendall(b"".join(noise.data_to_send()))
        noise.receive_data(link.recv(65536))
        assert noise.next_data_untrusted() is None
        noise.send(encode_frame(packet_for([hop, plain.hop]), 1, 8))
        link.sendall(b"".join(noise.data_to_send()))
        assert plain.opens(plain.receive_frame()[0])
    assert node.stats()["noise_links_in"] == 1


def test_a_plain_frame_from_where_noise_is_announced_is_refused(
    accepting: tuple[Any, Hop, NoisePeer],
) -> None:
    node, hop, plain = accepting
    with from_address("127.0.0.1", hop) as link:
        link.sendall(encode_frame(packet_for([hop, plain.hop]), 1, 8))
        assert closed(link, 4)
    stats = node.wait_for("noise_refused", 1)
    assert (stats["noise_refused"], stats["noise_links_in"], stats["packets_in"]) == (1, 0, 0)


def test_a_peer_that_says_nothing_is_refused_after_the_time_of_a_handshake(
    accepting: tuple[Any, Hop, NoisePeer],
) -> None:
    node, hop, _ = accepting
    with from_address("127.0.0.1", hop) as link:
        began = time.monotonic()
        assert closed(link, 4)
        assert time.monotonic() - began > HANDSHAKE_TIMEOUT - 0.1
    assert node.wait_for("noise_refused", 1)["noise_refused"] == 1


def test_an_initiator_with_the_wrong_key_is_refused(accepting: tuple[Any, Hop, NoisePeer]) -> None:
    node, hop, _ = accepting
    with from_address("127.0.0.1", hop) as link:
        noise = NoiseLink.initiator(os.urandom(32), x25519_base(os.urandom(32)), urandom=os.urandom, now=0.0)
        link.sendall(b"".join(noise.data_to_send()))
        assert closed(link, 1)
    assert node.wait_for("noise_refused", 1)["noise_links_in"] == 0


def test_a_link_that_ends_in_its_handshake_is_counted(accepting: tuple[Any, Hop, NoisePeer]) -> None:
    node, hop, _ = accepting
    from_address("127.0.0.1", hop).close()
    assert node.wait_for("noise_refused", 1, 1.0)["noise_refused"] == 1


def test_a_forged_frame_on_an_open_link_closes_it(
    accepting: tuple[Any, Hop, NoisePeer], own_key: bytes
) -> None:
    node, hop, plain = accepting
    with from_address("127.0.0.1", hop) as link:
        noise = shake_hands(link, x25519_base(own_key))
        noise.send(encode_frame(packet_for([hop, plain.hop]), 1, 8))
        data = bytearray(b"".join(noise.data_to_send()))
        data[-1] ^= 1
        link.sendall(data)
        assert closed(link, 2)
    stats = node.wait_for("broken_links", 1)
    assert (stats["packets_in"], stats["noise_refused"]) == (0, 0)


def test_a_data_frame_without_data_ends_the_link(
    accepting: tuple[Any, Hop, NoisePeer], own_key: bytes
) -> None:
    node, hop, _ = accepting
    with from_address("127.0.0.1", hop) as link:
        noise = shake_hands(link, x25519_base(own_key))
        assert noise._send is not None
        noise._queue(1, noise._send.encrypt(b""))  # `send` has nothing to say for no octets
        link.sendall(b"".join(noise.data_to_send()))
        assert closed(link, 2)
    stats = node.stats()
    assert (stats["noise_links_in"], stats["noise_refused"], stats.get("broken_links", 0)) == (1, 0, 0)


def test_plain_frames_are_taken_from_where_no_noise_is_announced(
    accepting: tuple[Any, Hop, NoisePeer],
) -> None:
    node, hop, plain = accepting
    with from_address(ELSEWHERE, hop) as link:
        link.sendall(encode_frame(packet_for([hop, plain.hop]), 1, 7))
        assert plain.opens(plain.receive_frame()[0])
    assert node.stats()["noise_links_in"] == 0


def test_noise_from_where_none_is_announced_is_a_broken_frame(
    accepting: tuple[Any, Hop, NoisePeer], own_key: bytes
) -> None:
    node, hop, _ = accepting
    with from_address(ELSEWHERE, hop) as link:
        noise = NoiseLink.initiator(os.urandom(32), x25519_base(own_key), urandom=os.urandom, now=0.0)
        link.sendall(b"".join(noise.data_to_send()))
        assert closed(link, 1)
    assert node.wait_for("broken_links", 1)["noise_refused"] == 0


# --- a whole network ---


def tunnel_to(net: LocalNet) -> RawTunnel:
    return RawTunnel(net.network_json, base58_decode(net.gateway_identity), Recipient.parse(net.ipr_address))


def ask(net: LocalNet, path: str) -> bytes:
    with urllib.request.urlopen(net.nym_api + path, timeout=5) as answer:
        body: bytes = answer.read()
    return body


def noise_keys(net: LocalNet) -> set[str | None]:
    """Return what the described nodes announce, checked against the list for nodes."""
    described = DescribedPage.decode_untrusted(ask(net, "v2/nym-nodes/described"))
    listed = json.loads(ask(net, "v2/unstable/nym-nodes/semi-skimmed"))["nodes"]["data"]
    keys = {}
    for node in described.nodes:
        assert node.noise_key is None or node.noise_key[0] == 1
        keys[node.node_id] = None if node.noise_key is None else base58_encode(node.noise_key[1])
    for record in listed:
        key = record["x25519_noise_versioned_key"]
        assert key == (
            None
            if keys[record["basic"]["node_id"]] is None
            else {"supported_version": 1, "x25519_pubkey": keys[record["basic"]["node_id"]]}
        )
    assert len(keys) == len(listed) == 5
    return set(keys.values())


def test_a_network_speaks_noise_unless_told_otherwise(tmp_path: Path) -> None:
    with LocalNet(capture_dir=str(tmp_path), set_default=False) as net, tunnel_to(net) as tunnel:
        tunnel.connect()
        keys = noise_keys(net)
        assert len(keys) == 5
        assert None not in keys
        page = SemiSkimmedPage.decode_untrusted(ask(net, "v2/unstable/nym-nodes/semi-skimmed"))
        mixes = {
            NodeAddress(*net.node(name).ports["mix"]) for name in ("entry", "mix1", "mix2", "mix3", "exit")
        }
        assert set(page.noise_keys) == mixes
        stats = net.stats()
        for path in tmp_path.glob("*-to-*.bin"):
            if "websockets" not in path.stem and not path.stem.startswith("client"):
                assert path.read_bytes()[:8] == b"\1\1\0\0\x30\0\0\0", path.stem
        net.node("mix2").restart()
        with tunnel_to(net) as another:
            another.connect()
    for name in ("entry", "mix1", "mix2", "mix3", "exit"):
        assert stats[name]["noise_links_in"] == stats[name]["links_accepted"] > 0, name
        assert stats[name]["noise_links_out"] > 0, name
        assert stats[name]["noise_refused"] == stats[name]["noise_failed"] == 0, name


def test_a_network_without_noise_announces_none_and_sends_frames_in_the_clear(tmp_path: Path) -> None:
    with LocalNet(noise=False, capture_dir=str(tmp_path), set_default=False) as net, tunnel_to(net) as tunnel:
        tunnel.connect()
        assert noise_keys(net) == {None}
        stats = net.stats()
        assert stats["mix1"]["noise_links_in"] == stats["mix1"]["noise_links_out"] == 0
        assert (tmp_path / "mix1-to-mix2.bin").read_bytes()[0] == 8
