"""Draw the figures of docs/performance.rst from the results of the benchmarks.

    python benchmarks/plot.py [--run]

Reads ``benchmarks/results/*.json`` and writes ``docs/performance/*.svg``; with
--run the benchmarks are run first (about fifteen minutes). Plain SVG, written
here: no plotting library is needed to regenerate the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from _report import ROOT

RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "performance"
NAMES = ("stack", "sphinx", "sockets", "socket_cost", "transfer")
#: Drawn if there are results: it needs a nym-node binary, root and the peer that cargo builds.
ELSEWHERE = ("realnet",)
_COLOURS = ("#3b6ea5", "#c9803a", "#7a9a5a")
_WIDTH, _LEFT, _BAR, _GAP = 720, 210, 16, 12


def bars(
    title: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float | None]]],
    unit: str,
    note: str = "",
) -> str:
    """Return a horizontal bar chart, one group per label and one bar per series."""
    top = max((value for _, values in series for value in values if value is not None), default=1.0)
    scale = (_WIDTH - _LEFT - 90) / top
    row = len(series) * _BAR + _GAP
    height = 64 + len(labels) * row + (18 if note else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    x = _LEFT
    for index, (name, _) in enumerate(series):
        parts.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{_COLOURS[index]}"/>')
        parts.append(f'<text x="{x + 15}" y="39">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    for position, label in enumerate(labels):
        y = 52 + position * row
        middle = y + len(series) * _BAR / 2 + 4
        parts.append(f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>')
        for index, (_, values) in enumerate(series):
            value = values[position]
            if value is None:
                continue
            width = max(1.0, value * scale)
            at = y + index * _BAR
            parts.append(
                f'<rect x="{_LEFT}" y="{at}" width="{width:.1f}" height="{_BAR - 2}" fill="{_COLOURS[index]}"/>'
            )
            parts.append(f'<text x="{_LEFT + width + 5:.1f}" y="{at + 11}">{value:.3g} {escape(unit)}</text>')
    if note:
        parts.append(f'<text x="12" y="{height - 8}" fill="#555555">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _origin(results: dict[str, Any]) -> str:
    environment = results["environment"]
    return f"{environment['python']}, {environment['machine']}, load {environment['load']}, {environment['date'][:10]}"


def stack(results: dict[str, Any]) -> dict[str, str]:
    """Draw CPU per segment, and simulated times against their references."""
    cpu = results["cpu"]
    figures = {
        "stack-cpu": bars(
            "CPU of the stack's hot paths",
            [entry["operation"] for entry in cpu],
            [("microseconds", [entry["us"] for entry in cpu])],
            "us",
            _origin(results),
        )
    }
    for loss in (0, 1):
        rows = [
            entry for entry in results["goodput"] if entry["loss_percent"] == loss and entry["hop_ms"] == 15
        ]
        figures[f"stack-goodput-{loss}"] = bars(
            f"Simulated mixnet, 15 ms per hop, {loss} % loss",
            [f"{entry['scenario']} {entry['title']}" for entry in rows],
            [
                ("now", [median(entry["seconds"]) for entry in rows]),
                ("reference", [median(entry["reference"]) for entry in rows]),
            ],
            "s",
            "medians of three seeds; shorter is better",
        )
    return figures


def sphinx(results: dict[str, Any]) -> dict[str, str]:
    """Draw Sphinx operations beside the Rust crate's."""
    ours, rust = results["ours"], results["rust"]
    return {
        "sphinx": bars(
            "Sphinx packets, four hops",
            list(ours),
            [
                ("smolmix_sync", list(ours.values())),
                ("sphinx-packet 0.6.0", [rust.get(name) for name in ours]),
            ],
            "us",
            _origin(results),
        )
    }


def sockets(results: dict[str, Any]) -> dict[str, str]:
    """Draw the wake-up latency."""
    wake = results["wake_up_us"]
    return {
        "sockets": bars(
            "Round trip of one octet between two threads, over loopback",
            ["median", "99th percentile"],
            [
                ("MixSocket", [wake["mix"]["p50"], wake["mix"]["p99"]]),
                ("kernel TCP", [wake["kernel"]["p50"], wake["kernel"]["p99"]]),
            ],
            "us",
            _origin(results),
        )
    }


def socket_cost(results: dict[str, Any]) -> dict[str, str]:
    """Draw the ratio of MixSockets to kernel sockets beside what is allowed."""
    figures = {}
    for kind in ("threads", "gevent"):
        rows = results[kind]
        figures[f"socket-cost-{kind}"] = bars(
            f"MixSocket over kernel TCP, divided by a kernel socket, {kind}",
            [entry["figure"] for entry in rows],
            [
                ("measured", [entry["ratio"] for entry in rows]),
                ("allowed", [entry["limit"] for entry in rows]),
            ],
            "x",
            f"MB/s: at least the second; others: at most. {_origin(results)}",
        )
    return figures


def realnet(results: dict[str, Any]) -> dict[str, str]:
    """Draw goodput over real nodes, ours beside the real smolmix."""
    figures = {}
    for mode in ("paced", "unpaced"):
        rows = [entry for entry in results["results"] if entry["mode"] == mode and entry["ours_kb_per_s"]]
        if rows:
            figures[f"realnet-{mode}"] = bars(
                f"Through a tunnel over real nym-nodes, {mode}",
                [entry["work"] for entry in rows],
                [
                    ("smolmix_sync", [entry["ours_kb_per_s"] for entry in rows]),
                    ("nym-smolmix 1.21.6", [entry["theirs_kb_per_s"] for entry in rows]),
                    ("goal", [entry["target_kb_per_s"] for entry in rows]),
                ],
                "kB/s",
                f"medians of {rows[0]['ours']['n']} runs in turns; {_origin(results)}",
            )
    return figures


def transfer(results: dict[str, Any]) -> dict[str, str]:
    """Draw goodput through a tunnel beside the goals."""
    figures = {}
    for mode in ("paced", "unpaced"):
        rows = [entry for entry in results["results"] if entry["mode"] == mode and entry["kb_per_s"]]
        if rows:
            figures[f"transfer-{mode}"] = bars(
                f"Through a tunnel on a localnet, {mode}",
                [entry["work"] for entry in rows],
                [
                    ("measured", [entry["kb_per_s"] for entry in rows]),
                    ("goal", [entry["target_kb_per_s"] for entry in rows]),
                ],
                "kB/s",
                f"medians of {rows[0]['seconds']['n']} runs; {_origin(results)}",
            )
    return figures


def main() -> None:
    """Draw what there are results for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="run the benchmarks first")
    arguments = parser.parse_args()
    FIGURES.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in (*NAMES, *ELSEWHERE):
        path: Path = RESULTS / f"{name}.json"
        if arguments.run and name in NAMES:
            command = [sys.executable, f"benchmarks/bench_{name}.py", "--json", str(path.relative_to(ROOT))]
            subprocess.run(command, cwd=ROOT, check=True, timeout=1800)
        if not path.exists():
            print(f"no {path.name}: run bench_{name}.py --json {path.relative_to(ROOT)}")
            continue
        for figure, svg in globals()[name](json.loads(path.read_text())).items():
            (FIGURES / f"{figure}.svg").write_text(svg)
            print(f"docs/performance/{figure}.svg")


if __name__ == "__main__":
    main()
