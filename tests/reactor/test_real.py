from __future__ import annotations

import _socket
import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from support.certificates import Authority
from support.greenlets import in_greenlet, wait_until

from smolmix_sync.reactor._real import (
    RealSocket,
    RealTlsSocket,
    client_tls_context,
    connect_tcp,
    limited,
    resolve_host,
)
from smolmix_sync.reactor.loop import ReactorLoop

pytestmark = pytest.mark.interop


@pytest.fixture
def loop() -> Iterator[ReactorLoop]:
    reactor = ReactorLoop().start()
    yield reactor
    reactor.stop()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def pair(loop: ReactorLoop, listener: socket.socket) -> tuple[RealSocket, socket.socket]:
    ours = in_greenlet(loop, lambda: connect_tcp("127.0.0.1", listener.getsockname()[1], timeout=5))
    theirs, _ = listener.accept()
    theirs.settimeout(10)
    return ours, theirs


def test_octets_go_both_ways(loop: ReactorLoop, listener: socket.socket) -> None:
    ours, theirs = pair(loop, listener)
    with theirs:
        in_greenlet(loop, lambda: ours.sendall(b"there"))
        assert theirs.recv(100) == b"there"
        theirs.sendall(b"and back")
        assert in_greenlet(loop, lambda: ours.recv(100)) == b"and back"
        buffer = bytearray(10)
        theirs.sendall(b"into")
        assert in_greenlet(loop, lambda: ours.recv_into(buffer)) == 4
        assert buffer[:4] == b"into"
        theirs.close()
        assert in_greenlet(loop, lambda: ours.recv(100)) == b""
    assert ours.fileno() >= 0
    loop.call(ours.close)
    assert ours.fileno() == -1


def test_waiting_greenlet_leaves_the_hub_to_others(loop: ReactorLoop, listener: socket.socket) -> None:
    ours, theirs = pair(loop, listener)
    with theirs:
        got: list[bytes] = []
        loop.spawn(lambda: got.append(ours.recv(10)))
        ticks: list[float] = []

        def tick() -> None:
            for _ in range(20):
                gevent.sleep(0.01)
                ticks.append(time.monotonic())

        in_greenlet(loop, tick)
        assert len(ticks) == 20
        assert not got
        theirs.sendall(b"x")
        wait_until(lambda: got)
    loop.call(ours.close)


def test_timeouts_are_the_sockets_own(loop: ReactorLoop, listener: socket.socket) -> None:
    ours, theirs = pair(loop, listener)
    with theirs:
        ours.settimeout(0.1)
        assert ours.gettimeout() == 0.1
        with pytest.raises(TimeoutError):
            in_greenlet(loop, lambda: ours.recv(1))
        ours.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            in_greenlet(loop, lambda: ours.recv(1))
    loop.call(ours.close)


def test_full_socket_makes_the_writer_wait(loop: ReactorLoop, listener: socket.socket) -> None:
    ours, theirs = pair(loop, listener)
    data = os.urandom(8 << 20)
    received = bytearray()

    def read() -> None:
        while len(received) < len(data):
            received.extend(theirs.recv(1 << 16))

    with theirs:
        reader = threading.Timer(0.2, read)
        reader.start()
        in_greenlet(loop, lambda: ours.sendall(data))
        reader.join(10)
    assert received == data
    loop.call(ours.close)


def test_close_wakes_whoever_waits(loop: ReactorLoop, listener: socket.socket) -> None:
    ours, theirs = pair(loop, listener)
    errors: list[OSError] = []

    def read() -> None:
        try:
            ours.recv(1)
        except OSError as error:
            errors.append(error)

    with theirs:
        loop.spawn(read)
        time.sleep(0.05)
        loop.call(ours.close)
        wait_until(lambda: errors)
        assert errors[0].errno == errno.EBADF
        loop.call(ours.close)  # any number of times
        with pytest.raises(OSError):
            in_greenlet(loop, lambda: ours.recv(1))


