"""Packets on their way, and the timers that send them again.

Source: spec/message-layer.md section 11.5; common/client-core/src/client/real_messages_control.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.fragments import fragment_id
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import PacketSize

__all__ = ["Outgoing", "PendingAcks"]

# Ours: dead timers are swept out of the heap when they outnumber the live ones and this.
_MIN_HEAP: Final = 1024


@dataclass(slots=True, eq=False)
class Outgoing:
    """One fragment that is to be sent, or was sent and awaits its ack.

    Attributes:
        fragment: header and payload, not encrypted: every transmission encrypts afresh.
        size: the packet size it fills.
        recipient: where it goes; None for a reply.
        sender_tag: for a reply, whose SURB it takes.
        is_surb_request: it may take the last SURBs.
        max_retransmissions: own limit, None for none.
        retransmissions: how often it was sent again.
        deadline: when its ack is overdue; 0 while no timer runs.
        done: acked, abandoned or forgotten; whatever queue it still stands in skips it.
    """

    fragment: bytes = field(repr=False)
    size: PacketSize
    recipient: Recipient | None = None
    sender_tag: bytes | None = None
    is_surb_request: bool = False
    max_retransmissions: int | None = None
    retransmissions: int = 0
    delay: float = 0.0
    deadline: float = 0.0
    done: bool = False
    identifier: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.identifier = fragment_id(self.fragment)


class PendingAcks:
    """The packets whose ack is awaited, by fragment identifier, with their timers.

    Attributes:
        forgotten: packets dropped because too many were pending.
    """

    __slots__ = ("_config", "_heap", "_pending", "_serial", "forgotten")

    def __init__(self, config: TrafficSettings) -> None:
        self._config = config
        self._pending: dict[bytes, Outgoing] = {}
        self._heap: list[tuple[float, int, Outgoing]] = []
        self._serial = 0
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, outgoing: object) -> bool:
        return isinstance(outgoing, Outgoing) and self._pending.get(outgoing.identifier) is outgoing

    def start(self, outgoing: Outgoing, delay: float, now: float) -> None:
        """Start the timer of a packet that was just handed out.

        Args:
            outgoing: the packet.
            delay: how long packet and ack wait in the mix nodes together, seconds.
            now: the time.
        """
        config = self._config
        outgoing.delay = delay
        outgoing.deadline = now + delay * config.ack_wait_multiplier + config.ack_wait_addition
        self._pending[outgoing.identifier] = outgoing
        self._serial += 1
        heapq.heappush(self._heap, (outgoing.deadline, self._serial, outgoing))
        if len(self._pending) > config.max_pending_acks:
            self.finish(next(iter(self._pending)))
            self.forgotten += 1
        if len(self._heap) > max(_MIN_HEAP, 2 * len(self._pending)):
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)

    def finish(self, identifier: bytes) -> Outgoing | None:
        """Take the packet with this identifier out, for its ack came; None if it is not pending."""
        outgoing = self._pending.pop(identifier, None)
        if outgoing is not None:
            outgoing.done = True
        return outgoing

    def next_deadline(self) -> float | None:
        """Return when the first ack is overdue."""
        heap = self._heap
        while heap and not self._is_live(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def take_expired(self, now: float) -> list[Outgoing]:
        """Return the packets whose ack is overdue; they stay pending, without a timer."""
        expired = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            outgoing = heapq.heappop(self._heap)[2]
            outgoing.deadline = 0.0
            expired.append(outgoing)
        return expired

    def forget(self, recipient: Recipient) -> None:
        """Drop every packet to *recipient*."""
        for identifier in [key for key, entry in self._pending.items() if entry.recipient == recipient]:
            self.finish(identifier)

    @staticmethod
    def _is_live(entry: tuple[float, int, Outgoing]) -> bool:
        deadline, _, outgoing = entry
        return not outgoing.done and outgoing.deadline == deadline
