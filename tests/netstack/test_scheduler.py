"""What stands in the queues and leaves them again; the processor's budget."""

from __future__ import annotations

import sys
import timeit

import pytest
from support.netsim import seeded_urandom
from support.playbook import Playbook

from smolmix_sync.netstack import Conn, Stack, StackConfig, State, TcpSettings

A, B = "10.0.0.2", "10.0.0.1"


def test_what_lost_its_reason_leaves_the_queues_without_a_packet() -> None:
    book = Playbook()
    conn = book.established()
    # An acknowledgement that rode on data.
    book.into("A", 2, 1, b"x")
    book.now += 0.03
    book.stack.handle_deadline(book.now)
    assert book.stack.next_deadline() == 0.0
    conn.rcv.acknowledged()
    assert book.stack.next_deadline() != 0.0
    # A retransmission that was acknowledged meanwhile.
    conn.send(b"data")
    book.pull()
    book.now += 1.1
    book.stack.handle_deadline(book.now)
    assert book.stack.next_deadline() == 0.0
    book.into("A", 1, 5)
    assert book.stack.next_deadline() != 0.0
    # Data whose connection ended, a SYN nobody wants any more, a closed socket's queue.
    conn.send(b"more")
    opening = book.connect()
    conn.abort()
    opening.close()
    socket = book.stack.udp()
    socket.sendto(b"x", "10.0.0.1", 9)
    socket.output.packets.clear()
    book.out("RA")
    assert book.stack.next_deadline() is None
    book.nothing()


def test_pulls_skip_what_lost_its_reason() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(b"data")
    conn.snd.buffer.clear()
    socket = book.stack.udp()
    socket.sendto(b"x", "10.0.0.1", 9)
    socket.output.packets.clear()
    assert book.stack.data_to_send(book.now) == []


def test_pending_tells_urgent_from_bulk() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 2, 1, b"x")
    book.now += 0.03
    book.stack.handle_deadline(book.now)
    assert book.stack.pending() == (0, conn.overhead)
    book.now += 0.06
    book.stack.handle_deadline(book.now)
    assert book.stack.pending() == (conn.overhead, 0)
    book.pull()
    socket = book.stack.udp()
    socket.sendto(bytes(100), "10.0.0.1", 9)
    assert book.stack.pending() == (0, 128)
    book.pull()
    for _ in range(70):
        other = book.stack.udp()
        other.sendto(bytes(100), "10.0.0.1", 9)
    assert book.stack.pending() == (0, 64 * 128)  # an estimate: it stops counting


def test_an_acknowledgement_with_sack_waits_for_room_in_its_queue() -> None:
    book = Playbook()
    book.established(timestamps=True)
    book.into("A", 101, 1, bytes(100))
    assert book.stack.data_to_send(book.now, 64) == []
    udp = book.stack.udp()
    udp.sendto(b"x", "10.0.0.1", 9)
    assert len(book.stack.data_to_send(book.now, 31 + 62)) == 1  # 62 left, 66 needed
    book.now += 0.03
    assert book.stack.data_to_send(book.now, 64) == []
    assert book.stack.next_deadline() == 0.0
    assert [len(packet) for packet in book.stack.data_to_send(book.now, 66)] == [64]


def test_shutdown_empties_the_queues() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(10_000))
    book.stack.shutdown(5)
    assert book.stack.data_to_send(book.now) == []
    assert conn.state is State.CLOSED


