"""Socket behaviour: the same tests over kernel sockets on loopback and mix sockets over a loopback stack."""

from __future__ import annotations

import array
import errno
import fcntl
import io
import os
import select
import selectors
import socket as stdlib
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.loopnet import V4, V6, loopnet, settle
from support.worlds import LIMIT, World, errno_of, read_all, wait_for

from smolmix_sync.socket import MixSocket

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def net() -> Iterator[Any]:
    with loopnet() as port:
        yield port


@pytest.fixture(params=["kernel", "mix"])
def world(request: pytest.FixtureRequest, net: Any) -> Iterator[World]:
    if request.param == "kernel":
        made = World("kernel", stdlib.socket, "127.0.0.1", "::1")
    else:
        made = World("mix", MixSocket, V4, V6)
    yield made
    for sock in made.opened:
        sock.close()


@pytest.fixture
def mix(net: Any) -> Iterator[World]:
    made = World("mix", MixSocket, V4, V6)
    yield made
    for sock in made.opened:
        sock.close()


# --- streams ----------------------------------------------------------------------------------


def test_bytes_go_both_ways(world: World) -> None:
    client, server = world.pair()
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"


def test_names_of_both_ends_agree(world: World) -> None:
    client, server = world.pair()
    assert client.getsockname() == server.getpeername()
    assert client.getpeername() == server.getsockname()
    assert client.getsockname()[0] == world.host


def test_accept_returns_the_peer_address(world: World) -> None:
    listener, client = world.listener(), world.tcp()
    client.connect(listener.getsockname())
    server, address = listener.accept()
    with server:
        assert address == client.getsockname()
        assert isinstance(server, world.socket)


def test_family_type_and_proto_are_the_ones_asked_for(world: World) -> None:
    sock = world.tcp()
    assert (sock.family, sock.type) == (stdlib.AF_INET, stdlib.SOCK_STREAM)
    assert world.udp().type == stdlib.SOCK_DGRAM
    assert sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_TYPE) == stdlib.SOCK_STREAM
    assert sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_DOMAIN) == stdlib.AF_INET


def test_megabytes_arrive_unchanged(world: World) -> None:
    client, server = world.pair()
    data = os.urandom(3_000_000)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(read_all, server)
        client.sendall(data)
        client.shutdown(stdlib.SHUT_WR)
        assert received.result(LIMIT) == data


def test_megabytes_go_both_ways_at_once(world: World) -> None:
    client, server = world.pair()
    one, two = os.urandom(1_500_000), os.urandom(1_500_000)

    def send(sock: Any, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(stdlib.SHUT_WR)

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(read_all, client), pool.submit(read_all, server)]
        pool.submit(send, client, one)
        pool.submit(send, server, two)
        assert [future.result(LIMIT) for future in futures] == [two, one]


def test_peer_close_is_end_of_file(world: World) -> None:
    client, server = world.pair()
    server.sendall(b"last words")
    server.close()
    assert read_all(client) == b"last words"
    assert client.recv(1) == b""


def test_half_closed_stream_still_receives(world: World) -> None:
    client, server = world.pair()
    client.sendall(b"all of it")
    client.shutdown(stdlib.SHUT_WR)
    assert read_all(server) == b"all of it"
    server.sendall(b"thanks")
    server.close()
    assert read_all(client) == b"thanks"
    assert errno_of(lambda: client.send(b"more")) == errno.EPIPE


def test_shutdown_of_reading_makes_recv_return_nothing(world: World) -> None:
    client, _server = world.pair()
    client.shutdown(stdlib.SHUT_RD)
    assert client.recv(10) == b""


def test_peer_may_send_after_our_shutdown_of_reading(mix: World) -> None:
    client, server = mix.pair()
    client.shutdown(stdlib.SHUT_RD)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.sendall, bytes(2_000_000)).result(LIMIT)
    client.sendall(b"still here")
    assert server.recv(100) == b"still here"


