"""A gateway alone, between a client on a real websocket and a peer on a real mix link."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import time
from typing import Any

import pytest
import websocket

from smolmix_sync.crypto import aes128_ctr, ed25519_public_from_seed
from smolmix_sync.mixnet.gateway import (
    Authenticated,
    BandwidthChanged,
    ClientEvent,
    GatewayClient,
    GatewayRefused,
    Pushed,
    Refusal,
    Registered,
)
from smolmix_sync.mixnet.sphinx import Hop, MixPacket, PacketSize, build_packet, encode_frame

pytestmark = pytest.mark.interop


class Client:
    """The client core on a websocket, driven by hand."""

    def __init__(self, bench: Any, node: Any, *, seed: bytes | None = None, key: bytes | None = None,
                 tls: bool = False) -> None:  # fmt: skip
        self.seed = seed or os.urandom(32)
        self.address = ed25519_public_from_seed(self.seed)
        gateway = ed25519_public_from_seed(bytes.fromhex(node.config["identity_seed"]))
        self.core = GatewayClient(self.seed, gateway, shared_key=key, urandom=os.urandom)
        kind = "wss" if tls else "ws"
        port = node.config["ports"][kind]
        options: dict[str, Any] = {}
        if tls:
            context = ssl.create_default_context(cadata=node.config["leaf"]["chain"])
            options = {"context": context}
        self.websocket = websocket.create_connection(f"{kind}://127.0.0.1:{port}/", timeout=5, sslopt=options)
        bench.on_end(self.websocket.close)
        self.core.start(time.monotonic(), time.time())
        self.write()

    def write(self) -> None:
        for message in self.core.data_to_send(time.monotonic()):
            if isinstance(message, str):
                self.websocket.send(message)
            else:
                self.websocket.send_binary(message)

    def wait_for(self, kind: type, timeout: float = 5.0) -> Any:
        """Feed the core until it reports *kind*; other events are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            while (event := self.core.next_event()) is not None:
                if isinstance(event, kind):
                    self.write()
                    return event
                if isinstance(event, GatewayRefused):
                    raise AssertionError(f"refused: {event.reason}")
            self.write()
            left = deadline - time.monotonic()
            assert left > 0, f"no {kind.__name__}"
            self.websocket.settimeout(left)
            opcode, data = self.websocket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise AssertionError("closed")
            self.core.receive_data(
                data.decode() if opcode == websocket.ABNF.OPCODE_TEXT else data, time.monotonic()
            )

    def ready(self) -> bytes:
        """Register and claim; return the shared key."""
        self.wait_for(Registered)
        self.core.claim_bandwidth(time.monotonic())
        self.wait_for(BandwidthChanged)
        assert self.core.shared_key is not None
        return self.core.shared_key


