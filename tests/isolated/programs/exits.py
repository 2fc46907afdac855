"""The end of the process: what was written is delivered, nothing hangs, nothing warns."""

# ruff: noqa: E402 - the order of imports is what is tested
from __future__ import annotations

import _order

port = _order.network(connect_timeout=5)

import os
import socket
import threading
import time

listener = socket.socket()
listener.bind((_order.V4, 0))
listener.listen()
received: list[bytes] = []


def serve() -> None:
    while True:
        sock, _ = listener.accept()
        data = b""
        while part := sock.recv(65536):
            data += part
        received.append(data)


threading.Thread(target=serve, daemon=True).start()
for number in range(3):
    sock = socket.create_connection(listener.getsockname(), 10)
    sock.sendall(b"%d" % number * 50_000)
    if number:
        sock.close()


def check() -> None:
    # runs after the flush, before the reactor is stopped
    assert sorted(len(one) for one in received)[-2:] == [50_000, 50_000], [len(one) for one in received]
    os.write(1, b"DONE\n")


from smolmix_sync.reactor import _originals


def flush() -> None:
    assert port.device.flush(10)
    until = time.monotonic() + 5
    while len(received) < 2 and time.monotonic() < until:
        time.sleep(0.01)  # the patched one: the server may be a greenlet of this thread
    check()


_originals.run_at_exit(flush)