def test_not_connected_errors(world: World) -> None:
    sock = world.tcp()
    assert errno_of(lambda: sock.recv(1)) == errno.ENOTCONN
    assert errno_of(lambda: sock.recv_into(bytearray(1))) == errno.ENOTCONN
    assert errno_of(lambda: sock.send(b"x")) == errno.EPIPE
    assert errno_of(lambda: sock.sendall(b"x")) == errno.EPIPE
    assert errno_of(sock.getpeername) == errno.ENOTCONN
    assert errno_of(lambda: sock.shutdown(stdlib.SHUT_RDWR)) == errno.ENOTCONN
    assert errno_of(sock.accept) == errno.EINVAL
    assert sock.getsockname() == ("0.0.0.0", 0)


@pytest.mark.parametrize("method", ["recvfrom_into", "recvmsg_into"])
def test_unconnected_stream_does_not_block_in_the_other_receives(world: World, method: str) -> None:
    argument: Any = bytearray(5) if method == "recvfrom_into" else [bytearray(5)]
    assert errno_of(lambda: getattr(world.tcp(), method)(argument)) == errno.ENOTCONN


def test_closed_socket_gives_ebadf(world: World) -> None:
    client, _ = world.pair()
    client.close()
    for action in (lambda: client.recv(1), lambda: client.send(b"x"), client.getsockname, client.getpeername):
        assert errno_of(action) == errno.EBADF


def test_refused_connect(world: World) -> None:
    port = world.closed_port()
    with pytest.raises(ConnectionRefusedError):
        world.tcp().connect((world.host, port))
    assert world.tcp().connect_ex((world.host, port)) == errno.ECONNREFUSED


def test_connect_can_be_tried_again_on_the_same_socket(mix: World) -> None:
    listener = mix.listener()
    sock = mix.tcp()
    with pytest.raises(ConnectionRefusedError):
        sock.connect((mix.host, mix.closed_port()))
    sock.connect(listener.getsockname())
    server, _ = listener.accept()
    with server:
        sock.sendall(b"second try")
        assert server.recv(100) == b"second try"


def test_second_connect_is_refused_with_eisconn(world: World) -> None:
    listener = world.listener()
    client = world.tcp()
    client.setblocking(
        True
    )  # with a time-out Linux lets the second connect() collect the first one's success
    client.connect(listener.getsockname())
    assert errno_of(lambda: client.connect(listener.getsockname())) == errno.EISCONN
    assert client.connect_ex(listener.getsockname()) == errno.EISCONN


# --- resets -----------------------------------------------------------------------------------


def reset(sock: Any) -> None:
    sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_reset_raises_once_and_then_reads_as_end(world: World) -> None:
    client, server = world.pair()
    reset(server)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert client.recv(1) == b""
    assert errno_of(lambda: client.send(b"x")) in (errno.EPIPE, errno.ECONNRESET)
    assert errno_of(client.getpeername) == errno.ENOTCONN


def test_reset_wakes_a_blocked_reader(world: World) -> None:
    client, server = world.pair()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.recv, 1)
        time.sleep(0.05)
        reset(server)
        with pytest.raises(ConnectionResetError):
            waiting.result(LIMIT)


def test_reset_wakes_a_blocked_writer(world: World) -> None:
    client, server = world.pair()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.sendall, bytes(64 << 20))
        time.sleep(0.1)
        reset(server)
        with pytest.raises(ConnectionError):
            waiting.result(LIMIT)


def test_close_with_unread_data_resets_the_peer(world: World) -> None:
    client, server = world.pair()
    client.sendall(b"nobody reads this")
    wait_for(lambda: select.select([server], [], [], 0)[0])
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_data_after_the_peer_closed_is_answered_with_a_reset(world: World) -> None:
    client, server = world.pair()
    server.close()
    assert client.recv(1) == b""

    def send() -> bool:
        try:
            client.send(b"x")
        except ConnectionError:
            return True
        return False

    wait_for(send)


def test_data_before_a_reset_is_still_read(mix: World) -> None:
    client, server = mix.pair()
    server.sendall(b"before")
    wait_for(lambda: select.select([client], [], [], 0)[0])
    reset(server)
    time.sleep(0.05)
    assert client.recv(100) == b"before"
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert client.recv(1) == b""


