"""No decoder raises anything but WireError, whatever comes; a short form of fuzz/fuzz_decoders.py."""

from __future__ import annotations

import random
import time

import pytest
from support.decoders import TARGETS, THROUGH, decoders, mutated, one, seeds

#: Inputs for each decoder.
INPUTS = 1000


def test_every_decoder_is_a_target_or_reached_through_one() -> None:
    found = set(decoders())
    assert found - TARGETS.keys() - THROUGH.keys() == set()
    assert (TARGETS.keys() | THROUGH.keys()) - found == set()
    assert set(THROUGH.values()) <= TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_decoder_raises_wire_errors_only(name: str) -> None:
    rng = random.Random(name)
    target, known = TARGETS[name], seeds()
    for data in (
        b"",
        b"\0",
        b"{}",
        b"[]",
        b"null",
        b"\xff" * 3000,
        b"[" * 3000,
        b"9" * 5000,
        b'{"a":' * 2000,
    ):
        one(target, data)
    slowest = 0.0
    for _ in range(INPUTS):
        data = rng.choice(known)
        if rng.random() < 0.8:
            data = mutated(data, rng)
        began = time.process_time()
        one(target, data)
        slowest = max(slowest, time.process_time() - began)
    assert slowest < 2.0
