"""Playbooks for the sending side: segmentation, Nagle, windows, loss, persist, time-outs, path MTU."""

from __future__ import annotations

import errno

import pytest
from support.playbook import Playbook

from smolmix_sync.netstack import WRITABLE, StackConfig, State, TcpSettings


def drain(book: Playbook) -> list[tuple[int, int]]:
    """Return (sequence number, payload size) of what is sent now."""
    return [(got.seq, len(got.payload)) for got in book.pull()]


# -- segmentation and Nagle


def test_a_write_is_cut_into_segments_with_push_on_the_last() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(3000))
    packets = book.stack.data_to_send(book.now)
    assert [len(packet) - 40 for packet in packets] == [1460, 1460, 80]
    assert [packet[33] & 8 for packet in packets] == [0, 0, 8]


def test_the_initial_window_is_ten_segments() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(100_000))
    assert len(drain(book)) == 10


def test_nagle_holds_a_second_small_segment() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(b"a")
    book.out("A", seq=1, payload=b"a")
    conn.send(b"b")
    book.nothing()
    conn.send(b"c")
    book.into("A", 1, 2)
    book.out("A", seq=2, payload=b"bc")


def test_nodelay_sends_small_segments_at_once() -> None:
    book = Playbook()
    conn = book.established()
    conn.settings.nodelay = True
    for letter in (b"a", b"b", b"c"):
        conn.send(letter)
        book.out("A", payload=letter)


def test_nagle_does_not_hold_the_tail_of_a_bulk_write() -> None:
    # Minshall's variant: full segments in flight do not count.
    book = Playbook()
    conn = book.established()
    conn.send(bytes(1460 + 10))
    assert drain(book) == [(1, 1460), (1461, 10)]


def test_fin_releases_what_nagle_holds() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(b"a")
    book.out("A", payload=b"a")
    conn.send(b"b")
    conn.shutdown_write()
    book.out("FA", payload=b"b")


def test_cork_holds_a_partial_segment_until_cleared() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(cork=True))
    conn.send(b"header")
    book.nothing()
    conn.settings.cork = False
    conn.settings_changed()
    book.out("A", payload=b"header")


def test_send_is_bounded_by_the_buffer_and_writable_again_after_an_acknowledgement() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(sndbuf=5000))
    assert conn.send(bytes(8000)) == 5000
    assert conn.writable() == 0
    assert conn.send(b"x") == 0
    drain(book)
    list(book.stack.events())
    book.into("A", 1, 2921)
    assert conn.writable() == 2920
    assert (conn, WRITABLE) in list(book.stack.events())


# -- room


def test_nothing_larger_than_the_room_is_made() -> None:
    book = Playbook()
    conn = book.established(timestamps=True)
    conn.send(bytes(20_000))
    for room in (1500, 1498, 1000, 700, 400):
        packets = book.stack.data_to_send(book.now, room)
        assert packets
        assert sum(len(packet) + 2 for packet in packets) <= room


def test_a_first_segment_is_cut_to_the_room_and_a_second_waits() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(3000))
    assert [len(p) for p in book.stack.data_to_send(book.now, 1500)] == [1498]
    assert [len(p) for p in book.stack.data_to_send(book.now, 1000)] == [998]
    assert book.stack.data_to_send(book.now, 59) == []


def test_a_cut_segment_does_not_trip_nagle() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(2000))
    assert [len(p) for p in book.stack.data_to_send(book.now, 1500)] == [1498]
    assert [len(p) for p in book.stack.data_to_send(book.now, 1500)] == [2000 - 1458 + 40]


def test_retransmissions_fit_the_room_pitfall_1() -> None:
    book = Playbook()
    conn = book.established(timestamps=True)
    conn.send(bytes(1448))
    assert [len(p) for p in book.stack.data_to_send(book.now)] == [1500]
    book.now += 1.1
    book.stack.handle_deadline(book.now)
    first = book.stack.data_to_send(book.now, 1500)
    assert [len(p) for p in first] == [1498]
    second = book.stack.data_to_send(book.now, 1500)
    assert [len(p) for p in second] == [54]
    assert conn.retransmissions == 2


