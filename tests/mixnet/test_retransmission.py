from __future__ import annotations

from typing import Any

import pytest

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.retransmission import Outgoing, PendingAcks
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import PacketSize

BOB = Recipient(bytes([1]) * 32, bytes(32), bytes(32))


def pending(**settings: Any) -> PendingAcks:
    return PendingAcks(TrafficSettings(**settings))


def outgoing(set_id: int, recipient: Recipient | None = BOB) -> Outgoing:
    fragment = (0x80000000 + set_id).to_bytes(4, "big") + b"\1\1\0"
    return Outgoing(fragment, PacketSize.REGULAR, recipient)


def test_the_timer_is_one_and_a_half_times_the_delay_and_a_second_and_a_half() -> None:
    table = pending()
    table.start(outgoing(1), 0.2, 10.0)
    assert table.next_deadline() == pytest.approx(10.0 + 0.3 + 1.5)
    assert table.take_expired(11.7) == []
    assert [entry.identifier for entry in table.take_expired(11.9)] == [b"\0\0\0\1\1"]
    assert table.next_deadline() is None
    assert len(table) == 1  # the ack may still come


def test_an_ack_ends_the_timer_and_a_second_one_does_nothing() -> None:
    table, entry = pending(), outgoing(1)
    table.start(entry, 0.0, 0.0)
    assert entry in table
    assert table.finish(entry.identifier) is entry
    assert entry.done
    assert entry not in table
    assert table.finish(entry.identifier) is None
    assert table.next_deadline() is None


def test_a_restarted_timer_replaces_the_old_one() -> None:
    table, entry = pending(), outgoing(1)
    table.start(entry, 0.0, 0.0)
    table.start(entry, 0.0, 1.0)
    assert table.next_deadline() == 2.5
    assert table.take_expired(2.0) == []
    assert table.take_expired(2.5) == [entry]


def test_pending_packets_are_bounded_and_the_oldest_is_forgotten() -> None:
    table = pending(max_pending_acks=3)
    entries = [outgoing(number) for number in range(1, 6)]
    for entry in entries:
        table.start(entry, 0.0, 0.0)
    assert [entry.done for entry in entries] == [True, True, False, False, False]
    assert (len(table), table.forgotten) == (3, 2)


def test_dead_timers_do_not_pile_up() -> None:
    table = pending()
    for number in range(1, 5000):
        entry = outgoing(number)
        table.start(entry, 0.0, 0.0)
        table.finish(entry.identifier)
    assert len(table._heap) <= 1025


def test_a_forgotten_recipient_leaves_no_timer() -> None:
    table = pending()
    table.start(outgoing(1), 0.0, 0.0)
    table.start(outgoing(2, None), 0.0, 0.0)
    table.forget(BOB)
    assert len(table) == 1
    assert "nonsense" not in table
