"""SEGMENT ARRIVES: what a connection does with a segment addressed to it.

The steps and their order are those of RFC 9293 section 3.10.7, with RFC 5961
(challenge ACKs) and the rules a reordering link needs: an overtaken segment of
the handshake is ignored, never answered by RST, and old acknowledgements still
feed the scoreboard.

Source: RFC 9293 section 3.10.7, RFC 5961, RFC 7323 section 5; spec/netstack.md section 5.6.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from math import inf

from smolmix_sync.netstack.connection import Conn
from smolmix_sync.netstack.events import HUP, READABLE, WRITABLE
from smolmix_sync.netstack.options import Options
from smolmix_sync.netstack.recovery import ECHO_SLACK
from smolmix_sync.netstack.segment import ACK, FIN, RST, SYN, Segment
from smolmix_sync.netstack.sender import AckResult
from smolmix_sync.netstack.seqnum import MASK, from_wire
from smolmix_sync.netstack.states import State

__all__ = ["apply_syn", "segment_arrives"]

_CLOSED = State.CLOSED
_SYN_SENT = State.SYN_SENT
_SYN_RCVD = State.SYN_RCVD
_ESTABLISHED = State.ESTABLISHED
_FIN_WAIT_1 = State.FIN_WAIT_1
_FIN_WAIT_2 = State.FIN_WAIT_2
_CLOSE_WAIT = State.CLOSE_WAIT
_CLOSING = State.CLOSING
_LAST_ACK = State.LAST_ACK
_TIME_WAIT = State.TIME_WAIT

_HALF = 0x80000000
# Ours: an echoed timestamp older than this (milliseconds) is nonsense or an attack.
_MAX_ECHO_AGE = 300_000
_NO_OPTIONS = Options()
_NO_BLOCKS: tuple[tuple[int, int], ...] = ()


def segment_arrives(conn: Conn, segment: Segment, now: float) -> str | None:
    """Process *segment*.

    Returns:
        None, the name of a drop counter, or ``"reset"`` when the caller must
        answer with the reset of RFC 9293 section 3.10.7.3 (an unacceptable
        acknowledgement in SYN-SENT).
    """
    conn.segments_in += 1
    state = conn.state
    if state is _SYN_SENT:
        return _syn_sent(conn, segment, now)

    snd, rcv = conn.snd, conn.rcv
    flags = segment.flags
    payload = segment.payload
    rcv_nxt = rcv.rcv_nxt
    seq = ((segment.seq - rcv.irs - rcv_nxt + _HALF) & MASK) - _HALF + rcv_nxt
    end = seq + len(payload) + (flags & FIN)

    # First, RST and SYN: RFC 5961 sections 3 and 4.
    if flags & (RST | SYN):
        return _reset(conn, seq, now) if flags & RST else _syn_again(conn, segment, seq, now)

    # Timestamps, relaxed: a late original is not a wrapped one.
    tsval = segment.tsval
    if tsval is not None and conn.timestamps:
        age = ((tsval - conn.ts_recent + _HALF) & MASK) - _HALF
        if age < 0:
            if age < -conn.config.paws_slack * 1000:
                _challenge(conn, now)
                return "tcp_paws"
        elif seq <= rcv.last_ack_sent:
            conn.ts_recent = tsval

    if not flags & ACK:
        return "tcp_unacceptable"
    una = snd.snd_una
    ack = ((segment.ack - snd.iss - una + _HALF) & MASK) - _HALF + una
    if ack > snd.snd_nxt or ack < una - max(snd.max_window, 65535):
        # RFC 5961 section 5. In SYN-RCVD RFC 9293 asks for a reset; with
        # reordering the segment is more likely an old one.
        _challenge(conn, now)
        return "tcp_ack_range"

    conn.last_received = now
    conn.keep_probes = 0
    if state is _SYN_RCVD:
        if ack < 1:
            return "tcp_early"
        _handshake_acknowledged(conn, segment, now)

    # Second, the sequence check; an unacceptable segment still carries an acknowledgement.
    # One without data may be as old as our last acknowledgement, as in Linux: pure
    # acknowledgements are overtaken all the time.
    acceptable = (end > rcv_nxt if end > seq else rcv.last_ack_sent <= seq) and seq <= rcv.edge
    _acknowledge(conn, segment, ack, now)
    state = conn.state
    if state is _CLOSED:
        return None
    if not acceptable:
        return _unacceptable(conn, seq, end, segment, now)

    if payload and state in (_ESTABLISHED, _FIN_WAIT_1, _FIN_WAIT_2):
        if conn.close_called and end - (flags & FIN) > rcv_nxt:
            # Nobody is left to read this (RFC 2525 section 2.17).
            conn.abort()
            return None
        if rcv.accept(seq, payload, now):
            conn.host.report(conn, READABLE)
            if now >= rcv.round_end:
                rcv.grow(now, conn.rtt.srtt)
        if conn.settings.quickack:
            rcv.acknowledge_now(now)
    if flags & FIN:
        _note_fin(conn, end - 1, now)
    if rcv.fin >= 0 and rcv.rcv_nxt == rcv.fin and not rcv.fin_reached:
        _consume_fin(conn, now)
    return None


def _unacceptable(conn: Conn, seq: int, end: int, segment: Segment, now: float) -> str | None:
    """Answer a segment outside the window with where we are.

    Without data only a probe (one octet back) or a segment ahead of the window
    is answered, and not more often than a challenge: two ends that disagree
    must not acknowledge each other for ever.
    """
    rcv = conn.rcv
    if end == seq:
        if seq == rcv.rcv_nxt - 1 or seq > rcv.edge:
            _challenge(conn, now)
        return None
    if segment.payload and end <= rcv.rcv_nxt:
        rcv.duplicates += 1
        rcv.report_duplicate(seq, seq + len(segment.payload))
    if conn.state is _TIME_WAIT and segment.flags & FIN:
        conn.linger_at = now + conn.config.time_wait
    rcv.acknowledge_now(now)
    return None


# -- SYN-SENT, RFC 9293 section 3.10.7.3


def _syn_sent(conn: Conn, segment: Segment, now: float) -> str | None:
    flags = segment.flags
    ack = from_wire(segment.ack, conn.snd.iss, 0)
    if flags & ACK and ack != 1:
        return "tcp_ack_range" if flags & RST else "reset"
    if conn.snd.snd_nxt == 0:
        return "tcp_early"  # our SYN was not pulled yet: this cannot answer it
    if flags & RST:
        if not flags & ACK:
            return "tcp_unacceptable"
        conn.fail(errno.ECONNREFUSED)
        return None
    if not flags & SYN:
        return "tcp_early"  # overtook the SYN-ACK; the peer sends it again
    conn.last_received = now
    apply_syn(conn, segment)
    if not flags & ACK:
        # Simultaneous open: our SYN goes again, with an acknowledgement.
        conn.state = _SYN_RCVD
        conn.syn_wanted = True
        return None
    _handshake_acknowledged(conn, segment, now, scaled=False)
    conn.rcv.acknowledge_now(now)
    return None


def apply_syn(conn: Conn, segment: Segment) -> None:
    """Take sequence number, window and options from the peer's SYN."""
    options = segment.options or _NO_OPTIONS
    config = conn.config
    snd = conn.snd
    scaled = config.window_scale and options.window_scale is not None
    snd.shift = options.window_scale or 0 if scaled else 0
    conn.rcv.start(
        segment.seq,
        scaled=scaled,
        shift=conn.wscale_offer if scaled else 0,
        sack=config.sack and options.sack_permitted,
    )
    conn.timestamps = config.timestamps and segment.tsval is not None
    if segment.tsval is not None:
        conn.ts_recent = segment.tsval
    if options.mss is not None:
        conn.peer_mss = options.mss
    conn.update_mss()
    # The window of a SYN is never scaled (RFC 7323 section 2.2).
    snd.edge = max(snd.edge, 1 + segment.window)
    snd.max_window = max(snd.max_window, segment.window)