def test_reset_is_seen_through_the_bare_descriptor(mix: World) -> None:
    client, server = mix.pair()
    reset(server)
    poller = select.poll()
    poller.register(client, select.POLLIN)
    assert poller.poll(LIMIT * 1000)[0][1] & select.POLLHUP
    with pytest.raises(ConnectionResetError):
        os.read(client.fileno(), 1)


def test_reset_after_our_half_close_raises_too(mix: World) -> None:
    client, server = mix.pair()
    client.shutdown(stdlib.SHUT_WR)
    assert server.recv(1) == b""
    reset(server)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert client.recv(1) == b""


def test_reset_reaches_every_duplicate(mix: World) -> None:
    client, server = mix.pair()
    copy = client.dup()
    client.close()
    with copy:
        reset(server)
        with pytest.raises(ConnectionResetError):
            copy.recv(1)


def test_stream_closed_by_both_sides_is_not_connected(mix: World) -> None:
    client, server = mix.pair()
    client.shutdown(stdlib.SHUT_WR)
    server.shutdown(stdlib.SHUT_WR)
    assert client.recv(1) == b""
    assert server.recv(1) == b""

    def gone() -> bool:
        try:
            client.getpeername()
        except OSError as problem:
            return problem.errno == errno.ENOTCONN
        return False

    wait_for(gone)


# --- time-outs and non-blocking ---------------------------------------------------------------


def test_recv_times_out(world: World) -> None:
    client, _server = world.pair()
    client.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out"):
        client.recv(1)


def test_accept_times_out(world: World) -> None:
    listener = world.listener()
    listener.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listener.accept()


def test_sendall_times_out_when_nobody_reads(world: World) -> None:
    client, _server = world.pair()
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(64 << 20))


def test_non_blocking_calls_give_eagain(world: World) -> None:
    client, server = world.pair()
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    listener = world.listener()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    server.sendall(b"x")
    assert select.select([client], [], [], LIMIT)[0]
    assert client.recv(1) == b"x"


def test_non_blocking_connect_as_event_loops_do_it(world: World) -> None:
    listener, client = world.listener(), world.tcp()
    client.setblocking(False)
    assert client.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
    assert select.select([], [client], [], LIMIT)[1]
    assert client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == 0
    assert client.connect_ex(listener.getsockname()) in (0, errno.EISCONN)
    client.sendall(b"x")
    server, _ = listener.accept()
    with server:
        assert server.recv(1) == b"x"


def test_non_blocking_connect_reports_refusal_in_so_error(world: World) -> None:
    client = world.tcp()
    client.setblocking(False)
    if client.connect_ex((world.host, world.closed_port())) == errno.EINPROGRESS:
        assert select.select([], [client], [], LIMIT)[1]
        assert client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == errno.ECONNREFUSED
    assert client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == 0


def test_edge_triggered_epoll_registered_before_connect(world: World) -> None:
    listener, client = world.listener(), world.tcp()
    client.setblocking(False)
    with select.epoll() as poller:
        poller.register(client, select.EPOLLOUT | select.EPOLLET)
        poller.poll(0)
        client.connect_ex(listener.getsockname())
        wait_for(lambda: any(event & select.EPOLLOUT for _, event in poller.poll(0.1)))
    assert client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == 0


def test_send_while_connecting_gives_eagain(mix: World) -> None:
    with loopnet(up=False):
        sock = mix.tcp()
        sock.setblocking(False)
        assert sock.connect_ex((V4, 80)) == errno.EINPROGRESS
        with pytest.raises(BlockingIOError):
            sock.send(b"x")
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        assert sock.connect_ex((V4, 80)) == errno.EALREADY
        assert not select.select([], [sock], [], 0)[1]


