"""Loss detection by time, tail loss probes, and taking needless recoveries back."""

from __future__ import annotations

import pytest
from support.netsim import NetSim, Transfer, check_scoreboard, seeded_urandom
from support.playbook import Playbook

from smolmix_sync.netstack import Conn, Stack, StackConfig, TcpSettings
from smolmix_sync.netstack.episode import Episode
from smolmix_sync.netstack.recovery import LossDetector, RttEstimator

MSS = 1460
STAMPED = 1448


def opened(
    config: StackConfig | None = None, *, timestamps: bool = False, sack: bool = True, rtt: float = 0.2
) -> tuple[Playbook, Conn]:
    """Return a connection whose SRTT is *rtt* and RTTVAR half of it."""
    book = Playbook(config)
    conn = book.established(TcpSettings(nodelay=True), timestamps=timestamps, sack=sack, rtt=rtt)
    return book, conn


def segments(book: Playbook, conn: Conn, count: int) -> list[int]:
    """Send *count* full segments; return their sequence numbers."""
    conn.send(bytes(conn.mss * count))
    got = book.pull()
    assert len(got) == count
    return [segment.seq for segment in got]


# -- RACK


def test_a_segment_is_lost_when_overtaken_for_longer_than_srtt_plus_rttvar() -> None:
    book, conn = opened()
    segments(book, conn, 3)
    book.now += 0.2
    book.into("A", 1, 1, sack=((1 + MSS, 1 + 3 * MSS),))
    book.nothing()  # reordering until proven otherwise
    srtt, rttvar = conn.rtt.srtt, conn.rtt.rttvar
    waited = book.advance_to_output()
    assert waited == pytest.approx(srtt + rttvar, abs=0.01)
    book.out("A", seq=1, payload=MSS)
    assert conn.episode.end == 1 + 3 * MSS


def test_the_window_of_rfc_8985_is_a_quarter_of_the_shortest_round_trip_and_grows_by_complaint() -> None:
    config = StackConfig(reo_adaptive=True)
    detector, rtt = LossDetector(config), RttEstimator(config)
    assert detector.window(rtt) == 0.0
    rtt.sample(0.4)
    rtt.sample(0.2)
    assert detector.window(rtt) == pytest.approx(0.05)
    detector.widen(1, 100)
    detector.widen(50, 200)  # the same round trip
    assert detector.window(rtt) == pytest.approx(0.1)
    for start in range(100, 2000, 100):
        detector.widen(start, start + 100)
    assert detector.window(rtt) == pytest.approx(rtt.srtt)
    for _ in range(16):
        detector.new_recovery()
    assert detector.window(rtt) == pytest.approx(0.05)


def test_the_fixed_window_does_not_listen_to_complaints() -> None:
    # What the mixnet lost it sends again by itself: every retransmission becomes the second copy.
    detector, rtt = LossDetector(StackConfig()), RttEstimator(StackConfig())
    rtt.sample(0.2)
    detector.widen(0, 100)
    assert detector.window(rtt) == pytest.approx(0.3)
    detector.new_recovery()


def test_a_second_loss_in_one_round_trip_belongs_to_the_same_recovery() -> None:
    book, conn = opened(StackConfig(congestion="cubic"))
    segments(book, conn, 6)
    before = conn.cc.cwnd
    book.now += 0.2
    book.into("A", 1, 1, sack=((1 + MSS, 1 + 2 * MSS),))
    book.advance_to_output()
    book.out("A", seq=1, payload=MSS)
    reduced = conn.cc.cwnd
    assert reduced < before
    book.into("A", 1, 1, sack=((1 + 5 * MSS, 1 + 6 * MSS),))
    book.advance(0.4)
    assert conn.retransmissions > 1
    assert conn.cc.cwnd == reduced


# -- tail loss probes


def test_a_lost_tail_is_probed_before_the_timeout() -> None:
    book, conn = opened()
    segments(book, conn, 3)
    # 2 SRTT + 2 RTTVAR is 0.6 here; the retransmission timeout would be a second.
    assert book.advance_to_output() == pytest.approx(0.6)
    book.out("A", seq=1 + 2 * MSS, payload=MSS)
    assert (conn.tail_probes, conn.timeouts) == (1, 0)
    assert conn.info()["tail_probes"] == 1
    # The answer shows the first two missing: RACK sends them at once, no timeout.
    book.now += 0.2
    book.into("A", 1, 1, sack=((1 + 2 * MSS, 1 + 3 * MSS),))
    book.advance_to_output()
    book.out("A", seq=1, payload=MSS)
    book.out("A", seq=1 + MSS, payload=MSS)
    assert conn.timeouts == 0