def message_packet(gateway: Hop, peer: Hop, destination: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Return a packet that ends at *gateway* and carries an ack packet for *peer*; and that ack packet."""
    ack = build_packet(bytes(21), [peer], [0], destination, size=PacketSize.ACK, urandom=os.urandom)
    content = peer.address.encode_padded(19) + ack + message
    packet = build_packet(content, [gateway], [0], destination, size=PacketSize.REGULAR, urandom=os.urandom)
    return packet, ack


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_client_registers_claims_and_sends_to_its_first_hop(bench: Any, tls: bool) -> None:
    node, _ = bench.node("gateway")
    peer = bench.peer()
    client = Client(bench, node, tls=tls)
    client.ready()
    assert client.core.bandwidth == 64 * 1024**3
    packet = build_packet(b"hello", [peer.hop], [0], bytes(32), size=PacketSize.REGULAR, urandom=os.urandom)
    assert client.core.forward(MixPacket(peer.address, packet, 1), time.monotonic())
    client.write()
    frame = peer.receive()
    assert frame is not None
    assert (frame.packet, frame.key_rotation) == (packet, 1)
    stats = node.stats()
    assert (stats["registrations"], stats["from_clients"], stats["packets_out"]) == (1, 1, 1)


def test_message_is_pushed_and_its_ack_goes_on(bench: Any) -> None:
    node, hop = bench.node("gateway")
    peer = bench.peer()
    client = Client(bench, node)
    client.ready()
    packet, ack = message_packet(hop, peer.hop, client.address, b"for the client")
    bench.send(hop, packet)
    assert client.wait_for(Pushed).payload == b"for the client"
    frame = peer.receive()
    assert frame is not None
    assert frame.packet == ack
    stats = node.stats()
    assert (stats["final"], stats["delivered"], stats["acks_sent"]) == (1, 1, 1)


def test_client_that_resets_amid_messages_ends_quietly(bench: Any, capfd: pytest.CaptureFixture[str]) -> None:
    node, hop = bench.node("gateway")
    peer = bench.peer()
    client = Client(bench, node)
    client.ready()
    frames = [encode_frame(message_packet(hop, peer.hop, client.address, b"x")[0], 1, 8) for _ in range(20)]
    with socket.create_connection((hop.address.ip, hop.address.port), timeout=5) as link:
        link.sendall(frames.pop())
        client.wait_for(Pushed)
        # The node finds the messages first, then that their reader is gone.
        os.kill(node.process.pid, signal.SIGSTOP)
        link.sendall(b"".join(frames))
        client.websocket.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.websocket.shutdown()
        os.kill(node.process.pid, signal.SIGCONT)
        node.wait_for("packets_in", 20)
    assert capfd.readouterr().err == ""


def test_ack_is_pushed_as_it_is(bench: Any) -> None:
    node, hop = bench.node("gateway")
    client = Client(bench, node)
    client.ready()
    content = os.urandom(16) + aes128_ctr(bytes(16), bytes(16), b"12345")
    packet = build_packet(content, [hop], [0], client.address, size=PacketSize.ACK, urandom=os.urandom)
    bench.send(hop, packet)
    event = client.wait_for(Pushed)
    assert event.payload == content
    assert event.is_ack
    assert node.stats()["acks_delivered"] == 1


def test_message_waits_for_a_client_that_is_away_and_is_acked_at_once(bench: Any) -> None:
    node, hop = bench.node("gateway")
    peer = bench.peer()
    client = Client(bench, node)
    key = client.ready()
    client.websocket.close()
    packet, ack = message_packet(hop, peer.hop, client.address, b"while you were out")
    deadline = time.monotonic() + 5
    while True:  # the close has to arrive first
        bench.send(hop, packet)
        if node.wait_for("final", 1)["stored"]:
            break
        assert time.monotonic() < deadline
        packet, ack = message_packet(hop, peer.hop, client.address, b"while you were out")
    frame = peer.receive()
    assert frame is not None
    again = Client(bench, node, seed=client.seed, key=key)
    assert again.wait_for(Pushed).payload == b"while you were out"
    assert ack  # its packet went out before the client was back


def test_killed_gateway_comes_back_knowing_its_clients(bench: Any) -> None:
    node, hop = bench.node("gateway")
    client = Client(bench, node)
    key = client.ready()
    node.stats()  # what it keeps has arrived once this is answered
    node.kill()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", node.config["ports"]["ws"]), timeout=2)
    node.start()
    again = Client(bench, node, seed=client.seed, key=key)
    again.wait_for(Authenticated)
    peer = bench.peer()
    packet, _ = message_packet(hop, peer.hop, client.address, b"after the restart")
    bench.send(hop, packet)
    assert again.wait_for(Pushed).payload == b"after the restart"


def test_newest_connection_of_a_client_wins(bench: Any) -> None:
    node, hop = bench.node("gateway")
    first = Client(bench, node)
    key = first.ready()
    time.sleep(1.1)  # authentication timestamps are whole seconds and must grow
    second = Client(bench, node, seed=first.seed, key=key)
    second.wait_for(Authenticated)
    packet, _ = message_packet(hop, bench.peer().hop, first.address, b"to the newest")
    bench.send(hop, packet)
    assert second.wait_for(Pushed).payload == b"to the newest"
    first.websocket.settimeout(2)
    with pytest.raises(websocket.WebSocketConnectionClosedException):
        while True:
            opcode, _ = first.websocket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise websocket.WebSocketConnectionClosedException


def test_gateway_that_enforces_tickets_refuses_the_free_claim(bench: Any) -> None:
    node, _ = bench.node("gateway", switches={"enforce_tickets": True})
    client = Client(bench, node)
    client.wait_for(Registered)
    client.core.claim_bandwidth(time.monotonic())
    client.write()
    event: ClientEvent | None = None
    deadline = time.monotonic() + 5
    while not isinstance(event, GatewayRefused):
        assert time.monotonic() < deadline
        event = client.core.next_event()
        if event is None:
            _, data = client.websocket.recv_data()
            client.core.receive_data(data.decode(), time.monotonic())
    assert event.kind is Refusal.TICKETS_REQUIRED
    assert not event.fatal


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_stalled_gateway_pings_and_closes_its_window(bench: Any, tls: bool) -> None:
    node, _ = bench.node("gateway")
    client = Client(bench, node, tls=tls)
    client.ready()
    client.websocket.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    assert node.request("command", command="stall", arguments={"seconds": 1.0, "ping_interval": 0.1}) == 1
    peer = bench.peer()
    sent = 0
    client.websocket.settimeout(0.3)
    with pytest.raises((TimeoutError, websocket.WebSocketTimeoutException)):
        while sent < 1000:
            packet = build_packet(
                b"late", [peer.hop], [0], bytes(32), size=PacketSize.REGULAR, urandom=os.urandom
            )
            client.core.forward(MixPacket(peer.address, packet, 1), time.monotonic())
            client.write()
            sent += 1
    # The frame alone: answering it would block, as it would block a client with one lock for both directions.
    assert client.websocket.recv_frame().opcode == websocket.ABNF.OPCODE_PING
    received = sum(peer.receive(0.05) is not None for _ in range(3))
    assert received == 0
    assert peer.receive(5) is not None


def test_final_packet_without_a_place_for_its_ack_is_dropped(bench: Any) -> None:
    node, hop = bench.node("gateway")
    packet = build_packet(b"short", [hop], [0], bytes(32), size=PacketSize.REGULAR, urandom=os.urandom)
    bench.send(hop, packet)
    assert node.wait_for("bad_packets", 1)["delivered"] == 0