def test_full_send_buffer_gives_eagain_until_the_peer_reads(world: World) -> None:
    client, server = world.pair()
    client.setblocking(False)
    sent = 0
    idle = 0
    while idle < 5:
        try:
            sent += client.send(bytes(65536))
            idle = 0
        except BlockingIOError:
            idle += 1
            time.sleep(0.02)
        assert sent < 256 << 20, "nothing holds the sender back"
    assert not select.select([], [client], [], 0)[1]
    received = 0
    while received < sent:
        received += len(server.recv(1 << 20))
    assert select.select([], [client], [], LIMIT)[1]


def test_close_while_the_peer_does_not_read_delivers_everything(world: World) -> None:
    client, server = world.pair()
    data = os.urandom(300_000)
    client.sendall(data)
    client.close()
    time.sleep(0.05)
    assert read_all(server) == data


def test_two_peers_that_both_stopped_reading_notice_a_close(mix: World) -> None:
    client, server = mix.pair()
    for sock in (client, server):
        sock.setblocking(False)
        idle = 0
        while idle < 5:
            try:
                sock.send(bytes(65536))
                idle = 0
            except BlockingIOError:
                idle += 1
                time.sleep(0.02)
    client.close()
    server.settimeout(LIMIT)
    with pytest.raises(ConnectionError):
        while server.recv(1 << 20):
            pass


# --- the receive and send family --------------------------------------------------------------


def test_recv_into_and_friends_fill_buffers(world: World) -> None:
    client, server = world.pair()
    client.sendall(b"abcdefghij")
    wait_for(lambda: len(server.recv(10, stdlib.MSG_PEEK)) == 10)
    buffer = bytearray(4)
    assert server.recv_into(buffer) == 4
    assert buffer == b"abcd"
    assert server.recv_into(buffer, 2) == 2
    assert buffer == b"efcd"
    assert server.recvfrom_into(buffer, 1)[0] == 1
    assert server.recvfrom(1)[0] == b"h"
    data, ancillary, _, _ = server.recvmsg(1)
    assert (data, ancillary) == (b"i", [])
    count, ancillary, _, _ = server.recvmsg_into([buffer])
    assert (count, ancillary, buffer[:1]) == (1, [], b"j")


def test_sendmsg_gathers(world: World) -> None:
    client, server = world.pair()
    assert client.sendmsg([b"ab", bytearray(b"cd"), memoryview(b"ef")]) == 6
    wait_for(lambda: len(server.recv(6, stdlib.MSG_PEEK)) == 6)
    assert server.recv(10) == b"abcdef"


def test_peek_waitall_and_fionread(world: World) -> None:
    client, server = world.pair()
    client.sendall(b"12345")
    wait_for(lambda: len(server.recv(5, stdlib.MSG_PEEK)) == 5)
    size = array.array("i", [0])
    fcntl.ioctl(server, termios.FIONREAD, size)
    assert size[0] == 5
    server.setblocking(True)  # a time-out makes the descriptor non-blocking, which ends MSG_WAITALL early
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(server.recv, 8, stdlib.MSG_WAITALL)
        client.sendall(b"678")
        assert whole.result(LIMIT) == b"12345678"


def test_makefile_reads_lines_and_outlives_the_socket(world: World) -> None:
    client, server = world.pair()
    with server.makefile("rwb") as stream:
        server.close()
        client.sendall(b"one\ntwo\n")
        assert stream.readline() == b"one\n"
        assert stream.readline() == b"two\n"
        stream.write(b"ok")
        stream.flush()
        assert client.recv(2) == b"ok"
    assert client.recv(1) == b""


def test_sendfile_sends_a_file(world: World) -> None:
    client, server = world.pair()
    data = os.urandom(700_000)
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(1) as pool:
        file.write(data)
        file.seek(0)
        received = pool.submit(read_all, server)
        assert client.sendfile(file) == len(data)
        client.close()
        assert received.result(LIMIT) == data


def test_sendfile_falls_back_for_objects_without_a_descriptor(world: World) -> None:
    client, server = world.pair()
    assert client.sendfile(io.BytesIO(b"from memory")) == 11
    client.close()
    assert read_all(server) == b"from memory"


