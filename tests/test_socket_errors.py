"""What the network says, and the errno that the program gets: the table of spec/sockets.md section 6.

The device's stack has no peer; the test reads the packets it sends and answers with packets of its own.
"""

from __future__ import annotations

import errno
import os
import select
import socket as stdlib
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smolmix_sync import ExitPolicyError
from smolmix_sync.netstack import Stack, StackConfig, TcpSettings, icmp, ipv4, ipv6
from smolmix_sync.netstack.addresses import pack
from smolmix_sync.reactor import provider
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import shared_loop
from smolmix_sync.socket import MixSocket

pytestmark = pytest.mark.interop

V4, V6 = "198.51.100.2", "2001:db8:100::2"
FAR4, FAR6, ROUTER4, ROUTER6 = "203.0.113.9", "2001:db8:200::9", "203.0.113.1", "2001:db8:200::1"
LIMIT = 10.0

Answer = Callable[[bytes], "list[bytes]"]


class Wire:
    """A device whose packets go to a function, and whose answers come back."""

    def __init__(self) -> None:
        config = StackConfig(tcp=TcpSettings(syn_retries=1), rto_initial=0.05, rto_min=0.05)
        self.loop = shared_loop()
        self.device = Device(self.loop, connect_timeout=5)
        self.answer: Answer = lambda packet: []
        self.sent: list[bytes] = []
        self.device.on_output = self.pull
        self.loop.call(self.device.set_up, Stack(V4, V6, urandom=os.urandom, config=config))

    def pull(self) -> None:
        for packet in self.device.data_to_send():
            self.sent.append(packet)
            for reply in self.answer(packet):
                self.device.receive_packet(reply)


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    before = provider.install(lambda: provider.DevicePort(made.device))
    yield made
    provider.install(before)
    made.loop.call(made.device.close)


def icmp_error(packet: bytes, kind: int, code: int) -> bytes:
    """Return the error that a router sends about *packet*."""
    if packet[0] >> 4 == 4:
        source, destination = pack(ROUTER4), packet[12:16]
        return ipv4.encode(
            source, destination, 1, icmp.encode(source, destination, kind, code, bytes(4), packet[:28])
        )
    source, destination = pack(ROUTER6), packet[8:24]
    body = icmp.encode(source, destination, kind, code, bytes(4), packet[:1000])
    return ipv6.encode(source, destination, 58, body)


