"""What a MixSocket costs beside a kernel socket, with everything below it taken away.

    python benchmarks/bench_socket_cost.py [--rounds 3] [--json FILE]

The connections of the MixSockets here are kernel connections (``_kernel_stack.py``), so an octet goes from the
application through the pair and the reactor to a kernel socket and a server in another process; the server is the
same for the plain kernel sockets that take turns with them. Measured without gevent, and in a program that gevent
has patched. What counts is the ratio; the limits are 1.5 times the ratios of the figures in spec/sockets.md
section 17 (medians of its ranges, connects beside its gevent column as it says).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPResponse
from statistics import median
from typing import Any

from _report import add_output, environment, table, write

#: Ratio MixSocket to kernel socket in spec/sockets.md section 17: threads, gevent. Figures in MB/s are better
#: when greater, all others when less.
REFERENCE = {
    "upload MB/s": (1665 / 3225, 1385 / 3470),
    "upload CPU ns/octet": (0.64 / 0.285, 1.165 / 0.275),
    "download MB/s": (830 / 1095, 870 / 1060),
    "round trip p50 us": (94 / 6, 86.5 / 37.5),
    "round trip CPU us": (69 / 3.5, 79 / 20.5),
    "connect and close us": (267 / 86, 484 / 86),
    "socket() us": (55 / 2.5, 46 / 22),
}
ALLOWED = 1.5
#: Octets of the download.
SIZE = 100_000_000


# --- the server: another process, nothing patched -------------------------------------------------


def serve(ports: Any) -> None:
    """Serve until killed: an echo, a sink that answers with its count, and a source of octets."""
    import socket

    def each(listener: Any, handle: Callable[[Any], None]) -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=guarded, args=(handle, connection), daemon=True).start()

    def guarded(handle: Callable[[Any], None], connection: Any) -> None:
        with connection:
            try:
                handle(connection)
            except OSError:
                pass

    def echo(connection: Any) -> None:
        while data := connection.recv(65536):
            connection.sendall(data)

    def sink(connection: Any) -> None:
        count = 0
        while data := connection.recv(1 << 20):
            count += len(data)
        connection.sendall(count.to_bytes(8, "big"))

    def source(connection: Any) -> None:
        data, left = bytes(1 << 18), SIZE
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % SIZE)
        while left:
            left -= connection.send(data[: min(left, len(data))])

    numbers = []
    for handle in (echo, sink, source):
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        numbers.append(listener.getsockname()[1])
        threading.Thread(target=each, args=(listener, handle), daemon=True).start()
    ports.send(numbers)
    threading.Event().wait()


# --- the measured process -------------------------------------------------------------------------


class Figures:
    """One kind of socket against the server."""

    def __init__(self, module: Any, host: str, ports: list[int]) -> None:
        self.module = module
        self.echo, self.sink, self.source = ((host, port) for port in ports)

    def _connect(self, address: tuple[str, int]) -> Any:
        connection = self.module.socket(self.module.AF_INET, self.module.SOCK_STREAM)
        connection.connect(address)
        connection.setsockopt(self.module.IPPROTO_TCP, self.module.TCP_NODELAY, 1)
        return connection

    def upload(self) -> dict[str, float]:
        """Send 200 MiB."""
        data, count = bytes(262144), 800
        with self._connect(self.sink) as connection:
            start, used = time.perf_counter(), time.process_time()
            for _ in range(count):
                connection.sendall(data)
            connection.shutdown(self.module.SHUT_WR)
            octets = int.from_bytes(connection.recv(8), "big")
            took, used = time.perf_counter() - start, time.process_time() - used
        assert octets == count * len(data), octets
        return {"upload MB/s": octets / took / 1e6, "upload CPU ns/octet": used / octets * 1e9}

    def download(self) -> dict[str, float]:
        """Receive 100 MB over HTTP."""
        start = time.perf_counter()
        with self._connect(self.source) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: source\r\n\r\n")
            response = HTTPResponse(connection)
            response.begin()
            octets = len(response.read())
            took = time.perf_counter() - start
        assert octets == SIZE, octets
        return {"download MB/s": octets / took / 1e6}

    def round_trips(self) -> dict[str, float]:
        """Send an octet and wait for it, 2000 times."""
        times = []
        with self._connect(self.echo) as connection:
            used = time.process_time()
            for _ in range(2000):
                start = time.perf_counter()
                connection.sendall(b"x")
                connection.recv(1)
                times.append(time.perf_counter() - start)
            used = time.process_time() - used
        return {"round trip p50 us": median(times) * 1e6, "round trip CPU us": used / len(times) * 1e6}

    def connects(self) -> dict[str, float]:
        """Connect and close, 300 times, with ``create_connection`` as the chapter did."""
        start = time.perf_counter()
        for _ in range(300):
            self.module.create_connection(self.echo).close()
        return {"connect and close us": (time.perf_counter() - start) / 300 * 1e6}

    def sockets(self) -> dict[str, float]:
        """Make sockets, 300 of them, none connected."""
        start = time.perf_counter()
        made = [self.module.socket(self.module.AF_INET, self.module.SOCK_STREAM) for _ in range(300)]
        took = time.perf_counter() - start
        for one in made:
            one.close()
        return {"socket() us": took / len(made) * 1e6}


def measure(ports: list[int], rounds: int, *, patched: bool) -> dict[str, dict[str, list[float]]]:
    """Return every figure of both kinds of sockets, measured in turns."""
    if patched:
        from gevent import monkey

        monkey.patch_all()
    import socket as kernel

    from _kernel_stack import HOST, kernel_device

    from smolmix_sync import socket as mix

    found: dict[str, dict[str, list[float]]] = {"kernel": {}, "mix": {}}
    with kernel_device():
        for turn in range(rounds + 1):
            for name, module, host in (("kernel", kernel, "127.0.0.1"), ("mix", mix, HOST)):
                figures = Figures(module, host, ports)
                for part in (
                    figures.upload, figures.download, figures.round_trips, figures.connects, figures.sockets,
                ):  # fmt: skip
                    for figure, value in part().items():
                        if turn:  # the first loads modules and grows pools
                            found[name].setdefault(figure, []).append(value)
    return found


def judge(found: dict[str, Any], column: str) -> list[dict[str, Any]]:
    """Return a row for each figure: medians, their ratio, the reference's and whether it is kept."""
    rows = []
    for figure, references in REFERENCE.items():
        reference = references[list(found).index(column)]
        # The chapter holds every connect against the kernel's in a patched program.
        yardstick = "gevent" if figure.startswith("connect") else column
        kernel, mix = median(found[yardstick]["kernel"][figure]), median(found[column]["mix"][figure])
        ratio, limit = mix / kernel, reference
        better = figure.endswith("MB/s")
        limit = limit / ALLOWED if better else limit * ALLOWED
        rows.append(
            {
                "figure": figure, "kernel": kernel, "mix": mix, "ratio": ratio,
                "reference": reference, "limit": limit,
                "kept": ratio >= limit if better else ratio <= limit,
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("threads", "gevent"), help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=int, nargs=3, help=argparse.SUPPRESS)
    add_output(parser)
    arguments = parser.parse_args()
    if arguments.measure:
        found = measure(arguments.ports, arguments.rounds, patched=arguments.measure == "gevent")
        print(json.dumps(found))
        return
    print(environment())
    here, there = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    results: dict[str, Any] = {"benchmark": "socket_cost", "allowed": ALLOWED}
    try:
        ports = here.recv()
        found = {}
        for kind in ("threads", "gevent"):
            command = [sys.executable, os.path.abspath(__file__), "--measure", kind]
            command += ["--rounds", str(arguments.rounds), "--ports", *map(str, ports)]
            output = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, timeout=600
            ).stdout
            found[kind] = json.loads(output)
        for kind in found:
            rows = results[kind] = judge(found, kind)
            print(f"\n{kind}:")
            head = ("figure", "kernel", "MixSocket", "ratio", "reference", "limit", "")
            shown = [
                (
                    row["figure"], row["kernel"], row["mix"], row["ratio"], row["reference"], row["limit"],
                    "" if row["kept"] else "MISSED",
                )
                for row in rows
            ]  # fmt: skip
            print(table(head, shown))
    finally:
        server.kill()
        server.join()
    write(arguments.json, results)


if __name__ == "__main__":
    main()
