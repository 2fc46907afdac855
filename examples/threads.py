"""Many threads, one tunnel: eight downloads at once with sockets that block, one thread each."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from _example import compare, parser, place, report

SIZE = 10000


def get(sock: socket.socket, host: str) -> int:
    """Fetch SIZE octets over a connected socket; return how many came."""
    with sock, sock.makefile("rb") as answer:
        sock.sendall(f"GET /bytes/{SIZE} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        while answer.readline().strip():
            pass
        return len(answer.read())


def all_at_once(threads: int, connect: Callable[[], socket.socket], host: str) -> str:
    """Let every thread connect and fetch for itself."""
    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(lambda _: get(connect(), host), range(threads)))
    if got != [SIZE] * threads:
        raise EOFError(f"got {got}")
    return f"{threads} threads fetched {SIZE} octets each"


def main() -> int:
    """Run it twice."""
    made = parser(__doc__)
    made.add_argument("--threads", type=int, default=8, metavar="N")
    arguments = made.parse_args()
    host = "www.localnet" if arguments.localnet else "httpbin.org"
    with place(arguments) as here:
        target = (host, 80)
        _, clear = report(
            "clear",
            lambda: all_at_once(
                arguments.threads, lambda: socket.create_connection(here.clear(target), 30), host
            ),
        )
        _, mixnet = report(
            "mixnet",
            lambda: all_at_once(arguments.threads, lambda: here.tunnel.tcp_connect(target, 60), host),
        )
        compare(clear, mixnet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
