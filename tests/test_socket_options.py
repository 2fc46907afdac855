"""Socket options: stored ones, acted-on ones, refused ones."""

from __future__ import annotations

import errno
import os
import socket as stdlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.loopnet import V4, loopnet

from smolmix_sync.netstack import TcpSettings
from smolmix_sync.reactor.flow import find
from smolmix_sync.reactor.settings import apply_option, apply_options
from smolmix_sync.socket import MixSocket

pytestmark = pytest.mark.interop


@pytest.fixture
def sock() -> Iterator[MixSocket]:
    with MixSocket() as made:
        yield made


def errno_of(action: Callable[[], Any]) -> int:
    with pytest.raises(OSError) as caught:
        action()
    assert caught.value.errno is not None
    return caught.value.errno


@pytest.mark.parametrize(
    ("level", "option", "value"),
    [
        (stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 1),
        (stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR, 1),
        (stdlib.SOL_SOCKET, stdlib.SO_REUSEPORT, 1),
        (stdlib.SOL_SOCKET, stdlib.SO_BROADCAST, 1),
        (stdlib.SOL_SOCKET, stdlib.SO_OOBINLINE, 1),
        (stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY, 1),
        (stdlib.IPPROTO_TCP, stdlib.TCP_KEEPIDLE, 60),
        (stdlib.IPPROTO_TCP, stdlib.TCP_KEEPINTVL, 10),
        (stdlib.IPPROTO_TCP, stdlib.TCP_KEEPCNT, 3),
        (stdlib.IPPROTO_TCP, stdlib.TCP_USER_TIMEOUT, 5000),
        (stdlib.IPPROTO_TCP, stdlib.TCP_MAXSEG, 1000),
        (stdlib.IPPROTO_IP, stdlib.IP_TTL, 32),
        (stdlib.IPPROTO_IP, stdlib.IP_TOS, 16),
        (stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY, 1),
        (stdlib.IPPROTO_IP, 50, 7),
    ],
)
def test_options_are_stored(sock: MixSocket, level: int, option: int, value: int) -> None:
    sock.setsockopt(level, option, value)
    assert sock.getsockopt(level, option) == value
    assert sock.getsockopt(level, option, 4) == struct.pack("i", value)
    sock.setsockopt(level, option, struct.pack("i", value))
    assert sock.getsockopt(level, option) == value


def test_untouched_options_have_the_kernels_defaults(sock: MixSocket) -> None:
    with stdlib.socket() as kernel:
        for level, option in (
            (stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE),
            (stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR),
            (stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY),
            (stdlib.IPPROTO_TCP, stdlib.TCP_KEEPIDLE),
            (stdlib.IPPROTO_TCP, stdlib.TCP_KEEPCNT),
            (stdlib.SOL_SOCKET, stdlib.SO_ERROR),
            (stdlib.SOL_SOCKET, stdlib.SO_ACCEPTCONN),
            (stdlib.SOL_SOCKET, stdlib.SO_TYPE),
            (stdlib.SOL_SOCKET, stdlib.SO_DOMAIN),
            (stdlib.SOL_SOCKET, stdlib.SO_PROTOCOL),
        ):
            assert sock.getsockopt(level, option) == kernel.getsockopt(level, option), (level, option)
        assert sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, 8) == bytes(8)


def test_buffer_sizes_are_doubled_as_in_the_kernel_and_leave_the_pair_alone(sock: MixSocket) -> None:
    for option in (stdlib.SO_SNDBUF, stdlib.SO_RCVBUF):
        assert sock.getsockopt(stdlib.SOL_SOCKET, option) > 0
        sock.setsockopt(stdlib.SOL_SOCKET, option, 20_000)
        assert sock.getsockopt(stdlib.SOL_SOCKET, option) == 40_000


@pytest.mark.parametrize("option", [25, 36, 62])
def test_options_that_choose_an_interface_are_refused(sock: MixSocket, option: int) -> None:
    assert errno_of(lambda: sock.setsockopt(stdlib.SOL_SOCKET, option, b"lo\0\0")) == errno.EPERM


