"""A mix node alone: one packet in, one unlike it out, after its delay; everything else is dropped and counted."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest

from smolmix_sync.crypto import x25519_base
from smolmix_sync.mixnet.sphinx import FinalHop, Hop, PacketSize, build_packet, unwrap_untrusted

pytestmark = pytest.mark.interop

DESTINATION = bytes(32)


def build(route: list[Hop], delays: list[float] | None = None, message: bytes = b"a message") -> bytes:
    delays_ns = [int(delay * 1e9) for delay in delays or [0.0] * len(route)]
    return build_packet(message, route, delays_ns, DESTINATION, size=PacketSize.REGULAR, urandom=os.urandom)


def test_packet_leaves_changed_and_not_before_its_delay(bench: Any) -> None:
    node, hop = bench.node("mixnode")
    peer = bench.peer()
    packet = build([hop, peer.hop], [0.15, 0.0])
    began = time.monotonic()
    bench.send(hop, packet)
    frame = peer.receive()
    assert 0.15 <= time.monotonic() - began < 2
    assert frame is not None
    assert (frame.version, frame.key_rotation) == (8, 1)
    windows = {packet[at : at + 32] for at in range(len(packet) - 31)}
    assert not any(frame.packet[at : at + 32] in windows for at in range(len(packet) - 31))
    final = unwrap_untrusted(frame.packet, peer.private_key)
    assert isinstance(final, FinalHop)
    assert final.message == b"a message"
    stats = node.stats()
    assert (stats["packets_in"], stats["forwarded"], stats["packets_out"]) == (1, 1, 1)
    assert stats["bytes_in"] == stats["bytes_out"] == 4 + len(packet)


def test_short_delays_overtake_long_ones(bench: Any) -> None:
    _, hop = bench.node("mixnode")
    peer = bench.peer()
    for delay, message in ((0.4, b"slow"), (0.1, b"fast")):
        bench.send(hop, build([hop, peer.hop], [delay, 0.0], message))
    order = []
    for _ in range(2):
        frame = peer.receive()
        assert frame is not None
        final = unwrap_untrusted(frame.packet, peer.private_key)
        assert isinstance(final, FinalHop)
        order.append(final.message)
    assert order == [b"fast", b"slow"]


def test_three_nodes_in_a_row_carry_every_packet_size(bench: Any) -> None:
    nodes = [bench.node("mixnode", name=f"mix{number}") for number in (1, 2, 3)]
    peer = bench.peer()
    route = [*(hop for _, hop in nodes), peer.hop]
    for size in PacketSize:
        message = os.urandom(size.plaintext_size)
        packet = build_packet(message, route, [0] * 4, DESTINATION, size=size, urandom=os.urandom)
        bench.send(route[0], packet)
        frame = peer.receive()
        assert frame is not None
        final = unwrap_untrusted(frame.packet, peer.private_key)
        assert isinstance(final, FinalHop)
        assert final.message == message
    for node, _ in nodes:
        assert node.stats()["forwarded"] == len(PacketSize)


def test_replay_is_counted_and_goes_no_further(bench: Any) -> None:
    node, hop = bench.node("mixnode")
    peer = bench.peer()
    packet = build([hop, peer.hop])
    bench.send(hop, packet)
    assert peer.receive() is not None
    bench.send(hop, packet)
    node.wait_for("replays", 1)
    assert peer.receive(0.3) is None
    assert node.stats()["packets_out"] == 1


def test_version_7_frames_are_taken_and_sent_when_asked(bench: Any) -> None:
    _, hop = bench.node("mixnode", frame_version=7)
    peer = bench.peer()
    bench.send(hop, build([hop, peer.hop]), key_rotation=0, version=7)
    frame = peer.receive()
    assert frame is not None
    assert (frame.version, frame.key_rotation) == (7, 0)


@pytest.mark.parametrize("counter", ["bad_packets", "expired_key", "unroutable", "not_my_role", "dropped"])
def test_packet_that_must_not_pass_is_dropped_and_counted(bench: Any, counter: str) -> None:
    config: dict[str, Any] = {"switches": {"drop": 1.0}} if counter == "dropped" else {}
    if counter == "unroutable":
        config["known_ips"] = ["192.0.2.1"]
    node, hop = bench.node("mixnode", **config)
    peer = bench.peer()
    packet = build([hop] if counter == "not_my_role" else [hop, peer.hop])
    if counter == "bad_packets":
        packet = packet[:40] + bytes([packet[40] ^ 1]) + packet[41:]
    bench.send(hop, packet, key_rotation=2 if counter == "expired_key" else 1)
    stats = node.wait_for(counter, 1)
    assert peer.receive(0.1) is None
    assert stats["packets_in"] == 1
    assert stats["packets_out"] == 0


def test_garbage_closes_its_link_and_harms_no_other(bench: Any) -> None:
    node, hop = bench.node("mixnode")
    peer = bench.peer()
    with socket.create_connection((hop.address.ip, hop.address.port), timeout=5) as link:
        link.sendall(b"GET / HTTP/1.0\r\n\r\n")
        try:
            assert link.recv(10) == b""
        except ConnectionResetError:
            pass
    bench.send(hop, build([hop, peer.hop]))
    assert peer.receive() is not None
    assert node.stats()["broken_links"] == 1


def test_link_to_a_peer_that_comes_back_is_opened_again(bench: Any) -> None:
    node, hop = bench.node("mixnode")
    peer = bench.peer()
    port = peer.address.port
    peer.close()
    bench.send(hop, build([hop, peer.hop]))
    node.wait_for("lost_no_link", 1)
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(5)
        bench.send(hop, build([hop, peer.hop]))
        link, _ = listener.accept()
        with link:
            link.settimeout(5)
            assert link.recv(1) == b"\x08"


def test_node_ends_with_its_starter(bench: Any) -> None:
    node, _ = bench.node("mixnode")
    node.close()  # end of file on the life line; asserts a clean exit


def test_previous_key_serves_for_one_more_rotation(bench: Any) -> None:
    node, first = bench.node("mixnode")
    hops = [first]
    for rotation_id in (2, 3):
        private = os.urandom(32)
        hops.append(Hop(first.address, x25519_base(private)))
        arguments = {"rotation_id": rotation_id, "private": private.hex()}
        node.request("command", command="add_key", arguments=arguments)
    peer = bench.peer()
    for hop, key_rotation, passes in (
        (hops[2], 1, True),
        (hops[1], 2, True),
        (hops[1], 0, True),
        (hops[0], 1, False),
        (hops[0], 0, False),
        (hops[2], 2, False),
    ):
        bench.send(first, build([hop, peer.hop]), key_rotation)
        assert (peer.receive(5 if passes else 0.2) is not None) == passes
    assert node.stats()["bad_packets"] == 3
