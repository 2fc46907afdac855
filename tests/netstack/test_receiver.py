"""Playbooks for the receiving side: reassembly, acknowledgements, SACK, windows, timestamps."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.playbook import Playbook

from smolmix_sync.netstack import READABLE, Conn, StackConfig, TcpSettings
from smolmix_sync.netstack.receiver import Receiver


def relative(book: Playbook, blocks: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    return [((left - book.irs) & 0xFFFFFFFF, (right - book.irs) & 0xFFFFFFFF) for left, right in blocks]


# -- acknowledgements


def test_in_order_data_is_acknowledged_after_20_ms() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, 1, bytes(100))
    book.nothing()
    assert book.advance_to_output() == pytest.approx(0.020)
    book.out("A", ack=101)
    assert (conn, READABLE) in list(book.stack.events())


def test_the_sixteenth_segment_is_acknowledged_at_once() -> None:
    book = Playbook()
    book.established()
    for index in range(15):
        book.into("A", 1 + 10 * index, 1, bytes(10))
    book.nothing()
    book.into("A", 151, 1, bytes(10))
    book.out("A", ack=161)


def test_quickack_acknowledges_every_segment() -> None:
    book = Playbook()
    book.established(TcpSettings(quickack=True))
    book.into("A", 1, 1, bytes(10))
    book.out("A", ack=11)


def test_an_acknowledgement_rides_on_data() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, 1, b"ping")
    conn.send(b"pong")
    book.out("A", ack=5, payload=b"pong")
    book.advance(1.0)
    assert [got for got in book.queue if not got.payload] == []


def test_a_waiting_acknowledgement_joins_a_bundle_that_leaves_anyway() -> None:
    book = Playbook()
    first = book.established()
    book.into("A", 1, 1, b"data")
    udp = book.stack.udp()
    udp.sendto(b"x", "10.0.0.1", 9)
    packets = book.stack.data_to_send(book.now, 1500)
    assert len(packets) == 2
    assert first.rcv.last_ack_sent == 5


def test_the_newest_state_is_acknowledged_not_the_one_when_it_was_due() -> None:
    book = Playbook()
    book.established()
    book.into("A", 1, 1, bytes(10))
    book.now += 0.05
    book.stack.handle_deadline(book.now)
    book.into("A", 11, 1, bytes(10))
    book.out("A", ack=21)
    book.nothing()


# -- reassembly and SACK


def test_out_of_order_data_is_reported_by_sack_newest_first() -> None:
    book = Playbook()
    conn = book.established()
    for seq in (101, 301, 501, 701):
        book.into("A", seq, 1, bytes(100))
    book.advance_to_output()
    got = book.out("A", ack=1)
    assert relative(book, got.options.sack) == [(701, 801), (501, 601), (301, 401), (101, 201)]
    book.into("A", 1, 1, bytes(100))
    assert conn.readable() == 200
    book.advance_to_output()
    got = book.out("A", ack=201)
    assert relative(book, got.options.sack) == [(701, 801), (501, 601), (301, 401)]


def test_three_blocks_fit_beside_timestamps() -> None:
    book = Playbook()
    book.established(timestamps=True)
    for seq in (101, 301, 501, 701):
        book.into("A", seq, 1, bytes(100))
    book.advance_to_output()
    got = book.out("A", ack=1)
    assert relative(book, got.options.sack) == [(701, 801), (501, 601), (301, 401)]
    assert got.options.timestamps is not None


def test_a_run_of_duplicates_becomes_one_dsack_block() -> None:
    book = Playbook()
    book.established()
    for index in range(4):
        book.into("A", 1 + 100 * index, 1, bytes(100))
    book.advance_to_output()
    book.out("A", ack=401)
    for seq in (101, 1, 201):
        book.into("A", seq, 1, bytes(100))
    got = book.out("A", ack=401)
    assert relative(book, got.options.sack) == [(1, 301)]
    book.into("A", 1, 1, bytes(100))
    book.into("A", 301, 1, bytes(100))  # not adjacent: the newer one is told
    got = book.out("A", ack=401)
    assert relative(book, got.options.sack) == [(301, 401)]


def test_a_duplicate_is_reported_by_dsack_first() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, 1, bytes(100))
    book.into("A", 201, 1, bytes(100))
    book.into("A", 1, 1, bytes(100))
    got = book.out("A", ack=101)
    assert relative(book, got.options.sack) == [(1, 101), (201, 301)]
    book.into("A", 201, 1, bytes(100))
    got = book.out("A", ack=101)
    assert relative(book, got.options.sack) == [(201, 301), (201, 301)]
    assert conn.rcv.duplicates == 2


def test_no_sack_without_agreement() -> None:
    book = Playbook()
    book.established(sack=False)
    book.into("A", 101, 1, bytes(100))
    book.into("A", 101, 1, bytes(100))
    got = book.out("A", ack=1)
    assert got.options.sack == ()


def test_sack_that_does_not_fit_beside_a_full_payload_follows_alone_pitfall_7() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 101, 1, bytes(100))
    conn.send(bytes(1460))
    packets = book.pull()
    assert [len(got.packet) for got in packets] == [1500, 52]
    assert packets[0].options.sack == ()
    assert relative(book, packets[1].options.sack) == [(101, 201)]


def test_sack_rides_on_a_small_segment() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 101, 1, bytes(100))
    conn.send(b"small")
    got = book.out("A", payload=b"small")
    assert relative(book, got.options.sack) == [(101, 201)]
    book.nothing()


def test_sack_never_makes_a_packet_larger_than_the_peers_mss_allows() -> None:
    # RFC 6691: the peer's MSS is for a header without options; our own MTU may be larger.
    book = Playbook()
    conn = book.established(TcpSettings(nodelay=True), mss=1380)
    book.into("A", 1001, 1, b"x")
    conn.send(bytes(1380))
    sizes = [len(got.packet) for got in book.pull()]
    assert sizes == [1420, 40 + 12]
    book.into("A", 2001, 1, b"x")
    conn.send(bytes(1365))
    assert [len(got.packet) for got in book.pull()] == [1417]


def test_sack_waits_for_a_bundle_with_room_for_a_block() -> None:
    book = Playbook()
    book.established()
    book.into("A", 101, 1, bytes(100))
    book.now += 0.1
    assert book.stack.data_to_send(book.now, 60) != [] or book.stack.data_to_send(book.now, 100) != []


@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_ranges_are_kept(seed: int) -> None:
    book = Playbook()
    conn = book.established()
    data = random.Random(seed).randbytes(200 * 1000)
    order = list(range(200))
    random.Random(seed).shuffle(order)
    for index in order:
        book.into("A", 1 + index * 1000, 1, data[index * 1000 : (index + 1) * 1000])
        book.advance(0.001)
    assert conn.recv(10**6) == data
    assert conn.rcv.pieces_dropped == 0


@given(st.data())
def test_any_split_overlap_and_order_gives_the_same_stream(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 300))
    stream = bytes(index & 0xFF for index in range(size))
    pieces = data.draw(
        st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 80)), min_size=1, max_size=40)
    )
    receiver = Receiver(TcpSettings(), StackConfig())
    receiver.start(0, scaled=False, shift=0, sack=True)
    receiver.edge = 10_000
    have = bytearray(size)
    got = b""
    for start, length in pieces:
        payload = stream[start : start + length]
        receiver.accept(1 + start, payload, 0.0)
        have[start : start + length] = b"\x01" * len(payload)
        got += receiver.read(17)
        # The bookkeeping agrees with a textbook model.
        nxt = bytes(have).find(0)
        nxt = size if nxt < 0 else nxt
        assert receiver.rcv_nxt == 1 + nxt
        ranges = []
        index = nxt
        while index < size:
            if have[index]:
                end = index
                while end < size and have[end]:
                    end += 1
                ranges.append((1 + index, 1 + end))
                index = end
            index += 1
        assert sorted(receiver._by_left.items()) == ranges
        assert {right: left for left, right in ranges} == receiver._by_right
        assert receiver._lefts == [left for left, _ in ranges]
        assert receiver.held_octets() == sum(right - left for left, right in ranges)
        assert sum(map(len, receiver._held.values())) == receiver.held_octets()
        if ranges and receiver.dsack is None:
            newest = receiver.sack_blocks(1)
            assert newest[0] in ranges
    receiver.accept(1, stream, 0.0)
    got += receiver.read(size)
    assert got == stream
    assert not receiver._held


def test_tiny_pieces_are_bounded() -> None:
    receiver = Receiver(TcpSettings(rcvbuf=65536, rcvbuf_max=65536), StackConfig())
    receiver.start(0, scaled=False, shift=0, sack=True)
    receiver.edge = 65536
    for index in range(3, 60_000, 2):
        receiver.accept(index, b"x", 0.0)
    assert len(receiver._held) == 256
    assert receiver.pieces_dropped > 0


# -- window


def test_data_beyond_the_window_is_cut_and_acknowledged() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(rcvbuf=1000, rcvbuf_max=1000))
    book.into("A", 1, 1, bytes(1500))
    assert conn.readable() == 1000
    book.advance_to_output()
    book.out("A", ack=1001, window=0)
    book.into("A", 1001, 1, b"x")
    book.out("A", ack=1001, window=0)


def test_the_reader_reopens_a_closed_window() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(rcvbuf=4000, rcvbuf_max=4000))
    for index in range(4):
        book.into("A", 1 + 1000 * index, 1, bytes(1000))
    book.advance_to_output()
    book.out("A", ack=4001, window=0)
    conn.recv(100)
    book.nothing()  # silly window avoidance
    conn.recv(3900)
    book.out("A", ack=4001, window=4000)


def test_small_reads_do_not_open_the_window_by_silly_steps() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(rcvbuf=8000, rcvbuf_max=8000))
    for start in range(1, 8001, 1000):
        book.into("A", start, 1, bytes(1000))
    book.advance(0.05)
    book.queue.clear()
    for _ in range(27):
        assert len(conn.recv(100)) == 100
        book.nothing()  # 2700 octets are free: two segments are 2760
    conn.recv(100)
    assert book.out("A", ack=8001).window << 7 >= 2688
    book.nothing()


def test_a_smaller_buffer_on_a_live_connection_takes_no_window_back_pitfall_8() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(rcvbuf=8000, rcvbuf_max=8000))
    conn.settings.rcvbuf = conn.settings.rcvbuf_max = 2000
    conn.settings_changed()
    for start in range(1, 7001, 1000):
        book.into("A", start, 1, bytes(1000))
    assert conn.readable() == 7000


def test_the_advertised_edge_never_moves_left() -> None:
    book = Playbook()
    conn = book.established()
    edge = conn.rcv.edge
    for index in range(50):
        book.into("A", 1 + 1000 * index, 1, bytes(1000))
        book.advance(0.03)
        assert conn.rcv.edge >= edge
        edge = conn.rcv.edge
        if index == 25:
            conn.settings.rcvbuf = conn.settings.rcvbuf_max = 1000
            conn.settings_changed()
            conn.rcv.limit = 1000


def feed(book: Playbook, conn: Conn, rounds: int, wait: float, read: bool) -> None:
    """Fill the window once per *wait* seconds."""
    seq = 1
    for _ in range(rounds):
        while (size := min(1000, conn.rcv.edge - seq)) > 0:
            book.into("A", seq, 1, bytes(size))
            seq += size
            if read:
                conn.recv(10**6)
        book.advance(wait)
        book.queue.clear()


@pytest.mark.parametrize(
    ("wait", "read", "limit"), [(0.2, True, 512 * 1024), (0.2, False, 64 * 1024), (0.9, True, 64 * 1024)]
)
def test_the_receive_buffer_grows_when_the_window_is_the_bottleneck(
    wait: float, read: bool, limit: int
) -> None:
    book = Playbook()
    conn = book.established(TcpSettings(rcvbuf=64 * 1024, rcvbuf_max=512 * 1024), rtt=0.2)
    feed(book, conn, 12, wait, read)
    assert conn.rcv.limit == limit


def test_windows_above_64_kib_are_advertised() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, 1, b"x")
    book.advance_to_output()
    got = book.out("A")
    assert got.window << 7 > 1_000_000
    assert conn.rcv.edge > 1_000_000


# -- timestamps


def test_a_late_original_passes_although_newer_stamps_were_seen() -> None:
    book = Playbook()
    conn = book.established(timestamps=True)
    book.into("A", 1, 1, b"new", ts=(50_000, 0))
    book.into("A", 4, 1, b"old", ts=(20_000, 0))
    assert conn.recv(10) == b"newold"


def test_a_stamp_more_than_a_minute_back_is_dropped_paws() -> None:
    book = Playbook()
    conn = book.established(timestamps=True)
    book.into("A", 1, 1, b"new", ts=(100_000, 0))
    book.into("A", 4, 1, b"old", ts=(100_000 - 60_001, 0))
    assert conn.recv(10) == b"new"
    assert book.stack.counters.drops["tcp_paws"] == 1
    book.out("A", ack=4)


def test_the_echoed_stamp_is_the_one_that_advanced_the_window() -> None:
    book = Playbook()
    book.established(timestamps=True)
    book.into("A", 1, 1, b"a", ts=(5000, 0))
    book.into("A", 3, 1, b"c", ts=(6000, 0))
    book.advance_to_output()
    got = book.out("A", ack=2)
    assert got.options.timestamps is not None
    assert got.options.timestamps[1] == 5000


# -- reading


def test_peek_and_recv_into() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, 1, b"abcdef")
    assert conn.peek(3) == b"abc"
    target = bytearray(4)
    assert conn.recv_into(target) == 4
    assert target == b"abcd"
    assert conn.recv_into(memoryview(target)[:1]) == 1
    assert conn.recv(10) == b"f"
    assert conn.recv(10) == b""
    assert conn.recv_into(target) == 0


def test_a_pure_acknowledgement_overtaken_by_data_is_not_answered() -> None:
    book = Playbook()
    book.established()
    book.into("A", 1, 1, bytes(100))
    book.advance_to_output()
    book.out("A", ack=101)
    for _ in range(5):
        book.into("A", 1, 1)
    book.nothing()


def test_a_keepalive_probe_is_answered() -> None:
    book = Playbook()
    book.established()
    book.into("A", 0, 1)
    book.out("A", seq=1, ack=1)