def test_out_of_band_data_of_ours_travels_in_band(mix: World) -> None:
    client, server = mix.pair()
    client.send(b"abort", stdlib.MSG_OOB)
    assert server.recv(10) == b"abort"
    assert errno_of(lambda: client.recv(1, stdlib.MSG_OOB)) == errno.EINVAL


def test_descriptors_cannot_be_smuggled_over_tcp(mix: World) -> None:
    client, server = mix.pair()
    reading, writing = os.pipe()
    try:
        rights = [(stdlib.SOL_SOCKET, stdlib.SCM_RIGHTS, array.array("i", [reading]))]
        client.sendmsg([b"x"], rights)
        data, ancillary, _, _ = server.recvmsg(1, 100)
        assert (data, ancillary) == (b"x", [])
    finally:
        os.close(reading)
        os.close(writing)


# --- descriptors ------------------------------------------------------------------------------


def test_dup_shares_the_stream(world: World) -> None:
    client, server = world.pair()
    copy = client.dup()
    client.close()
    with copy:
        assert copy.getpeername() == server.getsockname()
        copy.sendall(b"by the copy")
        assert server.recv(100) == b"by the copy"
    assert server.recv(1) == b""


def test_detach_and_wrap_again(world: World) -> None:
    client, server = world.pair()
    fd = client.detach()
    again = world.socket(fileno=fd)
    with again:
        assert (again.family, again.type) == (stdlib.AF_INET, stdlib.SOCK_STREAM)
        assert again.getpeername() == server.getsockname()
        again.sendall(b"x")
        assert server.recv(1) == b"x"


def test_bare_descriptor_reads_and_writes(world: World) -> None:
    client, server = world.pair()
    client.setblocking(True)
    os.write(client.fileno(), b"by fd")
    assert server.recv(100) == b"by fd"
    server.sendall(b"back")
    assert os.read(client.fileno(), 100) == b"back"


def test_arguments_of_sendmsg_and_recvmsg_are_checked(world: World) -> None:
    client, server = world.pair()
    for wrong in (5, [5], [(1, 2)], [(1, 2, "text")], [("a", 1, b"")]):
        with pytest.raises(TypeError):
            client.sendmsg([b"x"], wrong)
    with pytest.raises(TypeError):
        client.sendmsg([b"x"], [], 0, "address")
    with pytest.raises(ValueError, match="negative"):
        server.recvmsg(-1)
    with pytest.raises(ValueError, match="ancillary"):
        server.recvmsg(1, -1)
    with pytest.raises(OverflowError):
        world.tcp().listen(2**31)
    with pytest.raises(TypeError, match="a bytes-like object is required, not 'complex'"):
        world.udp().sendto(1j, (world.host, 9))


def test_selectors_report_readiness(world: World) -> None:
    client, server = world.pair()
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, "client")
        assert not selector.select(0)
        server.sendall(b"x")
        [(key, events)] = selector.select(LIMIT)
        assert (key.data, events) == ("client", selectors.EVENT_READ)


def test_listener_is_readable_when_a_connection_waits(world: World) -> None:
    listener = world.listener()
    assert not select.select([listener], [], [], 0)[0]
    world.tcp().connect(listener.getsockname())
    assert select.select([listener], [], [], LIMIT)[0]
    listener.accept()[0].close()
    assert not select.select([listener], [], [], 0.05)[0]


def test_sockets_work_in_many_threads_at_once(world: World) -> None:
    listener = world.listener(64)

    def serve() -> None:
        for _ in range(30):
            sock, _ = listener.accept()
            with sock:
                sock.sendall(sock.recv(100).upper())

    def ask(number: int) -> bytes:
        with world.socket(stdlib.AF_INET, stdlib.SOCK_STREAM) as sock:
            sock.settimeout(LIMIT)
            sock.connect(listener.getsockname())
            sock.sendall(b"n%d" % number)
            return bytes(sock.recv(100))

    server = threading.Thread(target=serve)
    server.start()
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(ask, range(30))) == [b"N%d" % number for number in range(30)]
    server.join(LIMIT)


# --- bind and listen --------------------------------------------------------------------------


