"""Playbooks for opening, closing and aborting: RFC 9293 section 3.8's figures and the errno table."""

from __future__ import annotations

import errno

import pytest
from support.playbook import Playbook

from smolmix_sync.netstack import CLOSED, CONNECTED, ERROR, HUP, READABLE, StackConfig, State, TcpSettings


def masks(book: Playbook, obj: object) -> int:
    mask = 0
    for found, bits in book.stack.events():
        if found is obj:
            mask |= bits
    return mask


# -- opening


def test_active_open_sends_our_options_and_acknowledges_the_syn_ack() -> None:
    book = Playbook()
    conn = book.connect()
    syn = book.out("S", seq=0, ack=0, mss=1380, sack_permitted=True, window_scale=7)
    assert syn.options.timestamps is not None
    assert syn.options.timestamps[1] == 0
    book.into("SA", 0, 1, mss=1460, sack_ok=True, wscale=3, ts=(7, syn.options.timestamps[0]))
    ack = book.out("A", seq=1, ack=1)
    assert ack.options.timestamps is not None
    assert ack.options.timestamps[1] == 7
    assert conn.state is State.ESTABLISHED
    assert conn.mss == 1460 - 12
    assert conn.snd.shift == 3
    assert masks(book, conn) & CONNECTED


def test_ipv6_advertises_a_smaller_mss() -> None:
    book = Playbook(v6=True)
    conn = book.connect()
    book.out("S", mss=1360)
    book.into("SA", 0, 1, mss=1440)
    book.out("A", seq=1)
    assert conn.mss == 1440


@pytest.mark.parametrize("wscale", [None, 0, 14])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("timestamps", [False, True])
def test_options_are_used_only_when_both_sides_offer_them(
    wscale: int | None, sack: bool, timestamps: bool
) -> None:
    book = Playbook()
    conn = book.established(wscale=wscale, sack=sack, timestamps=timestamps)
    assert conn.snd.shift == (wscale or 0)
    assert conn.rcv.shift == (0 if wscale is None else 7)
    assert conn.rcv.sack is sack
    assert conn.timestamps is timestamps
    assert conn.mss == 1460 - (12 if timestamps else 0)


@pytest.mark.parametrize("wscale", [None, 9])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("timestamps", [False, True])
def test_syn_ack_offers_only_what_the_syn_offered(wscale: int | None, sack: bool, timestamps: bool) -> None:
    book = Playbook()
    book.listen()
    book.into("S", 0, wscale=wscale, sack_ok=sack, ts=(5, 0) if timestamps else False, mss=1000)
    answer = book.out("SA", seq=0, ack=1)
    assert (answer.options.window_scale is not None) is (wscale is not None)
    assert answer.options.sack_permitted is sack
    assert (answer.options.timestamps is not None) is timestamps


@pytest.mark.parametrize("window_scale", [False, True])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("passive", [False, True])
def test_what_we_do_not_offer_is_not_used_though_the_peer_does(
    window_scale: bool, sack: bool, timestamps: bool, passive: bool
) -> None:
    book = Playbook(StackConfig(window_scale=window_scale, sack=sack, timestamps=timestamps))
    if passive:
        listener = book.listen()
        book.into("S", 0, mss=1460, sack_ok=True, wscale=7, ts=(5, 0))
        ours = book.out("SA").options
        book.into("A", 1, 1, ts=(6, 0))
        conn = listener.accept()
        assert conn is not None
    else:
        conn = book.connect()
        ours = book.out("S").options
        book.into("SA", 0, 1, mss=1460, sack_ok=True, wscale=7, ts=(5, 0))
        book.out("A")
    assert (ours.window_scale is not None) is window_scale
    assert ours.sack_permitted is sack
    assert (ours.timestamps is not None) is timestamps
    assert (conn.snd.shift, conn.rcv.shift) == ((7, 7) if window_scale else (0, 0))
    assert conn.rcv.sack is sack
    assert conn.timestamps is timestamps
    conn.send(b"x")
    data = book.out("A", payload=b"x").options
    assert (data.timestamps is not None) is timestamps


def test_a_peer_without_an_mss_option_gets_536_octets() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S")
    book.into("SA", 0, 1)
    assert conn.mss == 536


def test_tcp_maxseg_bounds_both_directions() -> None:
    book = Playbook()
    conn = book.connect(TcpSettings(max_segment=500))
    book.out("S", mss=500)
    book.into("SA", 0, 1, mss=1460)
    assert conn.mss == 500


