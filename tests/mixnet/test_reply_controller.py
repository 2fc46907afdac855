from __future__ import annotations

from typing import Any

from smolmix_sync.mixnet.message import ReplySurb
from smolmix_sync.mixnet.reply_controller import ReplyController
from smolmix_sync.mixnet.retransmission import Outgoing
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import NodeAddress, PacketSize, Surb

A, B = b"a" * 16, b"b" * 16


class Bench:
    """A controller, and what it asked for."""

    def __init__(self, **settings: Any) -> None:
        self.settings = TrafficSettings(**settings)
        self.controller = ReplyController(self.settings)
        self.made = 0
        self.serial = 0

    def give(
        self, count: int, tag: bytes = A, *, now: float = 0.0, rotation: int = 2, additional: bool = True
    ) -> None:
        surbs = []
        for _ in range(count):
            self.made += 1
            surbs.append(ReplySurb(self.made.to_bytes(16, "big"), Surb(b"", NodeAddress("1.2.3.4", 5), ())))
        self.controller.receive_surbs(tag, surbs, rotation, now, additional=additional)

    def packets(self, count: int, tag: bytes = A, *, is_request: bool = False) -> list[Outgoing]:
        made = []
        for _ in range(count):
            self.serial += 1
            data = (0x80000000 + self.serial).to_bytes(4, "big") + b"\1\1\0"
            made.append(Outgoing(data, PacketSize.REGULAR, sender_tag=tag, is_surb_request=is_request))
        return made

    def reply(self, count: int, tag: bytes = A, *, now: float = 0.0) -> bool:
        return self.controller.queue(tag, self.packets(count, tag), now)

    def demands(self) -> list[int]:
        found = []
        while (demand := self.controller.next_demand()) is not None:
            found.append(demand.amount)
        return found

    def send_all(self) -> int:
        count = 0
        while self.controller.next_reply(0.0) is not None:
            count += 1
        return count


def test_an_unknown_sender_cannot_be_answered() -> None:
    bench = Bench()
    assert not bench.controller.knows(A)
    assert not bench.reply(1)
    assert not bench.controller.retransmit(bench.packets(1)[0], 0.0)
    assert bench.controller.available(A) == 0


def test_the_last_ten_surbs_are_kept_for_requests() -> None:
    bench = Bench()
    bench.give(14)
    bench.reply(6)
    assert bench.controller.sendable == 3  # one of fourteen went into a request for more
    assert bench.send_all() == 3
    assert bench.controller.available(A) == 10
    assert not bench.controller.has_reply
    assert bench.controller.waiting == 3
    assert bench.demands()


def test_with_ten_surbs_no_reply_leaves_until_more_come() -> None:
    bench = Bench()
    bench.give(11)
    bench.reply(1)
    assert bench.send_all() == 1
    bench.reply(1)
    assert bench.send_all() == 0
    bench.give(5)
    assert bench.send_all() == 1


def test_surbs_are_used_the_oldest_first() -> None:
    bench = Bench(minimum_surb_threshold=0)
    bench.give(3)
    bench.give(2)
    bench.reply(5)
    used = []
    while (found := bench.controller.next_reply(0.0)) is not None:
        used.append(int.from_bytes(found[1].reply_surb.encryption_key, "big"))
    assert used == [1, 2, 3, 4, 5]


def test_senders_take_turns() -> None:
    bench = Bench(minimum_surb_threshold=0)
    for tag in (A, B):
        bench.give(5, tag)
        bench.reply(3, tag)
    order = []
    while (found := bench.controller.next_reply(0.0)) is not None:
        order.append(found[0].sender_tag)
    assert order == [A, B, A, B, A, B]


def test_an_exit_asks_for_fifty_when_a_stream_opens_with_twenty() -> None:
    bench = Bench(surb_threshold_buffer=50)
    bench.give(10, additional=False)
    assert bench.demands() == [50]  # 10 < 60, and then 9 + 50 < 60 asks again
    bench.give(10, additional=False)
    assert bench.demands() == []
    assert bench.controller.available(A) == 19


def test_requests_stop_at_what_is_needed_and_at_the_maximum() -> None:
    bench = Bench(maximum_surb_threshold=30)
    bench.give(20)
    assert bench.demands() == []
    bench.reply(500)
    assert sum(bench.demands()) + 20 - 1 >= 30
    bench = Bench()
    bench.give(20)
    bench.reply(15)
    assert bench.demands() == [10]


def test_only_surbs_without_a_message_count_as_the_answer() -> None:
    bench = Bench(surb_threshold_buffer=50)
    bench.give(10, additional=False)
    assert bench.demands() == [50]
    bench.give(3, additional=False)
    assert bench.demands() == []
    bench.give(50, additional=True)
    assert bench.demands() == []
    bench.reply(20)
    assert bench.send_all() == 20
    assert bench.demands() == [50]


def test_without_any_surb_nothing_can_be_asked() -> None:
    bench = Bench()
    bench.give(0)
    assert bench.controller.knows(A)
    assert bench.reply(3)
    assert not bench.controller.has_demand