# -- windows


def test_the_peers_window_limits_what_is_sent() -> None:
    book = Playbook()
    conn = book.established(wscale=None, window=3000)
    conn.send(bytes(10_000))
    assert drain(book) == [(1, 1460), (1461, 1460)]  # 80 more would be silly
    book.into("A", 1, 2921, window=3000)
    assert drain(book) == [(2921, 1460), (4381, 1460)]


def test_the_window_is_scaled() -> None:
    book = Playbook()
    conn = book.established(wscale=7, window=1000)
    book.into("A", 1, 1, window=100)
    conn.send(bytes(100_000))
    assert conn.snd.edge == 1 + 12800
    assert sum(size for _, size in drain(book)) <= 12800


def test_the_sender_does_not_fill_silly_windows() -> None:
    # RFC 9293 section 3.8.6.2.1: less than a segment and than half the largest window waits for more.
    book = Playbook()
    conn = book.established(TcpSettings(nodelay=True), wscale=None, window=4000)
    conn.send(bytes(8000))
    assert [len(got.payload) for got in book.pull()] == [1460, 1460]  # 1080 octets of window are left
    book.into("A", 1, 1461, window=3000)
    assert [len(got.payload) for got in book.pull()] == [1460]
    book.into("A", 1, 2921, window=1500)
    book.nothing()  # 40 octets would fit
    book.into("A", 1, 4381, window=300)
    assert [len(got.payload) for got in book.pull()] == [300]  # nothing is in flight: better than waiting


def test_a_peer_that_shrinks_its_window_gets_the_rest_again_pitfall_8() -> None:
    # As Linux does when SO_RCVBUF is set on a connected socket: what was in flight beyond the edge is dropped.
    book = Playbook()
    conn = book.established(wscale=None, window=10_000)
    conn.send(bytes(8760))
    assert len(book.pull()) == 6
    book.into("A", 1, 1461, window=0)
    book.nothing()
    book.advance_to_output()
    book.queue.clear()
    assert conn.unacked() == 7300
    # Each answer opens a little; every octet dropped comes again.
    acked, rounds = 1461, 0
    while acked < 8761:
        rounds += 1
        assert rounds < 40
        book.into("A", 1, acked, window=1460)
        book.advance_to_output()
        for got in book.queue:
            if got.seq <= acked < got.seq + len(got.payload):
                acked = min(got.seq + len(got.payload), acked + 1460)
        book.queue.clear()
    book.into("A", 1, 8761, window=1460)
    assert conn.unacked() == 0


def test_a_reordered_old_acknowledgement_does_not_close_the_window_pitfall_6() -> None:
    book = Playbook()
    conn = book.established(wscale=None, window=65535)
    conn.send(bytes(50_000))
    drain(book)
    book.into("A", 1, 2921, window=65535)
    drain(book)
    book.into("A", 1, 1461, window=0)
    assert conn.snd.edge == 2921 + 65535


def test_zero_window_is_probed_until_it_opens() -> None:
    book = Playbook()
    conn = book.established(wscale=None, window=1000)
    conn.send(bytes(1500))
    book.out("A", seq=1, payload=1000)
    book.into("A", 1, 1001, window=0)
    book.nothing()
    waits = []
    for _ in range(4):
        waits.append(book.advance_to_output())
        book.out("A", seq=1000, payload=b"")  # one before what the peer has
        book.into("A", 1, 1001, window=0)
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0])
    book.into("A", 1, 1001, window=2000)
    book.out("A", seq=1001, payload=500)
    assert conn.error == 0


