"""The same program over kernel sockets on loopback and over the stack: every result and every errno equal.

One function is one row of the tables of spec/sockets.md sections 3 to 7 and 16, and returns what the program saw.
"""

from __future__ import annotations

import array
import copy
import errno
import os
import pickle
import select
import socket as stdlib
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.loopnet import loopnet
from support.worlds import LIMIT, World, make_world, wait_for

from smolmix_sync import _socket_policy
from smolmix_sync import socket as mixed

pytestmark = pytest.mark.interop

Program = Callable[[World], Any]
PROGRAMS: list[Program] = []
SOL, TCP, IP, IP6 = stdlib.SOL_SOCKET, stdlib.IPPROTO_TCP, stdlib.IPPROTO_IP, stdlib.IPPROTO_IPV6


def same(program: Program) -> Program:
    PROGRAMS.append(program)
    return program


@pytest.fixture(scope="module")
def net() -> Iterator[Any]:
    # Wildcard listeners and datagram sockets are the stack's, as they are the kernel's in its world.
    before = _socket_policy.set_active(_socket_policy.Policy.make(listen="mix", loopback="mix"))
    with loopnet() as port:
        yield port
    _socket_policy.set_active(before)


def _neutral(value: Any, world: World) -> Any:
    """Replace the world's addresses, so that results can be compared."""
    if isinstance(value, (list, tuple)):
        return [_neutral(one, world) for one in value]
    if isinstance(value, str):
        return value.replace(world.host6, "HOST6").replace(world.host, "HOST")
    return value


def outcome(action: Callable[[], Any]) -> Any:
    """Return what *action* returns, or the class and errno of what it raises."""
    try:
        return action()
    except OSError as problem:
        number = problem.errno
        name = errno.errorcode.get(number, str(number)) if number is not None else ""
        return f"{_public(problem)} {name}"
    except Exception as problem:
        return type(problem).__name__


def _public(problem: BaseException) -> str:
    return next(cls.__name__ for cls in type(problem).__mro__ if cls.__module__ in ("builtins", "socket"))


def readable(sock: Any, limit: float = LIMIT) -> bool:
    return bool(select.select([sock], [], [], limit)[0])


# --- section 3: states ------------------------------------------------------------------------


@same
def a_new_socket_has_no_peer_and_any_address(world: World) -> Any:
    sock = world.tcp()
    return [
        sock.getsockname(), outcome(sock.getpeername), outcome(lambda: sock.recv(1)), outcome(lambda: sock.send(b"x")),
        outcome(lambda: sock.sendall(b"x")), outcome(lambda: sock.shutdown(stdlib.SHUT_WR)), outcome(sock.accept),
        outcome(lambda: sock.sendmsg([b"x"])), outcome(lambda: sock.recvmsg(1)),
        outcome(lambda: sock.sendto(b"x", (world.host, 9))),
    ]  # fmt: skip


@same
def states_refuse_what_does_not_fit_them(world: World) -> Any:
    client, server = world.pair()
    listener = world.listener()
    address = listener.getsockname()
    datagrams = world.udp()
    for sock in (client, server, listener, datagrams):
        sock.settimeout(None)  # with a timeout the kernel's answer comes after it
    return [
        outcome(lambda: client.connect(address)), client.connect_ex(address), outcome(client.listen),
        outcome(lambda: client.bind((world.host, 0))), outcome(client.accept),
        outcome(lambda: listener.recv(1)), outcome(lambda: listener.send(b"x")), outcome(listener.getpeername),
        outcome(lambda: listener.bind((world.host, 0))), outcome(lambda: datagrams.accept()),
        outcome(lambda: datagrams.listen()), outcome(lambda: server.connect(address)),
    ]  # fmt: skip


@same
def connect_ex_tells_what_connect_raises(world: World) -> Any:
    sock = world.tcp()
    closed = (world.host, world.closed_port())
    found = [outcome(lambda: sock.connect(closed)), world.tcp().connect_ex(closed)]
    sock = world.tcp()
    listener = world.listener()
    return [
        *found, sock.connect_ex(listener.getsockname()), sock.connect_ex(listener.getsockname()),
        outcome(lambda: world.tcp().connect_ex((world.host, 99999))), outcome(lambda: world.tcp().connect("nonsense")),
        outcome(lambda: world.tcp().connect_ex((world.host,))),
    ]  # fmt: skip


@same
def connect_is_retried_on_the_same_socket(world: World) -> Any:
    sock = world.tcp()
    sock.settimeout(None)
    listener = world.listener()
    found = [sock.connect_ex((world.host, world.closed_port())) for _ in range(3)]
    found.append(sock.connect_ex(listener.getsockname()))
    server, _ = listener.accept()
    server.sendall(b"after all")
    server.close()
    return [*found, sock.recv(20), sock.recv(20)]


@same
def a_refused_non_blocking_connect_shows_in_so_error_once(world: World) -> Any:
    sock = world.tcp()
    sock.setblocking(False)
    sock.connect_ex((world.host, world.closed_port()))
    select.select([], [sock], [], LIMIT)
    return [sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) for _ in range(2)]


