"""An HTTPS request over one TCP socket: the server sees the exit's address instead of ours.

Fetches Cloudflare's /cdn-cgi/trace, which names the address that the request came from; in the embedded network a
page of its own web server, and the address is the one the exit gave the tunnel.
"""

from __future__ import annotations

import socket
import ssl
import sys

from _example import compare, parser, place, report


def trace(sock: socket.socket, host: str, path: str) -> str:
    """Ask for *path* over a connected socket; return the first line and the address the server saw."""
    ours = sock.getsockname()[0]
    with ssl.create_default_context().wrap_socket(sock, server_hostname=host) as tls:
        tls.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: tls.recv(4096), b"")).decode()
        version = tls.version()
    seen = next((line for line in answer.splitlines() if line.startswith("ip=")), f"ip={ours} (our end)")
    return f"{answer.splitlines()[0].strip()}, {version}, {seen}"


def main() -> int:
    """Run it twice."""
    arguments = parser(__doc__).parse_args()
    host, path = ("www.localnet", "/headers") if arguments.localnet else ("cloudflare.com", "/cdn-cgi/trace")
    with place(arguments) as here:
        target = (host, 443)
        told, clear = report(
            "clear", lambda: trace(socket.create_connection(here.clear(target), 30), host, path)
        )
        hidden, mixnet = report("mixnet", lambda: trace(here.tunnel.tcp_connect(target, 60), host, path))
        compare(clear, mixnet)
    same = told.rpartition("ip=")[2] == hidden.rpartition("ip=")[2]
    print("the addresses are the same: nothing is hidden" if same else "the addresses differ")
    return 1 if same else 0


if __name__ == "__main__":
    sys.exit(main())
