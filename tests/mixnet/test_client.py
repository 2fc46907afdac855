from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mixnet_world import Client, World

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.acks import encode_ack
from smolmix_sync.mixnet.client import (
    CONTROL_LANE,
    ClientKeys,
    MessageReceived,
    MixnetCore,
    SurbsRequested,
)
from smolmix_sync.mixnet.fragment_encryption import encrypt_fragment, encrypt_reply_fragment
from smolmix_sync.mixnet.fragments import pad_message, split
from smolmix_sync.mixnet.message import (
    PlainMessage,
    RepliableContent,
    RepliableMessage,
    SurbRequest,
)
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import PacketSize
from smolmix_sync.mixnet.topology import RewardedSet, Topology

EXIT = {"surb_threshold_buffer": 50}


def answering(world: World, client: Client) -> None:
    """Let *client* send every repliable message back."""

    def answer(event: Any) -> None:
        if isinstance(event, MessageReceived) and event.sender_tag is not None:
            client.core.send_reply(event.sender_tag, b"re:" + event.message, world.now)

    client.on_event = answer


def handed_out(client: Client, seconds: float = 1.0) -> int:
    before = len(client.sent)
    client.world.run(seconds)
    return len(client.sent) - before


# -- messages over the network -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"disable_mix_hops": True}, {"primary_packet_size": PacketSize.EXTENDED8}]
)
def test_plain_message_reaches_its_recipient_once_and_is_acked(options: dict[str, Any]) -> None:
    world = World()
    alice, bob = world.client(7, **options), world.client(8)
    message = b"hello" * 500
    assert alice.core.send_plain(bob.core.address, message, world.now)
    world.run(5)
    assert bob.messages == [MessageReceived(message)]
    assert alice.core.awaiting_ack == 0
    assert alice.core.stats.acks_received == alice.core.stats.packets_sent == len(alice.sent)
    assert not alice.core.stats.retransmissions


@pytest.mark.parametrize("options", [{}, {"disable_mix_hops": True}])
def test_reply_comes_back_through_a_surb_and_names_its_sender(options: dict[str, Any]) -> None:
    world = World()
    alice, bob = world.client(7, **options), world.client(8, **options)
    alice.core.send(bob.core.address, b"question", world.now, surbs=12)
    assert alice.core.surbs_outstanding(bob.core.address, world.now) == 12
    assert world.run(5, until=lambda: bool(bob.messages))
    tag = bob.messages[0].sender_tag
    assert tag is not None
    assert bob.core.send_reply(tag, b"answer", world.now)
    assert world.run(5, until=lambda: bool(alice.messages))
    assert alice.messages == [MessageReceived(b"answer", None, True, bob.core.address)]
    assert alice.core.stats.surbs_used == bob.core.stats.surbs_spent == 1
    assert alice.core.surbs_outstanding(bob.core.address, world.now) == 11
    world.run(2)
    assert bob.core.awaiting_ack == 0


def test_a_client_can_write_to_itself() -> None:
    world = World()
    alice = world.client()
    alice.core.send(alice.core.address, b"note", world.now, surbs=12)
    answering(world, alice)
    assert world.run(5, until=lambda: len(alice.messages) == 2)
    assert alice.messages[1].message == b"re:note"


@pytest.mark.parametrize("seed", range(3))
def test_every_message_and_reply_is_delivered_once_over_a_bad_network(seed: int) -> None:
    world = World(seed=seed, loss=0.02, duplicates=0.1, jitter=0.08)
    alice, exit_ = world.client(7), world.client(8, **EXIT)
    answering(world, exit_)
    sent = [bytes([number]) * (number * 97) for number in range(1, 60)]
    for number, message in enumerate(sent):
        alice.core.send(
            exit_.core.address, message, world.now, surbs=12 if not number else 0, lane=number % 3
        )
    assert world.run(200, until=lambda: len(alice.messages) >= len(sent)), (
        alice.core.stats,
        exit_.core.stats,
    )
    world.run(40)
    assert sorted(event.message for event in exit_.messages) == sorted(sent)
    assert sorted(event.message for event in alice.messages) == sorted(b"re:" + message for message in sent)
    assert world.lost
    assert alice.core.stats.retransmissions
    assert exit_.core.stats.retransmissions
    assert alice.core.stats.surb_requests_received
    assert alice.core.awaiting_ack == exit_.core.awaiting_ack == 0
    assert exit_.core.reconstructor.pending == 0
    assert alice.core.queued(world.now) == exit_.core.queued(world.now) == 0
    assert len({event.sender_tag for event in exit_.messages}) == 1