@same
def a_reset_stream_is_over(world: World) -> Any:
    client, server = world.pair()
    server.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    readable(client)
    return [
        outcome(lambda: client.recv(1)), outcome(lambda: client.recv(1)), outcome(lambda: client.send(b"x")),
        outcome(lambda: client.recv_into(bytearray(3))), outcome(client.getpeername),
    ]  # fmt: skip


@same
def so_error_after_a_reset_is_read_once(world: World) -> Any:
    client, server = world.pair()
    server.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    readable(client)
    return [client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) for _ in range(2)] + [
        outcome(lambda: client.recv(1))
    ]


# --- section 5: data and ends -----------------------------------------------------------------


@same
def halves_close_one_by_one(world: World) -> Any:
    client, server = world.pair()
    client.sendall(b"request")
    client.shutdown(stdlib.SHUT_WR)
    found = [server.recv(100), server.recv(100), outcome(lambda: client.send(b"more"))]
    server.sendall(b"answer")
    found += [client.recv(100), outcome(lambda: client.shutdown(stdlib.SHUT_WR))]
    server.shutdown(stdlib.SHUT_WR)
    found += [client.recv(100), client.recv(100)]
    return found


@same
def shutdown_of_both_halves(world: World) -> Any:
    client, server = world.pair()
    client.shutdown(stdlib.SHUT_RDWR)
    return [
        client.recv(1),
        outcome(lambda: client.send(b"x")),
        server.recv(1),
        outcome(lambda: client.shutdown(7)),
    ]


@same
def data_before_a_close_is_still_read(world: World) -> Any:
    client, server = world.pair()
    server.sendall(b"the end")
    server.close()
    return [client.recv(4), client.recv(100), client.recv(100), client.recv(100)]


@same
def lingering_close_loses_nothing(world: World) -> Any:
    client, server = world.pair()
    client.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 5))
    client.sendall(b"z" * 200_000)
    thread = threading.Thread(target=client.close)
    thread.start()
    total = 0
    while part := server.recv(65536):
        total += len(part)
    thread.join(LIMIT)
    return total, thread.is_alive()


@same
def empty_sends_and_reads(world: World) -> Any:
    client, server = world.pair()
    server.setblocking(False)
    return [
        client.send(b""), client.sendall(b""), client.sendmsg([b"", b""]), outcome(lambda: server.recv(1)),
        server.recv(0), outcome(lambda: server.recv(-1)),
    ]  # fmt: skip


@same
def flags_of_stream_reads(world: World) -> Any:
    client, server = world.pair()
    server.settimeout(None)
    found = [outcome(lambda: server.recv(1, stdlib.MSG_DONTWAIT))]
    client.sendall(b"abcdef")
    readable(server)
    found += [
        server.recv(3, stdlib.MSG_PEEK), server.recv(3, stdlib.MSG_PEEK | stdlib.MSG_DONTWAIT),
        server.recv(3), server.recvfrom(1), server.recvmsg(10)[:3],
    ]  # fmt: skip
    threading.Timer(0.1, client.sendall, [b"second"]).start()
    client.sendall(b"first-", stdlib.MSG_NOSIGNAL | stdlib.MSG_MORE)
    found += [server.recv(12, stdlib.MSG_WAITALL), outcome(lambda: server.recv(1, stdlib.MSG_OOB))]
    buffer = bytearray(4)
    client.sendall(b"into")
    found += [server.recv_into(buffer, 4, stdlib.MSG_WAITALL), bytes(buffer)]
    return found


@same
def flags_of_stream_sends(world: World) -> Any:
    client, server = world.pair()
    flags = (
        stdlib.MSG_DONTWAIT | stdlib.MSG_NOSIGNAL | stdlib.MSG_EOR | stdlib.MSG_CONFIRM | stdlib.MSG_DONTROUTE
    )
    count = client.send(b"x", flags), client.sendmsg([b"yy", b"z"], [], flags)
    return count, server.recv(4, stdlib.MSG_WAITALL)


@same
def gathering_and_scattering(world: World) -> Any:
    client, server = world.pair()
    sent = client.sendmsg([b"head", memoryview(b"middle"), bytearray(b"tail"), array.array("b", [65, 66])])
    one, two, three = bytearray(5), bytearray(3), bytearray(20)
    wait_for(lambda: len(server.recv(100, stdlib.MSG_PEEK)) == sent)
    count, ancillary, flags, address = server.recvmsg_into([one, two, three])
    return sent, count, bytes(one), bytes(two), bytes(three[:8]), ancillary, flags, address


@same
def rights_are_not_passed_over_tcp(world: World) -> Any:
    client, server = world.pair()
    rights = [(stdlib.SOL_SOCKET, stdlib.SCM_RIGHTS, array.array("i", [0]))]
    client.sendmsg([b"x"], rights)
    return server.recvmsg(10, stdlib.CMSG_SPACE(4))[:2]