def test_passive_open_queues_the_connection_after_the_third_segment() -> None:
    book = Playbook()
    listener = book.listen()
    book.into("S", 0, mss=1460)
    book.out("SA", seq=0, ack=1)
    assert listener.readable() == 0
    book.into("A", 1, 1)
    assert (listener, READABLE) in list(book.stack.events())
    conn = listener.accept()
    assert conn is not None
    assert conn.remote == ("10.0.0.1", 40000)
    assert listener.accept() is None


def test_data_with_the_third_segment_is_kept() -> None:
    book = Playbook()
    listener = book.listen()
    book.into("S", 0)
    book.out("SA")
    book.into("A", 1, 1, b"hello")
    conn = listener.accept()
    assert conn is not None
    assert masks(book, conn) & READABLE
    assert conn.recv(10) == b"hello"


def test_simultaneous_open_figure_7() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S", seq=0)
    book.into("S", 0, mss=1460)
    assert conn.state is State.SYN_RCVD
    book.out("SA", seq=0, ack=1)
    book.into("SA", 0, 1, mss=1460)
    assert conn.state is State.ESTABLISHED
    assert masks(book, conn) & CONNECTED
    book.out("A", seq=1, ack=1)


def test_a_half_open_peer_is_reset_figure_9() -> None:
    # We restarted: the peer answers our SYN with an acknowledgement of an old connection.
    book = Playbook()
    conn = book.connect()
    book.out("S")
    book.into("A", 300, 5000)
    book.out("R", seq=5000)
    assert conn.state is State.SYN_SENT


def test_segments_that_overtake_the_syn_ack_are_ignored() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S")
    book.into("A", 1, 1)
    book.into("A", 1, 1, b"data")
    book.into("R", 1)
    book.nothing()
    assert conn.state is State.SYN_SENT
    assert book.stack.counters.drops["tcp_early"] == 2


def test_a_repeated_syn_ack_is_acknowledged_and_never_reset() -> None:
    book = Playbook()
    conn = book.established()
    book.into("SA", 0, 1)
    book.out("A", seq=1, ack=1)
    assert conn.state is State.ESTABLISHED


def test_a_repeated_syn_gets_the_syn_ack_again() -> None:
    book = Playbook()
    book.listen()
    book.into("S", 0)
    book.out("SA")
    book.into("S", 0)
    book.out("SA", seq=0, ack=1)


def test_syn_is_repeated_with_back_off_until_etimedout() -> None:
    book = Playbook(StackConfig(tcp=TcpSettings(syn_retries=3)))
    conn = book.connect()
    book.out("S")
    waits = []
    for _ in range(3):
        waits.append(book.advance_to_output())
        book.out("S", seq=0)
    assert waits == pytest.approx([1.0, 2.0, 4.0])
    book.advance(9.0)
    assert conn.state is State.CLOSED
    assert conn.error == errno.ETIMEDOUT
    assert masks(book, conn) & (ERROR | CLOSED) == ERROR | CLOSED
    assert book.stack.next_deadline() is None


def test_a_full_backlog_drops_the_syn() -> None:
    book = Playbook()
    book.listen(backlog=1)
    book.into("S", 0, peer_port=1111)
    book.out("SA")
    book.into("S", 0, peer_port=2222)
    book.nothing()
    assert book.stack.counters.drops["tcp_backlog"] == 1


def test_the_connection_table_is_bounded() -> None:
    book = Playbook(StackConfig(max_connections=1))
    book.listen()
    book.into("S", 0, peer_port=1111)
    book.into("S", 0, peer_port=2222)
    assert book.stack.counters.drops["tcp_table_full"] == 1
    with pytest.raises(OSError) as caught:
        book.stack.connect("10.0.0.1", 80, 0.0)
    assert caught.value.errno == errno.ENOBUFS


# -- refusals and resets


def test_rst_in_syn_sent_is_econnrefused() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S")
    book.into("RA", 0, 1)
    assert conn.error == errno.ECONNREFUSED
    assert conn.take_error() == errno.ECONNREFUSED
    assert conn.take_error() == 0
    assert masks(book, conn) & ERROR


def test_rst_in_syn_sent_with_a_wrong_acknowledgement_is_ignored() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S")
    book.into("RA", 0, 77)
    book.nothing()
    assert conn.state is State.SYN_SENT