def test_port_is_free_again_after_close(world: World) -> None:
    for kind in ("tcp", "udp"):
        one = getattr(world, kind)()
        one.bind((world.host, 0))
        address = one.getsockname()
        one.close()
        getattr(world, kind)().bind(address)


def test_port_of_an_unused_socket_is_free_again_after_close(world: World) -> None:
    later = world.tcp()  # made before the close, so that making it frees nothing
    with world.socket() as sock:
        sock.bind(("", 0))
        port = sock.getsockname()[1]
    later.bind(("", port))


def test_bound_port_is_in_use(world: World) -> None:
    for kind in ("tcp", "udp"):
        one = getattr(world, kind)()
        one.bind((world.host, 0))
        assert errno_of(lambda o=one, k=kind: getattr(world, k)().bind(o.getsockname())) == errno.EADDRINUSE


def test_binding_twice_is_invalid(world: World) -> None:
    sock = world.tcp()
    sock.bind((world.host, 0))
    assert errno_of(lambda: sock.bind((world.host, 0))) == errno.EINVAL


def test_foreign_address_cannot_be_bound(world: World) -> None:
    assert errno_of(lambda: world.tcp().bind(("203.0.113.77", 0))) == errno.EADDRNOTAVAIL


def test_connect_from_a_bound_port(world: World) -> None:
    listener, client = world.listener(), world.tcp()
    client.bind((world.host, 0))
    bound = client.getsockname()
    client.connect(listener.getsockname())
    server, address = listener.accept()
    with server:
        assert address == bound == client.getsockname()


def test_closed_listener_refuses(world: World) -> None:
    listener = world.listener()
    address = listener.getsockname()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        world.tcp().connect(address)


def test_listen_may_be_called_again(world: World) -> None:
    listener = world.listener(1)
    listener.listen(10)
    assert listener.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ACCEPTCONN) == 1
    world.tcp().connect(listener.getsockname())
    listener.accept()[0].close()


def test_shutdown_wakes_a_blocked_accept(world: World) -> None:
    listener = world.listener()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(listener.accept)
        time.sleep(0.05)
        listener.shutdown(stdlib.SHUT_RDWR)
        assert errno_of(lambda: waiting.result(LIMIT)) == errno.EINVAL


def test_connecting_a_listener_fails(world: World) -> None:
    listener = world.listener()
    assert errno_of(lambda: listener.connect((world.host, 9))) == errno.EISCONN


def test_accepted_socket_has_data_sent_before_accept(world: World) -> None:
    listener, client = world.listener(), world.tcp()
    client.connect(listener.getsockname())
    client.sendall(b"early")
    client.close()
    server, _ = listener.accept()
    with server:
        server.settimeout(LIMIT)
        assert read_all(server) == b"early"


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "not a tuple",
        (1,),
        ("127.0.0.1",),
        ("127.0.0.1", 1, 2),
        (5, 80),
        ("127.0.0.1", "80"),
        ("a\0b", 80),
        (None, 80),
    ],
)
def test_malformed_addresses_are_type_errors(world: World, address: Any) -> None:
    for method in ("connect", "connect_ex", "bind"):
        with pytest.raises(TypeError):
            getattr(world.tcp(), method)(address)


@pytest.mark.parametrize("port", [-1, 65536, 2**40])
def test_port_outside_its_range_overflows(world: World, port: int) -> None:
    with pytest.raises(OverflowError, match="port must be 0-65535"):
        world.tcp().connect((world.host, port))


def test_ipv6_streams_work(mix: World) -> None:
    listener = mix.tcp(stdlib.AF_INET6)
    listener.bind((V6, 0))
    listener.listen()
    client = mix.tcp(stdlib.AF_INET6)
    client.connect(listener.getsockname())
    server, address = listener.accept()
    with server:
        assert address == client.getsockname()
        assert client.getpeername() == (V6, listener.getsockname()[1], 0, 0)
        client.sendall(b"six")
        assert server.recv(3) == b"six"


