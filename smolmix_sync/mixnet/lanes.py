"""The queues of messages that wait for a slot: lanes take turns, packet by packet.

A message is cut into fragments, and its SURBs are built, when its first packet is handed out: so they stem from
the same snapshot of the topology as that packet, and cost nothing if the message is dropped before.

Source: spec/message-layer.md section 11.2.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.retransmission import Outgoing

__all__ = ["AnswerQueue", "LaneQueue", "QueuedMessage"]


@dataclass(slots=True, eq=False)
class QueuedMessage:
    """A message on its way out.

    Attributes:
        recipient: where to.
        data: the application's octets; None for SURBs alone.
        repliable: with our sender tag, and *surbs* SURBs.
        surbs: how many.
        max_retransmissions: of each of its packets.
        packets: how many are still to be handed out.
        fragments: them, once the message is cut.
    """

    recipient: Recipient
    data: bytes | None = field(repr=False)
    repliable: bool
    surbs: int
    max_retransmissions: int | None
    packets: int
    fragments: deque[Outgoing] | None = None


class LaneQueue:
    """FIFO lanes served in turn."""

    __slots__ = ("_lanes", "packets")

    def __init__(self) -> None:
        self._lanes: OrderedDict[int, deque[QueuedMessage]] = OrderedDict()
        self.packets = 0

    def append(self, lane: int, message: QueuedMessage) -> None:
        """Put a message at the end of *lane*."""
        self._lanes.setdefault(lane, deque()).append(message)
        self.packets += message.packets

    def pop(self, cut: Callable[[QueuedMessage], deque[Outgoing]]) -> Outgoing | None:
        """Return the next packet of the lane whose turn it is; *cut* makes fragments of a message."""
        while self._lanes:
            lane, messages = next(iter(self._lanes.items()))
            message = messages[0]
            if message.fragments is None:
                message.fragments = cut(message)
                self.packets += len(message.fragments) - message.packets
                message.packets = len(message.fragments)
            outgoing = message.fragments.popleft() if message.fragments else None
            if outgoing is not None:
                message.packets -= 1
                self.packets -= 1
            if not message.fragments:
                messages.popleft()
            if messages:
                self._lanes.move_to_end(lane)
            else:
                del self._lanes[lane]
            if outgoing is not None:
                return outgoing
        return None

    def surbs_for(self, recipient: Recipient) -> int:
        """Return how many SURBs for *recipient* are queued and not built yet."""
        return sum(
            message.surbs
            for messages in self._lanes.values()
            for message in messages
            if message.surbs and message.fragments is None and message.recipient == recipient
        )

    def discard(self, condition: Callable[[int, QueuedMessage], bool]) -> None:
        """Drop the messages for which *condition* holds."""
        for lane in list(self._lanes):
            kept: deque[QueuedMessage] = deque()
            for message in self._lanes[lane]:
                if condition(lane, message):
                    self.packets -= message.packets
                else:
                    kept.append(message)
            if kept:
                self._lanes[lane] = kept
            else:
                del self._lanes[lane]


@dataclass(slots=True, eq=False)
class _Answers:
    """What one recipient is to get: amounts in hand, and what waits for one of them to have left."""

    amounts: deque[int] = field(default_factory=deque)
    held: int = 0

    @property
    def total(self) -> int:
        return sum(self.amounts) + self.held


class AnswerQueue:
    """SURBs that were asked for, per recipient: few answers at a time, the recipients taking turns.

    Source: design.md section 7; spec/message-layer.md section 12.2.
    """

    __slots__ = ("_answers", "_batch", "_current", "_limit", "_most")

    def __init__(self, *, batch: int, most: int, limit: int) -> None:
        self._answers: OrderedDict[Recipient, _Answers] = OrderedDict()
        self._current: QueuedMessage | None = None
        self._batch = batch
        self._most = most
        self._limit = limit

    def __bool__(self) -> bool:
        return self._current is not None or bool(self._answers)

    def grant(self, recipient: Recipient, amount: int) -> int:
        """Take a request for *amount* SURBs; return how many of them will be sent, now or later."""
        answers = self._answers.setdefault(recipient, _Answers())
        amount = min(amount, self._limit)
        if len(answers.amounts) < self._most:
            answers.amounts.append(amount)
        else:
            amount = min(amount, self._limit - answers.held)
            answers.held += amount
        return amount

    def is_full(self, recipient: Recipient) -> bool:
        """Tell whether a request would have to wait."""
        answers = self._answers.get(recipient)
        return answers is not None and len(answers.amounts) >= self._most

    def pop(
        self,
        make: Callable[[Recipient, int], QueuedMessage],
        cut: Callable[[QueuedMessage], deque[Outgoing]],
    ) -> Outgoing | None:
        """Return the next packet of SURBs."""
        while self:
            message = self._current
            if message is None:
                message = self._current = make(*self._next_batch())
                message.fragments = cut(message)
            outgoing = message.fragments.popleft() if message.fragments else None
            if not message.fragments:
                self._current = None
            if outgoing is not None:
                return outgoing
        return None

    def packets(self, needed: Callable[[int], int]) -> int:
        """Return about how many packets wait; *needed* says how many a number of SURBs takes."""
        waiting = len(self._current.fragments or ()) if self._current else 0
        for answers in self._answers.values():
            full, rest = divmod(answers.total, self._batch)
            waiting += full * needed(self._batch) + (needed(rest) if rest else 0)
        return waiting

    def surbs_for(self, recipient: Recipient) -> int:
        """Return how many SURBs for *recipient* are promised and not built yet."""
        answers = self._answers.get(recipient)
        return answers.total if answers else 0

    def forget(self, recipient: Recipient) -> None:
        """Drop what *recipient* was to get."""
        self._answers.pop(recipient, None)
        if self._current is not None and self._current.recipient == recipient:
            self._current = None

    def _next_batch(self) -> tuple[Recipient, int]:
        recipient, answers = next(iter(self._answers.items()))
        count = min(self._batch, answers.amounts[0])
        answers.amounts[0] -= count
        if not answers.amounts[0]:
            answers.amounts.popleft()
            if answers.held:
                answers.amounts.append(min(answers.held, self._limit))
                answers.held = 0
        if answers.amounts:
            self._answers.move_to_end(recipient)
        else:
            del self._answers[recipient]
        return recipient, count
