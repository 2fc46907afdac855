"""UDP and ICMP echo between stacks, at the edges, and against hand-made packets."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.netsim import seeded_urandom

from smolmix_sync.errors import WireError
from smolmix_sync.netstack import ERROR, READABLE, WRITABLE, Stack, StackConfig, icmp, ipv4
from smolmix_sync.netstack import udp as codec

A, B = "10.0.0.1", "10.0.0.2"
A6, B6 = "fd00::1", "fd00::2"


def pair(**config: object) -> tuple[Stack, Stack]:
    settings = StackConfig(**config)  # type: ignore[arg-type]
    return (
        Stack(A, A6, config=settings, urandom=seeded_urandom(1)),
        Stack(B, B6, config=settings, urandom=seeded_urandom(2)),
    )


def move(a: Stack, b: Stack, now: float = 0.0) -> list[bytes]:
    packets = a.data_to_send(now)
    for packet in packets:
        b.receive_data(packet, now)
    return packets


@given(st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=300), st.booleans())
def test_the_codec_round_trips(source: int, port: int, payload: bytes, v6: bool) -> None:
    ends = (bytes(15) + b"\1", bytes(15) + b"\2") if v6 else (b"\x0a\0\0\x01", b"\x0a\0\0\x02")
    data = codec.encode(ends[0], source, ends[1], port, payload)
    assert data[6:8] != b"\0\0"
    assert codec.decode_untrusted(*ends, data + b"trailer") == (source, port, payload)


@given(st.binary(max_size=40))
def test_garbage_raises_only_wire_error(data: bytes) -> None:
    try:
        codec.decode_untrusted(b"\x0a\0\0\x01", b"\x0a\0\0\x02", data)
    except WireError:
        pass


def test_a_zero_checksum_passes_in_ipv4_only() -> None:
    data = b"\0\x01\0\x02\0\x09\0\0x"
    assert codec.decode_untrusted(bytes(4), bytes(4), data) == (1, 2, b"x")
    with pytest.raises(WireError, match="udp_checksum"):
        codec.decode_untrusted(bytes(16), bytes(16), data)


@pytest.mark.parametrize(("here", "there"), [(A, B), (A6, B6)])
@pytest.mark.parametrize("size", [0, 1, 1400, 1472, 5000, 65507])
def test_datagrams_of_any_size_arrive(here: str, there: str, size: int) -> None:
    a, b = pair()
    server = b.udp(None, 53)
    client = a.udp()
    payload = bytes(range(256)) * (size // 256 + 1)
    assert client.sendto(payload[:size], there, 53) == size
    packets = move(a, b)
    assert all(len(packet) <= 1498 for packet in packets)
    assert (server, READABLE) in list(b.events())
    item = server.recv()
    assert item is not None
    assert item == (payload[:size], (here, client.local[1]), (there, 53))
    server.sendto(b"answer", *item[1])
    move(b, a)
    answer = client.recv()
    assert answer is not None
    assert answer[0] == b"answer"


def test_a_fragmented_datagram_survives_reordering() -> None:
    a, b = pair()
    server = b.udp(None, 53)
    a.udp().sendto(bytes(4000), B, 53)
    for packet in reversed(a.data_to_send(0.0)):
        b.receive_data(packet, 0.0)
    assert server.readable() == 1


def test_too_long_and_unreachable_are_refused() -> None:
    a, _ = pair()
    socket = a.udp()
    for destination, size, expected in (
        (B, 65508, errno.EMSGSIZE),
        ("127.0.0.1", 1, errno.ENETUNREACH),
        ("224.0.0.1", 1, errno.ENETUNREACH),
        ("255.255.255.255", 1, errno.ENETUNREACH),
        ("ff02::1", 1, errno.ENETUNREACH),
        (A, 1, errno.ENETUNREACH),
    ):
        with pytest.raises(OSError) as caught:
            socket.sendto(bytes(size), destination, 9)
        assert caught.value.errno == expected
    only_v4 = Stack(A, urandom=seeded_urandom(1))
    with pytest.raises(OSError) as caught:
        only_v4.udp().sendto(b"", B6, 9)
    assert caught.value.errno == errno.ENETUNREACH


def test_a_connected_socket_hears_only_its_peer() -> None:
    a, b = pair()
    client = a.udp()
    client.connect(B, 53)
    assert client.remote == (B, 53)
    assert client.local[0] == A
    other = b.udp(None, 54)
    other.sendto(b"spoof", A, client.local[1])
    move(b, a)
    assert client.recv() is None
    assert a.counters.drops["udp_no_port"] == 1
    client.disconnect()
    other.sendto(b"now", A, client.local[1])
    move(b, a)
    assert client.readable() == 1
    with pytest.raises(OSError) as caught:
        client.send(b"x")
    assert caught.value.errno == errno.EDESTADDRREQ


def test_the_receive_queue_drops_the_newest() -> None:
    a, b = pair(udp_rcvbuf=3000)
    server = b.udp(None, 53)
    client = a.udp()
    for index in range(5):
        client.sendto(bytes((index,)) * 1000, B, 53)
    move(a, b)
    assert server.readable() == 2
    assert server.dropped == 3
    assert b.counters.drops["udp_queue_full"] == 3
    item = server.recv()
    assert item is not None
    assert item[0][0] == 0


def test_empty_datagrams_fill_the_queue_too() -> None:
    a, b = pair(udp_rcvbuf=640)
    server = b.udp(None, 53)
    client = a.udp()
    for _ in range(50):
        client.sendto(b"", B, 53)
    move(a, b)
    assert server.readable() == 10


def test_a_full_send_queue_blocks_until_drained() -> None:
    a, b = pair(udp_sndbuf=3000)
    client = a.udp()
    client.sendto(bytes(1400), B, 53)
    client.sendto(bytes(1400), B, 53)
    with pytest.raises(BlockingIOError):
        client.sendto(bytes(1400), B, 53)
    assert (client, WRITABLE) not in list(a.events())
    move(a, b)
    assert (client, WRITABLE) in list(a.events())
    assert client.writable()


def test_sockets_take_turns() -> None:
    a, _ = pair()
    first, second = a.udp(), a.udp()
    for _ in range(3):
        first.sendto(b"1" * 1000, B, 9)
        second.sendto(b"2" * 1000, B, 9)
    order = [a.data_to_send(0.0, 1500)[0][-1:] for _ in range(6)]
    assert order == [b"1", b"2"] * 3


def test_bindings_collide_as_in_linux() -> None:
    a, _ = pair()
    a.udp(A, 53)
    a.udp(A6, 53)
    for address in (None, A, "0.0.0.0", "::"):
        with pytest.raises(OSError) as caught:
            a.udp(address, 53)
        assert caught.value.errno == errno.EADDRINUSE
    a.udp("0.0.0.0", 54)
    a.udp("::", 54, v6only=True)
    with pytest.raises(OSError):
        a.udp("::", 54)
    with pytest.raises(OSError) as caught:
        a.udp("9.9.9.9", 55)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    one = a.udp(A, 56, reuse=True)
    two = a.udp(A, 56, reuse=True)
    one.close()
    two.close()
    a.udp(A, 56)


def test_a_specific_binding_wins_over_a_wildcard() -> None:
    a, b = pair()
    wildcard = b.udp("0.0.0.0", 53, reuse=True)
    exact = b.udp(B, 53, reuse=True)
    a.udp().sendto(b"x", B, 53)
    move(a, b)
    assert (exact.readable(), wildcard.readable()) == (1, 0)


def test_port_unreachable_reaches_a_connected_socket_once() -> None:
    a, b = pair(port_unreachable=True)
    client = a.udp()
    client.connect(B, 9)
    client.send(b"x")
    move(a, b)
    move(b, a)
    assert (client, ERROR | READABLE | WRITABLE) in list(a.events())
    with pytest.raises(OSError) as caught:
        client.send(b"y")
    assert caught.value.errno == errno.ECONNREFUSED
    client.send(b"z")
    stranger = a.udp()
    stranger.sendto(b"x", B, 9)
    move(a, b)
    move(b, a)
    assert stranger.take_error() == 0


def test_closed_ports_are_silent_by_default() -> None:
    a, b = pair()
    a.udp().sendto(b"x", B, 9)
    move(a, b)
    assert b.data_to_send(0.0) == []
    assert b.counters.drops["udp_no_port"] == 1


def test_icmp_errors_are_rate_limited() -> None:
    a, b = pair(port_unreachable=True)
    client = a.udp()
    for _ in range(30):
        client.sendto(b"x", B, 9)
    move(a, b)
    assert len(b.data_to_send(0.0)) == 10
    assert b.counters.drops["icmp_rate"] == 20


def test_closing_releases_the_port_and_keeps_what_is_queued() -> None:
    a, b = pair()
    server = b.udp(None, 53)
    client = a.udp(None, 7000)
    client.sendto(b"last", B, 53)
    client.close()
    client.close()
    a.udp(None, 7000)
    move(a, b)
    assert server.readable() == 1
    with pytest.raises(OSError) as caught:
        client.sendto(b"x", B, 53)
    assert caught.value.errno == errno.EBADF


# -- echo


@pytest.mark.parametrize("there", [B, B6])
def test_ping_both_ways(there: str) -> None:
    a, b = pair()
    ping = a.ping()
    ping.send(there, 7, b"hello")
    move(a, b)
    move(b, a, 0.5)
    assert (ping, READABLE) in list(a.events())
    reply = ping.recv()
    assert reply is not None
    assert (reply.addr, reply.seq, reply.payload, reply.received_at, reply.error) == (
        there,
        7,
        b"hello",
        0.5,
        0,
    )
    assert ping.recv() is None


def test_echo_replies_are_rate_limited() -> None:
    a, b = pair()
    ping = a.ping()
    for seq in range(30):
        ping.send(B, seq)
    move(a, b)
    assert len(b.data_to_send(0.0)) == 10
    assert b.counters.drops["icmp_rate"] == 20


def test_an_echo_answered_by_an_error_reports_its_errno() -> None:
    a, _ = pair()
    ping = a.ping(77)
    ping.send(B, 3, b"data")
    (request,) = a.data_to_send(0.0)
    router = b"\x0a\0\0\x63"
    message = icmp.encode(router, b"\x0a\0\0\x01", 11, 0, bytes(4), request[:28])
    a.receive_data(ipv4.encode(router, b"\x0a\0\0\x01", 1, message), 1.0)
    reply = ping.recv()
    assert reply is not None
    assert (reply.seq, reply.error) == (3, errno.EHOSTUNREACH)
    assert (ping, READABLE | ERROR) in list(a.events())


def test_ping_limits() -> None:
    a, b = pair()
    ping = a.ping(5)
    with pytest.raises(OSError):
        a.ping(5)
    with pytest.raises(OSError):
        ping.send(B, 1, bytes(1401))
    for seq in range(300):
        ping.deliver(type(ping).recv.__globals__["EchoReply"](B, seq, b"", 0.0))
    assert ping.readable() == 256
    ping.close()
    ping.close()
    with pytest.raises(OSError):
        ping.send(B, 1)
    a.ping(5)
    reply = icmp.encode(b"\x0a\0\0\x02", b"\x0a\0\0\x01", 0, 0, b"\0\x09\0\x01", b"")
    a.receive_data(ipv4.encode(b"\x0a\0\0\x02", b"\x0a\0\0\x01", 1, reply), 0.0)
    assert a.counters.drops["icmp_unmatched"] == 1
    del b