@same
def sendfile_takes_an_offset_and_a_count(world: World) -> Any:
    client, server = world.pair()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(range(250)) * 40)
        found: list[Any] = [
            client.sendfile(file, 100, 1000),
            file.tell(),
            len(server.recv(1000, stdlib.MSG_WAITALL)),
        ]
        found += [
            os.sendfile(client.fileno(), file.fileno(), 0, 500),
            server.recv(500, stdlib.MSG_WAITALL)[:3],
        ]
        found += [
            outcome(lambda: client.sendfile(file, count=-1)),
            outcome(lambda: world.udp().sendfile(file)),
        ]
        client.setblocking(False)
        found += [outcome(lambda: client.sendfile(file))]
        client.setblocking(True)
    with tempfile.TemporaryFile("w+") as text:
        found += [outcome(lambda: client.sendfile(text))]
    return found


@same
def poll_shows_ends_and_resets(world: World) -> Any:
    client, server = world.pair()
    poller = select.poll()
    interest = select.POLLIN | select.POLLRDHUP
    poller.register(client, interest)
    found: list[Any] = [poller.poll(0)]
    server.sendall(b"x")
    found.append([event for _, event in poller.poll(1000 * LIMIT)])
    client.recv(1)
    server.shutdown(stdlib.SHUT_WR)
    found.append([event for _, event in poller.poll(1000 * LIMIT)])
    other, peer = world.pair()
    poller = select.poll()
    poller.register(other, interest)
    peer.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    found.append([event for _, event in poller.poll(1000 * LIMIT)])
    return found


@same
def asynchronous_reads_by_bare_descriptor(world: World) -> Any:
    client, server = world.pair()
    os.write(client.fileno(), b"one")
    readable(server)
    found = [os.read(server.fileno(), 10)]
    os.writev(client.fileno(), [b"two", b"three"])
    server.recv(1)
    found.append(server.recv(7, stdlib.MSG_WAITALL))
    return found


# --- descriptors ------------------------------------------------------------------------------


@same
def duplicates_share_one_stream_until_the_last_is_closed(world: World) -> Any:
    client, server = world.pair()
    twin = client.dup()
    other = type(client)(fileno=os.dup(client.fileno()))
    third = world.socket(client.family, client.type, client.proto, os.dup(client.fileno()))
    names = [one.getpeername() == client.getpeername() for one in (twin, other, third)]
    kinds = [(one.family, one.type, one.proto) for one in (twin, other, third)]
    client.close()
    twin.sendall(b"still")
    found = [server.recv(10), names, kinds, twin.gettimeout()]
    twin.close()
    other.close()
    third.close()
    return [*found, server.recv(1)]


@same
def detach_leaves_the_descriptor_open(world: World) -> Any:
    client, server = world.pair()
    fd = client.detach()
    found = [client.fileno(), outcome(lambda: client.recv(1)), client._closed]
    again = world.socket(fileno=fd)
    again.sendall(b"x")
    found += [server.recv(1), again.getpeername() == server.getsockname()]
    again.close()
    return [*found, server.recv(1)]


@same
def a_socket_travels_over_an_af_unix_socket(world: World) -> Any:
    client, server = world.pair()
    near, far = stdlib.socketpair()
    with near, far:
        stdlib.send_fds(near, [b"m"], [client.fileno()])
        client.close()
        _, fds, _, _ = stdlib.recv_fds(far, 10, 4)
    arrived = world.socket(fileno=fds[0])
    arrived.settimeout(LIMIT)
    arrived.sendall(b"over")
    found = [server.recv(10), arrived.family, arrived.type, arrived.getpeername() == server.getsockname()]
    server.sendall(b"back")
    found.append(arrived.recv(10))
    arrived.close()
    return [*found, server.recv(1)]


@same
def sockets_are_not_copied_or_pickled(world: World) -> Any:
    sock = world.tcp()
    return [
        outcome(lambda: pickle.dumps(sock)),
        outcome(lambda: copy.copy(sock)),
        outcome(lambda: copy.deepcopy(sock)),
    ]


@same
def a_closed_socket_is_closed(world: World) -> Any:
    client, _ = world.pair()
    with client:
        pass
    client.close()
    calls = (
        lambda: client.recv(1), lambda: client.send(b"x"), lambda: client.recvfrom(1), client.getsockname,
        client.getpeername, lambda: client.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 1), client.listen,
        lambda: client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_TYPE), lambda: client.connect(("", 1)),
        lambda: client.bind(("", 0)), lambda: client.shutdown(2), lambda: client.sendmsg([b"x"]), client.accept,
        lambda: client.recvmsg(1), lambda: client.sendall(b"x"), client.dup, lambda: client.settimeout(3),
    )  # fmt: skip
    return [client.fileno(), *(outcome(call) for call in calls)]


@same
def timeouts_and_blocking_modes(world: World) -> Any:
    before = stdlib.getdefaulttimeout()
    stdlib.setdefaulttimeout(7.5)
    try:
        sock = world.socket(stdlib.AF_INET, stdlib.SOCK_STREAM)
    finally:
        stdlib.setdefaulttimeout(before)
    world.opened.append(sock)
    found = [sock.gettimeout(), sock.getblocking()]
    for value in (None, 0, 0.0, 2):
        sock.settimeout(value)
        found += [sock.gettimeout(), sock.getblocking(), os.get_blocking(sock.fileno())]
    return [*found, outcome(lambda: sock.settimeout(-1)), outcome(lambda: sock.settimeout("x"))]