def test_lost_replies_take_new_surbs_and_stop_short_of_the_reserve() -> None:
    bench = Bench()
    bench.give(12)
    lost, request = bench.packets(1)[0], bench.packets(1, is_request=True)[0]
    assert bench.controller.retransmit(lost, 0.0)
    assert bench.controller.has_retransmission
    found = bench.controller.next_retransmission(0.0)
    assert found is not None
    assert found[0] is lost
    while bench.controller.available(A) >= 10:
        bench.reply(1)
        if bench.controller.next_reply(0.0) is None:
            assert bench.controller.retransmit(bench.packets(1)[0], 0.0)
            bench.controller.next_retransmission(0.0)
    assert bench.controller.retransmit(lost, 0.0)
    assert not bench.controller.has_retransmission
    assert bench.controller.retransmit(request, 0.0)
    found = bench.controller.next_retransmission(0.0)
    assert found is not None
    assert found[0] is request
    assert bench.controller.next_retransmission(0.0) is None


def test_an_ack_that_comes_late_saves_the_retransmission() -> None:
    bench = Bench()
    bench.give(30)
    lost = bench.packets(2)
    for outgoing in lost:
        bench.controller.retransmit(outgoing, 0.0)
    for outgoing in lost:
        outgoing.done = True
    assert not bench.controller.has_retransmission
    assert bench.controller.next_retransmission(0.0) is None
    assert bench.controller.available(A) == 30


def test_silent_senders_are_asked_again_and_given_up() -> None:
    bench = Bench()
    bench.give(20)
    bench.reply(50)
    left = 50 - bench.send_all()
    bench.demands()
    asked, now = 0, 0.0
    while bench.controller.waiting and now < 400.0:
        deadline = bench.controller.next_deadline()
        assert deadline is not None
        assert deadline > now
        now = deadline
        bench.controller.handle_deadline(now)
        asked += len(bench.demands())
        assert now > 10.0 or not asked
    assert 6 <= asked <= 12
    assert now < 60.0
    assert bench.controller.dropped_replies == left


def test_replies_are_given_up_after_five_minutes_without_surbs() -> None:
    bench = Bench(maximum_surb_rerequests=10_000)
    bench.give(1)
    bench.reply(5)
    while bench.controller.waiting:
        deadline = bench.controller.next_deadline()
        assert deadline is not None
        bench.controller.handle_deadline(deadline)
    assert 300.0 < deadline <= 305.0
    bench.controller.handle_deadline(deadline + 5)
    assert not bench.controller.knows(A)  # and a silent sender without SURBs is forgotten
    assert bench.controller.next_deadline() is None or bench.controller.next_deadline() > deadline


def test_tables_are_bounded() -> None:
    bench = Bench(max_senders=2, max_surbs_per_sender=30, max_queued_replies=5)
    bench.give(40)
    assert bench.controller.available(A) == 30
    assert bench.controller.dropped_surbs == 10
    assert bench.reply(5)
    assert not bench.reply(1)
    bench.give(1, B)
    bench.give(1, A)
    bench.give(1, b"c" * 16)
    assert bench.controller.knows(A)
    assert not bench.controller.knows(B)
    assert bench.controller.dropped_senders == 1


def test_a_dropped_sender_takes_its_replies_along() -> None:
    bench = Bench(max_senders=1)
    bench.give(30)
    bench.reply(3)
    bench.give(1, B)
    assert bench.controller.waiting == 0
    assert not bench.controller.has_reply
    assert bench.controller.dropped_replies == 3


def test_surbs_of_the_past_key_rotation_go_stale_are_replaced_and_go() -> None:
    bench = Bench(epoch_duration=800.0)
    bench.give(30, rotation=2)
    bench.controller.rotate(1, 1000.0)
    bench.give(5, rotation=1, now=1050.0)
    bench.controller.handle_deadline(1100.0)
    assert bench.demands() == [30]
    assert bench.controller.available(A) == 34
    bench.reply(40, now=1100.0)
    used = []
    while (found := bench.controller.next_reply(1100.0)) is not None:
        used.append(found[1].key_rotation)
    assert used[:4] == [1] * 4  # the fresh ones first
    assert used[5:] == [2] * (len(used) - 5)
    assert bench.controller.available(A) == 10
    bench.controller.handle_deadline(1800.0)  # the nodes have dropped their old keys
    assert bench.controller.available(A) == 0
    bench.give(3, rotation=2, now=1801.0)
    bench.controller.handle_deadline(1e5 + 2000)  # the age limit holds without a rotation, too
    assert bench.controller.available(A) == 0


def test_a_rotation_does_not_touch_surbs_that_are_new_already() -> None:
    bench = Bench(epoch_duration=800.0)
    bench.give(20, rotation=1)
    bench.controller.rotate(1, 0.0)
    bench.controller.handle_deadline(800.0)
    assert bench.controller.available(A) == 20
    assert not bench.controller.has_demand
    assert bench.controller.dropped_surbs == 0


def test_a_retransmission_acked_at_the_last_moment_is_passed_over() -> None:
    bench = Bench()
    for tag in (A, B):
        bench.give(30, tag)
        bench.controller.retransmit(bench.packets(1, tag)[0], 0.0)
    first = bench.controller._ready_again[A].retransmissions[0]
    first.done = True
    found = bench.controller.next_retransmission(0.0)
    assert found is not None
    assert found[0].sender_tag == B


def test_fresh_surbs_push_out_stale_ones() -> None:
    bench = Bench(epoch_duration=800.0)
    bench.give(20, rotation=2)
    bench.controller.rotate(1, 0.0)
    bench.controller.handle_deadline(100.0)
    bench.demands()
    assert bench.controller.available(A) == 19
    bench.give(25, rotation=1, now=101.0)
    assert bench.controller.available(A) == 19 - 15 + 25