def test_rst_at_rcv_nxt_is_econnreset_and_data_stays_readable() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, 1, b"last words")
    book.into("R", 11)
    assert conn.error == errno.ECONNRESET
    assert conn.recv(100) == b"last words"
    with pytest.raises(BrokenPipeError):
        conn.send(b"x")


def test_rst_elsewhere_in_the_window_gets_a_challenge_ack() -> None:
    book = Playbook()
    conn = book.established()
    book.into("R", 500)
    book.out("A", seq=1, ack=1)
    book.into("R", -500)
    book.nothing()
    assert conn.state is State.ESTABLISHED


@pytest.mark.parametrize("flags", ["S", "SA"])
def test_syn_in_a_synchronised_state_gets_a_challenge_ack(flags: str) -> None:
    book = Playbook()
    conn = book.established()
    book.into(flags, 100, 1)
    book.out("A", seq=1, ack=1)
    assert conn.state is State.ESTABLISHED


@pytest.mark.parametrize("ack", [2, 100_000, -100_000])
def test_an_acknowledgement_outside_the_range_gets_a_challenge_ack(ack: int) -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, ack, b"evil")
    book.out("A", seq=1, ack=1)
    assert conn.readable() == 0


def test_challenge_acks_are_limited_to_ten_a_second() -> None:
    book = Playbook()
    book.established()
    count = 0
    for _ in range(50):
        book.into("R", 500)
        count += len(book.pull())
    assert count == 10
    book.advance(1.1)
    book.into("R", 500)
    book.out("A")


def test_a_segment_to_a_closed_port_is_reset() -> None:
    book = Playbook()
    book.our_port = 9
    book.into("S", 0)
    book.out("RA", seq=-book.iss if book.iss else None, ack=1)
    book.into("A", 5, raw_ack=777)
    reset = book.pull()[0]
    assert reset.flags == "R"
    book.into("R", 5)
    book.nothing()
    assert book.stack.counters.drops["tcp_no_connection"] == 3


def test_rst_in_syn_rcvd_returns_quietly_to_listen() -> None:
    book = Playbook()
    listener = book.listen()
    book.into("S", 0)
    book.out("SA")
    book.into("R", 1)
    assert listener.readable() == 0
    assert not listener.half_open
    assert not book.stack.connections
    assert list(book.stack.events()) == []


# -- closing


def test_normal_close_figure_5_active_side() -> None:
    book = Playbook()
    conn = book.established()
    conn.close()
    book.out("FA", seq=1, ack=1)
    assert conn.state is State.FIN_WAIT_1
    book.into("A", 1, 2)
    assert conn.state is State.FIN_WAIT_2
    book.into("FA", 1, 2)
    book.out("A", seq=2, ack=2)
    assert conn.state is State.TIME_WAIT
    assert masks(book, conn) & CLOSED
    book.advance(9.9)
    assert book.stack.connections
    book.advance(0.2)
    assert not book.stack.connections
    assert conn.error == 0


def test_normal_close_passive_side() -> None:
    book = Playbook()
    conn = book.established()
    book.into("FA", 1, 1)
    book.out("A", seq=1, ack=2)
    assert conn.state is State.CLOSE_WAIT
    assert conn.eof()
    assert masks(book, conn) & HUP
    assert conn.send(b"bye") == 3
    conn.close()
    book.out("FA", seq=1, payload=b"bye")
    assert conn.state is State.LAST_ACK
    book.into("A", 2, 5)
    assert conn.state is State.CLOSED
    assert masks(book, conn) == CLOSED
    assert not book.stack.connections


def test_in_a_full_table_the_oldest_connection_in_time_wait_gives_way() -> None:
    book = Playbook(StackConfig(max_connections=1))
    conn = book.established()
    conn.close()
    book.out("FA", seq=1)
    book.into("FA", 1, 2)
    book.out("A", seq=2, ack=2)
    assert conn.state is State.TIME_WAIT
    again = book.stack.connect("10.0.0.1", 80, 1.0)
    assert again.state is State.SYN_SENT
    assert conn.state is State.CLOSED
    assert len(book.stack.connections) == 1


def test_simultaneous_close_figure_13() -> None:
    book = Playbook()
    conn = book.established()
    conn.close()
    book.out("FA", seq=1)
    book.into("FA", 1, 1)
    assert conn.state is State.CLOSING
    book.out("A", seq=2, ack=2)
    book.into("A", 2, 2)
    assert conn.state is State.TIME_WAIT


