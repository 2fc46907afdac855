from __future__ import annotations

from pathlib import Path

import pytest
from support.benchmarks import measured


@pytest.mark.long
@pytest.mark.interop
@pytest.mark.timeout(400)
def test_what_a_socket_costs_stays_in_proportion_to_the_kernels(tmp_path: Path) -> None:
    found = measured("bench_socket_cost", tmp_path, timeout=380)
    missed = [row for kind in ("threads", "gevent") for row in found[kind] if not row["kept"]]
    assert not missed
