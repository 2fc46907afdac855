from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.ipr.resequencer import Resequencer


def make(hold: float = 0.06, limit: int = 256) -> Resequencer[int]:
    return Resequencer(hold, limit)


def test_items_in_order_pass_at_once() -> None:
    queue = make()
    assert [queue.receive(n, n, 0.0) for n in (1, 2, 3)] == [[1], [2], [3]]
    assert queue.deadline() is None


def test_an_overtaking_item_waits_for_the_one_before() -> None:
    queue = make()
    assert queue.receive(2, 2, 0.0) == []
    assert queue.receive(4, 4, 0.01) == []
    assert len(queue) == 2
    assert queue.deadline() == 0.06
    assert queue.receive(1, 1, 0.02) == [1, 2]
    assert queue.deadline() == 0.01 + 0.06
    assert queue.receive(3, 3, 0.02) == [3, 4]


def test_a_gap_is_given_up_after_the_hold() -> None:
    queue = make()
    queue.receive(3, 3, 0.0)
    queue.receive(2, 2, 0.03)
    queue.receive(4, 4, 0.05)
    queue.receive(6, 6, 0.05)
    assert queue.expire(0.05) == []
    # 3 expires; 2 goes before it, 4 right behind it, 6 has its own gap.
    assert queue.expire(0.06) == [2, 3, 4]
    assert queue.receive(1, 1, 0.07) == [1]
    assert queue.receive(5, 5, 0.07) == [5, 6]


def test_old_and_doubled_items_are_never_dropped() -> None:
    queue = make()
    assert queue.receive(1, 1, 0.0) == [1]
    assert queue.receive(1, 10, 0.0) == [10]
    assert queue.receive(0, 0, 0.0) == [0]
    assert queue.receive(3, 3, 0.0) == []
    assert queue.receive(3, 30, 0.0) == [30]


def test_no_hold_passes_everything() -> None:
    queue = make(hold=0.0)
    assert [queue.receive(n, n, 0.0) for n in (5, 3, 9)] == [[5], [3], [9]]


def test_a_full_queue_releases_its_lowest_run() -> None:
    queue = make(limit=3)
    for number in (3, 4, 6):
        assert queue.receive(number, number, 0.0) == []
    assert queue.receive(8, 8, 0.0) == [3, 4]
    assert len(queue) == 2


def test_numbers_wrap_past_zero() -> None:
    queue = make()
    queue.receive(2**32 - 1025, 0, 0.0)
    assert queue.receive(2**32 - 2, -2, 0.0) == []
    assert queue.expire(1.0) == [-2]
    assert queue.receive(1, 1, 1.0) == []
    assert queue.receive(2**32 - 1, -1, 1.0) == [-1, 1]


def test_an_exit_that_counts_anew_is_followed() -> None:
    queue = make()
    assert queue.receive(5000, 0, 0.0) == [0]
    assert queue.receive(5002, 2, 0.0) == []
    assert queue.receive(1, 10, 0.0) == [2, 10]
    assert queue.receive(2, 20, 0.0) == [20]


def test_a_number_used_elsewhere_leaves_no_gap() -> None:
    queue = make()
    assert queue.receive(2, 2, 0.0) == []
    assert queue.skip(5) == []
    assert queue.skip(1) == [2]


@given(st.permutations(list(range(1, 40))), st.lists(st.integers(0, 50), min_size=39, max_size=39))
def test_everything_comes_out_once_and_a_short_detour_in_order(order: list[int], gaps: list[int]) -> None:
    queue = make()
    now, out, arrived = 0.0, [], {}
    for number, gap in zip(order, gaps, strict=True):
        now += gap / 1000
        while (deadline := queue.deadline()) is not None and deadline <= now:
            late = queue.expire(deadline)
            assert late
            assert all(deadline - arrived[item] <= 0.06 + 1e-9 for item in late)
            out += late
        arrived[number] = now
        out += queue.receive(number, number, now)
    out += queue.drain()
    assert sorted(out) == list(range(1, 40))
    if sum(gaps) < 60:
        assert out == list(range(1, 40))
    assert queue.drain() == []