def test_a_probe_waits_half_a_second_at_least_and_longer_for_a_lone_segment() -> None:
    book, conn = opened(rtt=0.05)
    segments(book, conn, 2)
    assert book.advance_to_output() == pytest.approx(0.5)
    book, conn = opened(rtt=0.2)
    segments(book, conn, 1)
    assert book.advance_to_output() == pytest.approx(0.7)


def test_new_data_is_the_better_probe_and_passes_the_congestion_window_once() -> None:
    book, conn = opened()
    conn.send(bytes(20 * MSS))
    assert len(book.pull()) == 10
    assert book.advance_to_output() == pytest.approx(0.6)
    book.out("A", seq=1 + 10 * MSS, payload=MSS)
    book.nothing()
    assert conn.retransmissions == 0
    waited = book.advance_to_output()  # one probe, then the timeout
    assert waited == pytest.approx(1.0)
    assert conn.timeouts == 1


def test_a_corked_rest_is_not_used_as_a_probe() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(cork=True), rtt=0.2)
    conn.send(bytes(2 * MSS + 10))
    assert len(book.pull()) == 2
    book.advance_to_output()
    book.out("A", seq=1 + MSS, payload=MSS)


def test_a_probe_that_repaired_the_loss_counts_as_one_and_a_needless_one_does_not() -> None:
    def run(**answer: object) -> tuple[int, int]:
        book, conn = opened(StackConfig(congestion="cubic"))
        segments(book, conn, 2)
        before = conn.cc.cwnd
        book.advance_to_output()
        book.out("A", seq=1 + MSS, payload=MSS)
        book.now += 0.2
        book.into("A", 1, 1 + 2 * MSS, **answer)  # type: ignore[arg-type]
        return before, conn.cc.cwnd

    before, after = run()
    assert after < before
    before, after = run(sack=((1 + MSS, 1 + 2 * MSS),))
    assert after >= before


@pytest.mark.parametrize("late", [True, False])
def test_a_timestamp_tells_whether_the_probe_or_its_original_arrived(late: bool) -> None:
    book, conn = opened(StackConfig(congestion="cubic"), timestamps=True)
    segments(book, conn, 2)
    first = book.last_tsval
    before = conn.cc.cwnd
    book.advance_to_output()
    book.out("A", seq=1 + STAMPED, payload=STAMPED)
    probe = book.last_tsval
    book.now += 0.2
    book.into("A", 1, 1 + 2 * STAMPED, ts=(2000, first if late else probe))
    assert (conn.cc.cwnd >= before) is late


def test_what_waits_for_a_send_slot_is_as_good_as_a_probe() -> None:
    book, conn = opened()
    segments(book, conn, 2)
    conn.send(bytes(10))
    book.now += 0.6
    book.stack.handle_deadline(book.now)
    assert conn.tail_probes == 0
    book.out("A", seq=1 + 2 * MSS, payload=10)


def test_probes_are_off_without_sack_in_recovery_and_by_setting() -> None:
    for config, sack in ((StackConfig(tail_probe=False), True), (StackConfig(), False)):
        book, conn = opened(config, sack=sack)
        segments(book, conn, 2)
        assert book.advance_to_output() == pytest.approx(1.0)
        assert (conn.tail_probes, conn.timeouts) == (0, 1)


# -- peers without SACK


def test_without_sack_a_repeated_acknowledgement_and_time_find_the_hole() -> None:
    book, conn = opened(sack=False)
    segments(book, conn, 6)
    book.now += 0.2
    book.into("A", 1, 1)
    book.nothing()
    waited = book.advance_to_output()
    assert waited == pytest.approx(conn.rtt.srtt + conn.rtt.rttvar, abs=0.01)
    book.out("A", seq=1, payload=MSS)
    book.nothing()
    book.now += 0.2
    # A partial acknowledgement: the next hole goes at once (RFC 6582), the rest stays.
    book.into("A", 1, 1 + 2 * MSS)
    book.out("A", seq=1 + 2 * MSS, payload=MSS)
    book.nothing()
    book.now += 0.2
    book.into("A", 1, 1 + 6 * MSS)
    book.nothing()
    assert (conn.retransmissions, conn.timeouts) == (2, 0)


