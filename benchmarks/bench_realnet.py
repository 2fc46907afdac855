"""Transfers over real nym-nodes, ours beside the real smolmix in turns.

    cargo build --release --locked --manifest-path tests/interop/smolmix_peer/Cargo.toml
    NYM_NODE=/path/to/nym-node python benchmarks/bench_realnet.py [--repetitions 7] [--json FILE]

Needs root, a nym-node binary and the built peer (nym-sdk, nym-smol-core and the packet codec of the nym-smolmix
release that its lock file pins, with nym-smolmix's settings). Every repetition of a mode sets up a tunnel of each,
lets it settle, and runs the same transfers; the two take turns, so a busy minute of the machine falls on both. The
clock runs from the connect to the last confirmed octet. What our shaper sent is recorded beside
(bench_transfer.py): in paced mode the gaps must stay exponential with a mean of 20 ms.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from _report import ROOT, environment, spread, table, write
from bench_transfer import TARGETS, print_gaps, turns_parser

sys.path.insert(0, str(ROOT / "tests"))

from interop import realnet

HOST = "198.51.100.10"
SITE = f"http://{HOST}"
#: Transfers by the names of bench_transfer.py: octets, and the peer's step. Its upload of a megabyte takes minutes.
WORK = {
    "1 MB down": (1e6, f"get={SITE}/bytes/1000000"),
    "1 MB up": (1e6, None),
    "100 kB up": (1e5, f"upload={SITE}/upload,100000"),
    "10 x 100 kB down": (1e6, f"parallel=10,{SITE}/bytes/100000"),
    "first octet": (0, f"get={SITE}/bytes/1"),
}


def peer_program() -> Path:
    """Return where cargo put the peer."""
    crate = ROOT / "tests" / "interop" / "smolmix_peer"
    return Path(os.environ.get("CARGO_TARGET_DIR", crate / "target")) / "release" / "smolmix_peer"


def ours(net: realnet.RealNet, mode: str, settle: float) -> tuple[dict[str, float], dict[str, float]]:
    """Run the matrix once; return seconds by name, and the statistics of the send gaps."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            net.inside(
                sys.executable, str(ROOT / "benchmarks" / "bench_transfer.py"), "--repetitions", "1",
                "--modes", mode, "--settle", str(settle), "--nym-api", realnet.API, "--host", HOST,
                "--json", str(report), "--set", f"preferred_gateway={net.nodes['entry']['identity']}",
            ),
            check=True, stdout=subprocess.DEVNULL, env=net.environment(), timeout=400,
        )  # fmt: skip
        told = json.loads(report.read_text())
    if told["failures"]:
        raise RuntimeError(told["failures"][0])
    gaps = told["gaps"][mode]
    return {row["work"]: row["seconds"]["median"] for row in told["results"]}, gaps[0] if gaps else {}


def theirs(net: realnet.RealNet, mode: str, settle: float) -> dict[str, float]:
    """Run what the real smolmix can of the matrix; return seconds by name."""
    steps = {step: name for name, (_, step) in WORK.items() if step is not None}
    command = [
        str(peer_program()), "--nym-api", realnet.API, "--gateway", net.nodes["entry"]["identity"],
        "--ipr", net.nodes["exit"]["ipr"], *(["--unpaced"] if mode == "unpaced" else []),
        f"idle={settle}", *steps,
    ]  # fmt: skip
    done = subprocess.run(
        net.inside(*command),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=net.environment(),
        timeout=700,
    )
    seconds = {}
    for line in map(json.loads, done.stdout.decode().splitlines()):
        if "error" in line:
            print(f"the peer's {line['step']}: {line['error']}", flush=True)
        elif line["step"] == "setup":
            seconds["set-up"] = line["seconds"]
        elif line["step"] in steps:
            name = steps[line["step"]]
            seconds[name] = line["first_byte"] if name == "first octet" else line["seconds"]
    return seconds


def main() -> None:
    """Measure and print."""
    parser = turns_parser(__doc__)
    arguments = parser.parse_args()
    problem = realnet.missing() or (None if peer_program().exists() else f"{peer_program()} is not built")
    if problem is not None:
        parser.error(problem)
    print(environment(), flush=True)
    seconds: dict[tuple[str, str, str], list[float]] = {}
    gaps: dict[str, list[dict[str, float]]] = {mode: [] for mode in arguments.modes}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder, realnet.RealNet(Path(folder)) as net:
        for round_ in range(arguments.repetitions):
            for mode in arguments.modes:
                for who in ("ours", "theirs"):
                    try:
                        if who == "ours":
                            took, trace = ours(net, mode, arguments.settle)
                            gaps[mode] += [trace] if trace else []
                        else:
                            took = theirs(net, mode, arguments.settle)
                    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                        failures.append(f"{mode} {round_} {who}: {error}")
                        print(failures[-1], flush=True)
                        continue
                    for name, value in took.items():
                        seconds.setdefault((mode, name, who), []).append(value)
                    rounded = {name: round(value, 2) for name, value in took.items()}
                    print(f"{mode} {round_ + 1}, {who}: {rounded}", flush=True)
    results, rows = [], []
    for mode in arguments.modes:
        for name in ("set-up", *WORK):
            size = WORK[name][0] if name in WORK else 0
            row: dict[str, Any] = {"mode": mode, "work": name, "target_kb_per_s": TARGETS.get((mode, name))}
            shown: list[object] = [f"{name}, {mode}"]
            for who in ("ours", "theirs"):
                values = seconds.get((mode, name, who), [])
                row[who] = spread(values) if values else None
                row[f"{who}_kb_per_s"] = size / median(values) / 1000 if size and values else None
                middle = median(values) if values else 0.0
                shown += [
                    round(middle, 2) if values else "-",
                    f"{min(values):.2f}-{max(values):.2f}" if values else "-",
                    round(size / middle / 1000) if size and values else "-",
                ]
            results.append(row)
            rows.append((*shown, row["target_kb_per_s"] or "-"))
    print(table(("work", "ours s", "range", "kB/s", "smolmix s", "range", "kB/s", "goal"), rows))
    print_gaps(gaps)
    write(arguments.json, {"benchmark": "realnet", "results": results, "gaps": gaps, "failures": failures})


if __name__ == "__main__":
    main()
