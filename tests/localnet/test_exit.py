"""The exit behind the whole network: what a client's IP packets reach, and what is refused how."""

from __future__ import annotations

import errno
import hashlib
import socket
import time
from collections.abc import Iterator

import dns.message
import dns.rcode
import pytest
from support.raw_tunnel import RawTunnel

from smolmix_sync.address import Recipient, base58_decode
from smolmix_sync.ipr.events import PolicyRefused
from smolmix_sync.localnet import LocalNet
from smolmix_sync.localnet.site import pattern
from smolmix_sync.netstack.udp import Udp

pytestmark = pytest.mark.interop

ECHO = ("198.51.100.10", "2001:db8:6e79::a")


def open_tunnel(net: LocalNet, version: int = 10) -> RawTunnel:
    gateway = base58_decode(net.gateway_identity)
    return RawTunnel(net.network_json, gateway, Recipient.parse(net.ipr_address), version=version)


@pytest.fixture(scope="module")
def tunnel(net: LocalNet) -> Iterator[RawTunnel]:
    with open_tunnel(net) as tunnel:
        tunnel.connect()
        yield tunnel


def ask(tunnel: RawTunnel, udp: Udp, payload: bytes, host: str, port: int, timeout: float = 10.0) -> bytes:
    udp.sendto(payload, host, port)
    tunnel.run(udp.readable, timeout)
    received = udp.recv()
    assert received is not None
    data, source, _ = received
    assert source == (host, port)
    return data


@pytest.mark.parametrize("version", [8, 9, 10])
def test_exit_speaks_every_version_it_announces(net: LocalNet, version: int) -> None:
    with open_tunnel(net, version) as tunnel:
        connected = tunnel.connect()
        assert connected.version == version
        assert connected.mtu == (1420 if version == 10 else None)
        assert connected.ips.ipv4.startswith("10.0.")
        assert net.node("exit").stats()[f"ipr_clients_v{version}"] == 1
        assert tunnel.stack is not None
        assert ask(tunnel, tunnel.stack.udp(), b"echo", ECHO[0], 7) == b"echo"


@pytest.mark.parametrize(
    "resolver", ["1.1.1.1", "8.8.8.8", "9.9.9.9", "198.51.100.53", "2606:4700:4700::1111"]
)
def test_public_resolvers_answer_for_localnet(tunnel: RawTunnel, resolver: str) -> None:
    assert tunnel.stack is not None
    query = dns.message.make_query("echo.localnet", "A")
    answer = dns.message.from_wire(ask(tunnel, tunnel.stack.udp(), query.to_wire(), resolver, 53))
    assert answer.id == query.id
    assert [record.to_text() for record in answer.answer[0]] == [ECHO[0]]


def test_unknown_name_does_not_exist_over_tcp_either(tunnel: RawTunnel) -> None:
    query = dns.message.make_query("no-such-host.localnet", "A").to_wire()
    conn = tunnel.tcp("8.8.8.8", 53)
    conn.send(len(query).to_bytes(2, "big") + query)
    tunnel.run(lambda: conn.readable() > 2)
    assert dns.message.from_wire(conn.recv(4096)[2:]).rcode() == dns.rcode.NXDOMAIN
    conn.abort()