def test_without_sack_a_hole_that_waits_for_the_window_is_not_lost_twice() -> None:
    book, conn = opened(sack=False)
    segments(book, conn, 3)
    book.now += 0.8
    book.into("A", 1, 1)
    assert conn.snd.lost_octets == MSS
    book.into("A", 1, 1)
    assert conn.snd.lost_octets == MSS
    book.out("A", seq=1, payload=MSS)


def test_without_sack_data_of_the_peer_is_no_repetition() -> None:
    book, conn = opened(sack=False)
    segments(book, conn, 2)
    book.now += 0.6
    book.into("A", 1, 1, b"hello")
    assert conn.snd.lost_octets == 0
    assert conn.detector.deadline > 1e9
    book.into("A", 6, 1)
    assert conn.snd.lost_octets == MSS


@pytest.mark.parametrize("timestamps", [True, False])
def test_a_peer_without_sack_gets_an_upload_through_without_many_timeouts(timestamps: bool) -> None:
    net = NetSim(3)
    a = Stack("10.0.0.2", urandom=seeded_urandom(3))
    b = Stack("10.0.0.1", config=StackConfig(sack=False, timestamps=timestamps), urandom=seeded_urandom(4))
    net.link(a, b, latency=0.1, jitter=0.05, loss=0.01)
    transfer = Transfer(net, a, b, "10.0.0.1", up=1_000_000)
    net.run(until=lambda: transfer.done_at >= 0, limit=300)
    assert not transfer.bad
    conn = transfer.conn
    assert conn.retransmissions > 4
    assert conn.timeouts <= conn.retransmissions / 2
    assert conn.retransmissions < 60  # not go-back-N


# -- undo


def test_an_echo_older_than_the_retransmission_takes_a_timeout_back() -> None:
    book, conn = opened(StackConfig(tail_probe=False), timestamps=True)
    segments(book, conn, 10)
    stamp = book.last_tsval
    before = conn.cc.cwnd
    book.advance_to_output()
    book.out("A", seq=1, payload=STAMPED)
    assert conn.cc.cwnd == STAMPED
    assert conn.snd.lost_octets > 0
    book.now += 0.1
    book.into("A", 1, 1 + STAMPED, ts=(2000, stamp))  # the original, late
    assert conn.undos == conn.info()["undos"] == 1
    assert conn.cc.cwnd >= before
    assert conn.rtt.timeouts == 0
    assert conn.snd.pipe + conn.snd.lost_octets == 9 * STAMPED
    times = [sent.sent_at for sent in conn.snd.order]
    assert times == sorted(times)


def test_what_an_undo_puts_back_in_flight_stands_in_the_order_of_transmission() -> None:
    book, conn = opened(StackConfig(tail_probe=False, initial_window=20), timestamps=True)
    segments(book, conn, 5)
    stamp = book.last_tsval
    book.now += 0.3
    segments(book, conn, 5)
    newer = book.last_tsval
    book.now += 0.3
    # The eighth arrived; by age the first five are lost.
    book.into("A", 1, 1, ts=(2000, newer), sack=((1 + 7 * STAMPED, 1 + 8 * STAMPED),))
    assert conn.snd.lost_octets == 5 * STAMPED
    assert book.pull(1502)[0].seq == 1
    book.now += 0.1
    book.into("A", 1, 1 + STAMPED, ts=(2001, stamp))  # the first one's original, late
    assert conn.undos == 1
    assert conn.snd.lost_octets == 0
    check_scoreboard(conn)


def test_an_echo_of_the_retransmission_itself_takes_nothing_back() -> None:
    book, conn = opened(StackConfig(tail_probe=False), timestamps=True)
    segments(book, conn, 10)
    book.advance_to_output()
    book.out("A", seq=1, payload=STAMPED)
    stamp = book.last_tsval
    book.now += 0.1
    book.into("A", 1, 1 + STAMPED, ts=(2000, stamp))
    assert conn.undos == 0
    assert conn.cc.cwnd < 4 * STAMPED


