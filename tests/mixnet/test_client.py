from __future__ import annotations

from support.mixnet_world import World

IPR = {"surb_threshold_buffer": 50}


def test_plain_message_reaches_its_recipient() -> None:
    world = World()
    alice, bob = world.client(7), world.client(8)
    assert alice.core.send_plain(bob.core.address, b"hello", world.now)
    assert world.run(5, until=lambda: bool(bob.messages))
    event = bob.messages[0]
    assert (event.message, event.sender_tag, event.is_reply, event.replier) == (b"hello", None, False, None)


def test_reply_comes_back_through_a_surb_and_names_its_sender() -> None:
    world = World()
    alice, bob = world.client(7), world.client(8)
    alice.core.send(bob.core.address, b"question", world.now, surbs=12)
    assert world.run(5, until=lambda: bool(bob.messages))
    tag = bob.messages[0].sender_tag
    assert tag is not None
    assert bob.core.send_reply(tag, b"answer", world.now)
    assert world.run(5, until=lambda: bool(alice.messages))
    event = alice.messages[0]
    assert (event.message, event.is_reply, event.replier) == (b"answer", True, bob.core.address)
    assert event.sender_tag is None


def test_every_message_and_reply_is_delivered_once_over_a_bad_network() -> None:
    world = World(seed=5, loss=0.01, duplicates=0.1, jitter=0.05)
    alice, exit_ = world.client(7), world.client(8, **IPR)
    exit_.on_event = lambda event: exit_.core.send_reply(event.sender_tag, b"re:" + event.message, world.now)
    sent = [bytes([number]) * (number * 97) for number in range(1, 60)]
    for number, message in enumerate(sent):
        alice.core.send(
            exit_.core.address, message, world.now, surbs=12 if not number else 0, lane=number % 3
        )
    assert world.run(120, until=lambda: len(alice.messages) >= len(sent)), (
        alice.core.stats,
        exit_.core.stats,
    )
    world.run(30)
    assert sorted(event.message for event in exit_.messages) == sorted(sent)
    assert sorted(event.message for event in alice.messages) == sorted(b"re:" + message for message in sent)
    assert alice.core.stats.retransmissions
    assert exit_.core.stats.retransmissions
    assert alice.core.stats.surb_requests_received

