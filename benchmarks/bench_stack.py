"""The TCP stack alone: CPU per segment, and goodput on the simulated mixnet.

    python benchmarks/bench_stack.py [--quick] [--json FILE]

The simulator needs no network and no clock, so its times are exact; CPU is
given in microseconds and relative to spec/netstack.md section 8, both counted
in checksums of 1460 octets.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median
from typing import Any

from _report import ROOT, add_output, environment, table, write

sys.path.insert(0, str(ROOT / "tests"))

from support.netsim_cpu import REFERENCE_US, measure
from support.netsim_scenarios import REFERENCE, SCENARIOS, simulate

SEEDS = (1, 2, 3)
QUICK = ("D6", "D1", "U5", "U1")


def cpu() -> list[dict[str, Any]]:
    """Measure the hot paths and print them."""
    unit, costs = measure()
    rows = [(cost.name, cost.microseconds, REFERENCE_US[cost.name], cost.ratio) for cost in costs]
    print(f"\ncalibration: {unit:.2f} us per checksum of 1460 octets")
    print(table(("operation", "us", "reference us", "ratio after calibration"), rows))
    return [{"operation": name, "us": us, "ratio": ratio} for name, us, _, ratio in rows]


def goodput(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Run scenarios and print them."""
    results: list[dict[str, Any]] = []
    for name in names:
        scenario = SCENARIOS[name]
        for (hop, loss), reference in REFERENCE[name].items():
            start = time.process_time()
            runs = [simulate(scenario, seed, hop=hop / 1000, loss=loss / 100) for seed in SEEDS]
            seconds = median(run.seconds for run in runs)
            octets = scenario.count * scenario.size
            results.append(
                {
                    "scenario": name,
                    "title": scenario.title,
                    "hop_ms": hop,
                    "loss_percent": loss,
                    "seconds": [round(run.seconds, 3) for run in runs],
                    "reference": list(reference),
                    "ratio": seconds / median(reference),
                    "kib_per_s": octets / seconds / 1024,
                    "octets_per_sphinx_packet": octets
                    / median((run.up_packets if scenario.up else run.down_packets) for run in runs),
                    "up_packets": int(median(run.up_packets for run in runs)),
                    "retransmissions": int(
                        median(run.retransmissions + run.server_retransmissions for run in runs)
                    ),
                    "cpu_s_per_mib": (time.process_time() - start) / 3 / octets * 2**20,
                }
            )
    rows = [
        (
            f"{r['scenario']} {r['title']}",
            f"{r['hop_ms']}/{r['loss_percent']}%",
            round(median(r["seconds"]), 2),
            r["ratio"],
            round(r["kib_per_s"]),
            round(r["octets_per_sphinx_packet"]),
            r["up_packets"],
            r["retransmissions"],
            r["cpu_s_per_mib"],
        )
        for r in results
    ]
    head = ("scenario", "hop/loss", "s", "of reference", "KiB/s", "octets/Sphinx", "up", "rtx", "CPU s/MiB")
    print("\nmedians of seeds 1, 2, 3; CPU is both ends and the simulator")
    print(table(head, rows))
    return results


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the small scenarios only")
    parser.add_argument("--no-cpu", action="store_true")
    add_output(parser)
    arguments = parser.parse_args()
    print(environment())
    results: dict[str, Any] = {"benchmark": "stack"}
    if not arguments.no_cpu:
        results["cpu"] = cpu()
    results["goodput"] = goodput(QUICK if arguments.quick else tuple(SCENARIOS))
    write(arguments.json, results)


if __name__ == "__main__":
    main()