def test_a_lost_window_update_does_not_stall() -> None:
    book = Playbook()
    conn = book.established(wscale=None, window=0)
    conn.send(b"data")
    book.nothing()
    book.advance_to_output()
    book.out("A", seq=0)
    book.into("A", 1, 1, window=5000)  # the answer to the probe
    book.out("A", seq=1, payload=b"data")


def test_an_answered_zero_window_is_probed_for_ever() -> None:
    book = Playbook()
    conn = book.established(wscale=None, window=0)
    conn.send(b"data")
    for _ in range(30):
        book.advance_to_output()
        book.out("A", seq=0)
        book.into("A", 1, 1, window=0)
    assert book.now > 600
    assert conn.error == 0


def test_an_unanswered_zero_window_times_out() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(user_timeout=30.0), wscale=None, window=0)
    conn.send(b"data")
    book.advance(100.0)
    assert conn.error == errno.ETIMEDOUT


def test_an_orphan_does_not_wait_for_a_window_for_ever() -> None:
    book = Playbook()
    conn = book.established(wscale=None, window=0)
    conn.send(b"data")
    conn.close()
    for _ in range(20):
        if conn.state is State.CLOSED:
            break
        book.advance(20.0)
        book.queue.clear()
        book.into("A", 1, 1, window=0)
    assert conn.state is State.CLOSED


# -- loss


def test_data_is_retransmitted_after_the_timeout_with_back_off() -> None:
    book = Playbook(StackConfig(tail_probe=False))
    conn = book.established()
    conn.send(b"data")
    book.out("A", seq=1, payload=b"data")
    waits = []
    for _ in range(4):
        waits.append(book.advance_to_output())
        book.out("A", seq=1, payload=b"data")
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0])
    assert conn.info()["retransmissions"] == 4
    assert conn.cc.cwnd == 1460
    book.into("A", 1, 5)
    assert conn.rtt.timeouts == 0
    assert conn.unacked() == 0


def test_data_never_acknowledged_is_etimedout_after_the_user_timeout() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(user_timeout=20.0))
    conn.send(b"data")
    book.advance(19.0)
    assert conn.error == 0
    book.advance(1.5)
    assert conn.error == errno.ETIMEDOUT


def test_a_timeout_resends_only_the_holes() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(1460 * 5))
    assert len(drain(book)) == 5
    book.into("A", 1, 1, sack=((1 + 1460, 1 + 1460 * 2), (1 + 1460 * 3, 1 + 1460 * 5)))
    book.advance_to_output()
    resent = sorted({got.seq for got in book.queue})
    book.queue.clear()
    book.advance(0.5)
    resent += sorted({got.seq for got in book.queue})
    assert sorted(set(resent)) == [1, 1 + 1460 * 2]
    book.into("A", 1, 1 + 1460 * 5)
    assert conn.unacked() == 0
    assert (conn.snd.pipe, conn.snd.lost_octets, conn.snd.sacked_octets) == (0, 0, 0)


def test_overtaken_segments_are_not_retransmitted_early() -> None:
    # Three duplicate acknowledgements mean nothing here: time does.
    book = Playbook()
    conn = book.established(rtt=0.3)
    conn.send(bytes(1460 * 10))
    drain(book)
    book.now += 0.3
    for index in range(2, 10):
        book.into("A", 1, 1, sack=((1 + 1460, 1 + 1460 * index),))
    book.nothing()
    book.advance(0.2)
    book.into("A", 1, 1 + 1460 * 10)
    book.advance(5.0)
    assert conn.retransmissions == 0


def test_a_hole_is_filled_by_time_before_the_timeout() -> None:
    book = Playbook()
    conn = book.established(timestamps=True)
    for step in range(20):  # a steady round trip of 0.2 s
        conn.send(bytes(1448))
        drain(book)
        book.now += 0.2
        book.into("A", 1, 1 + 1448 * (step + 1))
    una = conn.snd.snd_una
    conn.send(bytes(1448 * 3))
    drain(book)
    book.now += 0.2
    book.into("A", 1, una, sack=((una + 1448, una + 1448 * 3),))
    waited = book.advance_to_output()
    assert 0.15 < waited < 0.5
    book.out("A", seq=una, payload=1448)
    assert conn.timeouts == 0


