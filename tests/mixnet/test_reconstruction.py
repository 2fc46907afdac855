from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.fragments import FragmentHeader, split
from smolmix_sync.mixnet.reconstruction import Reconstructor
from smolmix_sync.mixnet.settings import TrafficSettings


def reconstructor(**settings: Any) -> Reconstructor:
    return Reconstructor(TrafficSettings(**settings))


def fragment(
    set_id: int, total: int, position: int, linked: int | None = None, payload: bytes = b"x"
) -> bytes:
    return FragmentHeader(set_id, total, position, linked).encode() + payload


def full_set(set_id: int, previous: int | None, following: int | None) -> list[bytes]:
    links = {1: previous, 255: following}
    return [fragment(set_id, 255, position, links.get(position)) for position in range(1, 256)]


@given(st.integers(1, 1200), st.randoms(use_true_random=False), st.floats(0, 0.5))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@example(1, __import__("random").Random(0), 0.0)
def test_any_order_with_duplicates_gives_each_message_once(length: int, rng: Any, again: float) -> None:
    messages = [bytes([index]) * (length + index) for index in range(3)]
    ids = count(1)
    arriving = [part for message in messages for part in split(message, 30, ids.__next__)]
    arriving += [part for part in arriving if rng.random() < again]
    rng.shuffle(arriving)
    table = reconstructor()
    found = []
    for now, part in enumerate(arriving):
        message = table.insert_untrusted(None, part, float(now))
        if message is not None:
            found.append(message)
    assert sorted(found) == sorted(messages)
    assert table.pending == 0


@pytest.mark.parametrize("seed", range(3))
def test_linked_sets_are_joined_whatever_order_they_come_in(seed: int) -> None:
    import random

    rng = random.Random(seed)
    message = rng.randbytes(24 * 255 * 3)
    parts = split(message, 24, count(1).__next__)
    assert len({FragmentHeader.decode_untrusted(part)[0].set_id for part in parts}) > 3
    rng.shuffle(parts)
    table = reconstructor()
    results = [table.insert_untrusted(None, part, 0.0) for part in parts]
    assert results[:-1] == [None] * (len(parts) - 1)
    assert results[-1] == message
    assert table.pending == 0


@given(st.lists(st.binary(max_size=20), max_size=30))
def test_garbage_raises_only_wire_error(fragments: list[bytes]) -> None:
    table = reconstructor(max_fragment_sets=4)
    for data in fragments:
        try:
            table.insert_untrusted(None, b"\x80" + data, 0.0)
        except WireError:
            pass
        assert table.pending <= 4


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4)), max_size=60
    )
)
def test_hostile_headers_raise_only_wire_error_and_end_in_no_loop(headers: list[tuple[int, ...]]) -> None:
    table = reconstructor()
    for set_id, total, position, linked in headers:
        try:
            table.insert_untrusted(None, fragment(set_id, total, position, linked or None), 0.0)
        except WireError:
            pass


def test_a_fragment_that_disagrees_about_the_size_of_its_set_is_dropped() -> None:
    table = reconstructor()
    table.insert_untrusted(None, fragment(1, 2, 1), 0.0)
    with pytest.raises(WireError, match="disagree"):
        table.insert_untrusted(None, fragment(1, 255, 255), 0.0)
    assert table.insert_untrusted(None, fragment(1, 2, 2), 0.0) == b"xx"
    assert table.conflicts == 1


def test_a_cycle_of_linked_sets_is_dropped_for_good() -> None:
    table = reconstructor()
    parts = full_set(1, 2, 2) + full_set(2, 1, 1)
    for part in parts[:-1]:
        assert table.insert_untrusted(None, part, 0.0) is None
    with pytest.raises(WireError, match="contradict"):
        table.insert_untrusted(None, parts[-1], 0.0)
    assert table.pending == 0
    assert table.insert_untrusted(None, parts[0], 0.0) is None
    assert table.pending == 0


