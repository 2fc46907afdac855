"""Pumps where the application's end is misused or leaves at a bad moment; the rest is in test_socket.py."""

from __future__ import annotations

import errno
import os
import select
import socket as stdlib
import struct
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.loopnet import V4, loopnet, make_stack

from smolmix_sync.netstack import Conn, State
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor.flow import FlowState
from smolmix_sync.reactor.pump import StreamPump
from smolmix_sync.socket import MixSocket

pytestmark = pytest.mark.interop

LIMIT = 10.0


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def net() -> Iterator[Any]:
    with loopnet() as port:
        yield port


def pair() -> tuple[MixSocket, MixSocket]:
    with MixSocket() as listener:
        listener.bind((V4, 0))
        listener.listen()
        client = MixSocket()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    client.settimeout(LIMIT)
    server.settimeout(LIMIT)
    return client, server


def connections(port: Any) -> list[Any]:
    """Return the connections the device serves."""
    found: list[Any] = port.device.loop.call(
        lambda: [one for one in port.device._owners if isinstance(one, Conn)]
    )
    return found


def test_filling_of_the_next_connect_is_left_to_the_next_connect() -> None:
    class End:
        """The application connects again, and fills anew, while the reactor is between two reads."""

        def __init__(self) -> None:
            self.held = 100

        def recv_into(self, buffer: memoryview, most: int) -> int:
            count = min(60, most, self.held)
            if self.held == 100:
                flow.junk = 70
                self.held += 70
            self.held -= count
            return count

    end = End()
    flow: Any = SimpleNamespace(end=end, junk=100)
    pump = StreamPump.__new__(StreamPump)
    pump.flow = flow
    pump._drain_junk()
    assert (flow.junk, end.held) == (70, 70)


def test_filling_is_counted_before_the_application_may_connect_again() -> None:
    order: list[tuple[str, int]] = []

    class Watched(SimpleNamespace):
        def __setattr__(self, name: str, value: Any) -> None:
            if name in ("junk", "state"):
                order.append((name, int(value)))
            super().__setattr__(name, value)

    flow: Any = Watched(end=SimpleNamespace(recv_into=lambda buffer, most: most), junk=100, bound=False)
    order.clear()
    pump = StreamPump.__new__(StreamPump)
    pump.flow = flow
    pump._conn = None
    pump._failed(errno.ECONNREFUSED)
    assert order == [("junk", 0), ("state", FlowState.FAILED)]


def test_close_while_connecting_leaves_nothing_behind(net: Any) -> None:
    sock = MixSocket()
    sock.setblocking(False)
    assert sock.connect_ex(("203.0.113.9", 80)) == errno.EINPROGRESS
    wait_for(lambda: connections(net))
    flow = flows.find(sock)
    assert flow is not None
    sock.close()
    wait_for(lambda: flow.end is None)
    assert not connections(net)
    assert flow.cookie not in flows.by_cookie


def test_close_while_the_tunnel_is_not_up_leaves_nothing_behind() -> None:
    with loopnet(up=False) as port:
        sock = MixSocket()
        sock.setblocking(False)
        sock.connect_ex((V4, 80))
        port.device.loop.call(bool)
        assert len(port.device._waiting) == 1
        sock.close()
        wait_for(lambda: not port.device._waiting)


def test_bytes_written_before_the_handshake_follow_it(net: Any) -> None:
    with MixSocket() as listener, MixSocket() as client:
        listener.bind((V4, 0))
        listener.listen()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        # straight into the descriptor, past every check
        written = 0
        try:
            written = os.write(client.fileno(), b"too early")
        except BlockingIOError:
            pass
        assert select.select([], [client], [], LIMIT)[1]
        client.setblocking(True)
        client.sendall(b"!")
        server, _ = listener.accept()
        with server:
            server.settimeout(LIMIT)
            data = b""
            while len(data) < written + 1:
                data += server.recv(100)
            assert data == b"too early"[:written] + b"!"


def test_connection_is_given_up_when_the_application_ends_with_unread_data(net: Any) -> None:
    client, server = pair()
    server.sendall(bytes(500_000))
    wait_for(lambda: select.select([client], [], [], 0)[0])
    client.close()

    def broken() -> bool:
        try:
            server.send(b"x")
        except ConnectionError:
            return True
        return False

    wait_for(broken)
    server.close()
    wait_for(lambda: not connections(net))


def test_orphan_finishes_its_data_and_goes(net: Any) -> None:
    client, server = pair()
    client.sendall(bytes(100_000))
    client.close()
    total = 0
    while data := server.recv(65536):
        total += len(data)
    assert total == 100_000
    server.close()
    over = (State.TIME_WAIT, State.CLOSED)
    wait_for(lambda: not [one for one in list(net.device._orphans) if one.state not in over])