def test_a_partial_acknowledgement_inside_a_segment() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(range(200)))
    book.out("A", payload=200)
    book.into("A", 1, 51)
    book.advance_to_output()
    book.out("A", seq=51, payload=bytes(range(50, 200)))
    book.into("A", 1, 201)
    assert conn.unacked() == 0


def test_sack_blocks_that_lie_are_ignored() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(1460 * 3))
    drain(book)
    book.into("A", 1, 1, sack=((1 + 1460, 10**6), (500, 400)))
    book.into("A", 1, 1, sack=((10**6, 2 * 10**6), (1 + 1460, 1 + 1460)))
    assert conn.snd.sacked_octets == 0


def test_a_block_that_ends_inside_a_segment_is_resumed() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(1460 * 4))
    drain(book)
    book.into("A", 1, 1, sack=((1461, 1461 + 2000),))
    assert conn.snd.sacked_octets == 1460
    book.into("A", 1, 1, sack=((1461, 1461 + 1460 * 3),))
    assert conn.snd.sacked_octets == 1460 * 3


def test_a_reneging_receiver_gets_everything_again() -> None:
    book = Playbook(StackConfig(tail_probe=False))
    conn = book.established()
    conn.send(bytes(1460 * 2))
    drain(book)
    book.into("A", 1, 1, sack=((1, 1461),))  # claims the first segment but never acknowledges it
    book.into("A", 1, 1, sack=((1, 2921),))
    assert conn.snd.pipe == 0
    book.advance_to_output()
    book.out("A", seq=1, payload=1460)
    book.into("A", 1, 1461)
    book.out("A", seq=1461, payload=1460)


def test_a_dsack_is_counted() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(1460))
    drain(book)
    book.into("A", 1, 1461)
    conn.send(bytes(10))
    drain(book)
    book.into("A", 1, 1461, sack=((1, 1461),))
    assert conn.dsacks == 1


def test_retransmission_waits_for_a_pull_without_further_back_off() -> None:
    # A stalled tunnel must not look like ten timeouts.
    book = Playbook(StackConfig(tail_probe=False))
    conn = book.established()
    conn.send(b"data")
    book.out("A", payload=b"data")
    for _ in range(60):
        book.now += 1.0
        book.stack.handle_deadline(book.now)
    assert conn.timeouts == 1
    book.out("A", seq=1, payload=b"data")


# -- keepalive


def test_keepalive_probes_and_gives_up() -> None:
    settings = TcpSettings(keepalive=True, keep_idle=10.0, keep_interval=2.0, keep_count=3)
    book = Playbook()
    conn = book.established(settings)
    assert book.advance_to_output() == pytest.approx(10.0)
    book.out("A", seq=0, payload=b"")
    book.into("A", 1, 1)
    assert book.advance_to_output() == pytest.approx(10.0)
    book.queue.clear()
    book.advance(5.9)
    assert [got.flags for got in book.queue] == ["A", "A"]
    book.queue.clear()
    book.advance(0.2)
    assert conn.error == errno.ETIMEDOUT
    assert [got.flags for got in book.queue] == ["RA"]


def test_keepalive_can_be_switched_on_later() -> None:
    book = Playbook()
    conn = book.established()
    book.advance(100.0)
    conn.settings.keepalive, conn.settings.keep_idle = True, 50.0
    conn.settings_changed()
    assert book.advance_to_output() == pytest.approx(0.0)
    book.into("A", 1, 1)
    conn.settings.keepalive = False
    conn.settings_changed()
    book.queue.clear()
    book.advance(500.0)
    book.nothing()


# -- ICMP