def test_with_retransmission_off_nothing_is_sent_twice() -> None:
    world = World(seed=3, loss=0.05)
    alice, bob = world.client(7, retransmission=False), world.client(8)
    for number in range(60):
        alice.core.send_plain(bob.core.address, bytes([number]), world.now)
    world.run(30)
    assert len(alice.sent) == 60
    assert 30 < len(bob.messages) < 60
    assert alice.core.awaiting_ack == 0
    assert alice.core.next_deadline() is None


def test_a_reply_that_may_not_be_repeated_leaves_once() -> None:
    world = World()
    alice, exit_ = world.client(7), world.client(8)
    alice.core.send(exit_.core.address, b"question", world.now, surbs=30)
    assert world.run(5, until=lambda: bool(exit_.messages))
    tag = exit_.messages[0].sender_tag
    assert tag is not None
    world.loss = 1.0
    sent = exit_.core.stats.packets_sent
    exit_.core.send_reply(tag, b"tunnel data", world.now, max_retransmissions=0)
    world.run(60)
    assert exit_.core.stats.packets_sent == sent + 1
    assert exit_.core.stats.retransmissions == 0
    assert exit_.core.awaiting_ack == 0


def test_a_packet_is_given_up_after_its_own_limit_or_the_general_one() -> None:
    for options, limit, expected in (({}, 2, 3), ({"maximum_retransmissions": 1}, None, 2)):
        world = World(loss=1.0)
        alice, bob = world.client(7, **options), world.client(8)
        alice.core.send(bob.core.address, b"", world.now, max_retransmissions=limit)
        world.run(60)
        assert len(alice.sent) == expected
        assert alice.core.stats.abandoned == 1
        assert alice.core.awaiting_ack == 0


def test_without_a_limit_a_packet_is_repeated_until_its_ack_comes() -> None:
    world = World(loss=1.0)
    alice, bob = world.client(7), world.client(8)
    alice.core.send(bob.core.address, b"at last", world.now)
    world.run(60)
    assert len(alice.sent) > 20
    world.loss = 0.0
    assert world.run(5, until=lambda: bool(bob.messages))
    world.run(5)
    assert bob.messages == [bob.messages[0]]
    assert alice.core.awaiting_ack == 0


def test_a_late_ack_saves_a_retransmission_that_waits_for_its_slot() -> None:
    world = World()
    alice, bob = world.client(7), world.client(8)
    for _ in range(2):
        alice.core.send(bob.core.address, b"x", world.now)
        assert alice.core.next_packet(world.now) is not None
    identifiers = list(alice.core._pending._pending)
    world.now += 10.0
    alice.core.handle_deadline(world.now)
    assert alice.core.urgent(world.now)
    for identifier in identifiers:
        assert alice.core.queued(world.now)
        alice.receive(encode_ack(alice.core._keys.ack_key, identifier, bytes(16)))
    assert not alice.core.urgent(world.now)
    assert alice.core.next_packet(world.now) is None
    assert alice.core.stats.retransmissions == 0


@pytest.mark.parametrize("how_long", [1.0, 30.0])  # the timers run; or the packets wait for SURBs
def test_replies_to_a_sender_that_was_pushed_out_are_abandoned(how_long: float) -> None:
    world = World()
    alice, bob = world.client(7), world.client(8, max_senders=1)
    answering(world, bob)
    alice.core.send(bob.core.address, b"x", world.now, surbs=13)
    assert world.run(5, until=lambda: bool(bob.sent))
    world.loss = 1.0
    world.run(how_long)
    world.loss = 0.0
    waiting = bob.core.awaiting_ack
    assert waiting
    world.client(7).core.send(bob.core.address, b"y", world.now, surbs=2)
    world.run(5)
    assert bob.core.stats.abandoned == waiting
    assert bob.core.awaiting_ack == 0
    assert bob.core.queued(world.now) == 0


