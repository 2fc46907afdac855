"""eventlet builds its sockets on a fresh copy of the socket module: that copy is in the tunnel, too."""

# ruff: noqa: E402 - the order of imports is what is tested
from __future__ import annotations

import warnings

import _order

port = _order.network(connect_timeout=5)
warnings.simplefilter("ignore", DeprecationWarning)

import eventlet

eventlet.monkey_patch()
import socket
import urllib.request
from typing import Any

from eventlet import wsgi

assert socket.socket.__module__.startswith("eventlet"), socket.socket


def application(environ: Any, start: Any) -> list[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    eventlet.sleep(0.01)
    return [environ["PATH_INFO"].encode()]


listener = eventlet.listen((_order.V4, 80))
eventlet.spawn(wsgi.server, listener, application, log_output=False)


def fetch(number: int) -> bytes:
    answer: bytes = urllib.request.urlopen(f"http://{_order.V4}/{number}", timeout=10).read()
    return answer


pool = eventlet.GreenPool(10)
assert list(pool.imap(fetch, range(30))) == [b"/%d" % number for number in range(30)]
sock = eventlet.connect((_order.V4, 80))
assert sock.getpeername() == (_order.V4, 80)
sock.close()
with eventlet.Timeout(5):
    refused = socket.socket()
    assert refused.connect_ex((_order.V4, 9)) == 111
assert port.device.loop.call(lambda: port.device.stack.counters.packets_in) > 300, (
    "it was the stack that carried it"
)
_order.done()