def test_fin_and_acknowledgement_of_ours_in_one_segment() -> None:
    book = Playbook()
    conn = book.established()
    conn.close()
    book.out("FA", seq=1)
    book.into("FA", 1, 2)
    assert conn.state is State.TIME_WAIT
    book.out("A", seq=2, ack=2)


def test_half_close_keeps_receiving() -> None:
    book = Playbook()
    conn = book.established()
    conn.send(b"request")
    conn.shutdown_write()
    book.out("FA", seq=1, payload=b"request")
    with pytest.raises(BrokenPipeError) as caught:
        conn.send(b"more")
    assert caught.value.errno == errno.EPIPE
    book.into("A", 1, 9)
    for index in range(5):
        book.into("A", 1 + index * 1000, 9, bytes(1000))
    assert conn.readable() == 5000
    book.into("FA", 5001, 9)
    assert conn.state is State.TIME_WAIT
    assert not conn.eof()
    assert len(conn.recv(10_000)) == 5000
    assert conn.eof()


def test_a_fin_that_overtakes_data_waits_for_it() -> None:
    book = Playbook()
    conn = book.established()
    book.into("FA", 5, 1, b"data")
    assert not conn.eof()
    assert conn.state is State.ESTABLISHED
    book.into("A", 1, 1, b"some")
    assert conn.state is State.CLOSE_WAIT
    assert conn.recv(100) == b"somedata"
    assert conn.eof()
    book.out("A", ack=10)


def test_a_bare_fin_that_overtakes_data_waits_for_it() -> None:
    book = Playbook()
    conn = book.established()
    book.into("FA", 5, 1)
    book.into("A", 1, 1, b"some")
    assert conn.recv(100) == b"some"
    assert conn.eof()
    assert conn.state is State.CLOSE_WAIT


def test_close_with_unread_data_resets_rfc_2525() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, 1, b"unread")
    conn.close()
    book.out("RA", seq=1, ack=7)
    assert conn.state is State.CLOSED


def test_data_after_close_resets() -> None:
    book = Playbook()
    conn = book.established()
    conn.close()
    book.out("FA")
    book.into("A", 1, 2)
    book.into("A", 1, 2, b"too late")
    book.out("RA", seq=2)
    assert conn.state is State.CLOSED


def test_linger_zero_resets() -> None:
    book = Playbook()
    conn = book.established(TcpSettings(linger_reset=True))
    conn.send(b"lost")
    conn.close()
    book.out("RA", seq=1)
    book.nothing()


def test_abort_resets_and_forgets() -> None:
    book = Playbook()
    conn = book.established()
    conn.abort()
    book.out("RA", seq=1, ack=1)
    assert not book.stack.connections
    assert conn.error == 0


def test_close_in_syn_sent_is_silent() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S")
    conn.close()
    book.nothing()
    assert not book.stack.connections


def test_closed_listener_resets_what_nobody_accepted() -> None:
    book = Playbook()
    listener = book.listen()
    book.into("S", 0)
    book.out("SA")
    book.into("A", 1, 1)
    listener.close()
    book.out("RA")
    assert not book.stack.connections
    book.into("S", 0, peer_port=5)
    book.out("RA")


def test_a_connection_reset_in_the_accept_queue_is_still_accepted_with_its_error() -> None:
    book = Playbook()
    listener = book.listen()
    book.into("S", 0)
    book.out("SA")
    book.into("A", 1, 1, b"x")
    book.into("R", 2)
    conn = listener.accept()
    assert conn is not None
    assert conn.error == errno.ECONNRESET
    assert masks(book, conn) & ERROR
    assert conn.recv(5) == b"x"


def test_orphan_in_fin_wait_2_is_given_up() -> None:
    book = Playbook()
    conn = book.established()
    conn.close()
    book.out("FA")
    book.into("A", 1, 2)
    book.advance(61.0)
    assert conn.state is State.CLOSED
    assert not book.stack.connections


def test_fin_wait_2_of_an_owner_that_reads_lasts() -> None:
    book = Playbook()
    conn = book.established()
    conn.shutdown_write()
    book.out("FA")
    book.into("A", 1, 2)
    book.advance(600.0)
    assert conn.state is State.FIN_WAIT_2


