from __future__ import annotations

from pathlib import Path

import pytest
from support.benchmarks import measured


@pytest.mark.long
@pytest.mark.interop
@pytest.mark.timeout(900)
def test_ten_processes_on_one_daemon_are_as_fast_as_one_with_its_own_tunnel(tmp_path: Path) -> None:
    found = measured("bench_daemon", tmp_path, "--runs", "5", timeout=850)
    assert found["ratio"] >= 0.85
    assert (found["tunnels"], found["reconnects"]) == (1, 0)
