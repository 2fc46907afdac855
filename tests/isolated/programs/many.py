"""Many sockets: a thousand at once under a soft limit of 1024, none left behind after ten thousand, EMFILE survived."""

# ruff: noqa: E402 - the order of imports is what is tested
from __future__ import annotations

import errno
import gc
import os
import resource
import sys

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))

import _order

from smolmix_sync.netstack import StackConfig

# Ten thousand pairs of ports in TIME_WAIT would fill the stack's table.
port = _order.network(connect_timeout=5, config=StackConfig(time_wait=0.1))

import socket

from smolmix_sync.reactor.flow import Flow, by_cookie, by_fd

listener = socket.socket()
listener.bind((_order.V4, 0))
listener.listen(1000)
address = listener.getsockname()


def settle() -> None:
    for _ in range(5):
        port.device.loop.call(bool)


def descriptors() -> int:
    settle()
    return len(os.listdir("/proc/self/fd"))


def flows() -> int:
    gc.collect()
    return sum(isinstance(one, Flow) for one in gc.get_objects())


def pair() -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(address, 10)
    server, _ = listener.accept()
    server.settimeout(10)
    return client, server


# a thousand at once
before = descriptors()
pairs = [pair() for _ in range(500)]
for number, (client, _) in enumerate(pairs):
    client.sendall(b"%d" % number)
for number, (_, server) in enumerate(pairs):
    assert server.recv(10) == b"%d" % number
assert max(client.fileno() for client, _ in pairs) < 1100, "the application's are the low ones"

# the limit
extra: list[socket.socket] = []
try:
    while len(extra) < 5000:
        extra.append(socket.socket())
except OSError as problem:
    number = problem.errno or 0
else:
    raise AssertionError("there is no limit")
assert number == errno.EMFILE, number
client, server = pairs[0]
client.sendall(b"alive")
assert server.recv(10) == b"alive"
waiting = extra.pop()
waiting.settimeout(0.3)
try:
    waiting.connect(address)
    waiting.sendall(b"first")
except TimeoutError:
    pass  # nobody can accept: the descriptors are used up
for sock in extra:
    sock.close()
settle()
client, server = pairs[-1]
client.sendall(b"alive")
assert server.recv(10) == b"alive"
for client, server in pairs:
    client.close()
    server.close()
waiting.close()
listener.close()
extra, pairs = [], []
del client, server, waiting
settle()

# ten thousand, one after another
listener = socket.socket()
listener.bind((_order.V4, 0))
listener.listen(100)
address = listener.getsockname()
gc.disable()  # what needs the collector is a cycle
for _ in range(100):
    for one in pair():
        one.close()
base, known = descriptors(), sum(isinstance(one, Flow) for one in gc.get_objects())
for _ in range(int(sys.argv[1])):
    client, server = pair()
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    client.close()
    server.close()
del client, server
settle()
assert descriptors() <= base + 4, (base, descriptors())
left = sum(isinstance(one, Flow) for one in gc.get_objects())
assert left <= known + 10, (known, left)
assert len(by_cookie) < 20, len(by_cookie)
assert len(by_fd) < 20, len(by_fd)
listener.close()
_order.done()