@pytest.mark.parametrize("host", ECHO)
def test_page_is_fetched_over_both_families(tunnel: RawTunnel, host: str) -> None:
    answer = tunnel.exchange(tunnel.tcp(host, 80), b"GET /bytes/50000 HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == pattern(0, 50_000)


def test_upload_arrives_byte_for_byte(tunnel: RawTunnel) -> None:
    body = pattern(0, 100_000)
    head = b"POST /upload HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = tunnel.exchange(tunnel.tcp(ECHO[0], 80), head + body)
    assert hashlib.sha256(body).hexdigest().encode() in answer


def test_half_closed_connection_still_gets_its_answer(tunnel: RawTunnel) -> None:
    conn = tunnel.tcp(ECHO[0], 7)
    conn.send(b"last words")
    conn.shutdown_write()
    assert tunnel.exchange(conn, b"") == b"last words"


def test_echo_request_is_answered_by_hosts_that_live(tunnel: RawTunnel) -> None:
    assert tunnel.stack is not None
    ping = tunnel.stack.ping()
    ping.send("198.51.100.62", 1, b"silent")
    ping.send(ECHO[0], 2, b"hello")
    tunnel.run(ping.readable)
    reply = ping.recv()
    assert reply is not None
    assert (reply.seq, reply.payload) == (2, b"hello")
    ping.close()


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("198.51.100.60", 80, errno.ECONNREFUSED),
        (ECHO[0], 81, errno.ECONNREFUSED),
        ("198.51.100.61", 80, errno.EHOSTUNREACH),
        ("198.51.100.199", 80, errno.EHOSTUNREACH),
        ("93.184.215.14", 80, errno.EHOSTUNREACH),
        ("2001:db8:6e79::3d", 80, errno.EHOSTUNREACH),
    ],
    ids=["closed host", "closed port", "unreachable host", "no such host", "the real internet", "unreachable v6"],
)  # fmt: skip
def test_connection_is_refused_as_on_the_internet(
    tunnel: RawTunnel, host: str, port: int, expected: int
) -> None:
    with pytest.raises(OSError) as caught:
        tunnel.tcp(host, port)
    assert caught.value.errno == expected


def test_silent_host_says_nothing(tunnel: RawTunnel) -> None:
    with pytest.raises(TimeoutError, match="did not come true"):
        tunnel.tcp("198.51.100.62", 80, timeout=1.5)


def test_reset_of_a_service_reaches_the_client(tunnel: RawTunnel) -> None:
    with pytest.raises(ConnectionResetError):
        tunnel.exchange(tunnel.tcp("198.51.100.50", 7), b"x")


def test_closed_udp_port_is_reported(tunnel: RawTunnel) -> None:
    assert tunnel.stack is not None
    udp = tunnel.stack.udp()
    udp.connect("198.51.100.60", 1234)
    udp.send(b"anybody?")
    error = 0

    def refused() -> int:
        nonlocal error
        error = error or udp.take_error()
        return error

    tunnel.run(refused)
    assert error == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("host", "port"), [("198.51.100.66", 80), ("10.1.2.3", 80), ("192.168.1.1", 22), ("93.184.215.14", 6881)]
)
def test_policy_refuses_by_an_info_message(tunnel: RawTunnel, host: str, port: int) -> None:
    assert tunnel.stack is not None
    tunnel.ipr_events.clear()
    conn = tunnel.stack.connect(host, port, time.monotonic())
    tunnel.run(lambda: tunnel.ipr_events)
    event = tunnel.ipr_events[0]
    assert isinstance(event, PolicyRefused)
    assert event.address == (host, port)
    conn.abort()


def test_counters_of_every_hop_move(net: LocalNet, tunnel: RawTunnel) -> None:
    before = net.stats()
    tunnel.exchange(tunnel.tcp(ECHO[0], 80), b"GET /bytes/20000 HTTP/1.0\r\n\r\n")
    after = net.stats()
    for node in ("entry", "mix1", "mix2", "mix3", "exit"):
        for counter in ("packets_in", "packets_out"):
            assert after[node][counter] - before[node][counter] > 15, (node, counter)
    assert after["exit"]["ip_packets_out"] - before["exit"]["ip_packets_out"] >= 15
    assert after["exit"]["ipr_surbs_spent"] > before["exit"]["ipr_surbs_spent"]


@pytest.mark.slow
def test_allow_list_opens_one_port_of_one_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        allow = {"git.localnet:22": port, "203.0.113.5:22": port}
        with LocalNet(allow=allow, set_default=False) as net, open_tunnel(net) as tunnel:
            tunnel.connect()
            (address, _) = net.hosts["git.localnet"]["addresses"]
            for host in (address, "203.0.113.5"):
                conn = tunnel.tcp(host, 22)
                service.settimeout(5)
                accepted, _ = service.accept()
                with accepted:
                    accepted.sendall(b"SSH-2.0-test\r\n")
                    tunnel.run(conn.readable)
                    assert conn.recv(100) == b"SSH-2.0-test\r\n"
                conn.abort()
            with pytest.raises(OSError) as caught:
                tunnel.tcp(address, 23)
            assert caught.value.errno == errno.ECONNREFUSED