def test_ipv6_socket_reaches_a_mapped_ipv4_address(mix: World) -> None:
    listener = mix.listener()
    client = mix.tcp(stdlib.AF_INET6)
    client.connect((f"::ffff:{V4}", listener.getsockname()[1]))
    assert client.getpeername()[0] == f"::ffff:{V4}"


def test_ipv6_is_unreachable_when_the_exit_has_none(mix: World, net: Any) -> None:
    net.device.ipv6 = False
    try:
        assert mix.tcp(stdlib.AF_INET6).connect_ex((V6, 80)) == errno.ENETUNREACH
    finally:
        net.device.ipv6 = True


# --- datagrams --------------------------------------------------------------------------------


def test_datagrams_keep_their_boundaries_and_source(world: World) -> None:
    one, two = world.udp_pair()
    for payload in (b"first", b"", b"third" * 200):
        assert one.sendto(payload, two.getsockname()) == len(payload)
    assert [two.recvfrom(65536) for _ in range(3)] == [
        (b"first", one.getsockname()),
        (b"", one.getsockname()),
        (b"third" * 200, one.getsockname()),
    ]


def test_datagram_is_cut_to_the_buffer(world: World) -> None:
    one, two = world.udp_pair()
    for _ in range(4):
        one.sendto(b"0123456789", two.getsockname())
    assert two.recv(4) == b"0123"
    buffer = bytearray(5)
    assert two.recvfrom_into(buffer, 3) == (3, one.getsockname())
    assert buffer == b"012\0\0"
    data, _, flags, source = two.recvmsg(2)
    assert (data, source) == (b"01", one.getsockname())
    assert flags & stdlib.MSG_TRUNC
    count, _, flags, _ = two.recvmsg_into([bytearray(6), bytearray(20)])
    assert count == 10
    assert not flags & stdlib.MSG_TRUNC


def test_connected_datagram_socket_sends_without_an_address(world: World) -> None:
    one, two = world.udp_pair()
    assert errno_of(lambda: one.send(b"x")) == errno.EDESTADDRREQ
    assert errno_of(one.getpeername) == errno.ENOTCONN
    one.connect(two.getsockname())
    assert one.getpeername() == two.getsockname()
    assert one.send(b"plain") == 5
    assert two.recv(10) == b"plain"
    one.sendmsg([b"gath", b"ered"])
    assert two.recv(10) == b"gathered"


def test_connected_datagram_socket_hears_its_peer_only(world: World) -> None:
    one, two = world.udp_pair()
    stranger = world.udp()
    one.connect(two.getsockname())
    stranger.sendto(b"stranger", one.getsockname())
    time.sleep(0.05)
    two.sendto(b"peer", one.getsockname())
    assert one.recv(100) == b"peer"


def test_connect_tells_the_local_address(world: World) -> None:
    sock = world.udp()
    sock.connect((world.host, 9))
    assert sock.getsockname()[0] == world.host
    assert sock.getsockname()[1] != 0


def test_first_datagram_binds_a_port(world: World) -> None:
    _, two = world.udp_pair()
    sock = world.udp()
    sock.sendto(b"x", two.getsockname())
    _, source = two.recvfrom(10)
    assert source[1] == sock.getsockname()[1] != 0
    two.sendto(b"y", source)
    assert sock.recv(1) == b"y"


def test_datagram_too_long_for_udp(world: World) -> None:
    one, two = world.udp_pair()
    assert errno_of(lambda: one.sendto(bytes(65508), two.getsockname())) == errno.EMSGSIZE


def test_largest_datagram_arrives(mix: World) -> None:
    one, two = mix.udp_pair()
    payload = os.urandom(65507)
    one.sendto(payload, two.getsockname())
    assert two.recv(65536) == payload


def test_datagrams_sent_before_close_still_leave(world: World) -> None:
    one, two = world.udp_pair()
    for number in range(20):
        one.sendto(b"%d" % number, two.getsockname())
    one.close()
    assert [two.recv(10) for _ in range(20)] == [b"%d" % number for number in range(20)]