@same
def inheritance_of_descriptors_and_of_modes_by_accept(world: World) -> Any:
    listener = world.listener()
    found = []
    for timeout in (None, LIMIT):
        listener.settimeout(timeout)
        client = world.tcp()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        world.opened.append(server)
        found += [
            server.gettimeout(),
            server.getblocking(),
            server.get_inheritable(),
            client.get_inheritable(),
        ]
    return found


@same
def repr_tells_what_it_is(world: World) -> Any:
    client, _ = world.pair()
    text = repr(client).split("fd=")[1].split(",", 1)[1]
    return text.replace(str(client.getsockname()[1]), "N").replace(str(client.getpeername()[1]), "N")


# --- section 7: listening ---------------------------------------------------------------------


@same
def any_backlog_accepts(world: World) -> Any:
    found = []
    for backlog in (0, -1, 1, 1000000):
        listener = world.tcp()
        listener.bind((world.host, 0))
        listener.listen(backlog)
        client = world.tcp()
        client.connect(listener.getsockname())
        server, address = listener.accept()
        world.opened.append(server)
        found.append(
            (address == client.getsockname(), listener.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ACCEPTCONN))
        )
    return found


@same
def listen_without_bind_chooses_a_port(world: World) -> Any:
    listener = world.tcp()
    listener.listen()
    host, port = listener.getsockname()
    client = world.tcp()
    client.connect((world.host, port))
    server, _ = listener.accept()
    world.opened.append(server)
    return host, port > 0, server.getsockname() == (world.host, port)


@same
def wildcard_listener_serves_every_address(world: World) -> Any:
    listener = world.tcp()
    listener.bind(("", 0))
    listener.listen()
    client = world.tcp()
    client.connect((world.host, listener.getsockname()[1]))
    server, address = listener.accept()
    world.opened.append(server)
    return listener.getsockname()[0], address[0], server.getsockname()[0]


@same
def ipv6_wildcard_listener_serves_ipv4_too(world: World) -> Any:
    listener = world.tcp(stdlib.AF_INET6)
    listener.setsockopt(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen()
    port = listener.getsockname()[1]
    found = [listener.getsockname()[0]]
    for family, host in ((stdlib.AF_INET, world.host), (stdlib.AF_INET6, world.host6)):
        client = world.tcp(family)
        client.connect((host, port))
        server, address = listener.accept()
        world.opened.append(server)
        server.sendall(b"hello")
        found += [address[0], server.getsockname()[0], client.recv(10)]
    return found


@same
def ipv6_only_listener_leaves_ipv4_alone(world: World) -> Any:
    listener = world.tcp(stdlib.AF_INET6)
    listener.setsockopt(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY, 1)
    listener.bind(("::", 0))
    listener.listen()
    port = listener.getsockname()[1]
    refused = outcome(lambda: world.tcp().connect((world.host, port)))
    client = world.tcp(stdlib.AF_INET6)
    client.connect((world.host6, port))
    beside = world.tcp()
    beside.bind((world.host, port))
    return refused, client.getpeername()[0], listener.getsockopt(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY)


@same
def accepted_sockets_inherit_options(world: World) -> Any:
    listener = world.tcp()
    for level, option, value in (
        (stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 1), (stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY, 1),
        (stdlib.IPPROTO_TCP, stdlib.TCP_KEEPIDLE, 77), (stdlib.IPPROTO_IP, stdlib.IP_TOS, 0x10),
    ):  # fmt: skip
        listener.setsockopt(level, option, value)
    listener.bind((world.host, 0))
    listener.listen()
    client = world.tcp()
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    world.opened.append(server)
    return [
        bool(server.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE)),
        bool(server.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY)),
        server.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_KEEPIDLE),
        server.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ACCEPTCONN),
        bool(client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE)),
    ]


@same
def one_listener_is_shared_by_threads(world: World) -> Any:
    listener = world.listener()
    got: list[str] = []

    def serve() -> None:
        server, _ = listener.accept()
        with server:
            got.append(server.recv(10).decode())

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3):
        with world.socket(stdlib.AF_INET, stdlib.SOCK_STREAM) as client:
            client.connect(listener.getsockname())
            client.sendall(str(number).encode())
    for thread in threads:
        thread.join(LIMIT)
    return sorted(got)


# --- section 7: datagrams ---------------------------------------------------------------------


@same
def a_closed_port_is_told_to_a_connected_datagram_socket_once(world: World) -> Any:
    probe = world.udp()
    probe.bind((world.host, 0))
    address = probe.getsockname()
    probe.close()
    sock = world.udp()
    sock.connect(address)
    sock.setblocking(False)
    sock.send(b"is anybody there")
    readable(sock)
    found = [outcome(lambda: sock.recv(10))]
    sock.send(b"again")
    readable(sock)
    return [*found, outcome(lambda: sock.recv(10)), outcome(lambda: sock.recv(10, stdlib.MSG_DONTWAIT))]