def test_cover_comes_back_and_is_dropped() -> None:
    world = World()
    alice = world.client()
    for _ in range(5):
        packet = alice.core.cover_packet(world.now)
        assert packet is not None
        world.forward(packet.first_hop, packet.packet, packet.key_rotation)
    world.run(5)
    stats = alice.core.stats
    assert (stats.cover_sent, stats.cover_received, stats.cover_acks_received) == (5, 5, 5)
    assert not alice.events
    assert not stats.dropped_malformed


def test_all_packets_have_one_length() -> None:
    world = World()
    alice, bob = world.client(7), world.client(8)
    for size in (0, 1, 1500, 5000):
        alice.core.send(bob.core.address, bytes(size), world.now, surbs=2)
    alice.core.send_surbs(bob.core.address, 7, world.now)
    world.run(3)
    cover = alice.core.cover_packet(world.now)
    assert cover is not None
    assert {len(packet.packet) for packet in [*alice.sent, cover]} == {2413}


# -- SURBs ---------------------------------------------------------------------------------------------------


def test_a_bulk_reply_is_fed_by_surb_requests_until_it_is_through() -> None:
    world = World(jitter=0.02)
    alice, exit_ = world.client(7, rate=500), world.client(8, rate=500, **EXIT)
    alice.core.send(exit_.core.address, b"get", world.now, surbs=20)
    assert world.run(5, until=lambda: bool(exit_.messages))
    tag = exit_.messages[0].sender_tag
    assert tag is not None
    for number in range(300):
        assert exit_.core.send_reply(tag, number.to_bytes(2, "big") * 700, world.now)
    assert world.run(60, until=lambda: len(alice.messages) == 300), (alice.core.stats, exit_.core.stats)
    assert {event.message[:2] for event in alice.messages} == {n.to_bytes(2, "big") for n in range(300)}
    assert exit_.core.stats.surb_requests_sent == alice.core.stats.surb_requests_received >= 5
    estimate = alice.core.surbs_outstanding(exit_.core.address, world.now)
    assert abs(estimate - exit_.core.replies.available(tag)) < 60
    world.run(10)
    assert alice.core.surbs_outstanding(exit_.core.address, world.now) == exit_.core.replies.available(tag)
    requests = [event for event in alice.events if isinstance(event, SurbsRequested)]
    assert sum(event.granted for event in requests) == sum(event.amount for event in requests)


def test_surbs_sent_ahead_make_requests_unnecessary() -> None:
    world = World()
    alice, exit_ = world.client(7), world.client(8, **EXIT)
    assert alice.core.send_surbs(exit_.core.address, 70, world.now)
    assert alice.core.surbs_outstanding(exit_.core.address, world.now) == 70
    assert world.run(10, until=lambda: exit_.core.stats.surbs_received == 70)
    alice.core.send(exit_.core.address, b"hello", world.now)
    answering(world, exit_)
    assert world.run(5, until=lambda: bool(alice.messages))


def request_for(client: Client, peer: Recipient, amount: int, *, named: Recipient | None = None) -> None:
    """Deliver a SURB request as *peer* would make it, through a SURB that was built for it."""
    core, world = client.core, client.world
    surb = core._builder.reply_surb(world.topology)
    core._reply_keys.add(surb.digest, surb.encryption_key, peer, world.now)
    message = SurbRequest(named or peer, amount).encode()
    set_id = int.from_bytes(world.urandom(3), "big") + 1
    (fragment,) = split(pad_message(message, 1611), 1611, lambda: set_id)
    client.receive(encrypt_reply_fragment(fragment, surb.encryption_key))


def test_requests_are_answered_by_at_most_every_second_packet_while_data_waits() -> None:
    world = World()
    alice, exit_ = world.client(7), world.client(8)
    for _ in range(30):
        alice.core.send(exit_.core.address, bytes(1500), world.now)
    request_for(alice, exit_.core.address, 50)
    kinds = []
    for _ in range(24):
        urgent = alice.core.urgent(world.now)
        data = alice.core._data.packets
        assert alice.core.next_packet(world.now) is not None
        answered = alice.core._data.packets == data
        assert urgent == answered
        kinds.append(answered)
    assert kinds == [True, False] * 12


