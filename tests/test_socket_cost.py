from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_socket_cost.py"


@pytest.mark.long
@pytest.mark.interop
@pytest.mark.timeout(400)
def test_what_a_socket_costs_stays_in_proportion_to_the_kernels(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    subprocess.run([sys.executable, str(BENCHMARK), "--json", str(report)], check=True, timeout=380)
    measured = json.loads(report.read_text())
    missed = [row for kind in ("threads", "gevent") for row in measured[kind] if not row["kept"]]
    assert not missed