@same
def a_closed_port_in_so_error(world: World) -> Any:
    sock = world.udp()
    sock.connect((world.host, 9))
    sock.setblocking(False)
    sock.send(b"x")
    readable(sock)
    return [
        sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR), sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR),
        outcome(lambda: sock.recv(1, stdlib.MSG_DONTWAIT)),
    ]  # fmt: skip


@same
def a_closed_port_raises_from_the_next_send(world: World) -> Any:
    sock = world.udp()
    sock.connect((world.host, 9))
    sock.setblocking(False)
    sock.send(b"x")
    readable(sock)
    return [outcome(lambda: sock.send(b"y")), outcome(lambda: sock.send(b"z"))]


@same
def an_unconnected_datagram_socket_hears_no_errors(world: World) -> Any:
    sock = world.udp()
    found = [sock.sendto(b"x", (world.host, 9)) for _ in range(3)]
    return [*found, readable(sock, 0.2)]


@same
def a_connected_datagram_socket_may_still_send_elsewhere(world: World) -> Any:
    one, two = world.udp_pair()
    sock = world.udp()
    sock.connect(one.getsockname())
    found = [sock.sendto(b"elsewhere", two.getsockname()), two.recvfrom(20)[0]]
    two.sendto(b"not heard", sock.getsockname())
    one.sendto(b"heard", sock.getsockname())
    found += [sock.recv(20), readable(sock, 0.1)]
    sock.connect(two.getsockname())
    sock.send(b"new peer")
    return [*found, two.recv(20), sock.getpeername() == two.getsockname()]


@same
def datagram_states(world: World) -> Any:
    sock = world.udp()
    sock.settimeout(None)
    found = [
        sock.getsockname(), outcome(sock.getpeername), outcome(lambda: sock.send(b"x")),
        outcome(lambda: sock.sendmsg([b"x"])), outcome(lambda: sock.shutdown(stdlib.SHUT_WR)),
        outcome(lambda: sock.recv(1, stdlib.MSG_DONTWAIT)),
    ]  # fmt: skip
    sock.connect((world.host, 9))
    return [*found, sock.getsockname()[0], sock.getsockname()[1] > 0, sock.getpeername()]


@same
def empty_datagrams_arrive(world: World) -> Any:
    one, two = world.udp_pair()
    one.sendto(b"", two.getsockname())
    one.sendto(b"x", two.getsockname())
    return [two.recvfrom(10)[0], two.recvmsg(10)[0], readable(two, 0)]


@same
def flags_of_datagram_reads(world: World) -> Any:
    one, two = world.udp_pair()
    one.sendto(b"0123456789", two.getsockname())
    readable(two)
    two.settimeout(None)
    buffer = bytearray(4)
    return [
        two.recv(4, stdlib.MSG_PEEK), two.recvmsg(4, 0, stdlib.MSG_PEEK)[2] == stdlib.MSG_TRUNC,
        two.recv_into(buffer, 4, stdlib.MSG_PEEK | stdlib.MSG_TRUNC), bytes(buffer),
        two.recvfrom_into(buffer, 4, stdlib.MSG_PEEK)[0], two.recvmsg_into([bytearray(3), bytearray(100)])[0],
        outcome(lambda: two.recv(1, stdlib.MSG_DONTWAIT)),
    ]  # fmt: skip


@same
def datagrams_from_port_to_port(world: World) -> Any:
    one, two = world.udp_pair()
    return [
        outcome(lambda: one.sendto(b"x", (world.host, 0))), outcome(lambda: one.sendto(b"x", world.host)),
        outcome(lambda: one.sendto(b"x" * 65508, two.getsockname())), outcome(lambda: one.sendto("x", two.getsockname())),
        outcome(lambda: one.sendto(b"x", 0, two.getsockname())), two.recvfrom(5)[1] == one.getsockname(),
        outcome(lambda: one.sendmsg([b"a", b"b"], [], 0, two.getsockname())), two.recv(5),
    ]  # fmt: skip


@same
def datagram_ports_are_taken_and_shared(world: World) -> Any:
    one = world.udp()
    one.bind((world.host, 0))
    found = [outcome(lambda: world.udp().bind(one.getsockname())), outcome(lambda: one.bind((world.host, 0)))]
    shared = []
    for _ in range(2):
        sock = world.udp()
        sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR, 1)
        sock.bind((world.host, shared[0].getsockname()[1] if shared else 0))
        shared.append(sock)
    return [*found, shared[0].getsockname() == shared[1].getsockname()]


@same
def wildcard_datagram_socket_hears_every_address(world: World) -> Any:
    sock, sender = world.udp(), world.udp()
    sock.bind(("", 0))
    sender.sendto(b"hello", (world.host, sock.getsockname()[1]))
    data, source = sock.recvfrom(10)
    six = world.udp(stdlib.AF_INET6)
    six.bind(("::", 0))
    sender.sendto(b"mapped", (world.host, six.getsockname()[1]))
    mapped, address = six.recvfrom(10)
    return data, source[0], mapped, address[0]


