"""Downloads of growing size over ONE keep-alive connection, with the name looked up over the mixnet as well.

``http.client`` knows nothing of tunnels: it is handed a connected socket and does the rest.
"""

from __future__ import annotations

import http.client
import socket
import sys
import time

from _example import compare, parser, place, report


def download(sock: socket.socket, host: str, sizes: list[int]) -> str:
    """Fetch every size over *sock*, with progress; return the sum."""
    connection = http.client.HTTPConnection(host)
    connection.sock = sock
    began, total = time.monotonic(), 0
    for number, size in enumerate(sizes, start=1):
        connection.request("GET", f"/bytes/{size}")
        answer = connection.getresponse()
        got = 0
        while chunk := answer.read(16384):
            got += len(chunk)
            if sys.stdout.isatty():
                print(f"\r  {number}/{len(sizes)} {100 * got // size:3d} %", end="", flush=True)
        if got != size:
            raise EOFError(f"{got} of {size} octets")
        if connection.sock is not sock:
            raise ConnectionError("the server did not keep the connection")
        total += got
        print(f"{chr(13) if sys.stdout.isatty() else ''}  {number}/{len(sizes)} {size:>6} octets"
              f" {time.monotonic() - began:6.2f} s")  # fmt: skip
    connection.close()
    return f"{total} octets in {len(sizes)} requests on one connection"


def main() -> int:
    """Run it twice."""
    made = parser(__doc__)
    made.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000, 25000], metavar="N")
    arguments = made.parse_args()
    host = "www.localnet" if arguments.localnet else "httpbin.org"
    with place(arguments) as here:
        known, _ = report(
            "clear", lambda: lookup(host) if not here.localnet else "a name of the embedded network"
        )
        answer, _ = report("mixnet", lambda: " ".join(here.tunnel.resolve(host, socket.AF_INET)))
        print(f"# {host}: {known} in the clear, {answer} through the mixnet")
        target = (host, 80)
        _, clear = report(
            "clear",
            lambda: download(socket.create_connection(here.clear(target), 30), host, arguments.sizes),
        )
        address = (answer.split()[0], 80)
        _, mixnet = report(
            "mixnet", lambda: download(here.tunnel.tcp_connect(address, 60), host, arguments.sizes)
        )
        compare(clear, mixnet)
    return 0


def lookup(host: str) -> str:
    """Ask the system's resolver."""
    return " ".join(socket.gethostbyname_ex(host)[2])


if __name__ == "__main__":
    sys.exit(main())