def test_icmp_in_syn_sent_ends_the_connect_with_its_errno() -> None:
    for code, expected in (
        (0, errno.ENETUNREACH),
        (1, errno.EHOSTUNREACH),
        (3, errno.ECONNREFUSED),
        (13, errno.EHOSTUNREACH),
    ):
        book = Playbook()
        conn = book.connect()
        syn = book.out("S")
        book.icmp_error(3, code, syn.packet)
        assert conn.error == expected


def test_icmpv6_in_syn_sent_ends_the_connect_with_its_errno() -> None:
    for code, expected in ((0, errno.ENETUNREACH), (3, errno.EHOSTUNREACH), (4, errno.ECONNREFUSED)):
        book = Playbook(v6=True)
        conn = book.connect()
        syn = book.out("S")
        book.icmp_error(1, code, syn.packet)
        assert conn.error == expected


def test_icmp_on_an_established_connection_is_a_hint_reported_at_the_timeout() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(user_timeout=10.0))
    conn.send(b"data")
    sent = book.out("A", payload=None)
    book.icmp_error(3, 1, sent.packet)
    assert conn.error == 0
    assert conn.soft_error == errno.EHOSTUNREACH
    book.advance(11.0)
    assert conn.error == errno.EHOSTUNREACH


def test_icmp_with_a_sequence_number_not_in_flight_is_ignored() -> None:
    book = Playbook()
    conn = book.connect()
    syn = book.out("S")
    book.into("SA", 0, 1)
    book.out("A")
    book.icmp_error(3, 1, syn.packet)
    assert conn.soft_error == 0
    assert book.stack.counters.drops["icmp_unmatched"] == 1


@pytest.mark.parametrize(
    ("mtu", "expected"), [(1400, 1400), (576, 576), (575, 1500), (0, 1492), (1600, 1500)]
)
def test_fragmentation_needed_lowers_the_segments(mtu: int, expected: int) -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(1460 * 3))
    packets = book.pull()
    book.icmp_error(3, 4, packets[0].packet, rest=b"\0\0" + mtu.to_bytes(2, "big"))
    assert conn.tx_mtu == expected
    assert conn.mss == expected - 40
    cwnd = conn.cc.cwnd
    again = book.pull()
    if expected < 1500:
        assert again[0].seq == 1
        assert max(len(got.packet) for got in again) <= expected
        assert sum(len(got.payload) for got in again) == 1460 * 3
        assert cwnd == 14600
    else:
        assert again == []
    # The next connection to that destination starts there.
    other = book.connect()
    assert other.tx_mtu == expected


def test_packet_too_big_lowers_the_segments_v6() -> None:
    book = Playbook(v6=True)
    conn = book.established()
    conn.send(bytes(1440 * 2))
    packets = book.pull()
    book.icmp_error(2, 0, packets[0].packet, rest=(1280).to_bytes(4, "big"))
    assert conn.mss == 1220
    assert max(len(got.packet) for got in book.pull()) == 1280


def test_the_path_mtu_is_forgotten_after_ten_minutes() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(1460))
    book.icmp_error(3, 4, book.pull()[0].packet, rest=b"\0\0\x04\x00")
    book.now += 599
    assert book.connect().tx_mtu == 1024
    book.now += 2
    assert book.connect().tx_mtu == 1500


def test_set_mtu_applies_to_live_connections() -> None:
    book = Playbook()
    conn = book.established()
    book.stack.set_mtu(1300, 1300)
    assert conn.mss == 1260
    conn.send(bytes(2000))
    assert max(len(got.packet) for got in book.pull()) == 1300


@pytest.mark.parametrize("before_the_syn_ack", [True, False])
def test_a_smaller_mtu_learned_during_the_handshake_counts(before_the_syn_ack: bool) -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S")
    if before_the_syn_ack:
        book.stack.set_mtu(600, 1420)
    book.into("S", 0, mss=1460)  # simultaneous open: SYN-RCVD lasts until ours is acknowledged
    book.out("SA")
    book.stack.set_mtu(600, 1420)
    book.into("A", 1, 1)
    conn.send(bytes(600))
    book.out("A", payload=560)


