"""What every benchmark's report has in common: where, when and how it was run, tables, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

__all__ = ["ROOT", "add_output", "environment", "percentile", "spread", "table", "write"]


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the option every benchmark has."""
    parser.add_argument("--json", type=Path, help="also write the results there")


def environment() -> dict[str, Any]:
    """Return commit, interpreter, machine and command."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "commit": commit or "unknown",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *(os.path.relpath(a) if os.path.isabs(a) else a for a in sys.argv)]),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value *share* of the way up the sorted *values*."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least, greatest and count."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned text table; numbers to the right."""
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(head), *cells]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, cells)])


def write(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write *results* with the environment to *path*, if there is one."""
    if path is not None:
        path.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")
