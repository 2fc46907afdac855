"""Making a connection's packets, one per call, at the moment they leave.

Every function returns a packet, ``NO_ROOM`` when there is something to send
that does not fit, or None when there is nothing (more) of that kind. An
acknowledgement is a flag that any segment clears.

Source: spec/netstack.md section 6.1; RFC 9293 section 3.8.
"""

from __future__ import annotations

from math import inf

from smolmix_sync.netstack.connection import Conn
from smolmix_sync.netstack.options import Options, encode, encode_sack
from smolmix_sync.netstack.segment import ACK, FIN, SYN
from smolmix_sync.netstack.seqnum import MASK
from smolmix_sync.netstack.states import State

__all__ = ["NO_ROOM", "acknowledgement", "control", "data", "retransmission", "wants_data"]

NO_ROOM = b""
"""There is a packet, but it is larger than the space left."""

_CLOSE_WAIT = State.CLOSE_WAIT
_LAST_ACK = State.LAST_ACK
_ESTABLISHED = State.ESTABLISHED
_FIN_WAIT_1 = State.FIN_WAIT_1
_SYN_RCVD = State.SYN_RCVD
_SYN_SENT = State.SYN_SENT

# Ours: a segment is cut to the room only if at least this much payload goes.
_MIN_CUT = 256
# From the specification: 40 octets of options, 10 or 12 of them timestamps.
_SACK_BLOCKS = {True: 3, False: 4}
_SACK_OVERHEAD = 4


def control(conn: Conn, now: float, space: int) -> bytes | None:
    """Return a SYN, SYN-ACK or probe."""
    if conn.syn_wanted:
        if space < conn.header_size + 20:
            return NO_ROOM
        conn.syn_wanted = False
        if conn.snd.snd_nxt == 0:
            conn.snd.take_syn(now)
        else:
            conn.retransmissions += 1
        if conn.rtx_at == inf:
            conn.rtx_at = now + conn.rtt.rto
        return _syn(conn, now)
    if conn.probe_wanted:
        if space < conn.overhead:
            return NO_ROOM
        conn.probe_wanted = False
        if conn.snd.blocked_by_window():
            delay = max(conn.rtt.rto, conn.config.persist_min) * (1 << min(conn.persist_count, 10))
            conn.persist_at = now + min(delay, conn.config.persist_max)
        # One before what the peer has: it must answer with an acknowledgement.
        return _packet(conn, conn.snd.snd_una - 1, ACK, b"", now, space)
    return None


def retransmission(conn: Conn, now: float, space: int, may_cut: bool) -> bytes | None:
    """Return the first lost segment the congestion window lets go."""
    snd = conn.snd
    sent = snd.next_lost(conn.cc.cwnd)
    if sent is None:
        return None
    if sent.flags & SYN:
        if space < conn.header_size + 20:
            return NO_ROOM
        snd.take_lost(sent, now, 1)
        conn.retransmissions += 1
        conn.rtx_at = now + conn.rtt.rto
        return _syn(conn, now)
    size = min(sent.end - sent.start - (1 if sent.flags & FIN else 0), conn.mss)
    if size + conn.overhead > space:
        size = space - conn.overhead
        if not may_cut or size < _MIN_CUT:
            return NO_ROOM
    snd.take_lost(sent, now, size)
    conn.retransmissions += 1
    if sent is not conn.tail_sent:
        conn.episode.resent(sent.end - sent.start, now)
    if conn.rtx_at == inf:
        conn.rtx_at = now + conn.rtt.rto
    return _packet(conn, sent.start, sent.flags, snd.payload(sent), now, space)


def wants_data(conn: Conn) -> int:
    """Return the size of the new segment that may go now (-1: a bare FIN, 0: none)."""
    if not conn.open:
        return 0
    settings = conn.settings
    return conn.snd.sendable(conn.mss, conn.cc.cwnd, not settings.nodelay, settings.cork)