def test_a_user_timeout_of_zero_is_the_default() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(user_timeout=0.0))
    conn.send(b"data")
    book.advance(119.0)
    assert conn.error == 0
    book.advance(2.0)
    assert conn.error == errno.ETIMEDOUT


def test_keepalive_leaves_a_peer_with_data_outstanding_to_retransmission() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(keepalive=True, keep_idle=2.0, keep_interval=1.0, keep_count=2))
    conn.send(b"data")
    book.advance(30.0)
    assert conn.error == 0
    assert {got.payload for got in book.queue} == {b"data"}


def test_a_probe_is_not_needed_when_the_window_opened_meanwhile() -> None:
    book = Playbook()
    conn = book.established(wscale=None, window=0)
    conn.send(b"data")
    book.stack.data_to_send(book.now)
    book.now += 1.5
    conn.snd.edge = 100
    book.stack.handle_deadline(book.now)
    book.out("A", seq=1, payload=b"data")


def test_a_lost_segment_acknowledged_late_is_forgotten() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(bytes(1460 * 3))
    drain(book)
    book.now += 1.1
    book.stack.handle_deadline(book.now)
    assert conn.snd.lost_octets > 0
    book.into("A", 1, 1, sack=((1, 1461),))
    book.into("A", 1, 701)
    book.into("A", 1, 1 + 1460 * 3)
    assert (conn.snd.lost_octets, conn.snd.pipe, conn.snd.sacked_octets) == (0, 0, 0)
    book.nothing()


def test_samples_out_of_range_are_not_round_trips() -> None:
    from smolmix_sync.netstack.recovery import RttEstimator

    rtt = RttEstimator(StackConfig())
    rtt.sample(-1.0)
    rtt.sample(10_000.0)
    assert rtt.srtt == 0.0
    rtt.sample(2.0)
    assert rtt.rto == pytest.approx(6.0)  # RFC 6298 rule 2.2
    rtt.on_timeout()
    assert rtt.rto == pytest.approx(12.0)
    for _ in range(9):
        rtt.on_timeout()
    assert rtt.rto == 60.0
    rtt.on_progress()
    assert rtt.rto == pytest.approx(6.0)


def test_remembered_sack_blocks_are_bounded() -> None:
    book = Playbook(StackConfig(initial_window=2000))
    conn = book.established(TcpSettings(nodelay=True, sndbuf=1 << 20), mss=100, window=65535)
    book.into("A", 1, 1, window=65535)
    conn.send(bytes(1200 * 100))
    book.pull()
    for index in range(1, 1200, 2):
        left = 1 + index * 100
        book.into("A", 1, 1, sack=((left, left + 100),))
    assert conn.snd.sacked_octets == 600 * 100
    assert len(conn.snd._blocks) <= 512
    book.into("A", 1, 1 + 1200 * 100)
    assert (conn.snd.sacked_octets, conn.snd.pipe) == (0, 0)


def test_a_repeated_syn_ack_needs_room() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S")
    book.now += 1.1
    book.stack.handle_deadline(book.now)
    assert book.stack.data_to_send(book.now, 61) == []
    assert len(book.stack.data_to_send(book.now, 62)) == 1
    assert conn.retransmissions == 1


def test_a_probe_needs_room() -> None:
    book = Playbook(v6=True)
    conn = book.established(timestamps=True, window=0)
    conn.send(b"data")
    book.now += 0.1
    book.pull()
    book.now += 1.5
    book.stack.handle_deadline(book.now)
    assert book.stack.data_to_send(book.now, 73) == []
    assert len(book.stack.data_to_send(book.now, 74)) == 1
