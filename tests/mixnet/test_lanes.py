from __future__ import annotations

from collections import deque

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.lanes import AnswerQueue, LaneQueue, QueuedMessage
from smolmix_sync.mixnet.retransmission import Outgoing
from smolmix_sync.mixnet.sphinx import PacketSize

A = Recipient(bytes([1]) * 32, bytes(32), bytes(32))
B = Recipient(bytes([2]) * 32, bytes(32), bytes(32))


def message(packets: int, recipient: Recipient = A, surbs: int = 0) -> QueuedMessage:
    return QueuedMessage(recipient, b"", True, surbs, None, packets)


def cut(queued: QueuedMessage) -> deque[Outgoing]:
    count = queued.packets or queued.surbs
    head = b"\x80\0\0\1\xff"
    return deque(
        Outgoing(head + bytes((n + 1, 0)), PacketSize.REGULAR, queued.recipient) for n in range(count)
    )


def drain(queue: LaneQueue) -> list[Recipient | None]:
    found = []
    while (outgoing := queue.pop(cut)) is not None:
        found.append(outgoing.recipient)
    return found


def test_lanes_take_turns_packet_by_packet() -> None:
    queue = LaneQueue()
    queue.append(1, message(3, A))
    queue.append(2, message(3, B))
    assert queue.packets == 6
    assert drain(queue) == [A, B, A, B, A, B]
    assert queue.packets == 0


def test_messages_of_one_lane_keep_their_order() -> None:
    queue = LaneQueue()
    queue.append(1, message(2, A))
    queue.append(1, message(1, B))
    assert drain(queue) == [A, A, B]


def test_a_message_that_cannot_be_cut_is_skipped_and_uncounted() -> None:
    queue = LaneQueue()
    queue.append(1, message(2, A))
    queue.append(1, message(1, B))
    fragments = iter([deque[Outgoing](), cut(message(1, B))])
    outgoing = queue.pop(lambda _: next(fragments))
    assert outgoing is not None
    assert outgoing.recipient == B
    assert queue.packets == 0


def test_discarding_drops_messages_and_their_count() -> None:
    queue = LaneQueue()
    queue.append(1, message(3, A, surbs=2))
    queue.append(1, message(2, B))
    queue.append(2, message(4, A))
    assert queue.surbs_for(A) == 2
    queue.pop(cut)
    assert queue.surbs_for(A) == 0  # they are built now
    queue.discard(lambda _, queued: queued.recipient == A)
    assert queue.packets == 2
    assert drain(queue) == [B, B]


def answers(batch: int = 17, most: int = 2, limit: int = 500) -> AnswerQueue:
    return AnswerQueue(batch=batch, most=most, limit=limit)


def batches(queue: AnswerQueue) -> list[tuple[Recipient, int]]:
    made: list[tuple[Recipient, int]] = []

    def make(recipient: Recipient, count: int) -> QueuedMessage:
        made.append((recipient, count))
        return QueuedMessage(recipient, None, True, count, None, 0)

    while queue.pop(make, cut) is not None:
        pass
    return made


def test_answers_go_in_batches_and_recipients_take_turns() -> None:
    queue = answers()
    assert queue.grant(A, 40) == 40
    assert queue.grant(B, 20) == 20
    assert queue.surbs_for(A) == 40
    assert queue.packets(lambda count: count) == 60
    assert batches(queue) == [(A, 17), (B, 17), (A, 17), (B, 3), (A, 6)]
    assert not queue


def test_a_third_request_waits_until_one_answer_has_left_and_is_bounded() -> None:
    queue = answers(batch=50, limit=100)
    assert queue.grant(A, 1000) == 100
    assert queue.grant(A, 50) == 50
    assert queue.is_full(A)
    assert not queue.is_full(B)
    assert queue.grant(A, 60) == 60
    assert queue.grant(A, 60) == 40
    assert queue.grant(A, 60) == 0
    assert queue.surbs_for(A) == 250
    assert sum(count for _, count in batches(queue)) == 250


def test_a_forgotten_recipient_gets_nothing_more() -> None:
    queue = answers()
    queue.grant(A, 30)
    queue.pop(lambda recipient, count: QueuedMessage(recipient, None, True, count, None, 0), cut)
    queue.grant(B, 1)
    queue.forget(A)
    assert batches(queue) == [(B, 1)]


def test_an_answer_that_cannot_be_built_is_skipped() -> None:
    queue = answers()
    queue.grant(A, 20)
    none = deque[Outgoing]()
    assert queue.pop(lambda to, count: QueuedMessage(to, None, True, count, None, 0), lambda _: none) is None
    assert not queue