@same
def a_descriptor_of_a_datagram_socket_is_selected(world: World) -> Any:
    one, two = world.udp_pair()
    found = [readable(two, 0), bool(select.select([], [two], [], 0)[1])]
    one.sendto(b"x", two.getsockname())
    return [*found, readable(two)]


@same
def ipv6_streams_and_datagrams_have_names_of_four_parts(world: World) -> Any:
    listener = world.tcp(stdlib.AF_INET6)
    listener.bind((world.host6, 0, 0, 0))
    listener.listen()
    client = world.tcp(stdlib.AF_INET6)
    client.connect(listener.getsockname())
    server, address = listener.accept()
    world.opened.append(server)
    client.sendall(b"six")
    found = [
        server.recv(10),
        address == client.getsockname(),
        len(address),
        address[2:],
        client.getpeername()[2:],
    ]
    one, two = world.udp(stdlib.AF_INET6), world.udp(stdlib.AF_INET6)
    two.bind((world.host6, 0))
    one.connect(two.getsockname())
    one.send(b"datagram")
    data, source = two.recvfrom(20)
    two.sendto(b"answer", source)
    return [*found, data, source == one.getsockname(), one.recv(20), one.getsockname()[0]]


@same
def a_started_program_reads_and_writes_an_inherited_stream(world: World) -> Any:
    client, server = world.pair()
    server.settimeout(None)  # or its descriptor does not block
    code = "import os; os.write(1, os.read(0, 100).upper()); os.write(1, b'|' + os.read(0, 100))"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=server.fileno(), stdout=server.fileno()
    ) as program:
        server.close()
        client.sendall(b"request")
        found = client.recv(7, stdlib.MSG_WAITALL)
        client.shutdown(stdlib.SHUT_WR)
        rest = client.recv(10)
        program.wait(LIMIT)
    return found, rest, client.recv(10)


@same
def a_passed_descriptor_has_its_number(world: World) -> Any:
    client, server = world.pair()
    fd = server.fileno()
    server.settimeout(None)
    code = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(s.recv(10)[::-1])"
    client.sendall(b"abc")
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(fd)], pass_fds=[fd], check=False, timeout=LIMIT
    )
    return done.returncode, client.recv(10), server.get_inheritable()


@same
def servers_and_connections_of_the_helpers(world: World) -> Any:
    module = stdlib if world.name == "kernel" else mixed
    with module.create_server((world.host, 0), backlog=3) as listener:
        reuse = listener.getsockopt(SOL, stdlib.SO_REUSEADDR)
        with module.create_connection(listener.getsockname(), LIMIT) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(b"hello")
                found = [server.recv(10), client.gettimeout(), reuse]
        with module.create_connection(listener.getsockname(), LIMIT, (world.host, 0)) as client:
            found.append(client.getsockname()[0])
    port = listener.getsockname
    closed = world.closed_port()
    return [
        *found, outcome(lambda: module.create_connection((world.host, closed), LIMIT)), outcome(port),
        outcome(lambda: module.create_connection((world.host, closed), LIMIT, all_errors=True)),
        outcome(lambda: module.create_server(("203.0.113.77", 0))),
    ]  # fmt: skip


@same
def files_made_of_sockets(world: World) -> Any:
    client, server = world.pair()
    with client.makefile("rwb", buffering=0) as raw:
        raw.write(b"raw\n")
    with client.makefile("w", encoding="utf-8", newline="\r\n") as text:
        text.write("zwölf\n")
    with server.makefile("r", encoding="utf-8") as lines:
        found = [lines.readline(), lines.readline()]
    server.settimeout(0.05)
    with server.makefile("rb") as file:
        found += [outcome(lambda: file.read(1)), outcome(lambda: file.read(1))]
    server.settimeout(0)
    with server.makefile("rb", buffering=0) as file:
        found.append(outcome(lambda: file.read(1)))
    found += [outcome(lambda: client.makefile("x")), outcome(lambda: client.makefile("rt", buffering=0))]
    file = client.makefile("rb")
    client.close()
    server.settimeout(LIMIT)
    server.sendall(b"kept open by the file")
    found.append(file.read(4))
    file.close()
    return [*found, outcome(lambda: type(client.makefile()).__name__)]


# --- section 16: options ----------------------------------------------------------------------


