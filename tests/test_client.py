from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest
from support.greenlets import wait_until

from smolmix_sync.client import IpMixStream, MixnetClient
from smolmix_sync.errors import IprError, SmolmixError, TopologyError, TunnelClosed, TunnelNotReady, WireError
from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel, TunnelState

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.fixture
def clients(net: LocalNet) -> Iterator[tuple[MixnetClient, MixnetClient]]:
    with MixnetClient(**net.client_settings()) as one, MixnetClient(**net.client_settings()) as two:
        yield one, two


def test_message_arrives_and_is_answered_anonymously(clients: tuple[MixnetClient, MixnetClient]) -> None:
    alice, bob = clients
    alice.send(bob.nym_address, b"who are you?", surbs=5)
    message = bob.receive(20)
    assert message.data == b"who are you?"
    assert message.sender_tag is not None
    assert not message.is_reply
    bob.send_reply(message.sender_tag, b"bob")
    answer = alice.receive(20)
    assert answer.data == b"bob"
    assert answer.is_reply
    assert answer.sender_tag is None


def test_long_message_and_text_address(clients: tuple[MixnetClient, MixnetClient]) -> None:
    alice, bob = clients
    data = bytes(range(256)) * 100
    alice.send(str(bob.nym_address), data)
    assert bob.receive(30).data == data


def test_plain_message_cannot_be_answered(clients: tuple[MixnetClient, MixnetClient]) -> None:
    alice, bob = clients
    alice.send_plain(bob.nym_address, b"plain")
    message = bob.receive(20)
    assert (message.data, message.sender_tag) == (b"plain", None)
    with pytest.raises(TunnelNotReady):
        bob.send_reply(bytes(16), b"to nobody")


def test_client_sends_to_itself(clients: tuple[MixnetClient, MixnetClient]) -> None:
    alice, _ = clients
    alice.send(alice.nym_address, b"memo", surbs=0)
    assert alice.receive(20).data == b"memo"


def test_receive_times_out_and_ends(net: LocalNet) -> None:
    client = MixnetClient.connect_new(**net.client_settings())
    with pytest.raises(TimeoutError):
        client.receive(0.1)
    client.disconnect()
    client.disconnect()
    with pytest.raises(TunnelClosed):
        client.receive(1)
    with pytest.raises(TunnelClosed):
        client.nym_address  # noqa: B018
    assert list(client) == []


def test_client_that_is_not_connected_says_so(net: LocalNet) -> None:
    client = MixnetClient(**net.client_settings())
    with pytest.raises(TunnelNotReady):
        client.send_reply(bytes(16), b"x")
    client.disconnect()
    with pytest.raises(TopologyError):
        MixnetClient(nym_api=("http://127.0.0.1:1/",)).connect()


def test_wrong_address_is_refused(clients: tuple[MixnetClient, MixnetClient]) -> None:
    with pytest.raises(WireError):
        clients[0].send("nobody", b"x")


@pytest.mark.slow
def test_client_comes_back_after_a_reconnect(clients: tuple[MixnetClient, MixnetClient]) -> None:
    alice, bob = clients
    bob.reconnect()
    session = bob._session
    assert session is not None
    wait_until(lambda: session.reconnects == 1, 20)
    alice.send(bob.nym_address, b"again")
    assert bob.receive(20).data == b"again"


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def echo_request(source: str, destination: str) -> bytes:
    """Return an ICMP echo request, built by hand."""
    body = struct.pack("!BBHHH", 8, 0, 0, 77, 1) + b"payload!"
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    addresses = bytes(map(int, f"{source}.{destination}".split(".")))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def test_ip_stream_carries_packets(net: LocalNet) -> None:
    with IpMixStream(**net.client_settings()) as stream:
        assert stream.negotiated_mtu == net.config.mtu
        assert str(stream.exit) in net.ipr_addresses
        source = stream.allocated_ips.ipv4
        stream.send(echo_request(source, "198.51.100.10"))
        packets = stream.receive(20)
        assert len(packets) == 1
        assert packets[0][20] == 0  # echo reply
        assert packets[0][-8:] == b"payload!"
        assert stream.receive(0.1) == []
    with pytest.raises(IprError):
        stream.send(b"")


def test_tunnel_from_a_stream_takes_over_its_addresses(net: LocalNet) -> None:
    stream = IpMixStream(ipr_address=net.ipr_address, **net.client_settings())
    ips = stream.allocated_ips
    with Tunnel.from_stream(stream) as tunnel:
        assert tunnel.allocated_ips == ips
        assert str(tunnel.exit) == net.ipr_address
        with tunnel.tcp_connect("echo.localnet:7", timeout=20) as sock:
            sock.sendall(b"from a stream")
            assert sock.recv(100) == b"from a stream"
        with pytest.raises(IprError):
            stream.receive(0.1)
    stream.close()
    with pytest.raises(SmolmixError):
        Tunnel.from_stream(stream)


def test_tunnel_from_a_client_keeps_its_identity_and_gives_it_back(net: LocalNet) -> None:
    with MixnetClient(profile="high-traffic", **net.client_settings()) as client:
        address = client.nym_address
        with Tunnel.from_client(client) as tunnel:
            assert tunnel.nym_address == address
            assert tunnel.config.profile == "high-traffic"
            with pytest.raises(TunnelNotReady):
                client.send(address, b"x")
            with tunnel.tcp_connect("echo.localnet:7", timeout=20) as sock:
                sock.sendall(b"client")
                assert sock.recv(6) == b"client"
        assert tunnel.state is TunnelState.SHUTDOWN
        began = time.monotonic()
        client.send(client.nym_address, b"mine again", surbs=0)
        assert client.receive(20).data == b"mine again"
        assert time.monotonic() - began < 20