def data(conn: Conn, now: float, space: int, may_cut: bool) -> bytes | None:
    """Return the next new segment or FIN."""
    size = wants_data(conn)
    if not size:
        return None
    full = conn.mss
    if max(size, 0) + conn.overhead > space:
        full = space - conn.overhead
        if not may_cut or full < _MIN_CUT:
            return NO_ROOM
        size = full
    snd = conn.snd
    idle = snd.snd_una == snd.snd_nxt
    sent = snd.take_new(size, full, now, ACK)
    if idle:
        conn.set_stalled(now)
        conn.cc.on_restart(now)
    if sent.flags & FIN:
        if conn.state is _CLOSE_WAIT:
            conn.state = _LAST_ACK
        elif conn.state is _ESTABLISHED:
            conn.state = _FIN_WAIT_1
    if size > 0:
        conn.bytes_sent += size
    if conn.rtx_at == inf:
        conn.rtx_at = now + conn.rtt.rto
    conn.arm_tail_probe(now)
    return _packet(conn, sent.start, sent.flags, snd.payload(sent), now, space)


def acknowledgement(conn: Conn, now: float, space: int) -> bytes:
    """Return a bare acknowledgement with as many SACK blocks as fit."""
    if space < conn.overhead + (_SACK_OVERHEAD + 8 if conn.rcv.wants_sack() else 0):
        return NO_ROOM
    return _packet(conn, conn.snd.snd_nxt, ACK, b"", now, space)


def _packet(conn: Conn, offset: int, flags: int, payload: bytes | bytearray, now: float, space: int) -> bytes:
    """Serialise one segment with the newest acknowledgement and window."""
    snd, rcv = conn.snd, conn.rcv
    seq = (snd.iss + offset) & MASK
    ack = (rcv.irs + rcv.rcv_nxt) & MASK
    window = rcv.window_field(conn.advertised_mss)
    conn.segments_out += 1
    if rcv.sack and rcv.wants_sack():
        # Options beyond those mss allows for count as well (RFC 6691 section 2).
        room = min(space - conn.overhead, conn.mss) - len(payload) - _SACK_OVERHEAD
        count = min(room >> 3, _SACK_BLOCKS[conn.timestamps])
        if count > 0:
            options = encode_sack(
                [
                    ((rcv.irs + left) & MASK, (rcv.irs + right) & MASK)
                    for left, right in rcv.sack_blocks(count)
                ]
            )
            if conn.timestamps:
                options = encode(Options(timestamps=(conn.tsval(now), conn.ts_recent))) + options
            rcv.acknowledged()
            return conn.writer.with_options(seq, ack, flags, window, options, payload)
        # No room beside a full payload: the flag stays up and a bare acknowledgement follows.
        rcv.acknowledge_now(now)
    else:
        rcv.acknowledged()
    if conn.timestamps:
        return conn.writer.stamped(seq, ack, flags, window, conn.tsval(now), conn.ts_recent, payload)
    return conn.writer.plain(seq, ack, flags, window, payload)


def _syn(conn: Conn, now: float) -> bytes:
    """Serialise our SYN, as SYN-ACK once the peer's SYN is known."""
    rcv, config = conn.rcv, conn.config
    answering = conn.state is not _SYN_SENT
    options = Options(
        mss=conn.advertised_mss,
        window_scale=conn.wscale_offer if config.window_scale else None,
        sack_permitted=config.sack,
        timestamps=(conn.tsval(now), conn.ts_recent) if config.timestamps else None,
    )
    flags, ack = SYN, 0
    conn.segments_out += 1
    if answering:
        flags = SYN | ACK
        ack = (rcv.irs + rcv.rcv_nxt) & MASK
        options.sack_permitted = rcv.sack
        if not conn.timestamps:
            options.timestamps = None
        if not conn.rcv.scaled:
            options.window_scale = None
        rcv.acknowledged()
    # What an earlier SYN promised stays promised, whatever the buffer is now.
    window = min(max(rcv.limit, rcv.edge - 1), 0xFFFF)
    rcv.edge = max(rcv.edge, 1 + window)
    return conn.writer.with_options(conn.snd.iss, ack, flags, window, encode(options))