@pytest.mark.parametrize(
    "timer",
    [
        "retransmission",
        "acknowledgement",
        "tail probe",
        "loss",
        "persist",
        "keepalive",
        "orphan",
        "time-wait",
    ],
)
def test_a_due_timer_is_not_due_again_before_there_was_output_pitfall_2(timer: str) -> None:
    book = Playbook()
    conn = book.established(TcpSettings(keepalive=timer == "keepalive", keep_idle=5), rtt=0.2)
    if timer == "acknowledgement":
        book.into("A", 1, 1, b"x")
    elif timer in ("orphan", "time-wait"):
        conn.close()
        book.out("FA")
        book.into("FA" if timer == "time-wait" else "A", 1, 2)
        book.pull()
    elif timer == "persist":
        conn.send(bytes(65535))
        while book.pull():
            book.now += 0.2
            book.into("A", 1, conn.snd.snd_nxt, window=0)
        conn.send(b"blocked")
    elif timer != "keepalive":
        conn.send(bytes(1460 * 3))
        book.pull()
        book.now += 0.2
        if timer == "loss":
            book.into("A", 1, 1, sack=((1461, 2921),))
    steps = 0
    while (due := book.stack._scheduler.next_timer()) < float("inf") and steps < 40:
        # Nothing is pulled: as on a tunnel without a send slot.
        steps += 1
        assert due > book.now or book.now == 0.2 or steps == 1, "due again at once"
        book.now = max(book.now, due)
        book.stack.handle_deadline(book.now)
    assert steps
    if timer in ("orphan", "time-wait"):
        assert not book.stack.connections


def test_a_far_timer_is_not_left_behind_by_every_nearer_one() -> None:
    # Each delayed acknowledgement is an earlier timer than the keepalive in two hours.
    book = Playbook()
    conn = book.established(TcpSettings(keepalive=True))
    heap = book.stack._scheduler._heap
    for index in range(500):
        book.into("A", 1 + index, 1, b"x")
        book.advance(0.1)
        assert len(heap) <= 70
    assert len(book.queue) == 500
    conn.abort()


def test_unlimited_pulls_do_not_keep_connections_whose_acknowledgement_waited() -> None:
    book = Playbook()
    conns = 300
    for _ in range(conns):
        conn = book.established()
        book.into("A", 1, 1, b"x")
        conn.abort()
        book.out("RA")
        book.our_port = 0
    scheduler = book.stack._scheduler
    assert len(scheduler._lazy) <= 70
    assert len(scheduler._heap) <= 70


def established(sndbuf: int = 1 << 20) -> tuple[Stack, Stack, Conn, Conn, float]:
    config = StackConfig(tcp=TcpSettings(sndbuf=sndbuf, rcvbuf=4 << 20), initial_window=500)
    a = Stack(A, config=config, urandom=seeded_urandom(1))
    b = Stack(B, config=config, urandom=seeded_urandom(2))
    listener = b.listen(None, 80)
    conn = a.connect(B, 80, 0.0)
    now = 0.0
    for _ in range(6):
        for packet in a.data_to_send(now):
            b.receive_data(packet, now)
        for packet in b.data_to_send(now):
            a.receive_data(packet, now)
        now += 0.05
    peer = listener.accept()
    assert peer is not None
    return a, b, conn, peer, now


@pytest.mark.slow
def test_a_segment_costs_no_more_than_the_budget() -> None:
    """Twice the figures of spec/netstack.md section 8, in units of one naive 1460-octet checksum (2.7 us there)."""
    if sys.gettrace() is not None:
        pytest.skip("a tracer runs")
    a, b, conn, peer, now = established()
    block = bytes(range(256)) * 6
    unit = send = receive = float("inf")
    for _ in range(25):
        unit = min(
            unit,
            min(timeit.repeat(lambda: int.from_bytes(block[:1460], "big") % 65535, number=200, repeat=3))
            / 200,
        )
        conn.send(bytes(1448 * 300))
        start = timeit.default_timer()
        packets = a.data_to_send(now)
        middle = timeit.default_timer()
        for packet in packets:
            b.receive_data(packet, now)
        end = timeit.default_timer()
        send = min(send, (middle - start) / len(packets))
        receive = min(receive, (end - middle) / len(packets))
        peer.recv(1 << 22)
        now += 0.03
        for packet in b.data_to_send(now):
            a.receive_data(packet, now)
        now += 0.03
    assert send < 2 * 3.5 / 2.7 * unit
    assert receive < 2 * 5.9 / 2.7 * unit


def test_an_idle_connection_is_small() -> None:
    import tracemalloc

    config = StackConfig()
    stack = Stack(A, config=config, urandom=seeded_urandom(1))
    for _ in range(10):
        stack.connect(B, 80, 0.0)
    tracemalloc.start()
    for _ in range(200):
        stack.connect(B, 80, 0.0)
    size = tracemalloc.get_traced_memory()[0] / 200
    tracemalloc.stop()
    assert size < 6000
