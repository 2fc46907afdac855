"""The fuzz target of the TCP input path, fed by hypothesis: it must at least run."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TARGET = Path(__file__).resolve().parents[2] / "fuzz" / "fuzz_tcp.py"
pytestmark = pytest.mark.skipif(not TARGET.exists(), reason="the fuzz targets are not part of the wheel")


@pytest.fixture(scope="module")
def one_input() -> Callable[[bytes], None]:
    spec = importlib.util.spec_from_file_location("fuzz_tcp", TARGET)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run: Callable[[bytes], None] = module.one_input
    return run


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=300))
def test_any_program_of_segments_keeps_the_invariants(
    one_input: Callable[[bytes], None], data: bytes
) -> None:
    one_input(data)


@pytest.mark.parametrize("seed", range(3))
def test_long_random_programs_keep_the_invariants(one_input: Callable[[bytes], None], seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        one_input(rng.randbytes(600))
