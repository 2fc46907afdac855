"""What time brings to a connection.

Source: RFC 9293 section 3.10.8, RFC 6298 section 5, RFC 8985 section 7, RFC 1122 sections 4.2.2.17 (persist)
and 4.2.3.6 (keepalive); spec/netstack.md section 4.
"""

from __future__ import annotations

import errno
from math import inf

from smolmix_sync.netstack.connection import ARM_LINGER, USER_TIMEOUT, Conn
from smolmix_sync.netstack.output import wants_data
from smolmix_sync.netstack.states import State

__all__ = ["expire", "next_timeout"]


def next_timeout(conn: Conn) -> float:
    """Return the earliest of the connection's timers, ``inf`` when none runs."""
    rcv = conn.rcv
    due = conn.rtx_at
    if rcv.ack_at < due and not rcv.ack_now:
        due = rcv.ack_at
    if conn.detector.deadline < due:
        due = conn.detector.deadline
    if conn.pto_at < due:
        due = conn.pto_at
    if conn.give_up < due:
        due = conn.give_up
    if conn.persist_at < due:
        due = conn.persist_at
    if conn.linger_at < due:
        due = conn.linger_at
    if conn.keep_at < due:
        due = conn.keep_at
    return due


def expire(conn: Conn, now: float) -> None:
    """Run every timer of *conn* that is due; each is moved on or stopped."""
    if conn.linger_at == ARM_LINGER:
        conn.linger_at = now + conn.config.fin_wait_2
    elif conn.linger_at <= now:
        conn.finish()
        return
    rcv = conn.rcv
    if rcv.ack_at <= now:
        rcv.ack_at = inf
        rcv.acknowledge_now(now)
    if conn.detector.deadline <= now:
        lost = conn.detector.detect(conn.snd, conn.rtt, now)
        if lost:
            conn.on_lost(lost, now)
    if conn.give_up <= now:
        conn.fail(conn.soft_error or errno.ETIMEDOUT)
        return
    if conn.pto_at <= now:
        _tail_probe(conn, now)
    if conn.rtx_at <= now:
        _retransmission(conn, now)
    if conn.persist_at <= now:
        _persist(conn, now)
    if conn.keep_at <= now:
        _keepalive(conn, now)


def _tail_probe(conn: Conn, now: float) -> None:
    """Send one segment so that the peer tells what it has (RFC 8985 section 7.3)."""
    snd = conn.snd
    conn.pto_at = inf
    if not snd.order or snd.lost_octets or conn.tail_end or wants_data(conn):
        return  # what waits for a send slot is as good as a probe
    fresh = snd.unsent()
    if conn.open and snd.edge > snd.snd_nxt and fresh and (fresh >= conn.mss or not conn.settings.cork):
        snd.probing = True
        conn.tail_sent = None
    else:
        last = snd.last_in_flight()
        snd.mark_lost(last)
        conn.tail_sent = last
    conn.tail_end = snd.snd_nxt
    conn.tail_probes += 1
    conn.rtx_at = now + conn.rtt.rto


def _retransmission(conn: Conn, now: float) -> None:
    snd = conn.snd
    conn.rtx_at = inf  # armed again when the retransmission is pulled
    if snd.snd_una >= snd.snd_nxt or (snd.lost_octets and not snd.pipe):
        return
    rtt = conn.rtt
    if conn.state in (State.SYN_SENT, State.SYN_RCVD) and rtt.timeouts >= conn.settings.syn_retries:
        if conn.listener is not None:
            conn.finish()
        else:
            conn.fail(conn.soft_error or errno.ETIMEDOUT)
        return
    rtt.on_timeout()
    conn.timeouts += 1
    conn.pto_at = inf
    conn.tail_end = 0
    conn.tail_sent = None
    if rtt.timeouts == 1:
        conn.episode.begin(snd.snd_una, snd.snd_nxt)
        conn.detector.new_recovery()
    conn.cc.on_timeout(snd.pipe, rtt.timeouts, now)
    conn.detector.on_timeout(snd, rtt, now)


def _persist(conn: Conn, now: float) -> None:
    conn.persist_at = inf
    if not conn.snd.blocked_by_window():
        conn.persist_count = 0
        return
    if conn.persist_count == 0:
        conn.persist_since = now
    # A peer that answers probes may keep its window shut for ever, unless nobody is left here to wait.
    silent_since = max(conn.last_received, conn.persist_since)
    if conn.close_called:
        silent_since = conn.persist_since
    if conn.persist_count > 1 and now - silent_since >= (conn.settings.user_timeout or USER_TIMEOUT):
        conn.fail(conn.soft_error or errno.ETIMEDOUT)
        return
    conn.probe_wanted = True
    conn.persist_count += 1


def _keepalive(conn: Conn, now: float) -> None:
    settings = conn.settings
    if not settings.keepalive:
        conn.keep_at = inf
        return
    idle_until = conn.last_received + settings.keep_idle
    if conn.keep_probes == 0 and idle_until > now:
        conn.keep_at = idle_until
        return
    if conn.snd.snd_una < conn.snd.snd_nxt:
        conn.keep_at = now + settings.keep_interval  # retransmission finds a dead peer by itself
        return
    if conn.keep_probes >= settings.keep_count:
        conn.send_reset()
        conn.fail(conn.soft_error or errno.ETIMEDOUT)
        return
    conn.keep_probes += 1
    conn.keep_at = now + settings.keep_interval
    conn.probe_wanted = True
