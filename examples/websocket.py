"""A websocket echo: first in the clear, then the same library over the mixnet; only the TCP stream changes."""

from __future__ import annotations

import socket
import ssl
import sys
import time

from _example import (  # first: it takes this folder, and this file's name, off the path
    compare,
    parser,
    place,
    report,
)

import websocket  # isort: skip


def echo(sock: socket.socket, url: str, host: str) -> str:
    """Speak websocket over TLS over a connected socket; return what came back and the round trip."""
    tls = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection = websocket.WebSocket()
    connection.connect(url, socket=tls)
    began = time.monotonic()
    connection.send("hello, mixnet")
    answer = connection.recv()
    seconds = time.monotonic() - began
    connection.close()
    return f"{answer!r} echoed in {seconds:.2f} s"


def main() -> int:
    """Run it twice."""
    arguments = parser(__doc__).parse_args()
    host, path = ("www.localnet", "/ws") if arguments.localnet else ("ws.postman-echo.com", "/raw")
    url = f"wss://{host}{path}"
    with place(arguments) as here:
        target = (host, 443)
        _, clear = report("clear", lambda: echo(socket.create_connection(here.clear(target), 30), url, host))
        _, mixnet = report("mixnet", lambda: echo(here.tunnel.tcp_connect(target, 60), url, host))
        compare(clear, mixnet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