def _handshake_acknowledged(conn: Conn, segment: Segment, now: float, *, scaled: bool = True) -> None:
    """Our SYN was acknowledged: enter ESTABLISHED."""
    snd = conn.snd
    result = snd.on_ack(1, _NO_BLOCKS, conn.detector, conn.rtt.min_rtt, None, now)
    if result.clean_sent_at >= 0.0:
        conn.rtt.sample(now - result.clean_sent_at)
        if not conn.loop:
            conn.host.note_handshake(now - result.clean_sent_at)
    conn.rtx_at = inf
    conn.syn_wanted = False
    conn.establish(now)
    if scaled:
        snd.open_window(1, segment.window)


# -- RST and SYN in a synchronised state


def _reset(conn: Conn, seq: int, now: float) -> str | None:
    rcv = conn.rcv
    if seq != rcv.rcv_nxt:
        if rcv.rcv_nxt < seq < rcv.edge:
            _challenge(conn, now)
        return "tcp_unacceptable"
    state = conn.state
    if state is _TIME_WAIT:
        return "tcp_unacceptable"  # RFC 1337: a reset must not cut TIME-WAIT short
    if state is _SYN_RCVD:
        if conn.listener is not None:
            conn.finish()
        else:
            conn.fail(errno.ECONNREFUSED)
    elif state in (_CLOSING, _LAST_ACK) and (conn.close_called or conn.snd.snd_una >= conn.snd.fin):
        # All data of both is delivered: the peer's TIME-WAIT was over before our FIN came again.
        conn.finish()
    else:
        conn.fail(errno.ECONNRESET)
    return None