def test_refused_connect_raises_the_kernels_error(loop: ReactorLoop, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        in_greenlet(loop, lambda: connect_tcp("127.0.0.1", port, timeout=5))


def test_names_are_resolved_in_the_pool_or_pinned(loop: ReactorLoop, listener: socket.socket) -> None:
    assert in_greenlet(loop, lambda: resolve_host("::1", 5)) == [(_socket.AF_INET6, ("::1", 5, 0, 0))]
    found = in_greenlet(loop, lambda: resolve_host("localhost", 80, 5.0))
    assert (_socket.AF_INET, ("127.0.0.1", 80)) in found
    port = listener.getsockname()[1]
    addresses = {"pinned.example": "127.0.0.1"}
    sock = in_greenlet(loop, lambda: connect_tcp("Pinned.Example", port, timeout=5, addresses=addresses))
    assert sock.getpeername() == ("127.0.0.1", port)
    loop.call(sock.close)


def test_limit_is_quiet_and_knows_its_own_timer(loop: ReactorLoop) -> None:
    def inner() -> str:
        with limited(0.05):
            gevent.sleep(5)
            return "not reached"
        return "over"

    assert in_greenlet(loop, inner) == "over"

    def outer() -> None:
        with gevent.Timeout(0.05, TimeoutError("outer")), limited(5):
            gevent.sleep(5)

    with pytest.raises(TimeoutError, match="outer"):
        in_greenlet(loop, outer)


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    authority = Authority()
    return authority.server_context("gw.example", tmp_path), authority.write(tmp_path / "ca.pem")


def tls_pair(
    loop: ReactorLoop, listener: socket.socket, tls: tuple[ssl.SSLContext, str]
) -> tuple[RealTlsSocket, ssl.SSLSocket]:
    server: list[ssl.SSLSocket] = []

    def accept() -> None:
        sock, _ = listener.accept()
        sock.settimeout(10)
        server.append(tls[0].wrap_socket(sock, server_side=True))

    thread = threading.Thread(target=accept)
    thread.start()
    ours = in_greenlet(
        loop,
        lambda: connect_tcp(
            "gw.example",
            listener.getsockname()[1],
            timeout=5,
            tls=client_tls_context(tls[1]),
            addresses={"gw.example": "127.0.0.1"},
        ),
    )
    thread.join(10)
    return ours, server[0]


def test_tls_carries_octets_both_ways_at_once(
    loop: ReactorLoop, listener: socket.socket, tls: tuple[ssl.SSLContext, str]
) -> None:
    ours, theirs = tls_pair(loop, listener, tls)
    data = os.urandom(2 << 20)
    echoed = bytearray()
    done: list[bool] = []

    def echo() -> None:
        left = len(data)
        while left:
            piece = theirs.recv(65536)
            theirs.sendall(piece)
            left -= len(piece)

    def read() -> None:
        while len(echoed) < len(data):
            echoed.extend(ours.recv(65536))
        done.append(True)

    thread = threading.Thread(target=echo)
    thread.start()
    loop.spawn(read)
    in_greenlet(loop, lambda: ours.sendall(data))
    wait_until(lambda: done, 20)
    thread.join(10)
    assert echoed == data
    theirs.close()
    assert in_greenlet(loop, lambda: ours.recv(10)) == b""
    loop.call(ours.close)


def test_tls_name_and_authority_are_checked(
    loop: ReactorLoop, listener: socket.socket, tls: tuple[ssl.SSLContext, str], tmp_path: Path
) -> None:
    def serve() -> None:
        for _ in range(2):
            sock, _ = listener.accept()
            with sock:
                try:
                    tls[0].wrap_socket(sock, server_side=True)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    for host, ca in (("other.example", tls[1]), ("gw.example", Authority().write(tmp_path / "b.pem"))):
        context = client_tls_context(ca)
        with pytest.raises(ssl.SSLCertVerificationError):
            in_greenlet(
                loop,
                lambda host=host, context=context: connect_tcp(
                    host, port, timeout=5, tls=context, addresses={host: "127.0.0.1"}
                ),
            )
    thread.join(10)


def test_silent_tls_server_times_out(
    loop: ReactorLoop, listener: socket.socket, tls: tuple[ssl.SSLContext, str]
) -> None:
    context = client_tls_context(tls[1])
    with pytest.raises(TimeoutError):
        in_greenlet(
            loop, lambda: connect_tcp("127.0.0.1", listener.getsockname()[1], timeout=0.3, tls=context)
        )


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_leaves_the_parents_connection_alone(loop: ReactorLoop, listener: socket.socket) -> None:
    ours, theirs = pair(loop, listener)
    with theirs:
        number = ours.fileno()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.fstat(number)
            except OSError:
                code = 0 if ours.fileno() == -1 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        theirs.settimeout(0.2)
        with pytest.raises(TimeoutError):
            theirs.recv(1)  # neither data nor end of stream
        in_greenlet(loop, lambda: ours.sendall(b"alive"))
        assert theirs.recv(10) == b"alive"
    loop.call(ours.close)
