"""Ten processes that share one daemon against one process with the tunnel to itself, over localnet.

    python benchmarks/bench_daemon.py [--runs 5] [--json FILE]

Both fetch the same number of bodies ten at a time, without pacing, so that the processes and the hand-out of
descriptors are what differs. The two take turns; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import add_output, table, write

from smolmix_sync.daemon import attach
from smolmix_sync.localnet import LocalNet

BODIES, SIZE, AT_ONCE = 40, 50_000, 10

#: A worker process: one body for every line it is sent, with the daemon's tunnel.
WORKER = """
import smolmix_sync
smolmix_sync.patch_all()
import sys, urllib.request
for line in sys.stdin:
    body = urllib.request.urlopen(f"http://www.localnet/bytes/{line.strip()}", timeout=120).read()
    print(len(body), flush=True)
"""

#: The same in one process and threads, with a tunnel of its own.
ALONE = """
import smolmix_sync
smolmix_sync.patch_all()
import concurrent.futures, sys, urllib.request
tunnel = smolmix_sync.connect()

def fetch(size):
    return len(urllib.request.urlopen(f"http://www.localnet/bytes/{size}", timeout=120).read())

threads = concurrent.futures.ThreadPoolExecutor(int(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    count, size = line.split()
    print(*threads.map(fetch, [int(size)] * int(count)), flush=True)
"""


class Workers:
    """Ten processes on one daemon."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self.path = folder / "daemon.sock"
        command = [sys.executable, "-m", "smolmix_sync", "daemon", "--socket", str(self.path)]
        self.daemon = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert self.daemon.stdout is not None
        assert self.daemon.stdout.readline().startswith("ready")
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER], env={**env, "SMOLMIX_DAEMON": str(self.path)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(AT_ONCE)
        ]  # fmt: skip
        self._threads = concurrent.futures.ThreadPoolExecutor(AT_ONCE)

    def _ask(self, process: subprocess.Popen[str], count: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(count):
            process.stdin.write(f"{SIZE}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{SIZE}\n"

    def run(self, count: int) -> float:
        """Fetch *count* bodies; return the seconds it took."""
        began = time.monotonic()
        list(self._threads.map(lambda process: self._ask(process, count // AT_ONCE), self.processes))
        return time.monotonic() - began

    def close(self) -> None:
        """End everything."""
        for process in self.processes:
            process.communicate(timeout=30)
        self.daemon.terminate()
        self.daemon.wait(20)


class Alone:
    """One process with the tunnel to itself."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ALONE, str(AT_ONCE)], env=env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def run(self, count: int) -> float:
        """Fetch *count* bodies; return the seconds it took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        began = time.monotonic()
        self.process.stdin.write(f"{count} {SIZE}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().split() == [str(SIZE)] * count
        return time.monotonic() - began

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=30)


def measure(runs: int) -> dict[str, Any]:
    """Return the throughputs of both in kB/s, their ratio, and the daemon's gateway connections."""
    with LocalNet(set_default=False) as net, tempfile.TemporaryDirectory() as folder:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
        env = {**clean, **net.environment(), "SMOLMIX_PROFILE": "no-cover"}
        workers, alone = Workers(env, Path(folder)), Alone(env)
        try:
            workers.run(AT_ONCE)  # first uses: imports, names
            alone.run(AT_ONCE)
            shared, direct = [], []
            for _ in range(runs):
                shared.append(workers.run(BODIES))
                direct.append(alone.run(BODIES))
            status = attach(workers.path).status()
        finally:
            workers.close()
            alone.close()
    octets = BODIES * SIZE
    return {
        "processes": AT_ONCE,
        "shared_kB_s": octets / statistics.median(shared) / 1000,
        "direct_kB_s": octets / statistics.median(direct) / 1000,
        "ratio": statistics.median(direct) / statistics.median(shared),
        "tunnels": status["tunnels"],
        "reconnects": status["stats"]["reconnects"],
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="batches of each")
    add_output(parser)
    arguments = parser.parse_args()
    result = measure(arguments.runs)
    print(table(["", "value"], [[name, value] for name, value in result.items()]))
    write(arguments.json, {"runs": arguments.runs, **result})


if __name__ == "__main__":
    main()
