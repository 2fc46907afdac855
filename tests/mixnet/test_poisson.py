from __future__ import annotations

import random

import pytest

from smolmix_sync.mixnet.poisson import PoissonSlots


def slots(mean: float = 0.02, **options: float) -> PoissonSlots:
    return PoissonSlots(mean, random.Random(2).randbytes, **options)


def test_nothing_is_due_before_the_start_and_after_the_end() -> None:
    chain = slots()
    assert chain.next_deadline() is None
    assert not chain.take(1e9)
    chain.start(10.0)
    assert chain.next_deadline() is not None
    chain.stop()
    assert chain.next_deadline() is None


def test_a_late_owner_keeps_the_mean_rate() -> None:
    chain = slots()
    chain.start(0.0)
    taken, now = 0, 0.0
    while now < 200.0:
        now += 0.013  # never on time
        while chain.take(now):
            taken += 1
    assert abs(taken - 10_000) < 300


def test_after_a_long_stall_only_the_last_second_is_made_up_for() -> None:
    chain = slots()
    chain.start(0.0)
    taken = 0
    while chain.take(3600.0):
        taken += 1
    assert 20 < taken < 90
    deadline = chain.next_deadline()
    assert deadline is not None
    assert deadline > 3600.0


def test_the_mean_can_be_changed_while_running() -> None:
    chain = slots(mean=1e-6)
    chain.start(0.0)
    chain.mean = 1000.0
    assert chain.take(0.5)
    deadline = chain.next_deadline()
    assert deadline is not None
    assert deadline > 1.0


def test_a_mean_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        slots(mean=0.0)
