from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_daemon.py"


@pytest.mark.long
@pytest.mark.interop
@pytest.mark.timeout(900)
def test_ten_processes_on_one_daemon_are_as_fast_as_one_with_its_own_tunnel(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, str(BENCHMARK), "--runs", "5", "--json", str(report)]
    subprocess.run(command, check=True, timeout=850)
    measured = json.loads(report.read_text())
    assert measured["ratio"] >= 0.85
    assert (measured["tunnels"], measured["reconnects"]) == (1, 0)