def test_requests_are_answered_at_every_packet_while_nothing_else_waits() -> None:
    world = World()
    alice, exit_ = world.client(7), world.client(8)
    alice.core._tags.of(exit_.core.address)
    request_for(alice, exit_.core.address, 17)
    assert alice.core.queued(world.now) == 5
    assert [alice.core.next_packet(world.now) is not None for _ in range(6)] == [True] * 5 + [False]
    assert alice.core.stats.surbs_sent == 17


def test_excess_requests_wait_for_the_answers_before_them_and_are_cut_and_counted() -> None:
    world = World()
    alice, exit_ = world.client(7), world.client(8)
    alice.core._tags.of(exit_.core.address)
    for amount in (5000, 30, 30, 5000):
        request_for(alice, exit_.core.address, amount)
    events = [event for event in alice.events if isinstance(event, SurbsRequested)]
    assert [event.granted for event in events] == [500, 30, 30, 470]
    assert alice.core.stats.surb_requests_held == 3
    assert not alice.core.send_surbs(exit_.core.address, 10, world.now)
    assert alice.core.surbs_outstanding(exit_.core.address, world.now) == 1030 + 0


def test_requests_of_strangers_and_in_the_name_of_others_are_ignored() -> None:
    world = World()
    alice, exit_, other = world.client(7), world.client(8), world.client(8)
    request_for(alice, exit_.core.address, 10)  # no tag was ever given to it
    alice.core._tags.of(exit_.core.address)
    alice.core._tags.of(other.core.address)
    request_for(alice, exit_.core.address, 10, named=other.core.address)
    request_for(alice, exit_.core.address, 0)
    assert alice.core.stats.surb_requests_ignored == 3
    assert not alice.events
    assert alice.core.queued(world.now) == 0


def test_packet_ack_and_surbs_stem_from_the_snapshot_at_hand_out() -> None:
    world = World()
    alice, exit_ = world.client(7), world.client(8, **EXIT)
    answering(world, exit_)
    alice.core.send(exit_.core.address, b"old times", world.now, surbs=13)
    while alice.core.prepare(world.now):
        pass
    world.set_rotation(5)
    world.expire(2)
    assert world.run(5, until=lambda: bool(alice.messages))
    assert world.undeliverable == 0
    assert alice.core.stats.retransmissions == exit_.core.stats.retransmissions == 0


def test_a_key_rotation_under_traffic_loses_nothing() -> None:
    world = World(seed=8)
    short = {"epoch_duration": 20.0}
    alice, exit_ = world.client(7, **short), world.client(8, **EXIT, **short)
    answering(world, exit_)
    total = 0
    for step in range(30):
        if step == 10:
            world.set_rotation(5)
        if world.now > 1050:
            world.expire(2)
        alice.core.send(exit_.core.address, b"%d" % step, world.now, surbs=13 if not step else 0)
        total += 1
        world.run(2)
    world.run(20)
    assert Counter(event.message for event in alice.messages) == {b"re:%d" % step: 1 for step in range(total)}
    assert exit_.core.replies.dropped_surbs


# -- refusals and limits ---------------------------------------------------------------------------------------


def test_nothing_is_handed_out_without_a_topology_that_has_our_gateway() -> None:
    world = World()
    alice, bob = world.client(7), world.client(8)
    alice.core.send(bob.core.address, b"x", world.now, surbs=2)
    alice.core.set_topology(None, world.now)
    assert alice.core.topology is None
    assert alice.core.next_packet(world.now) is None
    assert alice.core.cover_packet(world.now) is None
    assert not alice.core.prepare(world.now)
    assert alice.core.queued(world.now) == 1
    lone = MixnetCore(
        ClientKeys.generate(world.urandom), bytes(32), config=TrafficSettings(), urandom=world.urandom
    )
    lone.set_topology(world.topology, world.now)
    lone.send(bob.core.address, b"x", world.now)
    assert lone.next_packet(world.now) is None
    assert lone.cover_packet(world.now) is None
    assert not lone.prepare(world.now)
    alice.core.set_topology(world.topology, world.now)
    assert world.run(5, until=lambda: bool(bob.messages))


def test_a_message_to_an_unknown_gateway_is_dropped_and_the_next_one_goes() -> None:
    world = World()
    alice, bob = world.client(7), world.client(8)
    stranger = Recipient(bytes(32), bytes(range(32)), bytes(32))
    alice.core.send(stranger, bytes(3000), world.now)
    alice.core.send(bob.core.address, b"x", world.now)
    assert world.run(5, until=lambda: bool(bob.messages))
    assert alice.core.stats.dropped_unroutable == 2