def _syn_again(conn: Conn, segment: Segment, seq: int, now: float) -> str | None:
    if conn.state is _SYN_RCVD and seq == 0:
        if segment.flags & ACK and from_wire(segment.ack, conn.snd.iss, 0) == 1:
            # Simultaneous open: the peer's SYN-ACK is also the acknowledgement we wait for.
            conn.last_received = now
            _handshake_acknowledged(conn, segment, now, scaled=False)
            conn.rcv.acknowledge_now(now)
        elif conn.snd.snd_nxt:
            conn.syn_wanted = True  # our SYN-ACK was lost
        return None
    _challenge(conn, now)
    return "tcp_unacceptable"


def _challenge(conn: Conn, now: float) -> None:
    """Answer with an acknowledgement, within the rate limit (RFC 5961 section 7)."""
    if now - conn.challenge_at >= 1.0:
        conn.challenge_at = now
        conn.challenges = 0
    if conn.challenges < conn.config.challenge_rate:
        conn.challenges += 1
        conn.rcv.acknowledge_now(now)


# -- acknowledgements


def _blocks(conn: Conn, segment: Segment) -> Sequence[tuple[int, int]]:
    options = segment.options
    if options is None or not options.sack or not conn.rcv.sack:
        return _NO_BLOCKS
    snd = conn.snd
    una = snd.snd_una
    base = snd.iss + una
    return [
        (((left - base + _HALF) & MASK) - _HALF + una, ((right - base + _HALF) & MASK) - _HALF + una)
        for left, right in options.sack
    ]


def _acknowledge(conn: Conn, segment: Segment, ack: int, now: float) -> None:
    """Apply the acknowledgement, SACK blocks and window of an accepted segment."""
    snd = conn.snd
    blocks = _blocks(conn, segment)
    if snd.open_window(ack, segment.window) and snd.edge > snd.snd_nxt:
        conn.persist_at = inf
        conn.persist_count = 0
    if ack <= snd.snd_una and not blocks:
        if conn.detector.plain and ack == snd.snd_una and snd.order:
            _repeated(conn, segment, now)
        return
    if conn.state is _TIME_WAIT:
        return
    echoed = None
    rtt = conn.rtt
    if conn.timestamps and segment.tsval is not None:
        age = (conn.tsval(now) - segment.tsecr) & MASK
        if age < _MAX_ECHO_AGE:
            echoed = now - age / 1000.0
    detector = conn.detector
    result = snd.on_ack(ack, blocks, detector, rtt.min_rtt, echoed, now)
    acked = result.acked
    if acked:
        if echoed is not None:
            rtt.sample(now - echoed)
        elif result.clean_sent_at >= 0.0:
            rtt.sample(now - result.clean_sent_at)
        rtt.on_progress()
        conn.bytes_acked += acked
        if result.resent_first and conn.episode.spurious(echoed):
            conn.undo()
    if result.dsack is not None:
        _duplicated(conn, result.dsack)
    if conn.tail_end and (acked or result.dsack):
        _tail_acknowledged(conn, result, echoed, now)
    if snd.order and (
        snd.sacked_octets or snd.lost_octets or detector.deadline != inf or blocks or detector.plain
    ):
        lost = detector.detect(snd, rtt, now)
        if lost:
            conn.on_lost(lost, now)
    elif not snd.order:
        detector.deadline = inf
    if acked or result.delivered:
        conn.cc.on_acked(
            acked, result.delivered, snd.pipe, snd.snd_una, snd.snd_nxt, rtt.srtt, now, not snd.unsent()
        )
    if not acked:
        return
    conn.set_stalled(now)
    if snd.snd_una < snd.snd_nxt:
        conn.rtx_at = now + rtt.rto
        conn.arm_tail_probe(now)
    else:
        conn.rtx_at = conn.pto_at = inf
    if snd.fin >= 0 and snd.snd_una > snd.fin:
        _fin_acknowledged(conn, now)
    elif not snd.fin_queued:
        conn.host.report(conn, WRITABLE)


