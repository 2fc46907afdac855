"""The transfer matrix of design.md section 8 through a real tunnel.

    python benchmarks/bench_transfer.py [--repetitions 7] [--json FILE]
    python benchmarks/bench_transfer.py --nym-api URL --host HOST [--set name=value ...]

Starts a localnet of its own unless --nym-api names a network. Every repetition
of a mode (paced, unpaced) sets up a new tunnel, waits until it has settled, and
runs each transfer of the matrix once; modes and transfers take turns, so a busy
minute of the machine falls on all of them. The clock runs from connect() to the
last confirmed octet. HOST must serve ``/bytes/N`` and ``POST /upload`` (the
sha256 of the body), as localnet's www.localnet does.

What the shaper sent is recorded beside: in paced mode the gaps must stay
exponential with a mean of 20 ms, or speed was bought from anonymity.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from statistics import median
from typing import Any

from _report import add_output, environment, percentile, spread, table, write

from smolmix_sync.localnet import LocalNet
from smolmix_sync.reactor.shaper import SendRecord
from smolmix_sync.tunnel import Tunnel

MODES: dict[str, dict[str, Any]] = {
    "paced": {},
    "unpaced": {"disable_poisson_traffic": True, "disable_cover_traffic": True},
}
# kB/s an ideal stack could reach, and the goal. Source: design.md section 8.
TARGETS = {
    ("paced", "1 MB down"): 190.0,
    ("paced", "1 MB up"): 60.0,
    ("paced", "100 kB up"): 45.0,
    ("paced", "10 x 100 kB down"): 170.0,
    ("unpaced", "1 MB down"): 400.0,
    ("unpaced", "100 kB up"): 110.0,
}


class _Connection(HTTPConnection):
    """HTTP over a tunnel, nothing patched; remembers when it was connected."""

    def __init__(self, tunnel: Tunnel, host: str, port: int) -> None:
        super().__init__(host, port, timeout=300)
        self._tunnel = tunnel

    def connect(self) -> None:
        self.sock = self._tunnel.create_connection((self.host, self.port), timeout=60)


class Bench:
    """Transfers against one host."""

    def __init__(self, tunnel: Tunnel, host: str, port: int) -> None:
        self.tunnel = tunnel
        self.host, self.port = host, port

    def _connection(self) -> _Connection:
        return _Connection(self.tunnel, self.host, self.port)

    def down(self, size: int) -> None:
        """Fetch *size* octets."""
        with contextlib.closing(self._connection()) as connection:
            connection.request("GET", f"/bytes/{size}")
            answer = connection.getresponse()
            got = len(answer.read())
        if got != size:
            raise RuntimeError(f"{got} octets instead of {size}")

    def up(self, size: int) -> None:
        """Post *size* octets; the server's digest confirms the last one."""
        body = hashlib.shake_256(b"bench").digest(size)
        with contextlib.closing(self._connection()) as connection:
            connection.request("POST", "/upload", body=body)
            answer = json.loads(connection.getresponse().read())
        if answer["sha256"] != hashlib.sha256(body).hexdigest():
            raise RuntimeError("the upload arrived damaged")

    def many_down(self, count: int, size: int) -> None:
        """Fetch *size* octets *count* times at once."""
        errors: list[BaseException] = []

        def run() -> None:
            try:
                self.down(size)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        if errors:
            raise errors[0]

    def first_octet(self) -> None:
        """Connect and take the first octet of an answer."""
        with contextlib.closing(self._connection()) as connection:
            connection.request("GET", "/bytes/1")
            connection.getresponse().read(1)

    def matrix(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Return octets and how to move them, by name."""
        return {
            "1 MB down": (1_000_000, lambda: self.down(1_000_000)),
            "1 MB up": (1_000_000, lambda: self.up(1_000_000)),
            "100 kB up": (100_000, lambda: self.up(100_000)),
            "10 x 100 kB down": (1_000_000, lambda: self.many_down(10, 100_000)),
            "first octet": (0, self.first_octet),
        }


class SendTrace:
    """Send times of the main stream."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.times: list[float] = []
        self.late: list[float] = []
        tunnel.trace_sends(self._record)

    def _record(self, record: SendRecord) -> None:
        if record.kind != "loop":
            self.times.append(record.slot)
            self.late.append(record.time - record.slot)

    def take(self) -> dict[str, float]:
        """Return the statistics so far and begin again."""
        gaps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        late = self.late
        self.times, self.late = [], []
        return gap_statistics(gaps, late)


def gap_statistics(gaps: list[float], late: list[float]) -> dict[str, float]:
    """Return mean, coefficient of variation and distance to the exponential distribution."""
    if len(gaps) < 20:
        return {}
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    ordered = sorted(gaps)
    # Kolmogorov-Smirnov: 1.36 / sqrt(n) is the 5 % level for a given mean.
    distance = max(
        abs((index + 0.5) / len(ordered) - (1 - math.exp(-gap / mean))) for index, gap in enumerate(ordered)
    )
    return {
        "packets": len(gaps) + 1,
        "mean_ms": mean * 1000,
        "variation": deviation / mean,
        "ks": distance,
        "ks_5_percent": 1.36 / math.sqrt(len(gaps)),
        "late_p99_ms": percentile(late, 0.99) * 1000,
    }


@contextlib.contextmanager
def network(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the settings of a tunnel on the network to measure."""
    extra = dict(pair.split("=", 1) for pair in arguments.set)
    if arguments.nym_api:
        yield {"nym_api": arguments.nym_api, **extra}
        return
    with LocalNet(
        set_default=False, drop=dict.fromkeys(("mix2",), arguments.drop) if arguments.drop else {}
    ) as net:
        yield {**net.client_settings(), **extra}


def repetition(
    settings: dict[str, Any], mode: str, arguments: argparse.Namespace
) -> tuple[dict[str, float], dict[str, float]]:
    """Set a tunnel up and run the matrix once; return seconds by name, and the gap statistics."""
    start = time.monotonic()
    with Tunnel(**{**settings, **MODES[mode]}) as tunnel:
        seconds = {"set-up": time.monotonic() - start}
        time.sleep(arguments.settle)
        bench = Bench(tunnel, arguments.host, arguments.port)
        trace = SendTrace(tunnel)
        for name, (_, run) in bench.matrix().items():
            if arguments.only and name not in arguments.only:
                continue
            start = time.monotonic()
            run()
            seconds[name] = time.monotonic() - start
        return seconds, trace.take()


def turns_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every run of the matrix is told."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--settle", type=float, default=10.0, help="seconds READY before the first transfer")
    add_output(parser)
    return parser


def print_gaps(gaps: dict[str, list[dict[str, float]]]) -> None:
    """Print the median statistics of the send gaps of each mode."""
    for mode, traces in gaps.items():
        if traces:
            keys = traces[0].keys()
            print(f"{mode} send gaps:", {key: round(median(t[key] for t in traces), 3) for key in keys})


def main() -> None:
    """Measure and print."""
    parser = turns_parser(__doc__)
    parser.add_argument("--only", nargs="+", help="only these rows of the matrix")
    parser.add_argument("--drop", type=float, default=0.0, help="localnet: share of packets one node loses")
    parser.add_argument("--nym-api", help="measure that network instead of a localnet")
    parser.add_argument("--host", default="www.localnet")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a tunnel setting")
    arguments = parser.parse_args()
    print(environment(), flush=True)
    seconds: dict[tuple[str, str], list[float]] = {}
    gaps: dict[str, list[dict[str, float]]] = {mode: [] for mode in arguments.modes}
    failures: list[str] = []
    with network(arguments) as settings:
        for round_ in range(arguments.repetitions):
            for mode in arguments.modes:
                try:
                    took, trace = repetition(settings, mode, arguments)
                except (OSError, RuntimeError) as error:
                    failures.append(f"{mode} {round_}: {error!r}")
                    print(failures[-1], flush=True)
                    continue
                if trace:
                    gaps[mode].append(trace)
                for name, value in took.items():
                    seconds.setdefault((mode, name), []).append(value)
                print(
                    f"{mode} {round_ + 1}:",
                    {name: round(value, 2) for name, value in took.items()},
                    flush=True,
                )
    sizes = {"1 MB down": 1e6, "1 MB up": 1e6, "100 kB up": 1e5, "10 x 100 kB down": 1e6}
    rows, results = [], []
    for (mode, name), values in seconds.items():
        summary: dict[str, Any] = {"mode": mode, "work": name, "seconds": spread(values)}
        rate = sizes[name] / median(values) / 1000 if name in sizes else None
        summary["kb_per_s"] = rate
        summary["target_kb_per_s"] = TARGETS.get((mode, name))
        results.append(summary)
        rows.append(
            (
                f"{name}, {mode}",
                round(median(values), 2),
                round(min(values), 2),
                round(max(values), 2),
                "-" if rate is None else round(rate),
                TARGETS.get((mode, name), "-"),
            )
        )
    print(table(("work", "median s", "min", "max", "kB/s", "goal"), rows))
    print_gaps(gaps)
    write(arguments.json, {"benchmark": "transfer", "results": results, "gaps": gaps, "failures": failures})


if __name__ == "__main__":
    main()