def test_dsacks_for_every_retransmission_take_a_recovery_back_without_timestamps() -> None:
    book, conn = opened(StackConfig(congestion="cubic", reo_adaptive=True))
    segments(book, conn, 4)
    before = conn.cc.cwnd
    book.now += 0.2
    book.into("A", 1, 1, sack=((1 + 2 * MSS, 1 + 4 * MSS),))
    book.advance_to_output()
    book.out("A", seq=1, payload=MSS)
    book.out("A", seq=1 + MSS, payload=MSS)
    assert conn.cc.cwnd < before
    window = conn.detector.window(conn.rtt)
    book.into("A", 1, 1 + 4 * MSS)
    book.into("A", 1, 1 + 4 * MSS, sack=((1, 1 + MSS),))
    assert (conn.dsacks, conn.undos) == (1, 0)
    book.into("A", 1, 1 + 4 * MSS, sack=((1 + MSS, 1 + 2 * MSS),))
    assert (conn.dsacks, conn.undos) == (2, 1)
    assert conn.cc.cwnd >= before
    assert conn.detector.window(conn.rtt) > 1.5 * window


def test_copies_made_by_the_network_are_not_our_mistake() -> None:
    book, conn = opened(StackConfig(reo_adaptive=True))
    segments(book, conn, 2)
    book.now += 0.2
    book.into("A", 1, 1 + 2 * MSS)
    window = conn.detector.window(conn.rtt)
    book.into("A", 1, 1 + 2 * MSS, sack=((1, 1 + MSS),))
    assert conn.dsacks == 1
    assert conn.detector.window(conn.rtt) == window


def test_an_episode_is_undone_at_most_once_and_only_by_its_own_blocks() -> None:
    episode = Episode()
    assert not episode.spurious(0.0)
    assert not episode.duplicated(0, 100)
    episode.begin(1000, 5000)
    assert not episode.spurious(0.0)  # nothing was sent again yet
    episode.resent(500, 2.0)
    episode.resent(500, 3.0)
    assert not episode.spurious(None)
    assert not episode.spurious(2.5)
    assert episode.spurious(1.9)
    assert not episode.duplicated(500, 1000)
    assert not episode.duplicated(1000, 1500)
    assert episode.duplicated(2000, 2500)
    episode.over()
    assert not episode.spurious(1.9)


@pytest.mark.parametrize("control", ["mix", "cubic", "none"])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_control_carries_a_transfer_over_loss_and_reordering(control: str, seed: int) -> None:
    net = NetSim(seed)
    config = StackConfig(congestion=control)
    a = Stack("10.0.0.2", config=config, urandom=seeded_urandom(seed))
    b = Stack("10.0.0.1", config=config, urandom=seeded_urandom(seed + 9))
    net.link(a, b, latency=0.05, jitter=0.03, loss=0.02, duplicate=0.02)
    transfer = Transfer(net, a, b, "10.0.0.1", up=400_000, down=400_000)
    net.run(until=lambda: transfer.done_at >= 0, limit=200)
    assert not transfer.bad


def test_a_connection_may_choose_its_own_control() -> None:
    book = Playbook()
    conn = book.connect(TcpSettings(congestion="none"))
    assert conn.cc.cwnd == conn.settings.sndbuf
    conn.settings.sndbuf = 1 << 20
    conn.settings_changed()
    assert conn.cc.cwnd == 1 << 20
    with pytest.raises(ValueError, match="vegas"):
        book.connect(TcpSettings(congestion="vegas"))


def test_a_spurious_recovery_costs_the_upload_little() -> None:
    # A far too small reordering window: Eifel keeps the window open (spec section 4: 6 s against 131 s).
    config = StackConfig(congestion="cubic", reo_srtt=0.1, reo_rttvar=0.0)
    net = NetSim(5)
    a = Stack("10.0.0.2", config=config, urandom=seeded_urandom(5))
    b = Stack("10.0.0.1", urandom=seeded_urandom(6))
    net.link(a, b, latency=0.05, jitter=0.05)
    transfer = Transfer(net, a, b, "10.0.0.1", up=2_000_000)
    net.run(until=lambda: transfer.done_at >= 0, limit=120)
    assert transfer.conn.undos > 0
    assert transfer.done_at < 8