# -- TIME-WAIT


def time_wait(book: Playbook, *, timestamps: bool = False) -> None:
    conn = book.established(timestamps=timestamps)
    conn.close()
    book.out("FA")
    book.into("FA", 1, 2)
    book.out("A")
    assert conn.state is State.TIME_WAIT


def test_a_repeated_fin_in_time_wait_is_acknowledged_and_restarts_it() -> None:
    book = Playbook()
    time_wait(book)
    book.advance(8.0)
    book.into("FA", 1, 2)
    book.out("A", seq=2, ack=2)
    book.advance(8.0)
    assert book.stack.connections
    book.advance(2.1)
    assert not book.stack.connections


def test_rst_does_not_cut_time_wait_short() -> None:
    book = Playbook()
    time_wait(book)
    book.into("R", 2)
    assert book.stack.connections


@pytest.mark.parametrize("newer", [True, False])
def test_a_newer_syn_reuses_time_wait(newer: bool) -> None:
    book = Playbook()
    listener = book.listen(port=80)
    conn = book.accepted(listener)
    conn.close()
    book.out("FA", seq=1)
    book.into("FA", 1, 2)
    book.out("A")
    assert conn.state is State.TIME_WAIT
    book.into("S", 1000 if newer else -1000)
    if newer:
        got = book.pull()[0]
        assert got.flags == "SA"
        assert conn.state is State.CLOSED
    else:
        book.out("A", ack=2)
        assert conn.state is State.TIME_WAIT


@pytest.mark.parametrize(("stamp", "seq", "reused"), [(1, -1000, True), (-5, 1000, False), (0, 1000, True)])
def test_with_timestamps_the_stamp_decides_about_time_wait(stamp: int, seq: int, reused: bool) -> None:
    book = Playbook()
    listener = book.listen(port=80)
    book.into("S", 0, mss=1460, sack_ok=True, wscale=7, ts=(1000, 0))
    book.out("SA", seq=0, ack=1)
    book.timestamps = True
    book.into("A", 1, 1)
    conn = listener.accept()
    assert conn is not None
    conn.close()
    book.out("FA", seq=1)
    book.into("FA", 1, 2)
    book.out("A")
    book.into("S", seq, ts=(conn.ts_recent + stamp, 0))
    assert (conn.state is State.CLOSED) is reused
    assert bool([got for got in book.pull() if got.flags == "SA"]) is reused


def test_a_reused_pair_of_ports_starts_beyond_the_numbers_of_the_old_connection() -> None:
    book = Playbook()
    conn = book.connect(local_port=50000)
    book.out("S")
    book.into("SA", 0, 1, mss=1460)
    book.out("A")
    # More than the ISN clock's 250 000 a second.
    conn.snd.iss = (conn.snd.iss + 3_000_000) & 0xFFFFFFFF
    last = conn.snd.iss + 2
    book.iss = conn.snd.iss
    conn.close()
    book.out("FA")
    book.into("FA", 1, 2)
    book.out("A")
    again = book.connect(local_port=50000)
    assert again.snd.iss == (last + 65537) & 0xFFFFFFFF
    assert book.connect(local_port=50001).snd.iss != (last + 65537) & 0xFFFFFFFF


def test_our_own_port_is_reused_after_time_wait() -> None:
    book = Playbook()
    conn = book.connect(local_port=50000)
    book.out("S")
    with pytest.raises(OSError) as caught:
        book.connect(local_port=50000)
    assert caught.value.errno == errno.EADDRINUSE
    book.into("SA", 0, 1)
    book.out("A")
    conn.close()
    book.out("FA")
    book.into("FA", 1, 2)
    book.out("A")
    again = book.connect(local_port=50000)
    assert conn.state is State.CLOSED
    assert again.state is State.SYN_SENT


# -- sequence numbers


@pytest.mark.parametrize("iss", [0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFF, 0])
@pytest.mark.parametrize("irs", [0xFFFFFFFF, 0xFFFFFF00, 0])
def test_sequence_numbers_wrap(iss: int, irs: int) -> None:
    book = Playbook(iss=iss, irs=irs)
    conn = book.established(TcpSettings(nodelay=True))
    for index in range(4):
        conn.send(bytes(100))
        book.out("A", seq=1 + index * 100, ack=1 + index * 100, payload=100)
        book.into("A", 1 + index * 100, 101 + index * 100, bytes(100))
    assert conn.readable() == 400
    assert conn.info()["bytes_acked"] == 400
    assert conn.unacked() == 0


