"""Benchmarks whose results tests hold against a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def measured(name: str, folder: Path, *options: str, timeout: float) -> dict[str, Any]:
    """Run ``benchmarks/<name>.py`` and return its report, which is written in *folder*."""
    report = folder / "report.json"
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options, "--json", str(report)]
    subprocess.run(command, check=True, timeout=timeout)
    found: dict[str, Any] = json.loads(report.read_text())
    return found
