"""Answering through SURBs that others gave us: who gets the next one, and when more are asked for.

Source: spec/message-layer.md section 12.1 and 12.3; common/client-core/src/client/replies/reply_controller.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from smolmix_sync.mixnet.message import ReplySurb
from smolmix_sync.mixnet.retransmission import Outgoing
from smolmix_sync.mixnet.settings import TrafficSettings

__all__ = ["ReceivedSurb", "ReplyController", "SurbDemand"]


@dataclass(slots=True)
class ReceivedSurb:
    """A SURB somebody gave us.

    Attributes:
        reply_surb: the SURB with its key.
        key_rotation: the octet that goes with packets made from it.
        received_at: when it came.
    """

    reply_surb: ReplySurb = field(repr=False)
    key_rotation: int
    received_at: float


@dataclass(slots=True)
class SurbDemand:
    """The core is to ask *sender_tag* for *amount* SURBs, spending *surb* on it."""

    sender_tag: bytes
    amount: int
    surb: ReceivedSurb


@dataclass(slots=True)
class _Sender:
    tag: bytes
    last_received: float
    fresh: deque[ReceivedSurb] = field(default_factory=deque)
    stale: deque[ReceivedSurb] = field(default_factory=deque)
    pending_reception: int = 0
    queue: deque[Outgoing] = field(default_factory=deque)
    retransmissions: deque[Outgoing] = field(default_factory=deque)
    rerequests: int = 0

    @property
    def available(self) -> int:
        return len(self.fresh) + len(self.stale)

    def take(self) -> ReceivedSurb:
        return self.fresh.popleft() if self.fresh else self.stale.popleft()


class ReplyController:
    """The SURBs and the waiting replies of every sender.

    Attributes:
        dropped_surbs: SURBs refused because the sender had given too many, or gone with their key rotation.
        dropped_replies: reply packets given up because no SURB came for them.
        dropped_senders: senders forgotten for lack of room.
    """

    __slots__ = (
        "_config", "_demands", "_given_up", "_purge_at", "_queued", "_ready", "_ready_again", "_rotation",
        "_senders", "_stale_at", "_sweep_at", "dropped_replies", "dropped_senders", "dropped_surbs",
    )  # fmt: skip

    def __init__(self, config: TrafficSettings) -> None:
        self._config = config
        self._senders: OrderedDict[bytes, _Sender] = OrderedDict()  # the longest silent first
        self._ready: OrderedDict[bytes, _Sender] = OrderedDict()  # can send data: round robin
        self._ready_again: OrderedDict[bytes, _Sender] = OrderedDict()  # can retransmit
        self._demands: deque[SurbDemand] = deque()
        self._given_up: list[Outgoing] = []
        self._queued = 0
        self._sweep_at: float | None = None
        self._rotation = 0
        self._stale_at: float | None = None
        self._purge_at: float | None = None
        self.dropped_surbs = 0
        self.dropped_replies = 0
        self.dropped_senders = 0

    # -- what goes in ----------------------------------------------------------------------------------------

    def receive_surbs(
        self, tag: bytes, surbs: Iterable[ReplySurb], key_rotation: int, now: float, *, additional: bool
    ) -> None:
        """Store the SURBs of a message from *tag*.

        Args:
            tag: the sender's pseudonym.
            surbs: in the order of the message.
            key_rotation: of the message.
            now: the time.
            additional: the message carried nothing else, so it may be what we asked for.
        """
        config = self._config
        sender = self._senders.get(tag)
        if sender is None:
            sender = self._senders[tag] = _Sender(tag, now)
            if len(self._senders) > config.max_senders:
                self._drop_sender(next(iter(self._senders)))
                self.dropped_senders += 1
        else:
            sender.last_received = now
            self._senders.move_to_end(tag)
        count = 0
        for reply_surb in surbs:
            count += 1
            if sender.available >= config.max_surbs_per_sender:
                self.dropped_surbs += 1
                continue
            sender.fresh.append(ReceivedSurb(reply_surb, key_rotation, now))
        if additional:
            sender.pending_reception = max(0, sender.pending_reception - count)
        if count:
            sender.rerequests = 0
            surplus = len(sender.fresh) - config.minimum_surb_threshold
            while surplus > 0 and sender.stale:
                sender.stale.popleft()
                self.dropped_surbs += 1
                surplus -= 1
        self._changed(sender)
        self._schedule_sweep(now)

    def queue(self, tag: bytes, replies: list[Outgoing], now: float) -> bool:
        """Let the packets of one reply wait for their SURBs; False if *tag* is unknown or has too many waiting."""
        sender = self._senders.get(tag)
        if sender is None or len(sender.queue) + len(replies) > self._config.max_queued_replies:
            return False
        sender.queue.extend(replies)
        self._queued += len(replies)
        self._changed(sender)
        self._schedule_sweep(now)
        return True

    def retransmit(self, outgoing: Outgoing, now: float) -> bool:
        """Let a lost reply packet wait for another SURB; False if its sender is unknown by now."""
        sender = self._senders.get(outgoing.sender_tag or b"")
        if sender is None:
            return False
        sender.retransmissions.append(outgoing)
        self._changed(sender)
        self._schedule_sweep(now)
        return True

    def knows(self, tag: bytes) -> bool:
        """Tell whether *tag* can be answered."""
        return tag in self._senders

    def available(self, tag: bytes) -> int:
        """Return how many SURBs of *tag* we hold."""
        sender = self._senders.get(tag)
        return sender.available if sender else 0

    # -- what comes out --------------------------------------------------------------------------------------

    @property
    def has_demand(self) -> bool:
        """A SURB request waits to be made."""
        return bool(self._demands)

    @property
    def has_retransmission(self) -> bool:
        """A retransmission has a SURB to go with."""
        while self._ready_again:
            tag, sender = next(iter(self._ready_again.items()))
            self._prune(sender)
            if self._repeatable(sender) is not None:
                return True
            del self._ready_again[tag]
        return False

    @property
    def has_reply(self) -> bool:
        """A reply has a SURB to go with."""
        return bool(self._ready)

    @property
    def sendable(self) -> int:
        """The number of reply packets that have a SURB to go with."""
        minimum = self._config.minimum_surb_threshold
        return sum(min(len(sender.queue), sender.available - minimum) for sender in self._ready.values())

    @property
    def waiting(self) -> int:
        """The number of reply packets queued, with or without SURBs."""
        return self._queued

    def next_demand(self) -> SurbDemand | None:
        """Return the oldest SURB request not yet made."""
        return self._demands.popleft() if self._demands else None

    def next_retransmission(self, now: float) -> tuple[Outgoing, ReceivedSurb] | None:
        """Return a packet to repeat and its SURB, the senders taking turns; None if nothing can go."""
        while self._ready_again:
            _, sender = self._ready_again.popitem(last=False)
            self._prune(sender)
            outgoing = self._repeatable(sender)
            if outgoing is None:
                continue
            sender.retransmissions.remove(outgoing)
            surb = sender.take()
            self._changed(sender)
            return outgoing, surb
        return None

    def next_reply(self, now: float) -> tuple[Outgoing, ReceivedSurb] | None:
        """Return a reply packet and its SURB, the senders taking turns; None if nothing can go."""
        if not self._ready:
            return None
        _, sender = self._ready.popitem(last=False)
        outgoing = sender.queue.popleft()
        self._queued -= 1
        surb = sender.take()
        self._changed(sender)
        return outgoing, surb

    def take_given_up(self) -> list[Outgoing]:
        """Return the packets that will not be repeated: their acks need not be awaited."""
        given_up, self._given_up = self._given_up, []
        return given_up

    # -- timers ----------------------------------------------------------------------------------------------

    def rotate(self, key_rotation: int, now: float) -> None:
        """Note that the network's key rotation changed: SURBs made before lose their value soon.

        Source: spec/message-layer.md section 12.3.
        """
        self._rotation = key_rotation
        self._stale_at = now + self._config.epoch_duration / 8
        self._purge_at = now + self._config.epoch_duration

    def next_deadline(self) -> float | None:
        """Return when something is due."""
        times = [at for at in (self._sweep_at, self._stale_at, self._purge_at) if at is not None]
        return min(times) if times else None

    def handle_deadline(self, now: float) -> None:
        """Ask again for SURBs that did not come, and let go of what is too old."""
        if self._stale_at is not None and self._stale_at <= now:
            self._stale_at = None
            self._make_stale()
        if self._purge_at is not None and self._purge_at <= now:
            self._purge_at = None
            self._purge_stale()
        if self._sweep_at is not None and self._sweep_at <= now:
            self._sweep_at = None
            for sender in list(self._senders.values()):
                self._sweep(sender, now)
            self._schedule_sweep(now)

    # -- inside ----------------------------------------------------------------------------------------------

    def _prune(self, sender: _Sender) -> None:
        while sender.retransmissions and sender.retransmissions[0].done:
            sender.retransmissions.popleft()

    def _repeatable(self, sender: _Sender) -> Outgoing | None:
        """Return what may be repeated now: data may not dip into the reserve, a SURB request may."""
        if not sender.retransmissions or not sender.available:
            return None
        if sender.available >= self._config.minimum_surb_threshold:
            live = (entry for entry in sender.retransmissions if not entry.done)
        else:
            live = (entry for entry in sender.retransmissions if not entry.done and entry.is_surb_request)
        return next(live, None)

    def _changed(self, sender: _Sender) -> None:
        """Put *sender* into the queues it belongs to after any change, and ask for SURBs if it lacks them."""
        config = self._config
        self._prune(sender)
        self._maybe_demand(sender)
        if sender.queue and sender.available > config.minimum_surb_threshold:
            self._ready[sender.tag] = sender
        else:
            self._ready.pop(sender.tag, None)
        if self._repeatable(sender) is not None:
            self._ready_again[sender.tag] = sender
        else:
            self._ready_again.pop(sender.tag, None)

    def _maybe_demand(self, sender: _Sender) -> None:
        config = self._config
        # What is only waiting for its turn counts as sent, as in the Rust client, which spends SURBs at once.
        spendable = max(0, sender.available - config.minimum_surb_threshold)
        soon = min(len(sender.queue), spendable)
        blocked = len(sender.queue) - soon + len(sender.retransmissions)
        expected = max(0, len(sender.fresh) - soon) + sender.pending_reception
        wanted = blocked + config.minimum_surb_threshold + config.surb_threshold_buffer
        if expected >= min(config.maximum_surb_threshold, wanted):
            return
        amount = max(blocked + config.surb_threshold_buffer, config.minimum_surb_request)
        self._demand(sender, min(amount, config.maximum_surb_request))

    def _demand(self, sender: _Sender, amount: int) -> None:
        if not sender.available:
            return  # nothing to ask with
        sender.pending_reception += amount
        self._demands.append(SurbDemand(sender.tag, amount, sender.take()))

    def _schedule_sweep(self, now: float) -> None:
        if self._sweep_at is None and self._senders:
            self._sweep_at = now + self._config.surb_rerequest_sweep

    def _sweep(self, sender: _Sender, now: float) -> None:
        config = self._config
        silence = now - sender.last_received
        age_limit = now - config.received_surb_age
        for surbs in (sender.fresh, sender.stale):
            while surbs and surbs[0].received_at < age_limit:
                surbs.popleft()
                self.dropped_surbs += 1
        self._prune(sender)
        if not sender.queue and not sender.retransmissions:
            if not sender.available and silence > config.surb_drop_after:
                self._drop_sender(sender.tag)
            return
        if silence > config.surb_drop_after or sender.rerequests > config.maximum_surb_rerequests:
            self._drop_replies(sender)
        elif silence > config.surb_rerequest_after:
            sender.rerequests += 1
            sender.pending_reception = 0  # what was asked for before is taken for lost
            blocked = len(sender.queue) + len(sender.retransmissions) + config.surb_threshold_buffer
            self._demand(sender, min(max(blocked, config.minimum_surb_request), config.maximum_surb_request))
        self._changed(sender)

    def _make_stale(self) -> None:
        """Move SURBs of the past rotation behind the others, and ask for as many new ones."""
        for sender in self._senders.values():
            old = [surb for surb in sender.fresh if surb.key_rotation != self._rotation]
            if not old:
                continue
            sender.stale.extend(old)
            sender.fresh = deque(surb for surb in sender.fresh if surb.key_rotation == self._rotation)
            self._demand(sender, min(len(old), self._config.maximum_surb_threshold))
            self._changed(sender)

    def _purge_stale(self) -> None:
        """Drop every SURB of the past rotation: the nodes have dropped their keys."""
        for sender in self._senders.values():
            kept = deque(surb for surb in sender.fresh if surb.key_rotation == self._rotation)
            self.dropped_surbs += len(sender.stale) + len(sender.fresh) - len(kept)
            sender.fresh = kept
            sender.stale.clear()
            self._changed(sender)

    def _drop_replies(self, sender: _Sender) -> None:
        self._given_up.extend(sender.retransmissions)
        self.dropped_replies += len(sender.queue) + len(sender.retransmissions)
        self._queued -= len(sender.queue)
        sender.queue.clear()
        sender.retransmissions.clear()

    def _drop_sender(self, tag: bytes) -> None:
        sender = self._senders.pop(tag)
        self._drop_replies(sender)
        self._ready.pop(tag, None)
        self._ready_again.pop(tag, None)