# -- every state against every kind of segment


STATES = [
    "SYN_RCVD",
    "ESTABLISHED",
    "FIN_WAIT_1",
    "FIN_WAIT_2",
    "CLOSE_WAIT",
    "CLOSING",
    "LAST_ACK",
    "TIME_WAIT",
]


def in_state(name: str) -> tuple[Playbook, int, int]:
    """Return a playbook whose only connection is in *name*, with the peer's SND.NXT and our SND.NXT."""
    book = Playbook()
    listener = book.listen()
    book.into("S", 0, mss=1460)
    book.out("SA")
    if name == "SYN_RCVD":
        return book, 1, 1
    book.into("A", 1, 1)
    conn = listener.accept()
    assert conn is not None
    peer, ours = 1, 1
    if name in ("FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "TIME_WAIT"):
        conn.shutdown_write()
        book.out("FA")
        ours = 2
    if name == "FIN_WAIT_2":
        book.into("A", 1, 2)
    if name == "CLOSING":
        book.into("FA", 1, 1)
        peer = 2
    if name == "TIME_WAIT":
        book.into("FA", 1, 2)
        peer = 2
    if name in ("CLOSE_WAIT", "LAST_ACK"):
        book.into("FA", 1, 1)
        peer = 2
    if name == "LAST_ACK":
        book.pull()
        conn.shutdown_write()
        book.out("FA")
        ours = 2
    book.pull()
    book.stack.events()
    assert next(iter(book.stack.connections.values())).state.name == name
    return book, peer, ours


def state_of(book: Playbook) -> str:
    for conn in book.stack.connections.values():
        return conn.state.name
    return "CLOSED"


@pytest.mark.parametrize("name", STATES)
def test_rst_ends_every_state_but_time_wait(name: str) -> None:
    book, peer, _ = in_state(name)
    book.into("R", peer)
    assert state_of(book) == ("TIME_WAIT" if name == "TIME_WAIT" else "CLOSED")
    book.nothing()


@pytest.mark.parametrize("name", STATES)
def test_a_stray_syn_changes_no_state(name: str) -> None:
    book, peer, _ = in_state(name)
    book.into("S", peer - 500)
    got = [segment.flags for segment in book.pull()]
    assert state_of(book) == name
    assert got == ["A"]


@pytest.mark.parametrize("name", STATES)
def test_an_old_duplicate_is_answered_with_an_acknowledgement(name: str) -> None:
    book, peer, ours = in_state(name)
    book.into("A", peer - 100, ours if name in ("FIN_WAIT_2", "TIME_WAIT") else 1, bytes(50))
    assert [(segment.flags, segment.ack) for segment in book.pull()] == [("A", peer)]


@pytest.mark.parametrize("name", STATES)
def test_a_segment_without_ack_is_dropped(name: str) -> None:
    book, peer, _ = in_state(name)
    book.into("", peer, payload=b"data")
    assert state_of(book) == name
    assert book.stack.counters.drops["tcp_unacceptable"] == 1


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("SYN_RCVD", "CLOSE_WAIT"),
        ("ESTABLISHED", "CLOSE_WAIT"),
        ("FIN_WAIT_1", "TIME_WAIT"),
        ("FIN_WAIT_2", "TIME_WAIT"),
    ],
)
def test_fin_moves_on(name: str, after: str) -> None:
    book, peer, ours = in_state(name)
    book.into("FA", peer, ours)
    assert state_of(book) == after
    assert [(segment.flags, segment.ack) for segment in book.pull()] == [("A", peer + 1)]


@pytest.mark.parametrize(
    ("name", "after"), [("FIN_WAIT_1", "FIN_WAIT_2"), ("CLOSING", "TIME_WAIT"), ("LAST_ACK", "CLOSED")]
)
def test_the_acknowledgement_of_our_fin_moves_on(name: str, after: str) -> None:
    book, peer, ours = in_state(name)
    book.into("A", peer, ours)
    assert state_of(book) == after


