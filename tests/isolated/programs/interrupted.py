"""Control-C ends every call that waits, and the socket goes on working afterwards."""

# ruff: noqa: B023, E402 - the order of imports is what is tested
from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import _order

GEVENT = _order.ORDER in ("gevent-first", "smolmix-first")

from smolmix_sync.netstack import Stack
from smolmix_sync.reactor import _originals, provider
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import shared_loop
from smolmix_sync.reactor.resolver import ResolverConfig

loop = shared_loop()
NOWHERE = "203.0.113.9"
device = Device(
    loop, Stack(_order.V4, None, urandom=os.urandom, loopback=True), resolver=ResolverConfig(timeout=20)
)
device.on_output = lambda: device.data_to_send() and None  # what is not for ourselves is lost
port = provider.DevicePort(device)
provider.install(lambda: port)

import select
import socket
import ssl


def interrupted(action: Any, *arguments: Any) -> None:
    """Call; SIGINT comes while it waits."""
    began = time.monotonic()

    def press() -> None:
        _originals.pause(0.15)
        os.kill(os.getpid(), signal.SIGINT)

    _originals.start_new_thread(press, ())
    try:
        result = action(*arguments)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError(f"{action} returned {result!r}")
    took = time.monotonic() - began
    assert 0.1 < took < 3, (action, took)


listener = socket.socket()
listener.bind((_order.V4, 0))
listener.listen()
for timeout in (None, 30):
    listener.settimeout(timeout)
    interrupted(listener.accept)
    client = socket.socket()
    client.settimeout(timeout)
    interrupted(client.connect, (NOWHERE, 80))
    client.close()
    client = socket.create_connection(listener.getsockname(), timeout)
    server, _ = listener.accept()
    buffer = bytearray(10)
    for call in (
        lambda: client.recv(1), lambda: client.recv_into(buffer), lambda: client.recvfrom(1),
        lambda: client.recvmsg(1), lambda: client.recvmsg_into([buffer]), lambda: client.makefile("rb").read(1),
        lambda: select.select([client], [], [], 20), lambda: client.sendall(bytes(30_000_000)),
    ):  # fmt: skip
        interrupted(call)
    client.close()
    server.close()
    with socket.create_connection(listener.getsockname(), timeout) as near:
        far, _ = listener.accept()
        interrupted(near.recv, 1)
        far.sendall(b"still there")
        assert near.recv(20) == b"still there"
        context = ssl.create_default_context()
        wrapped = context.wrap_socket(near, server_hostname="x.example", do_handshake_on_connect=False)
        wrapped.settimeout(timeout)
        interrupted(wrapped.do_handshake)
        wrapped.close()
        far.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout)
        udp.bind((_order.V4, 0))
        interrupted(udp.recv, 1)
        interrupted(udp.recvfrom, 1)
        udp.sendto(b"to myself", udp.getsockname())
        assert udp.recv(20) == b"to myself"
if not GEVENT:  # gevent asks a pool thread, which a signal does not reach
    interrupted(socket.getaddrinfo, "silent.example.com", 80)
interrupted(socket.gethostbyname, "silent.example.com")
assert threading.current_thread() is threading.main_thread()
assert not [name for name in os.listdir("/proc/self/fd") if int(name) > 5000]
listener.close()

# a tunnel that is not up
down = Device(loop, connect_timeout=30)
waiting = provider.DevicePort(down)
provider.install(lambda: waiting)
sock = socket.socket()
interrupted(sock.connect, (NOWHERE, 80))
interrupted(socket.getaddrinfo, "other.example.com", 80)
sock.close()
loop.call(down.close)
_order.done()