def _repeated(conn: Conn, segment: Segment, now: float) -> None:
    """A peer without SACK repeats its acknowledgement: something after the hole arrived, probably.

    The window may have moved as well; the age of the hole decides, so this need not be sure.
    """
    if segment.payload or segment.flags & FIN:
        return
    conn.detector.duplicate(conn.snd.snd_una)
    lost = conn.detector.detect(conn.snd, conn.rtt, now)
    if lost:
        conn.on_lost(lost, now)


def _duplicated(conn: Conn, block: tuple[int, int]) -> None:
    """The peer received *block* twice: if we sent it twice, once was too often."""
    conn.dsacks += 1
    probe = conn.tail_sent
    if probe is not None and block[1] == probe.end:
        return  # the probe is meant to be one too many
    if not conn.retransmissions:
        return  # the network's copy
    conn.detector.widen(conn.snd.snd_una, conn.snd.snd_nxt)
    if conn.episode.duplicated(*block):
        conn.undo()


def _tail_acknowledged(conn: Conn, result: AckResult, echoed: float | None, now: float) -> None:
    """End the probe; if the probe itself was what arrived, it repaired a loss (RFC 8985 section 7.4)."""
    if conn.snd.snd_una < conn.tail_end:
        return
    probe = conn.tail_sent
    conn.tail_end = 0
    if (
        probe is not None
        and result.dsack is None
        and result.acked
        and (echoed is None or echoed >= probe.sent_at - ECHO_SLACK)
    ):
        conn.on_lost(probe.end - probe.start, now)


def _fin_acknowledged(conn: Conn, now: float) -> None:
    state = conn.state
    if state is _FIN_WAIT_1:
        conn.state = _FIN_WAIT_2
        if conn.close_called:
            conn.linger_at = now + conn.config.fin_wait_2
    elif state is _CLOSING:
        conn.enter_time_wait(now)
    elif state is _LAST_ACK:
        conn.finish()


# -- the peer's FIN


def _note_fin(conn: Conn, offset: int, now: float) -> None:
    """Remember where the peer's stream ends; it may have overtaken data."""
    rcv = conn.rcv
    if rcv.fin_reached:
        # A retransmitted FIN: our acknowledgement was lost.
        rcv.acknowledge_now(now)
        if conn.state is _TIME_WAIT:
            conn.linger_at = now + conn.config.time_wait
    elif rcv.fin < 0 and offset >= rcv.highest():
        rcv.fin = offset
        rcv.acknowledge_now(now)


def _consume_fin(conn: Conn, now: float) -> None:
    rcv = conn.rcv
    rcv.fin_reached = True
    rcv.rcv_nxt += 1
    rcv.edge = max(rcv.edge, rcv.rcv_nxt)
    rcv.acknowledge_now(now)
    state = conn.state
    if state is _ESTABLISHED:
        conn.state = _CLOSE_WAIT
    elif state is _FIN_WAIT_1:
        # Our FIN is not acknowledged, or FIN-WAIT-2 would be the state.
        conn.state = _CLOSING
    elif state is _FIN_WAIT_2:
        conn.enter_time_wait(now)
    conn.host.report(conn, READABLE | HUP)