class FarEnd:
    """A host at the far end of the wire: a stack that is handed what ours sends."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.stack = Stack(FAR4, FAR6, urandom=os.urandom)
        self.silent = False
        wire.answer = self

    def __call__(self, packet: bytes) -> list[bytes]:
        if self.silent:
            return []
        now = self.wire.loop.now()
        self.stack.receive_data(packet, now)
        return self.stack.data_to_send(now)


def errno_of(action: Callable[[], Any]) -> int | None:
    with pytest.raises(OSError) as caught:
        action()
    return caught.value.errno


def tcp(family: int = stdlib.AF_INET) -> MixSocket:
    sock = MixSocket(family, stdlib.SOCK_STREAM)
    sock.settimeout(LIMIT)
    return sock


# (family, type, code, errno of connect)
ROUTERS = [
    (4, 3, 0, errno.ENETUNREACH), (4, 3, 1, errno.EHOSTUNREACH), (4, 3, 13, errno.EHOSTUNREACH),
    (4, 3, 3, errno.ECONNREFUSED), (4, 11, 0, errno.EHOSTUNREACH), (6, 1, 0, errno.ENETUNREACH),
    (6, 1, 1, errno.EHOSTUNREACH), (6, 1, 3, errno.EHOSTUNREACH), (6, 1, 4, errno.ECONNREFUSED),
]  # fmt: skip


@pytest.mark.parametrize(("version", "kind", "code", "number"), ROUTERS)
def test_what_a_router_says_fails_the_connect(
    wire: Wire, version: int, kind: int, code: int, number: int
) -> None:
    wire.answer = lambda packet: [icmp_error(packet, kind, code)]
    family, host = (stdlib.AF_INET, FAR4) if version == 4 else (stdlib.AF_INET6, FAR6)
    with tcp(family) as sock:
        assert errno_of(lambda: sock.connect((host, 80))) == number
        sock.setblocking(False)
        assert sock.connect_ex((host, 80)) == errno.EINPROGRESS
        assert select.select([], [sock], [], LIMIT)[1]
        assert sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == number


@pytest.mark.parametrize(("version", "kind", "code", "number"), [*ROUTERS[:5], *ROUTERS[5:]])
def test_what_a_router_says_reaches_a_connected_datagram_socket(
    wire: Wire, version: int, kind: int, code: int, number: int
) -> None:
    wire.answer = lambda packet: [icmp_error(packet, kind, code)]
    family, host = (stdlib.AF_INET, FAR4) if version == 4 else (stdlib.AF_INET6, FAR6)
    with MixSocket(family, stdlib.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT)
        sock.connect((host, 53))
        sock.send(b"question")
        assert errno_of(lambda: sock.recv(100)) == number
        sock.send(b"question")
        assert select.select([sock], [], [], LIMIT)[0]
        assert errno_of(lambda: sock.send(b"next")) == number


def test_nobody_there_times_out_after_the_retries(wire: Wire) -> None:
    with tcp() as sock:
        assert errno_of(lambda: sock.connect((FAR4, 80))) == errno.ETIMEDOUT
    assert len(wire.sent) == 2, "a SYN and one more"


def test_fewer_retries_by_option(wire: Wire) -> None:
    with tcp() as sock:
        sock.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_SYNCNT, 3)
        assert errno_of(lambda: sock.connect((FAR4, 80))) == errno.ETIMEDOUT
    assert len(wire.sent) == 4


def test_own_timeout_comes_first_and_leaves_the_attempt_alone(wire: Wire) -> None:
    with MixSocket() as sock:
        sock.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_SYNCNT, 8)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError, match="timed out") as caught:
            sock.connect((FAR4, 80))
        assert caught.value.errno is None
        assert sock.connect_ex((FAR4, 80)) == errno.EAGAIN
        sock.setblocking(False)
        assert sock.connect_ex((FAR4, 80)) == errno.EALREADY
        assert errno_of(lambda: sock.recv(1)) == errno.EAGAIN
        assert errno_of(lambda: sock.send(b"x")) == errno.EAGAIN
        assert errno_of(sock.getpeername) == errno.ENOTCONN


def test_reset_of_a_syn_is_a_refusal(wire: Wire) -> None:
    FarEnd(wire)
    with tcp() as sock:
        assert errno_of(lambda: sock.connect((FAR4, 80))) == errno.ECONNREFUSED
    with tcp(stdlib.AF_INET6) as sock:
        assert errno_of(lambda: sock.connect((FAR6, 80))) == errno.ECONNREFUSED


def connected(wire: Wire) -> tuple[MixSocket, FarEnd, Any]:
    far = FarEnd(wire)
    listener = far.stack.listen(None, 80, 5)
    sock = tcp()
    sock.connect((FAR4, 80))
    conn = wire.loop.call(listener.accept)
    assert conn is not None
    return sock, far, conn


def test_user_timeout_ends_a_stream_whose_data_nobody_acknowledges(wire: Wire) -> None:
    sock, far, _ = connected(wire)
    with sock:
        sock.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_USER_TIMEOUT, 200)
        far.silent = True
        began = time.monotonic()
        sock.sendall(b"into the void")
        assert errno_of(lambda: sock.recv(1)) == errno.ETIMEDOUT
        assert time.monotonic() - began < 3
        assert sock.recv(1) == b""
        assert errno_of(lambda: sock.send(b"x")) == errno.EPIPE


def test_keepalive_ends_a_stream_whose_peer_is_gone(wire: Wire) -> None:
    sock, far, _ = connected(wire)
    with sock:
        for option, value in ((stdlib.TCP_KEEPIDLE, 1), (stdlib.TCP_KEEPINTVL, 1), (stdlib.TCP_KEEPCNT, 1)):
            sock.setsockopt(stdlib.IPPROTO_TCP, option, value)
        sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 1)
        far.silent = True
        assert errno_of(lambda: sock.recv(1)) == errno.ETIMEDOUT


def test_what_a_router_says_does_not_end_a_stream(wire: Wire) -> None:
    sock, far, conn = connected(wire)
    with sock:
        wire.answer = lambda packet: [icmp_error(packet, 3, 1), *far(packet)]
        sock.sendall(b"still here")
        until = time.monotonic() + LIMIT
        while wire.loop.call(conn.readable) < 10 and time.monotonic() < until:
            time.sleep(0.01)
        assert wire.loop.call(conn.recv, 100) == b"still here"


def test_reset_of_a_stream_is_told_once(wire: Wire) -> None:
    sock, far, conn = connected(wire)
    with sock:
        wire.loop.call(conn.abort)
        for packet in wire.loop.call(far.stack.data_to_send, wire.loop.now()):
            wire.loop.call(wire.device.receive_packet, packet)
        assert errno_of(lambda: sock.recv(1)) == errno.ECONNRESET
        assert sock.recv(1) == b""


def test_no_ipv6_behind_the_exit_is_unreachable(wire: Wire) -> None:
    wire.loop.call(setattr, wire.device, "ipv6", False)
    with tcp(stdlib.AF_INET6) as sock:
        assert errno_of(lambda: sock.connect((FAR6, 80))) == errno.ENETUNREACH


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.1.1", "169.254.0.1", "224.0.0.1", "100.64.0.1"])
def test_destinations_outside_the_policy_are_forbidden(wire: Wire, host: str) -> None:
    with tcp() as sock:
        assert errno_of(lambda: sock.connect((host, 80))) == errno.EACCES
        assert sock.connect_ex((host, 80)) == errno.EACCES
    with MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as udp:
        assert errno_of(lambda: udp.sendto(b"x", (host, 80))) == errno.EACCES
    assert not wire.sent
    assert issubclass(ExitPolicyError, PermissionError)


def test_lost_tunnel_is_down_for_every_call(wire: Wire) -> None:
    sock, _, _ = connected(wire)
    with sock:
        wire.loop.call(wire.device.set_down)
        assert errno_of(lambda: sock.recv(1)) == errno.ENETDOWN
        assert sock.recv(1) == b""
        assert errno_of(lambda: sock.send(b"x")) == errno.EPIPE
        with tcp() as other:
            assert errno_of(lambda: other.connect((FAR4, 80))) == errno.ENETDOWN


def test_linger_zero_resets_the_far_end(wire: Wire) -> None:
    sock, _, conn = connected(wire)
    sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    until = time.monotonic() + LIMIT
    while not wire.loop.call(lambda: conn.error) and time.monotonic() < until:
        time.sleep(0.01)
    assert wire.loop.call(lambda: conn.error) == errno.ECONNRESET