def test_surbs_that_cannot_be_built_drop_their_message_and_no_more() -> None:
    world = World()
    alice, bob = world.client(7), world.client(8)
    alice.core.set_topology(
        Topology(world.topology.nodes, RewardedSet(0, (7,), (8,), (1,), (), (5,))), world.now
    )
    alice.core.send(bob.core.address, b"x", world.now, surbs=3)
    alice.core.send_surbs(bob.core.address, 3, world.now)
    assert alice.core.next_packet(world.now) is None
    assert alice.core.cover_packet(world.now) is None
    assert not alice.core.prepare(world.now)
    assert alice.core.stats.dropped_unroutable == 2
    assert alice.core.surbs_outstanding(bob.core.address, world.now) == 0
    alice.core.set_topology(world.topology, world.now)
    alice.core.send(bob.core.address, b"y", world.now, surbs=3)
    assert world.run(5, until=lambda: bool(bob.messages))


def test_a_retransmission_without_a_route_waits_for_a_better_topology() -> None:
    world = World(loss=1.0)
    alice, bob = world.client(7), world.client(8)
    alice.core.send(bob.core.address, b"x", world.now)
    world.run(1)
    nodes = {number: node for number, node in world.topology.nodes.items() if number != 8}
    alice.core.set_topology(Topology(nodes, world.topology.rewarded_set, key_rotation_id=4), world.now)
    world.run(10)
    assert alice.core.stats.dropped_unroutable > 2
    world.loss = 0.0
    alice.core.set_topology(world.topology, world.now)
    assert world.run(10, until=lambda: bool(bob.messages))


def test_sends_beyond_the_queue_are_refused() -> None:
    world = World()
    alice, bob = world.client(7, max_queued_packets=4), world.client(8)
    assert alice.core.send(bob.core.address, bytes(5000), world.now)
    assert not alice.core.send(bob.core.address, b"x", world.now)
    assert not alice.core.send_plain(bob.core.address, b"x", world.now)
    assert alice.core.send(bob.core.address, b"x", world.now, lane=CONTROL_LANE)
    assert not alice.core.send_reply(b"t" * 16, b"x", world.now)
    assert not alice.core.send_surbs(bob.core.address, 0, world.now)
    assert alice.core.stats.dropped_refused == 3
    with pytest.raises(ValueError, match="at most"):
        alice.core.send(bob.core.address, bytes(5_000_000), world.now)
    with pytest.raises(ValueError, match="65535"):
        alice.core.send(bob.core.address, b"", world.now, surbs=70_000)
    with pytest.raises(ValueError, match="empty"):
        alice.core.send_reply(b"t" * 16, b"", world.now)


def test_a_reply_beyond_the_senders_queue_is_refused() -> None:
    world = World()
    alice, bob = world.client(7), world.client(8, max_queued_replies=2)
    alice.core.send(bob.core.address, b"x", world.now, surbs=2)
    assert world.run(5, until=lambda: bool(bob.messages))
    tag = bob.messages[0].sender_tag
    assert tag is not None
    assert not bob.core.send_reply(tag, bytes(5000), world.now)
    assert bob.core.send_reply(tag, bytes(2000), world.now)
    assert not bob.core.send_reply(tag, b"x", world.now)
    assert bob.core.stats.dropped_refused == 2


def test_control_goes_before_retransmissions_and_those_before_data() -> None:
    world = World(loss=1.0)
    alice, bob = world.client(7), world.client(8)
    alice.core.send(bob.core.address, b"lost", world.now)
    assert alice.core.next_packet(world.now) is not None
    world.now += 10
    alice.core.handle_deadline(world.now)
    alice.core.send(bob.core.address, b"data", world.now)
    alice.core.send(bob.core.address, b"ping", world.now, lane=CONTROL_LANE)
    assert alice.core.queued(world.now) == 3
    seen = []
    for _ in range(3):
        before = (alice.core._control.packets, alice.core.stats.retransmissions, alice.core._data.packets)
        alice.core.next_packet(world.now)
        after = (alice.core._control.packets, alice.core.stats.retransmissions, alice.core._data.packets)
        seen.append([index for index in range(3) if before[index] != after[index]])
    assert seen == [[0], [1], [2]]
    assert not alice.core.urgent(world.now)