@pytest.mark.parametrize(
    "parts",
    [
        [*full_set(1, None, 2), fragment(2, 1, 1, 3)],  # the second set names another first one
        [fragment(2, 1, 1, 3), *full_set(1, None, 2)],  # and is there before
        [fragment(2, 1, 1, 1), *full_set(1, None, None)],  # the first set has no next one
        [fragment(2, 1, 1, 1), *full_set(1, None, 3)],  # or names another
        [*full_set(1, None, 2), fragment(2, 1, 1)],  # the second set has no previous one
    ],
)
def test_links_that_contradict_each_other_never_give_a_message(parts: list[bytes]) -> None:
    table = reconstructor()
    found = []
    for part in parts:
        try:
            message = table.insert_untrusted(None, part, 0.0)
        except WireError:
            continue
        if message is not None:
            found.append(message)
    assert not [message for message in found if len(message) > 255]


def test_sources_do_not_mix() -> None:
    table = reconstructor()
    assert table.insert_untrusted("a", fragment(1, 2, 1, payload=b"a"), 0.0) is None
    assert table.insert_untrusted("b", fragment(1, 2, 2, payload=b"b"), 0.0) is None
    assert table.insert_untrusted("a", fragment(1, 2, 2, payload=b"a"), 0.0) == b"aa"
    assert table.insert_untrusted("b", fragment(1, 2, 1, payload=b"b"), 0.0) == b"bb"


def test_a_finished_set_is_remembered_only_so_long() -> None:
    table = reconstructor(max_recent_sets=2)
    assert table.insert_untrusted(None, fragment(1, 1, 1), 0.0) == b"x"
    assert table.insert_untrusted(None, fragment(1, 1, 1), 0.0) is None
    assert table.duplicates == 1
    for set_id in (2, 3):
        table.insert_untrusted(None, fragment(set_id, 1, 1), 0.0)
    assert table.insert_untrusted(None, fragment(1, 1, 1), 0.0) == b"x"


def test_incomplete_sets_go_after_their_time_and_the_deadline_moves_on() -> None:
    table = reconstructor()
    assert table.next_deadline() is None
    table.insert_untrusted(None, fragment(1, 2, 1), 0.0)
    table.insert_untrusted(None, fragment(2, 2, 1), 100.0)
    assert table.next_deadline() == 1800.0
    table.handle_deadline(1799.0)
    assert table.pending == 2
    table.handle_deadline(1800.0)
    assert (table.pending, table.expired) == (1, 1)
    assert table.next_deadline() == 1900.0
    table.insert_untrusted(None, fragment(2, 2, 1), 1850.0)  # even a duplicate shows that the sender is there
    assert table.next_deadline() == 3650.0
    table.handle_deadline(3650.0)
    assert table.pending == 0
    assert table.next_deadline() is None


def test_sweeps_are_at_least_their_interval_apart() -> None:
    table = reconstructor()
    for number in range(3):
        table.insert_untrusted(None, fragment(1 + number, 2, 1), float(number))
    table.handle_deadline(1800.0)
    assert table.next_deadline() == 1810.0
    table.handle_deadline(1810.0)
    assert table.pending == 0


def test_too_many_sets_push_out_the_one_untouched_the_longest() -> None:
    table = reconstructor(max_fragment_sets=3)
    for set_id in (1, 2, 3):
        table.insert_untrusted(None, fragment(set_id, 2, 1), 0.0)
    table.insert_untrusted(None, fragment(4, 2, 1), 0.0)
    assert (table.pending, table.evicted) == (3, 1)
    assert table.insert_untrusted(None, fragment(2, 2, 2), 0.0) == b"xx"
    assert table.insert_untrusted(None, fragment(1, 2, 2), 0.0) is None


def test_memory_is_bounded_whatever_the_fragments_hold() -> None:
    table = reconstructor(max_reassembly_bytes=10_000)
    for set_id in range(1, 2000):
        table.insert_untrusted(None, fragment(set_id, 255, 1, payload=bytes(set_id % 300)), 0.0)
        assert table._bytes <= 10_000
    for position in range(1, 255):
        table.insert_untrusted(None, fragment(9999, 255, position, payload=bytes(1000)), 0.0)
        assert table._bytes <= 10_000


def test_a_message_above_the_limit_is_dropped() -> None:
    table = reconstructor(max_message_size=10)
    with pytest.raises(WireError, match="too long"):
        table.insert_untrusted(None, fragment(1, 1, 1, payload=bytes(11)), 0.0)
    assert table.insert_untrusted(None, fragment(1, 1, 1), 0.0) is None