def test_linger_zero_set_just_before_close_is_seen(net: Any) -> None:
    for _ in range(20):
        client, server = pair()
        client.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with server, pytest.raises(ConnectionResetError):
            server.recv(1)


def test_reset_without_a_descriptor_at_hand_reads_as_the_error_once(net: Any) -> None:
    client, server = pair()
    flow = flows.find(client)
    assert flow is not None
    # As if the only descriptor were in another process: the reactor cannot reach it.
    saved = dict(flows.by_fd)
    flows.by_fd.pop(client.fileno())
    flow.fd = -1
    server.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    wait_for(lambda: flow.state is FlowState.DEAD)
    flows.by_fd[client.fileno()] = saved[client.fileno()]
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert client.recv(1) == b""
    client.close()


def test_stack_error_other_than_reset_is_told_exactly_to_python(net: Any) -> None:
    client, server = pair()
    net.device.loop.call(net.device.set_down, errno.ENETDOWN)
    with client, server:
        for sock in (client, server):
            with pytest.raises(OSError) as caught:
                sock.recv_into(bytearray(1))
            assert caught.value.errno == errno.ENETDOWN


def test_bare_descriptor_sees_a_lost_tunnel_as_a_reset(net: Any) -> None:
    client, server = pair()
    net.device.loop.call(net.device.set_down, errno.ENETDOWN)
    with client, server:
        wait_for(lambda: select.select([client], [], [], 0)[0])
        with pytest.raises(ConnectionResetError):
            os.read(client.fileno(), 1)


def test_options_set_on_a_live_connection_reach_the_stack(net: Any) -> None:
    client, server = pair()
    with client, server:
        client.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY, 1)
        client.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 1)
        client.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_KEEPIDLE, 33)
        flow: Any = flows.find(client)
        settings = net.device.loop.call(lambda: flow.pump._conn.settings)
        assert (settings.nodelay, settings.keepalive, settings.keep_idle) == (True, True, 33.0)


def test_accepted_sockets_inherit_the_listeners_options(net: Any) -> None:
    with MixSocket() as listener, MixSocket() as client:
        listener.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 1)
        listener.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
        listener.bind((V4, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            assert server.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE) == 1
            assert server.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, 8) == bytes(8)


def test_many_waiting_connections_are_held_back_and_delivered(net: Any) -> None:
    with MixSocket() as listener:
        listener.bind((V4, 0))
        listener.listen(300)
        clients = []
        for _ in range(150):
            client = MixSocket()
            client.settimeout(LIMIT)
            client.connect(listener.getsockname())
            clients.append(client)
        listener.settimeout(LIMIT)
        for _ in clients:
            listener.accept()[0].close()
        for client in clients:
            assert client.recv(1) == b""
            client.close()


def test_connections_nobody_accepted_end_with_their_listener(net: Any) -> None:
    listener = MixSocket()
    listener.bind((V4, 0))
    listener.listen()
    with MixSocket() as client:
        client.settimeout(LIMIT)
        client.connect(listener.getsockname())
        listener.close()
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass


def test_datagrams_sent_before_a_close_wait_for_the_tunnel() -> None:
    with loopnet(up=False) as port:
        sock = MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM)
        sock.sendto(b"and gone", (V4, 7000))
        flow = flows.find(sock)
        assert flow is not None
        sock.close()
        port.device.loop.call(bool)
        stack = make_stack()
        receiver = stack.udp(V4, 7000)
        port.device.loop.call(port.device.set_up, stack)
        wait_for(lambda: port.device.loop.call(receiver.readable))
        received = receiver.recv()
        assert received is not None
        assert received[0] == b"and gone"
        wait_for(lambda: flow.end is None)


def test_datagram_socket_works_again_after_the_tunnel_was_lost(net: Any) -> None:
    kind = (stdlib.AF_INET, stdlib.SOCK_DGRAM)
    with MixSocket(*kind) as one, MixSocket(*kind) as two:
        one.settimeout(LIMIT)
        one.sendto(b"x", (V4, 9))
        net.device.loop.call(net.device.set_down)
        with pytest.raises(OSError) as caught:
            one.recv(1)
        assert caught.value.errno == errno.ENETDOWN
        net.device.loop.call(net.device.set_up, make_stack())
        two.bind((V4, 0))
        two.settimeout(LIMIT)
        one.sendto(b"again", two.getsockname())
        assert two.recv(10) == b"again"
