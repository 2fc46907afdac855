"""What may go where: the table of destinations, and sockets that end up in the kernel or nowhere."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket as stdlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.loopnet import V4, loopnet, make_stack

from smolmix_sync import _socket_policy
from smolmix_sync._socket_policy import DirectRule, Policy, Verdict, parse_direct
from smolmix_sync.reactor import provider
from smolmix_sync.reactor.resolver import ResolverConfig
from smolmix_sync.socket import MixSocket, create_server

pytestmark = pytest.mark.interop

LIMIT = 10.0


@contextlib.contextmanager
def policy(**options: Any) -> Iterator[None]:
    before = _socket_policy.set_active(Policy.make(**options))
    try:
        yield
    finally:
        _socket_policy.set_active(before)


@pytest.fixture
def no_tunnel() -> Iterator[None]:
    """Anything that asks for the tunnel fails the test."""

    def refuse() -> Any:
        raise AssertionError("a local operation asked for the tunnel")

    before = provider.install(refuse)
    yield
    provider.install(before)


@pytest.fixture
def kernel_server() -> Iterator[tuple[str, int]]:
    """A kernel echo server on loopback."""
    with stdlib.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with sock:
                        sock.sendall(sock.recv(100).upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(stdlib.SHUT_RDWR)
        thread.join(LIMIT)


def errno_of(action: Any) -> int:
    with pytest.raises(OSError) as caught:
        action()
    assert caught.value.errno is not None
    return caught.value.errno


# --- the table --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "verdict"),
    [
        ("93.184.216.34", 443, Verdict.TUNNEL),
        ("2606:2800:220:1::1", 443, Verdict.TUNNEL),
        ("8.8.8.8", 53, Verdict.TUNNEL),
        ("198.51.100.7", 80, Verdict.TUNNEL),
        ("2001:db8:6e79::1", 80, Verdict.TUNNEL),
        ("127.0.0.1", 5432, Verdict.DIRECT),
        ("127.9.9.9", 5432, Verdict.DIRECT),
        ("::1", 5432, Verdict.DIRECT),
        ("::ffff:127.0.0.1", 5432, Verdict.DIRECT),
        ("127.0.0.53", 53, Verdict.RESOLVER),
        ("::1", 53, Verdict.RESOLVER),
        ("127.0.0.1", 853, Verdict.DENY),
        ("127.0.0.1", 5353, Verdict.DENY),
        ("::ffff:127.0.0.1", 5355, Verdict.DENY),
        ("10.1.2.3", 80, Verdict.DENY),
        ("::ffff:10.1.2.3", 80, Verdict.DENY),
        ("172.16.0.1", 80, Verdict.DENY),
        ("172.32.0.1", 80, Verdict.TUNNEL),
        ("192.168.1.1", 53, Verdict.DENY),
        ("100.64.0.1", 80, Verdict.DENY),
        ("169.254.169.254", 80, Verdict.DENY),
        ("224.0.0.251", 5353, Verdict.DENY),
        ("255.255.255.255", 67, Verdict.DENY),
        ("240.0.0.1", 80, Verdict.DENY),
        ("0.1.2.3", 80, Verdict.DENY),
        ("fe80::1%eth0", 80, Verdict.DENY),
        ("fd00::1", 80, Verdict.DENY),
        ("ff02::fb", 5353, Verdict.DENY),
    ],
)
def test_default_verdicts(host: str, port: int, verdict: Verdict) -> None:
    assert Policy.make().destination(host, port) is verdict


def test_loopback_is_denied_when_it_is_not_listed() -> None:
    assert Policy.make(()).destination("127.0.0.1", 80) is Verdict.DENY
    assert Policy.make("loopback").destination("127.0.0.1", 80) is Verdict.DIRECT


def test_direct_rules_open_networks_and_ports() -> None:
    rules = Policy.make(("loopback", "10.0.0.0/8:5432", "192.168.7.7", "[fd00:1::/32]:6379"))
    assert rules.destination("10.2.3.4", 5432) is Verdict.DIRECT
    assert rules.destination("10.2.3.4", 80) is Verdict.DENY
    assert rules.destination("192.168.7.7", 80) is Verdict.DIRECT
    assert rules.destination("::ffff:192.168.7.7", 80) is Verdict.DIRECT
    assert rules.destination("192.168.7.8", 80) is Verdict.DENY
    assert rules.destination("fd00:1::9", 6379) is Verdict.DIRECT


@pytest.mark.parametrize("port", [53, 853, 5353, 5355])
def test_no_rule_opens_a_resolver_port(port: int) -> None:
    rules = Policy.make(("loopback", "10.0.0.0/8", f"0.0.0.0/0:{port}"))
    assert rules.destination("10.0.0.1", port) is Verdict.DENY
    assert rules.destination("127.0.0.1", port) in (Verdict.RESOLVER, Verdict.DENY)


def test_our_own_address_is_reachable_though_private() -> None:
    assert Policy.make().destination("10.0.0.7", 80, own=("10.0.0.7",)) is Verdict.TUNNEL


@pytest.mark.parametrize(
    "entry", ["example.com", "10.0.0.0/8:x", "10.0.0.0/33", "[fd00::]5", "1.2.3.4:0", ""]
)
def test_direct_entries_that_are_no_networks_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="direct"):
        parse_direct(entry)


def test_direct_entries_are_read() -> None:
    assert str(parse_direct("10.1.2.3/8")) == str(DirectRule(parse_direct("10.0.0.0/8").network))
    assert parse_direct("fd00::1").port is None
    assert parse_direct("[fd00::1]:80").port == 80


def test_listen_modes_are_checked() -> None:
    with pytest.raises(ValueError, match="listen"):
        Policy.make(listen="everywhere")


# --- sockets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "", "0.0.0.0"])
def test_loopback_needs_no_tunnel(no_tunnel: None, kernel_server: tuple[str, int], host: str) -> None:
    with MixSocket() as sock:
        sock.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY, 1)
        sock.settimeout(LIMIT)
        fd = sock.fileno()
        sock.connect((host, kernel_server[1]))
        assert sock.fileno() == fd
        assert sock.getpeername() == kernel_server
        assert sock.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY)
        sock.sendall(b"local")
        assert sock.recv(100) == b"LOCAL"
        assert not sock.get_inheritable()
        assert sock.gettimeout() == LIMIT


def test_non_blocking_stays_non_blocking_on_the_way_to_the_kernel(
    no_tunnel: None, kernel_server: Any
) -> None:
    with MixSocket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex(kernel_server) in (0, errno.EINPROGRESS)
        with pytest.raises(BlockingIOError):
            sock.recv(1)


def test_private_destinations_are_refused(no_tunnel: None) -> None:
    with MixSocket() as sock, MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as udp:
        with pytest.raises(PermissionError, match=r"192\.168\.1\.1 port 80"):
            sock.connect(("192.168.1.1", 80))
        assert sock.connect_ex(("10.0.0.1", 80)) == errno.EACCES
        assert errno_of(lambda: udp.sendto(b"x", ("224.0.0.251", 5353))) == errno.EACCES
        assert errno_of(lambda: udp.sendto(b"x", ("<broadcast>", 67))) == errno.EACCES
        assert errno_of(lambda: udp.connect(("192.168.1.1", 53))) == errno.EACCES


def test_loopback_can_be_denied(no_tunnel: None, kernel_server: Any) -> None:
    with policy(direct=()), MixSocket() as sock:
        assert errno_of(lambda: sock.connect(kernel_server)) == errno.EACCES
        assert errno_of(lambda: sock.bind(("127.0.0.1", 0))) == errno.EACCES


def test_one_port_of_loopback_can_be_allowed(no_tunnel: None, kernel_server: Any) -> None:
    host, port = kernel_server
    with policy(direct=(f"{host}:{port}",)), MixSocket() as sock, MixSocket() as other:
        sock.connect(kernel_server)
        assert sock.getpeername() == kernel_server
        assert errno_of(lambda: other.connect((host, port ^ 1))) == errno.EACCES
    with policy(direct=("127.0.0.1:53",)), MixSocket() as sock:
        assert _socket_policy.active.destination("127.0.0.1", 53) is Verdict.RESOLVER


def test_loopback_modes_are_checked() -> None:
    assert Policy.make(loopback="mix").loopback == "mix"
    assert Policy.make(("loopback",), loopback="deny").loopback == "deny"
    with pytest.raises(ValueError, match="loopback"):
        Policy.make(loopback="sometimes")


def test_direct_network_goes_to_the_kernel_and_is_logged_once(
    no_tunnel: None, kernel_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with policy(direct=("127.0.0.0/8",)), caplog.at_level(logging.WARNING):
        # loopback itself is not listed: the rule alone must not open it
        with MixSocket() as sock:
            assert sock.connect_ex(kernel_server) == errno.EACCES
    with policy(direct=("192.0.2.0/24:9",)), caplog.at_level(logging.WARNING):
        for _ in range(2):
            with MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as udp:
                with contextlib.suppress(OSError):  # no route is fine: it was the kernel that said so
                    udp.connect(("192.0.2.1", 9))
    assert [record.message for record in caplog.records] == ["direct: 192.0.2.0/24 port 9 goes to the kernel"]


def test_wildcard_listener_is_a_kernel_listener_on_loopback(no_tunnel: None) -> None:
    with MixSocket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
        assert port
        listener.listen()
        assert listener.getsockname() == ("127.0.0.1", port)
        with stdlib.create_connection(("127.0.0.1", port), LIMIT):
            listener.settimeout(LIMIT)
            accepted, _ = listener.accept()
            accepted.close()
    with create_server(("", 0)) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with MixSocket() as listener:
        listener.listen()
        assert listener.getsockname()[0] == "127.0.0.1"


def test_wildcard_port_conflicts_as_in_the_kernel(no_tunnel: None) -> None:
    with stdlib.create_server(("127.0.0.1", 0)) as other, MixSocket() as sock:
        assert errno_of(lambda: sock.bind(("", other.getsockname()[1]))) == errno.EADDRINUSE
        sock.bind(("", 0))
        with MixSocket() as second:
            assert errno_of(lambda: second.bind(("", sock.getsockname()[1]))) == errno.EADDRINUSE


def test_wildcard_listener_can_be_denied_or_in_the_tunnel() -> None:
    with policy(listen="deny"), MixSocket() as sock:
        sock.bind(("", 0))
        assert errno_of(sock.listen) == errno.EACCES
    with policy(listen="mix"), loopnet(), MixSocket() as sock, MixSocket() as client:
        sock.bind(("", 0))
        sock.listen()
        assert sock.getsockname()[0] == "0.0.0.0"
        client.settimeout(LIMIT)
        client.connect((V4, sock.getsockname()[1]))


def test_bound_client_port_is_used_in_the_tunnel_and_on_loopback(kernel_server: Any) -> None:
    with loopnet(), MixSocket() as listener, MixSocket() as client:
        listener.bind((V4, 0))
        listener.listen()
        client.bind(("", 0))
        port = client.getsockname()[1]
        client.settimeout(LIMIT)
        client.connect(listener.getsockname())
        assert client.getsockname() == (V4, port)
    with MixSocket() as client:
        client.bind(("", 0))
        port = client.getsockname()[1]
        client.connect(kernel_server)
        assert client.getsockname() == ("127.0.0.1", port)


def test_datagram_socket_goes_to_the_kernel_with_its_first_loopback_datagram(no_tunnel: None) -> None:
    with stdlib.socket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(LIMIT)
        with MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as sock:
            sock.sendto(b"one", other.getsockname())
            data, source = other.recvfrom(10)
            assert data == b"one"
            other.sendto(b"two", source)
            sock.settimeout(LIMIT)
            assert sock.recv(10) == b"two"
        with MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as sock:
            sock.connect(other.getsockname())
            sock.send(b"three")
            assert other.recv(10) == b"three"


def test_datagram_socket_that_used_the_tunnel_stays_there() -> None:
    with loopnet(), MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (V4, 9))
        assert errno_of(lambda: sock.sendto(b"x", ("127.0.0.1", 9))) == errno.EACCES
        assert errno_of(lambda: sock.connect(("127.0.0.1", 9))) == errno.EACCES


def test_bound_datagram_socket_may_still_turn_to_loopback() -> None:
    with loopnet(), MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as sock:
        with stdlib.socket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            other.settimeout(LIMIT)
            sock.bind(("", 0))
            port = sock.getsockname()[1]
            sock.sendto(b"x", other.getsockname())
            assert other.recvfrom(10) == (b"x", ("127.0.0.1", port))


def test_stub_resolver_on_loopback_is_answered_by_the_tunnels_resolver() -> None:
    with loopnet(resolver=ResolverConfig(primary=V4)):
        with MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as server, MixSocket() as tcp_server:
            server.bind((V4, 53))
            tcp_server.bind((V4, 53))
            tcp_server.listen()
            server.settimeout(LIMIT)
            with MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as client:
                client.settimeout(LIMIT)
                client.sendto(b"query", ("127.0.0.53", 53))
                data, source = server.recvfrom(100)
                assert data == b"query"
                server.sendto(b"answer", source)
                assert client.recvfrom(100) == (b"answer", ("127.0.0.53", 53))
            with MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as client:
                client.settimeout(LIMIT)
                client.connect(("127.0.0.53", 53))
                assert client.getpeername() == ("127.0.0.53", 53)
                client.send(b"query")
                server.sendto(b"answer", server.recvfrom(100)[1])
                assert client.recvfrom(100) == (b"answer", ("127.0.0.53", 53))
            with MixSocket() as client:
                client.settimeout(LIMIT)
                client.connect(("127.0.0.53", 53))
                assert client.getpeername() == ("127.0.0.53", 53)
                accepted, _ = tcp_server.accept()
                accepted.close()


def test_multicast_dns_on_loopback_is_refused(no_tunnel: None) -> None:
    with MixSocket() as sock:
        for port in (853, 5353, 5355):
            assert sock.connect_ex(("127.0.0.1", port)) == errno.EACCES
            assert errno_of(lambda p=port: sock.bind(("127.0.0.1", p))) == errno.EACCES


# --- a tunnel that is not up ------------------------------------------------------------------


def test_connect_waits_for_the_tunnel_and_then_fails_closed() -> None:
    with loopnet(up=False, connect_timeout=0.1), MixSocket() as sock:
        assert errno_of(lambda: sock.connect(("93.184.216.34", 80))) == errno.ENETDOWN


def test_connect_waits_no_longer_than_its_own_timeout() -> None:
    with loopnet(up=False, connect_timeout=60), MixSocket() as sock:
        sock.settimeout(0.05)
        assert errno_of(lambda: sock.connect(("93.184.216.34", 80))) == errno.ENETDOWN


def test_connect_proceeds_when_the_tunnel_comes_up() -> None:
    with loopnet(up=False) as port, MixSocket() as listener, MixSocket() as client:
        client.setblocking(False)
        assert client.connect_ex((V4, 4000)) == errno.EINPROGRESS
        port.device.loop.call(port.device.set_up, make_stack())
        listener.bind((V4, 4001))
        listener.listen()
        assert select.select([], [client], [], LIMIT)[1]
        assert client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == errno.ECONNREFUSED
        client.setblocking(True)
        client.settimeout(LIMIT)
        client.connect((V4, 4001))


def test_losing_the_tunnel_ends_every_socket_with_enetdown() -> None:
    with loopnet() as port:
        with (
            MixSocket() as listener,
            MixSocket() as client,
            MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as udp,
        ):
            listener.bind((V4, 0))
            listener.listen()
            client.connect(listener.getsockname())
            accepted, _ = listener.accept()
            udp.bind((V4, 0))
            for sock in (accepted, client, udp, listener):
                sock.settimeout(LIMIT)
            port.device.loop.call(port.device.set_down, errno.ENETDOWN)
            assert errno_of(lambda: client.recv(1)) == errno.ENETDOWN
            assert client.recv(1) == b""
            assert errno_of(lambda: accepted.recv(1)) == errno.ENETDOWN
            assert errno_of(lambda: udp.recv(1)) == errno.ENETDOWN
            assert errno_of(listener.accept) in (errno.ENETDOWN, errno.EINVAL)
            accepted.close()


def test_closed_device_refuses_everything_at_once() -> None:
    with loopnet() as port, MixSocket() as sock, MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as udp:
        port.device.loop.call(port.device.close, errno.ENETDOWN)
        assert errno_of(lambda: sock.connect(("93.184.216.34", 80))) == errno.ENETDOWN
        assert errno_of(lambda: udp.sendto(b"x", ("93.184.216.34", 80))) == errno.ENETDOWN


def test_datagrams_wait_for_the_tunnel() -> None:
    with loopnet(up=False) as port, MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as sock:
        sock.sendto(b"early", (V4, 7000))
        sock.settimeout(LIMIT)
        stack = make_stack()
        receiver = stack.udp(V4, 7000)
        port.device.loop.call(port.device.set_up, stack)
        until = time.monotonic() + LIMIT
        while not port.device.loop.call(receiver.readable):
            assert time.monotonic() < until
            time.sleep(0.005)
        assert receiver.recv()[0] == b"early"


def test_datagram_socket_learns_that_the_tunnel_did_not_come_up() -> None:
    with loopnet(up=False, connect_timeout=0.05), MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("93.184.216.34", 9))
        sock.settimeout(LIMIT)
        assert errno_of(lambda: sock.recv(1)) == errno.ENETDOWN


def test_clear_text_ports_are_mentioned_once_where_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_socket_policy, "_warned", set())
    with loopnet() as port, caplog.at_level(logging.WARNING, "smolmix_sync.socket"):
        for warn in (False, True, True):
            port.device.warn_plaintext = warn
            for number in (80, 443, 6379):
                with MixSocket() as sock:
                    sock.connect_ex((V4, number))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "port 80 (http)",
        "port 6379 (redis)",
    ]
    assert V4 not in caplog.text