def test_unread_datagrams_beyond_the_queue_are_dropped_not_blocking(mix: World) -> None:
    one, two = mix.udp_pair()
    for _ in range(400):
        one.sendto(bytes(1000), two.getsockname())
    time.sleep(0.1)
    two.setblocking(False)
    received = 0
    while True:
        try:
            received += len(two.recv(2000)) == 1000
        except BlockingIOError:
            break
    assert 0 < received <= 400


def test_garbage_written_to_the_bare_descriptor_of_a_datagram_socket_is_ignored(mix: World) -> None:
    one, two = mix.udp_pair()
    os.write(one.fileno(), b"no address block")
    os.write(one.fileno(), bytes(100))
    one.sendto(b"good", two.getsockname())
    assert two.recv(10) == b"good"


def test_datagram_arguments_are_checked(world: World) -> None:
    one, two = world.udp_pair()
    with pytest.raises(TypeError):
        one.sendto("text", two.getsockname())
    with pytest.raises(TypeError):
        one.sendto(b"x")
    with pytest.raises(ValueError, match="negative"):
        two.recvfrom(-1)
    with pytest.raises(ValueError, match="greater than the length"):
        two.recvfrom_into(bytearray(2), 3)


# --- construction -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((stdlib.AF_INET, stdlib.SOCK_RAW, 1), errno.EPERM),
        ((stdlib.AF_PACKET, stdlib.SOCK_RAW, 0), errno.EPERM),
        ((stdlib.AF_INET, stdlib.SOCK_STREAM, 132), errno.EPROTONOSUPPORT),
        ((stdlib.AF_INET, stdlib.SOCK_DGRAM, 136), errno.EPROTONOSUPPORT),
        ((40, stdlib.SOCK_STREAM, 0), errno.EPERM),
    ],
)
def test_sockets_the_tunnel_cannot_carry_are_refused(arguments: tuple[int, int, int], number: int) -> None:
    assert errno_of(lambda: MixSocket(*arguments)) == number


def test_unix_sockets_are_the_kernels() -> None:
    with MixSocket(stdlib.AF_UNIX, stdlib.SOCK_STREAM) as sock:
        assert sock.getsockname() == ""


def test_non_blocking_type_bit_is_honoured(world: World) -> None:
    with world.socket(stdlib.AF_INET, stdlib.SOCK_STREAM | stdlib.SOCK_NONBLOCK) as sock:
        assert sock.gettimeout() == 0.0
        assert not os.get_blocking(sock.fileno())
        assert sock.type == stdlib.SOCK_STREAM


def test_descriptor_is_not_inherited(world: World) -> None:
    assert not world.tcp().get_inheritable()
    client, server = world.pair()
    assert not client.get_inheritable()
    assert not server.get_inheritable()


def test_explicit_tunnel_wins_over_the_default(net: Any) -> None:
    with loopnet() as other:
        with MixSocket(tunnel=other) as listener, MixSocket(tunnel=net) as client:
            listener.bind(("", 0))
            listener.listen()
            assert client.connect_ex((V4, listener.getsockname()[1])) == errno.ECONNREFUSED
        with MixSocket(tunnel=other) as listener, MixSocket(tunnel=other) as client:
            listener.bind(("", 0))
            listener.listen()
            client.connect((V4, listener.getsockname()[1]))


def test_no_descriptor_is_left_behind(mix: World, net: Any) -> None:
    def count() -> int:
        settle(net)  # unused sockets are swept when the reactor, or the next socket, comes by
        return len(os.listdir("/proc/self/fd"))

    def use() -> None:
        listener = MixSocket()
        listener.bind((V4, 0))
        listener.listen()
        for number in range(10):
            client = MixSocket()
            client.connect(listener.getsockname())
            server, _ = listener.accept()
            if number % 3 == 0:
                reset(server)
            server.close()
            client.close()
        refused = MixSocket()
        refused.connect_ex((V4, 1))
        refused.close()
        MixSocket().close()
        one = MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM)
        one.sendto(b"x", (V4, 9))
        one.close()
        listener.close()

    use()
    before = count()
    for _ in range(5):
        use()
    MixSocket().close()
    wait_for(lambda: count() <= before)
