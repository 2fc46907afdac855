"""fork(): the child loses the reactor and fails closed, the parent does not notice."""

# ruff: noqa: E402, PT017 - the order of imports is what is tested
from __future__ import annotations

import _order

port = _order.network()

import errno
import os
import socket
import sys
import traceback
from typing import Any

from smolmix_sync.reactor.loop import shared_loop

GEVENT = _order.ORDER in ("gevent-first", "smolmix-first")


def in_child(action: Any) -> None:
    """Run *action* in a forked child; the child's failure is ours."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child failed: {status}"


def errno_of(action: Any) -> int | None:
    try:
        action()
    except OSError as problem:
        return problem.errno
    raise AssertionError("no error")


listener = socket.socket()
listener.bind((_order.V4, 0))
listener.listen()
client = socket.create_connection(listener.getsockname(), 10)
server, _ = listener.accept()
unused = socket.socket()

# a descriptor the reactor guards (the gateway's connection) is closed in the child, and only there
mine, theirs = socket.socketpair()
loop = shared_loop()
copy = os.dup(theirs.fileno())
loop.call(lambda: loop.guard_fd(copy, first=True))


def child() -> None:
    assert errno_of(lambda: os.fstat(copy)) == errno.EBADF
    # connections that are there carry data while the parent lives, and know their names
    assert client.getpeername() == listener.getsockname()
    client.sendall(b"from the child")
    # new work fails closed
    assert errno_of(lambda: socket.create_connection(listener.getsockname(), 5)) == errno.ENETDOWN
    assert errno_of(lambda: unused.connect(listener.getsockname())) == errno.ENETDOWN
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        assert errno_of(lambda: udp.sendto(b"x", (_order.V4, 9))) == errno.ENETDOWN
    try:
        socket.getaddrinfo("www.example.com", 80)
    except socket.gaierror as problem:
        assert problem.errno == socket.EAI_AGAIN
    else:
        raise AssertionError("a name resolved without a tunnel")
    # loopback needs no tunnel
    with socket.create_server(("127.0.0.1", 0)) as local, socket.create_connection(local.getsockname(), 5):
        pass
    # a reactor of its own is possible
    assert shared_loop() is not loop
    assert shared_loop().call(os.getpid) == os.getpid()


in_child(child)
assert server.recv(100) == b"from the child"
client.sendall(b"parent again")
assert server.recv(100) == b"parent again"
os.fstat(copy)
second = socket.create_connection(listener.getsockname(), 10)
assert second.getpeername() == listener.getsockname()
third, _ = listener.accept()


# a child may accept on the inherited listener
def accepts() -> None:
    sock, address = listener.accept()
    assert sock.getpeername() == address
    sock.sendall(b"accepted by a child")
    sock.close()


pid = os.fork()
if pid == 0:
    try:
        accepts()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
late = socket.create_connection(listener.getsockname(), 10)
late.settimeout(10)
assert late.recv(100) == b"accepted by a child"
assert late.recv(1) == b""
assert os.waitpid(pid, 0)[1] == 0

# the parent's close reaches the peer though a child still lives: the child does not hold reactor ends
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    client.close()
    os.read(reading, 1)
    os._exit(0)
client.close()
server.settimeout(10)
assert server.recv(1) == b""
os.write(writing, b"x")
os.waitpid(pid, 0)

# exit by the ordinary way is clean too
pid = os.fork()
if pid == 0:
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
if not GEVENT:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: errno_of(lambda: unused.connect(listener.getsockname())))
    process.start()
    process.join(20)
    assert process.exitcode == 0
for sock in (server, unused, mine, theirs, late, second, third, listener):
    sock.close()
_order.done()