@same
def stream_options_read_as_they_were_set(world: World) -> Any:
    sock = world.tcp()
    found = []
    for level, option, values in (
        (SOL, stdlib.SO_REUSEADDR, (1, 0)), (SOL, stdlib.SO_REUSEPORT, (1, 0)), (SOL, stdlib.SO_KEEPALIVE, (1, 5, 0)),
        (SOL, stdlib.SO_BROADCAST, (1, 0)), (SOL, stdlib.SO_OOBINLINE, (1, 0)), (SOL, stdlib.SO_PRIORITY, (3, 0)),
        (SOL, stdlib.SO_DONTROUTE, (1, 0)), (TCP, stdlib.TCP_NODELAY, (1, 7, 0)), (TCP, stdlib.TCP_CORK, (1, 0)),
        (TCP, stdlib.TCP_KEEPIDLE, (1, 60, 32767)), (TCP, stdlib.TCP_KEEPINTVL, (1, 60)),
        (TCP, stdlib.TCP_KEEPCNT, (1, 100)),
        (TCP, stdlib.TCP_SYNCNT, (1, 20)), (TCP, stdlib.TCP_USER_TIMEOUT, (1, 30000)), (TCP, stdlib.TCP_LINGER2, (5,)),
        (TCP, stdlib.TCP_NOTSENT_LOWAT, (4096,)), (IP, stdlib.IP_TTL, (1, 255)), (IP, stdlib.IP_TOS, (0x10, 0x20, 0)),
        (IP, 10, (0, 1, 2, 3)),  # IP_MTU_DISCOVER
    ):  # fmt: skip
        for value in values:
            found.append(
                (
                    level,
                    option,
                    value,
                    outcome(lambda o=(level, option, value): sock.setsockopt(*o)),  # type: ignore[misc]
                    outcome(lambda o=(level, option): sock.getsockopt(*o)),
                )
            )  # type: ignore[misc]
    return found


@same
def values_out_of_range_are_invalid(world: World) -> Any:
    sock = world.tcp()
    return [
        (option, value, outcome(lambda o=option, v=value: sock.setsockopt(TCP, o, v)))  # type: ignore[misc]
        for option, value in (
            (stdlib.TCP_KEEPIDLE, 0), (stdlib.TCP_KEEPIDLE, 32768), (stdlib.TCP_KEEPINTVL, 0), (stdlib.TCP_KEEPINTVL, 40000),
            (stdlib.TCP_KEEPCNT, 0), (stdlib.TCP_KEEPCNT, 128), (stdlib.TCP_SYNCNT, 0), (stdlib.TCP_SYNCNT, 256),
            (stdlib.TCP_MAXSEG, 1), (stdlib.TCP_MAXSEG, 40000), (stdlib.TCP_USER_TIMEOUT, -1),
        )
    ]  # fmt: skip


@same
def forms_of_options(world: World) -> Any:
    sock = world.tcp()
    linger = struct.pack("ii", 1, 30)
    sock.setsockopt(SOL, stdlib.SO_LINGER, linger)
    found = [
        sock.getsockopt(SOL, stdlib.SO_LINGER, 8) == linger,
        len(sock.getsockopt(SOL, stdlib.SO_LINGER, 100)),
    ]
    sock.setsockopt(SOL, stdlib.SO_KEEPALIVE, struct.pack("i", 1))
    found += [
        sock.getsockopt(SOL, stdlib.SO_KEEPALIVE), sock.getsockopt(SOL, stdlib.SO_KEEPALIVE, 4),
        outcome(lambda: sock.setsockopt(SOL, stdlib.SO_KEEPALIVE, b"\1")),
        outcome(lambda: sock.setsockopt(SOL, stdlib.SO_LINGER, 1)),
        outcome(lambda: sock.setsockopt(SOL, stdlib.SO_KEEPALIVE, "x")),
        outcome(lambda: sock.setsockopt(SOL, stdlib.SO_KEEPALIVE, None, 4)),
        outcome(lambda: sock.getsockopt(SOL, stdlib.SO_KEEPALIVE, 2000)),
        outcome(lambda: sock.getsockopt(SOL, stdlib.SO_KEEPALIVE, -1)),
        outcome(lambda: sock.setsockopt(SOL, stdlib.SO_KEEPALIVE)),
        outcome(lambda: sock.setsockopt(SOL, stdlib.SO_TYPE, 1)), outcome(lambda: sock.setsockopt(SOL, stdlib.SO_ERROR, 1)),
        outcome(lambda: sock.setsockopt(TCP, 4000, 1)), outcome(lambda: sock.getsockopt(TCP, 4000)),
        outcome(lambda: sock.getsockopt(SOL, 4000)), outcome(lambda: sock.getsockopt(999, 1)),
    ]  # fmt: skip
    return found


@same
def what_a_socket_is_can_be_asked(world: World) -> Any:
    found = []
    for sock in (world.tcp(), world.udp(), world.listener(), world.tcp(stdlib.AF_INET6)):
        found.append(
            [
                sock.getsockopt(SOL, one)
                for one in (
                    stdlib.SO_TYPE,
                    stdlib.SO_DOMAIN,
                    stdlib.SO_PROTOCOL,
                    stdlib.SO_ACCEPTCONN,
                    stdlib.SO_ERROR,
                )
            ]
        )
    return found