def test_unknown_and_read_only_options(sock: MixSocket) -> None:
    # TCP_MD5SIG, TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, TCP_ULP; SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ZEROCOPY, SO_TXTIME
    for level, options in ((stdlib.IPPROTO_TCP, (14, 23, 30, 31)), (stdlib.SOL_SOCKET, (26, 50, 60, 61))):
        for option in options:
            key = (level, option)
            assert errno_of(lambda k=key: sock.setsockopt(*k, b"xxxx")) == errno.ENOPROTOOPT, key
            assert errno_of(lambda k=key: sock.getsockopt(*k)) == errno.ENOPROTOOPT, key
    assert errno_of(lambda: sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR, 1)) == errno.ENOPROTOOPT
    assert errno_of(lambda: sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_TYPE, 1)) == errno.ENOPROTOOPT
    assert errno_of(lambda: sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, 1)) == errno.EINVAL
    assert errno_of(lambda: sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, b"x")) == errno.EINVAL
    with pytest.raises(OverflowError):
        sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 2**40)
    with pytest.raises(TypeError):
        sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE)  # type: ignore[call-overload]
    with pytest.raises(OSError, match="buflen"):
        sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 4000)
    with MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as udp:
        assert (
            errno_of(lambda: udp.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY, 1)) == errno.ENOPROTOOPT
        )
        assert errno_of(lambda: udp.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY)) == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("level", "option"), [(stdlib.IPPROTO_IP, 19), (stdlib.IPPROTO_IP, 15), (stdlib.IPPROTO_IPV6, 75)]
)
def test_addresses_that_are_not_ours_are_refused(sock: MixSocket, level: int, option: int) -> None:
    assert errno_of(lambda: sock.setsockopt(level, option, 1)) == errno.EPERM


@pytest.mark.parametrize("name", ["mix", "cubic", "none"])
def test_congestion_control_is_chosen_by_option(name: str) -> None:
    with loopnet() as port, MixSocket() as listener, MixSocket() as client:
        client.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_CONGESTION, name.encode())
        listener.bind((V4, 0))
        listener.listen()
        client.connect(listener.getsockname())
        shown = client.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_CONGESTION, 16)
        assert isinstance(shown, bytes)
        assert shown.rstrip(b"\0").decode() == name
        flow = find(client)
        assert flow is not None
        conn = flow.pump._conn  # type: ignore[union-attr]
        assert port.device.loop.call(lambda: conn.settings.congestion) == name


def test_kernel_timeouts_are_the_pairs_own() -> None:
    with loopnet(), MixSocket() as listener, MixSocket() as client:
        listener.bind((V4, 0))
        listener.listen()
        client.connect(listener.getsockname())
        client.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_RCVTIMEO, struct.pack("ll", 0, 20_000))
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_tcp_info_has_a_state_and_figures() -> None:
    with loopnet(), MixSocket() as listener, MixSocket() as client:
        listener.bind((V4, 0))
        listener.listen()
        info = client.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_INFO, 232)
        assert isinstance(info, bytes)
        assert (len(info), info[0]) == (232, 7)
        assert listener.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_INFO, 1) == b"\x0a"
        client.connect(listener.getsockname())
        info = client.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_INFO, 232)
        assert isinstance(info, bytes)
        assert info[0] == 1
        assert struct.unpack_from("I", info, 16)[0] > 500  # tcpi_snd_mss
        assert struct.unpack_from("I", info, 8)[0] > 1000  # tcpi_rto, microseconds


def test_kernel_sockets_have_their_own_options() -> None:
    one, two = stdlib.socketpair()
    with MixSocket(fileno=one.detach()) as sock, two:
        sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_SNDBUF, 50_000)
        assert sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_SNDBUF) == 100_000


def test_options_become_settings_of_the_stack() -> None:
    tcp, sol = stdlib.IPPROTO_TCP, stdlib.SOL_SOCKET
    settings = apply_options(
        TcpSettings(),
        {
            (tcp, stdlib.TCP_NODELAY): 1, (tcp, stdlib.TCP_CORK): 1, (tcp, stdlib.TCP_QUICKACK): 1,
            (tcp, stdlib.TCP_KEEPIDLE): 5, (tcp, stdlib.TCP_KEEPINTVL): 6, (tcp, stdlib.TCP_KEEPCNT): 7,
            (tcp, stdlib.TCP_SYNCNT): 2, (tcp, stdlib.TCP_MAXSEG): 900, (tcp, stdlib.TCP_USER_TIMEOUT): 2500,
            (sol, stdlib.SO_KEEPALIVE): 1, (sol, stdlib.SO_SNDBUF): 30_000, (sol, stdlib.SO_RCVBUF): 40_000,
            (sol, stdlib.SO_LINGER): struct.pack("ii", 1, 0),
        },
    )  # fmt: skip
    assert settings == TcpSettings(
        nodelay=True, cork=True, quickack=True, keepalive=True, keep_idle=5.0, keep_interval=6.0, keep_count=7,
        user_timeout=2.5, syn_retries=2, linger_reset=True, sndbuf=60_000, rcvbuf=80_000, rcvbuf_max=80_000,
        max_segment=900,
    )  # fmt: skip
    assert not apply_option(settings, (sol, stdlib.SO_BROADCAST), 1)
    apply_option(settings, (sol, stdlib.SO_LINGER), struct.pack("ii", 1, 5))
    assert not settings.linger_reset
    apply_option(settings, (tcp, stdlib.TCP_USER_TIMEOUT), 0)
    assert settings.user_timeout == 120.0


def test_descriptor_inheritance_is_native(sock: MixSocket) -> None:
    sock.set_inheritable(True)
    assert os.get_inheritable(sock.fileno())
