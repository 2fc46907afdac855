"""MixSockets without a mixnet: how many, how large, how fast awake.

    python benchmarks/bench_sockets.py [--connections 1000] [--json FILE]

The sockets run over a stack that is its own network, so everything measured is
ours: the reactor, the pump, the kernel's socket pairs, the stack. A kernel TCP
connection over loopback takes turns with them as a yardstick.
"""

from __future__ import annotations

import argparse
import gc
import resource
import socket as kernel
import sys
import threading
import time
from typing import Any

from _report import ROOT, add_output, environment, percentile, table, write

sys.path.insert(0, str(ROOT / "tests"))

from support.loopnet import V4, loopnet

from smolmix_sync import socket as mix


def rss() -> int:
    """Return the resident set in octets."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def cpu() -> float:
    """Return CPU seconds of this process."""
    return time.process_time()


def many(count: int) -> dict[str, Any]:
    """Open *count* connections, look at memory, send an octet over each, close them."""
    listener = mix.socket(mix.AF_INET, mix.SOCK_STREAM)
    listener.bind((V4, 0))
    listener.listen(count)
    address = listener.getsockname()
    gc.collect()
    before, used, start = rss(), cpu(), time.monotonic()
    pairs = []
    for _ in range(count):
        client = mix.create_connection(address, timeout=30)
        server, _ = listener.accept()
        pairs.append((client, server))
    opened, used = time.monotonic() - start, cpu() - used
    gc.collect()
    memory = rss() - before
    start = time.monotonic()
    for client, server in pairs:
        client.sendall(b"x")
        assert server.recv(1) == b"x"
    exchanged = time.monotonic() - start
    start = time.monotonic()
    for client, server in pairs:
        client.close()
        server.close()
    closed = time.monotonic() - start
    listener.close()
    return {
        "connections": count,
        "open_ms_each": opened / count * 1000,
        "cpu_ms_each": used / count * 1000,
        "octets_each": memory / count / 2,
        "octet_ms": exchanged / count * 1000,
        "close_ms_each": closed / count * 1000,
    }


def ping_pong(client: Any, server: Any, rounds: int) -> list[float]:
    """Send an octet back and forth between two threads; return round-trip times."""

    def answer() -> None:
        for _ in range(rounds):
            server.sendall(server.recv(1))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        client.sendall(b"x")
        client.recv(1)
        times.append(time.perf_counter() - start)
    thread.join(10)
    return times


def bulk(client: Any, server: Any, octets: int) -> float:
    """Return octets per second of one stream."""

    def send() -> None:
        data = bytes(65536)
        for _ in range(octets // len(data)):
            client.sendall(data)

    thread = threading.Thread(target=send, daemon=True)
    start = time.perf_counter()
    thread.start()
    left = octets // 65536 * 65536
    while left:
        left -= len(server.recv(65536))
    thread.join(10)
    return octets / (time.perf_counter() - start)


def pair(module: Any, host: str) -> tuple[Any, Any]:
    """Return both ends of a connection."""
    listener = module.socket(module.AF_INET, module.SOCK_STREAM)
    listener.bind((host, 0))
    listener.listen()
    client = module.create_connection(listener.getsockname(), timeout=10)
    server, _ = listener.accept()
    listener.close()
    for end in (client, server):
        end.setsockopt(module.IPPROTO_TCP, module.TCP_NODELAY, 1)
    return client, server


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    add_output(parser)
    arguments = parser.parse_args()
    print(environment())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results: dict[str, Any] = {"benchmark": "sockets"}
    wake: dict[str, list[float]] = {"mix": [], "kernel": []}
    speed: dict[str, list[float]] = {"mix": [], "kernel": []}
    with loopnet():
        first = many(50)  # modules and pools are loaded now
        results["sockets"] = many(arguments.connections)
        ends = {"mix": pair(mix, V4), "kernel": pair(kernel, "127.0.0.1")}
        for _ in range(arguments.rounds):
            for name, (client, server) in ends.items():
                wake[name] += ping_pong(client, server, 200)
                speed[name].append(bulk(client, server, 4 << 20))
        for client, server in ends.values():
            client.close()
            server.close()
    sockets = results["sockets"]
    print(f"\n{sockets['connections']} connections, both ends here (file limit {soft} raised to {hard}):")
    print(table(("figure", "value"), [(name, value) for name, value in sockets.items()]))
    results["wake_up_us"] = {
        name: {"p50": percentile(values, 0.5) * 1e6, "p99": percentile(values, 0.99) * 1e6}
        for name, values in wake.items()
    }
    results["bulk_mb_per_s"] = {name: percentile(values, 0.5) / 1e6 for name, values in speed.items()}
    results["warm_up"] = first
    rows = [
        (
            name,
            round(results["wake_up_us"][name]["p50"]),
            round(results["wake_up_us"][name]["p99"]),
            results["bulk_mb_per_s"][name],
        )
        for name in wake
    ]
    print(f"\nround trip of one octet between two threads, and a {4} MiB stream:")
    print(table(("sockets", "p50 us", "p99 us", "MB/s"), rows))
    write(arguments.json, results)


if __name__ == "__main__":
    main()
