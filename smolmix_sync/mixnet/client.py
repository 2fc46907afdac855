"""A Nym client as a pure machine: messages in and out, Sphinx packets handed out one at a time.

Source: spec/message-layer.md; design.md section 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from smolmix_sync.address import Recipient
from smolmix_sync.crypto import Secret, ed25519_public_from_seed, x25519_base
from smolmix_sync.errors import TopologyError, WireError
from smolmix_sync.mixnet.acks import MAX_ACK_PAYLOAD, decode_ack_untrusted
from smolmix_sync.mixnet.cover import is_cover
from smolmix_sync.mixnet.events import (
    ClientKeys,
    MessageReceived,
    MixnetEvent,
    MixnetStats,
    SurbsRequested,
)
from smolmix_sync.mixnet.fragment_encryption import (
    PREFIX_SIZE,
    decrypt_fragment_untrusted,
    decrypt_reply_fragment,
)
from smolmix_sync.mixnet.fragments import (
    COVER_FRAGMENT_ID,
    UNLINKED_HEADER_SIZE,
    draw_set_id,
    pad_message,
    split,
    unpad_untrusted,
)
from smolmix_sync.mixnet.lanes import AnswerQueue, LaneQueue, QueuedMessage
from smolmix_sync.mixnet.message import (
    MAX_SURBS,
    NymMessage,
    PlainMessage,
    RepliableContent,
    RepliableMessage,
    ReplyData,
    SurbRequest,
    decode_message_untrusted,
    repliable_overhead,
)
from smolmix_sync.mixnet.packets import PacketBuilder, choose_size, per_fragment
from smolmix_sync.mixnet.reconstruction import Reconstructor
from smolmix_sync.mixnet.replies import ReplyKeys, SenderTags
from smolmix_sync.mixnet.reply_controller import ReceivedSurb, ReplyController
from smolmix_sync.mixnet.retransmission import Outgoing, PendingAcks
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import MixPacket, PacketSize
from smolmix_sync.mixnet.topology import Topology

__all__ = [
    "CONTROL_LANE",
    "GENERAL_LANE",
    "ClientKeys",
    "MessageReceived",
    "MixnetCore",
    "MixnetEvent",
    "MixnetStats",
    "SurbsRequested",
]

#: The lane of messages without a connection. Any other non-negative integer is a lane of its own.
GENERAL_LANE = 0
#: Goes before retransmissions and data: keep-alives and the like.
CONTROL_LANE = -1


class MixnetCore(Secret):
    """One Nym client, without clock, network or randomness of its own.

    Serves a client as well as a service that answers through SURBs. The owner calls :meth:`next_packet` or
    :meth:`cover_packet` when it has a send slot, hands the result to the gateway, and gives what the gateway pushes
    to :meth:`receive_data`.

    Args:
        keys: the client's secrets.
        gateway_identity: Ed25519 identity of the gateway it is registered at.
        config: what can be tuned.
        urandom: a source of random octets, as good as ``os.urandom``.
    """

    def __init__(
        self,
        keys: ClientKeys,
        gateway_identity: bytes,
        *,
        config: TrafficSettings,
        urandom: Callable[[int], bytes],
    ) -> None:
        self._keys = keys
        self._config = config
        self._urandom = urandom
        self._address = Recipient(
            ed25519_public_from_seed(keys.identity_seed),
            x25519_base(keys.encryption_private),
            gateway_identity,
        )
        self._topology: Topology | None = None
        self._stats = MixnetStats()
        self._events: deque[MixnetEvent] = deque()
        self._control = LaneQueue()
        self._data = LaneQueue()
        self._answers = AnswerQueue(
            batch=config.surb_answer_batch, most=config.max_surb_answers, limit=config.max_surbs_per_request
        )
        self._answered_last = False
        self._again: deque[Outgoing] = deque()
        self._pending = PendingAcks(config)
        self._reconstructor = Reconstructor(config)
        self._reply_keys = ReplyKeys(config)
        self._tags = SenderTags(config.max_recipients, urandom)
        self._replies = ReplyController(config)
        self._builder = PacketBuilder(self._address, keys.ack_key, config, urandom)

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def address(self) -> Recipient:
        """Where others reach us."""
        return self._address

    @property
    def topology(self) -> Topology | None:
        """The snapshot that new packets are built from."""
        return self._topology

    @property
    def stats(self) -> MixnetStats:
        """The live counters."""
        return self._stats

    @property
    def reconstructor(self) -> Reconstructor:
        """The table of incomplete messages, for its counters."""
        return self._reconstructor

    @property
    def replies(self) -> ReplyController:
        """The SURBs others gave us, for its counters."""
        return self._replies

    @property
    def awaiting_ack(self) -> int:
        """The number of packets whose ack has not come."""
        return len(self._pending)

    def set_topology(self, topology: Topology | None, now: float) -> None:
        """Build later packets from *topology*; None stops sending.

        A new key rotation makes the SURBs of the old one stale on either side.
        """
        old = self._topology
        self._topology = topology
        if old is not None and topology is not None and old.key_rotation_id != topology.key_rotation_id:
            self._reply_keys.discount()
            self._replies.rotate(topology.key_rotation, now)

    # -- sending ---------------------------------------------------------------------------------------------

    def send(
        self,
        recipient: Recipient,
        message: bytes,
        now: float,
        *,
        surbs: int = 0,
        lane: int = GENERAL_LANE,
        max_retransmissions: int | None = None,
    ) -> bool:
        """Queue an anonymous, repliable message with *surbs* reply SURBs.

        Args:
            recipient: where to.
            message: application octets, possibly none.
            now: the time.
            surbs: how many SURBs go with it.
            lane: lanes take turns; :data:`CONTROL_LANE` goes before retransmissions and data.
            max_retransmissions: fewer than the setting allows; None as the setting.

        Returns:
            False if the queue is full; nothing was queued then.

        Raises:
            ValueError: message and SURBs exceed ``max_message_size``, or the number of SURBs its field.
        """
        packets = self.packets_needed(len(message), surbs)
        queued = QueuedMessage(recipient, message, True, surbs, max_retransmissions, packets)
        return self._enqueue(lane, queued)

    def send_plain(
        self,
        recipient: Recipient,
        message: bytes,
        now: float,
        *,
        lane: int = GENERAL_LANE,
        max_retransmissions: int | None = None,
    ) -> bool:
        """Queue a message that says nothing of its sender and cannot be answered; see :meth:`send`."""
        _, packets = choose_size(1 + len(message), self._config)
        return self._enqueue(lane, QueuedMessage(recipient, message, False, 0, max_retransmissions, packets))

    def send_reply(
        self, sender_tag: bytes, message: bytes, now: float, *, max_retransmissions: int | None = None
    ) -> bool:
        """Queue an answer through the SURBs of *sender_tag*.

        Its packets leave when the sender has given enough SURBs; more are asked for by themselves.

        Args:
            sender_tag: the pseudonym that came with the message to answer.
            message: application octets, at least one.
            now: the time.
            max_retransmissions: None for the setting ``reply_retransmissions``; exits send tunnel data with 0.

        Returns:
            False if the sender is unknown (or forgotten), or has too many replies waiting.

        Raises:
            ValueError: the message is empty or too long.
        """
        reply = ReplyData(message).encode()
        size, packets = choose_size(len(reply), self._config)
        if not self._replies.knows(sender_tag) or packets > self._config.max_queued_replies:
            self._stats.dropped_refused += 1
            return False
        fragments = self._cut_reply(sender_tag, reply, size, max_retransmissions=max_retransmissions)
        accepted = self._replies.queue(sender_tag, fragments, now)
        if not accepted:
            self._stats.dropped_refused += 1
        return accepted

    def send_surbs(self, recipient: Recipient, count: int, now: float) -> bool:
        """Queue *count* SURBs without a message.

        They count as one of the answers that may wait per recipient and go in batches of ``surb_answer_batch``;
        while data waits they get every second slot.

        Returns:
            False if as many answers wait already; nothing was queued then.
        """
        if count <= 0 or self._answers.is_full(recipient):
            return False
        self._tags.of(recipient)
        self._answers.grant(recipient, count)
        return True

    def packets_needed(self, message_size: int, surbs: int = 0) -> int:
        """Return how many packets :meth:`send` needs for a message of this size with this many SURBs.

        Raises:
            ValueError: message and SURBs exceed ``max_message_size``, or the number of SURBs its field.
        """
        if not 0 <= surbs <= MAX_SURBS:
            raise ValueError("a message carries at most 65535 SURBs")
        return choose_size(repliable_overhead(surbs, self._builder.hops) + message_size, self._config)[1]

    def room(self, packets: int = 1, surbs: int = 0) -> int:
        """Return the largest message that :meth:`send` fits into *packets* packets (255 at most) beside *surbs*.

        Negative if not even the SURBs fit.
        """
        octets = per_fragment(self._config.primary_packet_size) - UNLINKED_HEADER_SIZE
        return packets * octets - repliable_overhead(surbs, self._builder.hops) - 1

    def forget(self, recipient: Recipient) -> None:
        """Drop everything queued for, awaited from and known of *recipient*, for example an exit that was left."""
        for queue in (self._control, self._data):
            queue.discard(lambda _, message: message.recipient == recipient)
        self._answers.forget(recipient)
        self._pending.forget(recipient)
        self._reply_keys.forget(recipient)
        self._tags.forget(recipient)

    def discard_lane(self, lane: int) -> None:
        """Drop what waits in *lane*; packets handed out already are still retransmitted."""
        queue = self._control if lane == CONTROL_LANE else self._data
        queue.discard(lambda other, _: other == lane)

    def queued(self, now: float) -> int:
        """Return how many real packets could be handed out now (an estimate where SURBs are not built yet)."""
        return (
            self._control.packets
            + self._data.packets
            + self._answers.packets(lambda count: self.packets_needed(0, count))
            + self._replies.sendable
            + sum(not outgoing.done for outgoing in self._again)
            + int(self._replies.has_demand)
            + int(self._replies.has_retransmission)
        )

    def urgent(self, now: float) -> bool:
        """Return whether the next slot belongs to control traffic or a retransmission even if data waits.

        It is the owner's data that is meant: what it could still :meth:`send`. SURBs for others are urgent only
        every second time.
        """
        return (
            bool(self._control.packets)
            or self._replies.has_demand
            or (bool(self._answers) and not self._answered_last)
            or self._has_retransmission()
        )

    def next_packet(self, now: float) -> MixPacket | None:
        """Build and hand out one real packet; its retransmission timer starts now.

        Control and SURB answers go first, then retransmissions, then data; SURB answers take at most every second
        packet while something else waits.

        Returns:
            None if nothing waits, or no packet can be built for want of a topology with our gateway in it.
        """
        topology = self._topology
        if topology is None or topology.gateway(self._address.gateway) is None:
            return None
        while (found := self._next_outgoing(topology, now)) is not None:
            outgoing, surb = found
            packet = self._transmit(outgoing, surb, topology, now)
            if packet is not None:
                return packet
        return None

    def cover_packet(self, now: float) -> MixPacket | None:
        """Build one loop cover packet; None without a usable topology."""
        topology = self._topology
        if topology is None:
            return None
        try:
            packet = self._builder.cover(topology)
        except (TopologyError, ValueError):
            return None
        self._stats.cover_sent += 1
        return packet

    def prepare(self, now: float) -> bool:
        """Do one unit of work ahead of need, a quarter of a millisecond; False when nothing is left to prepare.

        For idle time: it makes :meth:`next_packet` quicker, above all when many SURBs are asked for.
        """
        topology = self._topology
        if topology is None:
            return False
        try:
            return self._builder.prepare(topology)
        except (TopologyError, ValueError):
            return False

    # -- receiving -------------------------------------------------------------------------------------------

    def receive_data(self, payload: bytes, now: float) -> None:
        """Take one payload that the gateway pushed: an ack, a message's fragment, or our own cover.

        What does not parse is dropped and counted.
        """
        try:
            if len(payload) <= MAX_ACK_PAYLOAD:
                self._receive_ack_untrusted(payload)
            else:
                self._receive_fragment_untrusted(payload, now)
        except WireError:
            self._stats.dropped_malformed += 1

    def next_event(self) -> MixnetEvent | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    # -- time ------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_deadline` wants to be called."""
        times = [
            at
            for at in (
                self._pending.next_deadline(),
                self._reconstructor.next_deadline(),
                self._reply_keys.next_deadline(),
                self._replies.next_deadline(),
            )
            if at is not None
        ]
        return min(times) if times else None

    def handle_deadline(self, now: float) -> None:
        """Run every timer that is due: overdue acks, incomplete messages, old keys, missing SURBs."""
        for outgoing in self._pending.take_expired(now):
            self._retry(outgoing, now)
        self._reconstructor.handle_deadline(now)
        self._reply_keys.handle_deadline(now)
        self._replies.handle_deadline(now)
        self._abandon_given_up()

    def surbs_outstanding(self, recipient: Recipient, now: float) -> int:
        """Estimate how many of our SURBs *recipient* can still use, those in our queue included."""
        return (
            self._reply_keys.outstanding(recipient, now)
            + self._data.surbs_for(recipient)
            + self._control.surbs_for(recipient)
            + self._answers.surbs_for(recipient)
        )

    def write_off_surbs(self, recipient: Recipient) -> None:
        """Take for lost whatever SURBs *recipient* was given and did not use; late replies still work."""
        self._reply_keys.discount(recipient)

    # -- inside: choosing what goes out ----------------------------------------------------------------------

    def _enqueue(self, lane: int, message: QueuedMessage) -> bool:
        queue = self._control if lane == CONTROL_LANE else self._data
        if queue.packets + message.packets > self._config.max_queued_packets:
            self._stats.dropped_refused += 1
            return False
        if message.repliable:
            self._tags.of(message.recipient)
        queue.append(lane, message)
        return True

    def _has_retransmission(self) -> bool:
        while self._again and self._again[0].done:
            self._again.popleft()
        return bool(self._again) or self._replies.has_retransmission

    def _next_outgoing(self, topology: Topology, now: float) -> tuple[Outgoing, ReceivedSurb | None] | None:
        """Return the packet whose turn it is, and the SURB it takes if it is a reply."""

        def cut(message: QueuedMessage) -> deque[Outgoing]:
            return self._cut(message, topology, now)

        others = self._has_retransmission() or self._data.packets or self._replies.has_reply
        answered_last, self._answered_last = self._answered_last, False
        outgoing = self._control.pop(cut)
        if outgoing is not None:
            return outgoing, None
        demand = self._replies.next_demand()
        if demand is not None:
            request = SurbRequest(self._address, demand.amount).encode()
            size, _ = choose_size(len(request), self._config)
            self._stats.surb_requests_sent += 1
            return self._cut_reply(demand.sender_tag, request, size, is_surb_request=True)[0], demand.surb
        if self._answers and not (answered_last and others):
            outgoing = self._answers.pop(self._answer, cut)
            if outgoing is not None:
                self._answered_last = True
                return outgoing, None
        while self._again:
            outgoing = self._again.popleft()
            if not outgoing.done:
                return outgoing, None
        return self._replies.next_retransmission(now) or self._next_data(cut, now)

    def _next_data(
        self, cut: Callable[[QueuedMessage], deque[Outgoing]], now: float
    ) -> tuple[Outgoing, ReceivedSurb | None] | None:
        outgoing = self._data.pop(cut)
        if outgoing is not None:
            return outgoing, None
        return self._replies.next_reply(now)

    def _answer(self, recipient: Recipient, count: int) -> QueuedMessage:
        return QueuedMessage(recipient, None, True, count, None, 0)

    def _retry(self, outgoing: Outgoing, now: float) -> None:
        """Queue a packet whose ack is overdue once more, or give it up."""
        limits = (outgoing.max_retransmissions, self._config.maximum_retransmissions)
        if any(limit is not None and outgoing.retransmissions >= limit for limit in limits):
            self._pending.finish(outgoing.identifier)
            self._stats.abandoned += 1
        elif outgoing.recipient is not None:
            self._again.append(outgoing)
        elif not self._replies.retransmit(outgoing, now):
            self._pending.finish(outgoing.identifier)
            self._stats.abandoned += 1

    def _abandon_given_up(self) -> None:
        """Stop to await the acks of replies whose sender gives no SURBs any more."""
        for outgoing in self._replies.take_given_up():
            self._pending.finish(outgoing.identifier)
            self._stats.abandoned += 1

    # -- inside: cutting messages ----------------------------------------------------------------------------

    def _split(self, message: bytes, size: PacketSize) -> list[bytes]:
        octets = per_fragment(size)
        return split(pad_message(message, octets), octets, lambda: draw_set_id(self._urandom))

    def _cut(self, message: QueuedMessage, topology: Topology, now: float) -> deque[Outgoing]:
        """Encode a message, with SURBs built on *topology*, and return its fragments."""
        recipient = message.recipient
        if not message.repliable:
            encoded = PlainMessage(message.data or b"").encode()
        else:
            try:
                surbs = [self._builder.reply_surb(topology) for _ in range(message.surbs)]
            except (TopologyError, ValueError):
                self._stats.dropped_unroutable += 1
                return deque()
            for surb in surbs:
                self._reply_keys.add(surb.digest, surb.encryption_key, recipient, now)
            self._stats.surbs_sent += len(surbs)
            content = (
                RepliableContent.ADDITIONAL_SURBS_V2 if message.data is None else RepliableContent.DATA_V2
            )
            encoded = RepliableMessage(
                self._tags.of(recipient), content, surbs, topology.key_rotation, message.data or b""
            ).encode()
        size, _ = choose_size(len(encoded), self._config)
        return deque(
            Outgoing(fragment, size, recipient, max_retransmissions=message.max_retransmissions)
            for fragment in self._split(encoded, size)
        )

    def _cut_reply(
        self,
        tag: bytes,
        message: bytes,
        size: PacketSize,
        *,
        is_surb_request: bool = False,
        max_retransmissions: int | None = None,
    ) -> list[Outgoing]:
        if max_retransmissions is None:
            max_retransmissions = self._config.reply_retransmissions
        return [
            Outgoing(
                fragment,
                size,
                sender_tag=tag,
                is_surb_request=is_surb_request,
                max_retransmissions=max_retransmissions,
            )
            for fragment in self._split(message, size)
        ]

    # -- inside: building packets ----------------------------------------------------------------------------

    def _transmit(
        self, outgoing: Outgoing, surb: ReceivedSurb | None, topology: Topology, now: float
    ) -> MixPacket | None:
        """Build the packet of a fragment and start its timer; None if there is no route for it."""
        stats = self._stats
        repeated = outgoing in self._pending
        outgoing.retransmissions += repeated
        fragment, identifier, size = outgoing.fragment, outgoing.identifier, outgoing.size
        try:
            if surb is not None:
                stats.surbs_spent += 1
                packet, delay = self._builder.reply(fragment, identifier, surb, size, topology)
            else:
                recipient = outgoing.recipient
                assert recipient is not None, "a fragment without a SURB has a recipient"
                packet, delay = self._builder.forward(fragment, identifier, recipient, size, topology)
        except (TopologyError, ValueError):
            stats.dropped_unroutable += 1
            if repeated:  # it may work with the next topology
                self._pending.start(outgoing, outgoing.delay, now)
            return None
        stats.packets_sent += 1
        stats.retransmissions += repeated
        if self._config.retransmission:
            self._pending.start(outgoing, delay, now)
        return packet

    # -- inside: taking payloads -----------------------------------------------------------------------------

    def _receive_ack_untrusted(self, payload: bytes) -> None:
        identifier = decode_ack_untrusted(self._keys.ack_key, payload)
        if identifier == COVER_FRAGMENT_ID:
            self._stats.cover_acks_received += 1
        else:
            self._stats.acks_received += 1
            self._pending.finish(identifier)

    def _receive_fragment_untrusted(self, payload: bytes, now: float) -> None:
        reply_key = self._reply_keys.pop(payload[:PREFIX_SIZE], now)
        if reply_key is not None:
            self._stats.surbs_used += 1
            source: Recipient | None = reply_key.recipient
            fragment = decrypt_reply_fragment(payload, reply_key.key)
        else:
            source = None
            fragment = decrypt_fragment_untrusted(payload, self._keys.encryption_private)
        if is_cover(fragment):
            self._stats.cover_received += 1
            return
        padded = self._reconstructor.insert_untrusted(source, fragment, now)
        self._stats.fragments_received += 1
        if padded is not None:
            self._receive_message(decode_message_untrusted(unpad_untrusted(padded)), source, now)

    def _receive_message(self, message: NymMessage, replier: Recipient | None, now: float) -> None:
        stats = self._stats
        if isinstance(message, PlainMessage):
            stats.messages_received += 1
            self._emit(MessageReceived(message.data))
        elif isinstance(message, RepliableMessage):
            stats.surbs_received += len(message.surbs)
            self._replies.receive_surbs(
                message.sender_tag,
                message.surbs,
                message.key_rotation,
                now,
                additional=message.content in _ADDITIONAL,
            )
            self._abandon_given_up()
            if message.content.is_data:
                stats.messages_received += 1
                self._emit(MessageReceived(message.data, message.sender_tag))
        elif isinstance(message, ReplyData):
            stats.replies_received += 1
            self._emit(MessageReceived(message.data, None, True, replier))
        else:
            self._receive_surb_request(message, replier)

    def _receive_surb_request(self, request: SurbRequest, replier: Recipient | None) -> None:
        """Answer a request for SURBs, if it comes from one of ours and from the one it names."""
        stats = self._stats
        stats.surb_requests_received += 1
        recipient = request.recipient
        if recipient != replier or recipient not in self._tags or not request.amount:
            stats.surb_requests_ignored += 1
            return
        held = self._answers.is_full(recipient)
        granted = self._answers.grant(recipient, request.amount)
        if held or granted < request.amount:
            stats.surb_requests_held += 1
        self._emit(SurbsRequested(recipient, request.amount, granted))

    def _emit(self, event: MixnetEvent) -> None:
        self._events.append(event)
        if len(self._events) > self._config.max_events:
            self._events.popleft()
            self._stats.dropped_events += 1


_ADDITIONAL = (RepliableContent.ADDITIONAL_SURBS_V1, RepliableContent.ADDITIONAL_SURBS_V2)