@pytest.mark.parametrize("delivered", [True, False])
def test_a_reset_after_both_streams_ended_is_an_error_only_if_data_was_lost(delivered: bool) -> None:
    # The peer's shortened TIME-WAIT was over when our FIN, whose acknowledgement was lost, came again.
    book = Playbook()
    conn = book.established()
    book.into("FA", 1, 1)
    book.pull()
    conn.send(b"data")
    book.pull()
    conn.shutdown_write()
    book.pull()
    assert conn.state is State.LAST_ACK
    if delivered:
        book.into("A", 2, 5)
    book.into("R", 2)
    assert conn.state is State.CLOSED
    assert conn.error == (0 if delivered else errno.ECONNRESET)


# RFC 9293 section 3.10.7: state -> what a SYN, an acknowledgement of everything, a FIN, a RST and data (all
# with the numbers expected next) make of it, and what is answered: nothing, an acknowledgement of (seq, ack), a
# reset, a SYN-ACK; "later" is a delayed acknowledgement. Ours: in SYN-SENT an overtaken segment is ignored.
KINDS = {"SYN": "S", "ACK": "A", "FIN": "FA", "RST": "R", "data": "A"}
TABLE: dict[str, tuple[tuple[str, str], ...]] = {
    "CLOSED": (("CLOSED", "RA"), ("CLOSED", "R"), ("CLOSED", "R"), ("CLOSED", ""), ("CLOSED", "R")),
    "LISTEN": (("SYN_RCVD", "SA"), ("CLOSED", "R"), ("CLOSED", "R"), ("CLOSED", ""), ("CLOSED", "R")),
    "SYN_SENT": (
        ("SYN_RCVD", "SA"), ("SYN_SENT", ""), ("SYN_SENT", ""), ("SYN_SENT", ""), ("SYN_SENT", "")
    ),
    "SYN_RCVD": (
        ("SYN_RCVD", "A 1 1"), ("ESTABLISHED", ""), ("CLOSE_WAIT", "A 1 2"), ("CLOSED", ""),
        ("ESTABLISHED", "later 1 5"),
    ),
    "ESTABLISHED": (
        ("ESTABLISHED", "A 1 1"), ("ESTABLISHED", ""), ("CLOSE_WAIT", "A 1 2"), ("CLOSED", ""),
        ("ESTABLISHED", "later 1 5"),
    ),
    "FIN_WAIT_1": (
        ("FIN_WAIT_1", "A 2 1"), ("FIN_WAIT_2", ""), ("TIME_WAIT", "A 2 2"), ("CLOSED", ""),
        ("FIN_WAIT_2", "later 2 5"),
    ),
    "FIN_WAIT_2": (
        ("FIN_WAIT_2", "A 2 1"), ("FIN_WAIT_2", ""), ("TIME_WAIT", "A 2 2"), ("CLOSED", ""),
        ("FIN_WAIT_2", "later 2 5"),
    ),
    "CLOSE_WAIT": (
        ("CLOSE_WAIT", "A 1 2"), ("CLOSE_WAIT", ""), ("CLOSE_WAIT", "A 1 2"), ("CLOSED", ""),
        ("CLOSE_WAIT", ""),
    ),
    "CLOSING": (
        ("CLOSING", "A 2 2"), ("TIME_WAIT", ""), ("TIME_WAIT", "A 2 2"), ("CLOSED", ""), ("TIME_WAIT", "")
    ),
    "LAST_ACK": (
        ("LAST_ACK", "A 2 2"), ("CLOSED", ""), ("CLOSED", ""), ("CLOSED", ""), ("CLOSED", "")
    ),
    "TIME_WAIT": (
        ("TIME_WAIT", "A 2 2"), ("TIME_WAIT", ""), ("TIME_WAIT", "A 2 2"), ("TIME_WAIT", ""),
        ("TIME_WAIT", ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLE)
def test_every_state_answers_every_kind_of_segment_as_the_standard_says(name: str, kind: str) -> None:
    book, peer, ours = Playbook(), 0, 1
    if name == "CLOSED":
        book.our_port = 9
    elif name == "LISTEN":
        book.listen()
    elif name == "SYN_SENT":
        book.connect()
        book.out("S")
    else:
        book, peer, ours = in_state(name)
    book.into(KINDS[kind], peer, ours, b"data" if kind == "data" else b"")
    answers = [f"{got.flags} {got.seq} {got.ack}" for got in book.pull()]
    book.advance(0.05)
    answers += [f"later {got.seq} {got.ack}" for got in book.queue]
    after, answer = TABLE[name][list(KINDS).index(kind)]
    assert state_of(book) == after
    assert len(answers) == bool(answer)
    if answer:
        # Of a reset and a SYN-ACK the flags: their numbers are tested above.
        assert answers[0] == answer or answers[0].split()[0] == answer
    if kind == "data" and answer.startswith("later"):
        assert next(iter(book.stack.connections.values())).recv(10) == b"data"


def test_shutdown_read_discards() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 1, 1, b"a")
    conn.shutdown_read()
    book.into("A", 2, 1, b"b")
    assert conn.readable() == 0
    assert conn.eof()
    book.advance(0.1)
    book.out("A", ack=3)


def test_a_simultaneous_open_can_be_refused() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S")
    book.into("S", 0)
    book.out("SA")
    book.into("R", 1)
    assert conn.error == errno.ECONNREFUSED


def test_a_syn_from_the_peer_before_ours_left_waits() -> None:
    book = Playbook()
    conn = book.connect()
    book.into("S", 0)
    assert conn.state is State.SYN_SENT
    assert book.stack.counters.drops["tcp_early"] == 1


def test_repr_names_the_state_and_no_peer() -> None:
    book = Playbook()
    conn = book.established()
    assert "ESTABLISHED" in repr(conn)
    assert "10.0.0.1" not in repr(conn)


def test_calls_after_the_end_are_harmless() -> None:
    book = Playbook()
    conn = book.established()
    conn.abort()
    conn.abort()
    conn.close()
    conn.shutdown_write()
    conn.shutdown_read()
    conn.settings_changed()
    conn.finish()
    conn.fail(errno.EIO)
    assert conn.error == 0
    assert (conn.unacked(), conn.writable(), conn.readable()) == (0, 0, 0)
    assert conn.info()["state_name"] == "CLOSED"
    book.out("RA")
    book.nothing()


def test_closing_twice_is_closing_once() -> None:
    book = Playbook()
    conn = book.established()
    conn.close()
    conn.close()
    conn.shutdown_write()
    book.out("FA")
    book.nothing()


def test_close_in_fin_wait_2_starts_the_orphan_timer() -> None:
    book = Playbook()
    conn = book.established()
    conn.shutdown_write()
    book.out("FA")
    book.into("A", 1, 2)
    book.advance(100.0)
    conn.close()
    book.advance(59.0)
    assert conn.state is State.FIN_WAIT_2
    book.advance(2.0)
    assert conn.state is State.CLOSED


def test_settings_before_the_handshake_take_effect() -> None:
    book = Playbook()
    conn = book.connect()
    conn.settings.rcvbuf = conn.settings.rcvbuf_max = 30_000
    conn.settings_changed()
    book.out("S", window=30_000)


def test_a_buffer_reduced_during_the_handshake_takes_no_window_back() -> None:
    book = Playbook()
    conn = book.connect()
    book.out("S", window=65535)
    conn.settings.rcvbuf = conn.settings.rcvbuf_max = 3000
    conn.settings_changed()
    book.into("S", 0, mss=1460)
    book.out("SA", seq=0, ack=1, window=65535)


def test_a_listener_closes_once_and_an_unfinished_handshake_is_reset() -> None:
    book = Playbook()
    listener = book.listen()
    book.into("S", 0)
    book.out("SA")
    listener.close()
    listener.close()
    book.out("RA")
    assert list(book.stack.events()) == []


def test_an_acknowledgement_before_the_syn_ack_left_is_challenged() -> None:
    book = Playbook()
    book.listen()
    book.into("S", 0)
    book.iss = next(iter(book.stack.connections.values())).snd.iss
    book.into("A", 1, 0)
    assert book.stack.counters.drops["tcp_early"] == 1
    book.into("S", 0)
    book.out("SA")


def test_an_unanswered_syn_ack_is_given_up_quietly() -> None:
    book = Playbook(StackConfig(tcp=TcpSettings(syn_retries=2)))
    listener = book.listen()
    book.into("S", 0)
    book.advance(20.0)
    assert [got.flags for got in book.queue] == ["SA", "SA", "SA"]
    assert not book.stack.connections
    assert not listener.half_open
    assert list(book.stack.events()) == []


def test_a_fin_below_what_was_received_is_ignored() -> None:
    book = Playbook()
    conn = book.established()
    book.into("A", 101, 1, bytes(100))
    book.into("FA", 50, 1)
    assert conn.rcv.fin == -1