def test_the_room_is_what_the_chapter_says_and_packets_needed_agrees() -> None:
    world = World()
    core = world.client().core
    assert [core.room(1, surbs) for surbs in range(4)] == [1581, 1121, 661, 201]
    assert core.room(1, 4) < 0
    for packets in (1, 2, 5):
        for surbs in range(4):
            size = core.room(packets, surbs)
            assert core.packets_needed(size, surbs) == packets
            assert core.packets_needed(size + 1, surbs) == packets + 1
    assert [core.packets_needed(0, surbs) for surbs in (3, 6, 10, 17, 24, 50, 100)] == [1, 2, 3, 5, 7, 15, 29]
    assert world.client(7, disable_mix_hops=True).core.room(1, 1) == 1581 - 412


def test_events_are_bounded() -> None:
    world = World()
    bob = world.client(8, max_events=3)
    for number in range(5):
        (fragment,) = split(
            pad_message(PlainMessage(bytes([number])).encode(), 1611),
            1611,
            lambda n=number + 1: n,  # type: ignore[misc]
        )
        bob.core.receive_data(
            encrypt_fragment(fragment, bob.core.address.encryption, world.urandom), world.now
        )
    found = []
    while (event := bob.core.next_event()) is not None:
        assert isinstance(event, MessageReceived)
        found.append(event.message)
    assert found == [b"\2", b"\3", b"\4"]
    assert bob.core.stats.dropped_events == 2


@pytest.mark.parametrize("content", list(RepliableContent))
def test_messages_of_both_versions_and_heartbeats_are_understood(content: RepliableContent) -> None:
    world = World()
    bob = world.client(8)
    message = RepliableMessage(b"t" * 16, content, [], 0, b"x" if content.is_data else b"")
    (fragment,) = split(pad_message(message.encode(), 1611), 1611, lambda: 1)
    bob.receive(encrypt_fragment(fragment, bob.core.address.encryption, world.urandom))
    assert bob.messages == ([MessageReceived(b"x", b"t" * 16)] if content.is_data else [])
    assert bob.core.replies.knows(b"t" * 16)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=20), st.binary(max_size=1700))
def test_garbage_from_the_gateway_is_counted_and_nothing_else(pushed: list[bytes], inner: bytes) -> None:
    world = World()
    bob = world.client(8)
    for number, data in enumerate(pushed):
        bob.receive(data)
        (fragment,) = split(pad_message(data, 1611), 1611, lambda n=number + 1: n)  # type: ignore[misc]
        bob.receive(encrypt_fragment(fragment, bob.core.address.encryption, world.urandom))
        bob.receive(encrypt_fragment(b"\x80" + inner, bob.core.address.encryption, world.urandom))
    assert bob.core.queued(world.now) == 0
    assert bob.core.stats.dropped_malformed <= 3 * len(pushed)


def test_what_concerned_a_forgotten_exit_is_gone() -> None:
    world = World(loss=1.0)
    alice, bob, carol = world.client(7), world.client(8), world.client(8)
    alice.core.send(bob.core.address, b"x", world.now, surbs=5)
    alice.core.next_packet(world.now)
    alice.core.next_packet(world.now)
    alice.core.send(bob.core.address, b"y", world.now, surbs=5)
    alice.core.send(bob.core.address, b"y", world.now, surbs=5, lane=CONTROL_LANE)
    alice.core.send_surbs(bob.core.address, 20, world.now)
    alice.core.send(carol.core.address, b"z", world.now, lane=4)
    alice.core.send(carol.core.address, b"z", world.now, lane=5)
    alice.core.forget(bob.core.address)
    alice.core.discard_lane(5)
    assert alice.core.queued(world.now) == 1
    assert alice.core.awaiting_ack == 0
    assert alice.core.surbs_outstanding(bob.core.address, world.now) == 0
    assert alice.core.next_packet(world.now) is not None


def test_keys_are_not_in_a_repr() -> None:
    assert repr(ClientKeys(b"a" * 32, b"b" * 32, b"c" * 16)) == "ClientKeys()"
    assert "secret" not in repr(MessageReceived(b"secret"))
