from __future__ import annotations

import random
from typing import Any

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.replies import ReplyKeys, SenderTags
from smolmix_sync.mixnet.settings import TrafficSettings

BOB = Recipient(bytes([1]) * 32, bytes(32), bytes(32))
CAROL = Recipient(bytes([2]) * 32, bytes(32), bytes(32))


def keys(**settings: Any) -> ReplyKeys:
    return ReplyKeys(TrafficSettings(**settings))


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def give(table: ReplyKeys, first: int, count: int, now: float, recipient: Recipient = BOB) -> None:
    for number in range(first, first + count):
        table.add(digest(number), bytes([number % 256]) * 16, recipient, now)


def test_a_key_works_once_and_names_whom_the_surb_was_given_to() -> None:
    table = keys()
    give(table, 0, 2, 5.0)
    found = table.pop(digest(1), 6.0)
    assert found is not None
    assert (found.key, found.recipient, found.sent_at) == (b"\1" * 16, BOB, 5.0)
    assert table.pop(digest(1), 6.0) is None
    assert table.pop(bytes(31) + b"x", 6.0) is None
    assert "x01" not in repr(found)


def test_keys_go_after_their_age() -> None:
    table = keys(reply_key_age=100.0)
    assert table.next_deadline() is None
    give(table, 0, 2, 0.0)
    give(table, 2, 1, 50.0)
    assert table.next_deadline() == 100.0
    table.handle_deadline(100.0)
    assert len(table) == 1
    assert table.outstanding(BOB, 100.0) == 1
    assert table.next_deadline() == 150.0


def test_too_many_keys_push_out_the_oldest() -> None:
    table = keys(max_reply_keys=10)
    give(table, 0, 12, 0.0)
    assert len(table) == 10
    assert table.pop(digest(1), 0.0) is None
    assert table.pop(digest(2), 0.0) is not None
    assert table.outstanding(BOB, 0.0) == 9


def test_the_stock_is_what_was_given_less_what_came_back() -> None:
    table = keys()
    assert table.outstanding(BOB, 0.0) == 0
    give(table, 0, 20, 0.0)
    give(table, 100, 5, 0.0, CAROL)
    for number in range(7):
        table.pop(digest(number), 1.0)
    assert table.outstanding(BOB, 1.0) == 13
    assert table.outstanding(CAROL, 1.0) == 5


def test_surbs_passed_over_for_long_are_taken_for_lost_but_still_work() -> None:
    table = keys(surb_spent_after=5.0)
    give(table, 0, 10, 0.0)
    give(table, 10, 10, 6.0)
    for number in range(1, 10):  # 0 was lost on its way back
        table.pop(digest(number), 7.0)
    assert table.outstanding(BOB, 20.0) == 11  # it might have arrived after those that were given with it
    table.pop(digest(10), 21.0)
    assert table.outstanding(BOB, 25.9) == 10
    assert table.outstanding(BOB, 26.1) == 9
    assert table.pop(digest(0), 27.0) is not None
    assert table.outstanding(BOB, 27.0) == 9


def test_the_estimate_does_not_drift_however_many_replies_are_lost() -> None:
    table, rng = keys(max_reply_keys=1000), random.Random(1)
    given, held = 0, list[int]()
    for step in range(6000):
        now = step * 0.01
        if len(held) < 60:
            give(table, given, 17, now)
            held.extend(range(given, given + 17))
            given += 17
        number = held.pop(min(len(held) - 1, rng.randrange(20)))  # they overtake each other
        if rng.random() > 0.05:
            table.pop(digest(number), now)
    estimate = table.outstanding(BOB, 60.0)
    assert len(held) <= estimate < len(held) + 100 * 0.05 * 12
    assert len(table._stocks[BOB].marks) < 100


def test_after_a_key_rotation_nothing_counts_as_stock() -> None:
    table = keys()
    give(table, 0, 5, 0.0)
    table.discount()
    assert table.outstanding(BOB, 0.0) == 0
    assert table.pop(digest(0), 0.0) is not None
    give(table, 5, 3, 1.0)
    assert table.outstanding(BOB, 1.0) == 3


def test_the_stock_of_one_recipient_can_be_written_off_alone() -> None:
    table = keys()
    give(table, 0, 5, 0.0)
    table.discount(Recipient(bytes([2]) * 32, bytes(32), bytes(32)))
    assert table.outstanding(BOB, 0.0) == 5
    table.discount(BOB)
    assert table.outstanding(BOB, 0.0) == 0
    assert table.pop(digest(0), 0.0) is not None


def test_a_forgotten_recipient_leaves_nothing_behind() -> None:
    table = keys()
    give(table, 0, 5, 0.0)
    give(table, 10, 5, 0.0, CAROL)
    table.forget(BOB)
    assert len(table) == 5
    assert table.outstanding(BOB, 0.0) == 0
    assert table.outstanding(CAROL, 0.0) == 5
    table.forget(BOB)


def test_recipients_with_stock_are_bounded() -> None:
    table = keys(max_recipients=2)
    recipients = [Recipient(bytes([n]) * 32, bytes(32), bytes(32)) for n in range(3)]
    for index, recipient in enumerate(recipients):
        give(table, index, 1, 0.0, recipient)
    assert [table.outstanding(recipient, 0.0) for recipient in recipients] == [0, 1, 1]
    assert table.pop(digest(0), 0.0) is not None
    table.handle_deadline(1e9)
    assert len(table) == 0


def test_each_recipient_has_one_tag_until_it_is_forgotten() -> None:
    tags = SenderTags(2, random.Random(1).randbytes)
    assert BOB not in tags
    tag = tags.of(BOB)
    assert tags.of(BOB) == tag
    assert tags.of(CAROL) != tag
    tags.of(BOB)
    tags.of(Recipient(bytes(32), bytes(32), bytes(32)))  # one too many: CAROL was unused the longest
    assert BOB in tags
    assert CAROL not in tags
    tags.forget(BOB)
    assert tags.of(BOB) != tag