@same
def defaults_of_options(world: World) -> Any:
    stream, datagram, six = world.tcp(), world.udp(), world.tcp(stdlib.AF_INET6)
    return [
        [stream.getsockopt(SOL, one) for one in (
            stdlib.SO_REUSEADDR, stdlib.SO_KEEPALIVE, stdlib.SO_BROADCAST, stdlib.SO_LINGER, stdlib.SO_OOBINLINE,
            stdlib.SO_PRIORITY, stdlib.SO_RCVLOWAT,
        )],
        [stream.getsockopt(TCP, one) for one in (
            stdlib.TCP_NODELAY, stdlib.TCP_CORK, stdlib.TCP_KEEPIDLE, stdlib.TCP_KEEPINTVL, stdlib.TCP_KEEPCNT,
            stdlib.TCP_SYNCNT, stdlib.TCP_LINGER2, stdlib.TCP_DEFER_ACCEPT, stdlib.TCP_USER_TIMEOUT, stdlib.TCP_QUICKACK,
        )],
        [stream.getsockopt(IP, one) for one in (stdlib.IP_TTL, stdlib.IP_TOS)],
        [datagram.getsockopt(IP, one) for one in (stdlib.IP_MULTICAST_TTL, stdlib.IP_MULTICAST_LOOP)],
        [six.getsockopt(IP6, one) for one in (stdlib.IPV6_V6ONLY, stdlib.IPV6_UNICAST_HOPS > 0 and stdlib.IPV6_TCLASS)],
    ]  # fmt: skip


@same
def buffer_sizes_are_doubled(world: World) -> Any:
    sock = world.tcp()
    found = []
    for option in (stdlib.SO_SNDBUF, stdlib.SO_RCVBUF):
        for value in (16384, 65536):
            sock.setsockopt(SOL, option, value)
            found.append(sock.getsockopt(SOL, option))
    return found


@same
def tcp_info_tells_the_state(world: World) -> Any:
    client, server = world.pair()
    listener = world.listener()
    found = [
        client.getsockopt(TCP, stdlib.TCP_INFO, 104)[0],
        listener.getsockopt(TCP, stdlib.TCP_INFO, 104)[0],
    ]
    found += [
        world.tcp().getsockopt(TCP, stdlib.TCP_INFO, 104)[0],
        len(client.getsockopt(TCP, stdlib.TCP_INFO, 104)),
    ]
    client.shutdown(stdlib.SHUT_WR)
    wait_for(lambda: server.getsockopt(TCP, stdlib.TCP_INFO, 1)[0] != 1)
    found += [server.getsockopt(TCP, stdlib.TCP_INFO, 1)[0]]
    wait_for(lambda: client.getsockopt(TCP, stdlib.TCP_INFO, 1)[0] == 5)  # FIN_WAIT2
    return found


@same
def an_unknown_congestion_control_is_not_found(world: World) -> Any:
    sock = world.tcp()
    return [
        outcome(lambda: sock.setsockopt(TCP, stdlib.TCP_CONGESTION, b"no-such-thing")),
        len(sock.getsockopt(TCP, stdlib.TCP_CONGESTION, 16)),
        outcome(lambda: sock.setsockopt(TCP, stdlib.TCP_CONGESTION, sock.getsockopt(TCP, stdlib.TCP_CONGESTION, 16))),
    ]  # fmt: skip


@same
def kernel_timeouts_are_honoured(world: World) -> Any:
    client, _ = world.pair()
    client.settimeout(None)
    client.setsockopt(SOL, stdlib.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
    return outcome(lambda: client.recv(1)), client.getsockopt(SOL, stdlib.SO_RCVTIMEO, 16) == struct.pack(
        "ll", 0, 52_000
    )


# --- addresses --------------------------------------------------------------------------------


@same
def malformed_addresses(world: World) -> Any:
    found: list[Any] = []
    for address in (
        (world.host, "80"), (world.host, 1.5), (world.host, None), (world.host, -1), (world.host, 65536), (None, 80),
        (5, 80), (world.host, 80, 0), [world.host, 80], "text", b"bytes", None, ("a\0b", 80),
        ("\ud800", 1),
    ):  # fmt: skip
        for method in ("connect", "bind", "connect_ex"):
            found.append(
                (str(address), method, outcome(lambda a=address, m=method: getattr(world.tcp(), m)(a)))
            )  # type: ignore[misc]
    for address6 in (
        (world.host6, 80, -1),
        (world.host6, 80, 0x100000),
        (world.host6, 80, 0, "x"),
        (world.host6, 80, 0, 0, 0),
    ):
        found.append(outcome(lambda a=address6: world.tcp(stdlib.AF_INET6).connect(a)))  # type: ignore[misc]
    return found


@same
def families_do_not_mix(world: World) -> Any:
    return [
        outcome(lambda: world.tcp().connect((world.host6, 80))),
        outcome(lambda: world.udp().sendto(b"x", (world.host6, 80))),
        outcome(lambda: world.tcp().bind((world.host6, 0))),
    ]  # fmt: skip


@same
def port_zero_cannot_be_reached(world: World) -> Any:
    return outcome(lambda: world.tcp().connect((world.host, 0)))


@same
def a_foreign_address_is_not_bound(world: World) -> Any:
    return [
        outcome(lambda: world.tcp().bind(("203.0.113.77", 0))), outcome(lambda: world.udp().bind(("203.0.113.77", 0))),
        outcome(lambda: world.tcp(stdlib.AF_INET6).bind(("2001:db8:ffff::1", 0))),
    ]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program_sees_the_same(program: Program, net: Any) -> None:
    seen = {}
    for name in ("kernel", "mix"):
        world = make_world(name)
        try:
            seen[name] = _neutral(program(world), world)
        finally:
            for sock in world.opened:
                sock.close()
    assert seen["mix"] == seen["kernel"]
