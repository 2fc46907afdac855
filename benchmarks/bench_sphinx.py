"""Sphinx packets: ours, and the published Rust crate sphinx-packet 0.6.0 in the same run.

    cargo build --release --manifest-path benchmarks/sphinx_rust/Cargo.toml   # once
    python benchmarks/bench_sphinx.py [--rust PROGRAM] [--rounds 7] [--json FILE]

Without the Rust program only our figures are printed. The two take turns, and
the least time of all rounds counts: everything above it is somebody else's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _report import ROOT, add_output, environment, table, write

from smolmix_sync import crypto
from smolmix_sync.mixnet.sphinx import (
    Hop,
    NodeAddress,
    PacketSize,
    build_packet,
    build_surb,
    open_untrusted,
    unwrap_untrusted,
)

PROGRAM = ROOT / "benchmarks" / "sphinx_rust" / "target" / "release" / "sphinx-bench"
_BATCH = 20


def operations() -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    keys = [bytes([index * 7 + 3]) * 32 for index in range(4)]
    route = [Hop(NodeAddress("192.0.2.1", 1789), crypto.x25519_base(key)) for key in keys]
    delays = [1] * 4
    destination = bytes([9]) * 32
    data, ack = bytes([5]) * 2048, bytes([5]) * 21

    def build(message: bytes, size: PacketSize, hops: int = 4) -> bytes:
        return build_packet(message, route[:hops], delays[:hops], destination, size=size, urandom=os.urandom)

    forward, final = build(data, PacketSize.REGULAR), build(data, PacketSize.REGULAR, 1)
    surb = build_surb(route, delays, destination, urandom=os.urandom)
    return {
        "build data": lambda: build(data, PacketSize.REGULAR),
        "build ack": lambda: build(ack, PacketSize.ACK),
        "unwrap forward": lambda: unwrap_untrusted(forward, keys[0]),
        "unwrap final": lambda: unwrap_untrusted(final, keys[0]),
        "replay tag only": lambda: open_untrusted(forward, keys[0]),
        "build surb": lambda: build_surb(route, delays, destination, urandom=os.urandom),
        "use surb": lambda: surb.use(data, PacketSize.REGULAR),
    }


def least(run: Callable[[], object]) -> float:
    """Return the least microseconds per call of a few batches."""
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        for _ in range(_BATCH):
            run()
        best = min(best, time.perf_counter() - start)
    return best / _BATCH * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rust", type=Path, default=PROGRAM, help="the built Rust program")
    parser.add_argument("--rounds", type=int, default=7)
    add_output(parser)
    arguments = parser.parse_args()
    print(environment())
    ours: dict[str, float] = {}
    rust: dict[str, float] = {}
    runs = operations()
    have_rust = arguments.rust.exists()
    if not have_rust:
        print(f"no Rust program at {arguments.rust}: see --help")
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            ours[name] = min(least(run), ours.get(name, float("inf")))
        if have_rust:
            answer = subprocess.run(
                [arguments.rust, "10"], capture_output=True, text=True, check=True, timeout=60
            )
            for name, value in json.loads(answer.stdout).items():
                rust[name] = min(value, rust.get(name, float("inf")))
    for figures in (ours, rust):
        if figures:
            figures["data with its ack"] = figures["build data"] + figures["build ack"]
    rows = [
        (
            name,
            round(value),
            round(rust[name]) if name in rust else "-",
            value / rust[name] if name in rust else "-",
        )
        for name, value in ours.items()
    ]
    print(table(("operation (4 hops)", "ours us", "Rust us", "ratio"), rows))
    results: dict[str, Any] = {"benchmark": "sphinx", "ours": ours, "rust": rust}
    write(arguments.json, results)


if __name__ == "__main__":
    main()
