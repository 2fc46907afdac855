"""One TCP connection: its state, and the user's calls of RFC 9293 section 3.10.1 to 3.10.6.

What arrives is handled in ``arrival``, what leaves is made in ``output``, what
time brings is in ``timeouts``; the two directions keep their own state in
``sender`` and ``receiver``.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Protocol

from smolmix_sync.netstack import addresses, congestion
from smolmix_sync.netstack.config import StackConfig, TcpSettings
from smolmix_sync.netstack.episode import Episode
from smolmix_sync.netstack.events import CLOSED as CLOSED_EVENT
from smolmix_sync.netstack.events import CONNECTED, ERROR, HUP, READABLE, WRITABLE
from smolmix_sync.netstack.receiver import Receiver
from smolmix_sync.netstack.recovery import LossDetector, RttEstimator
from smolmix_sync.netstack.segment import ACK, RST, SegmentWriter
from smolmix_sync.netstack.sender import Sender, Sent
from smolmix_sync.netstack.seqnum import MASK, to_wire
from smolmix_sync.netstack.states import State

if TYPE_CHECKING:
    from smolmix_sync.netstack.listener import Listener

__all__ = ["ARM_LINGER", "USER_TIMEOUT", "Conn", "Host"]

# Module globals: member access on an Enum class costs on the hot path.
_CLOSED = State.CLOSED
_ESTABLISHED = State.ESTABLISHED
_CLOSE_WAIT = State.CLOSE_WAIT
_TIME_WAIT = State.TIME_WAIT
_SYN_SENT = State.SYN_SENT
_SYN_RCVD = State.SYN_RCVD

# States in which the peer may still send data.
_RECEIVING = (_ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2)
# Space of the timestamps option with its padding.
_TIMESTAMPS_SIZE = 12
# From the specification (RFC 9293 section 3.7.1): without an MSS option.
_DEFAULT_MSS = {4: 536, 16: 1220}
# Ours: what a user timeout of 0 stands for, the default.
USER_TIMEOUT = 120.0
# A user call knows no time (the stack's may be old): the orphan timer is due at once, and then set.
ARM_LINGER = 0.0
# Ours: a peer announcing less would cost a packet per few octets (Linux: 48).
_MIN_MSS = 48
# Ours (spec 4): a lone segment's acknowledgement may wait at the peer.
_DELAYED_ACK = 0.1


class Host(Protocol):
    """What a connection needs of its stack."""

    @property
    def now(self) -> float:
        """The latest time the stack was told."""

    def touch(self, conn: Conn) -> None:
        """Look again at what *conn* wants to send and when it wants to be woken."""

    def forget(self, conn: Conn) -> None:
        """Take *conn* out of the table."""

    def send_control(self, packet: bytes, destination: bytes) -> None:
        """Queue a packet before everything else."""

    def report(self, conn: Conn, mask: int) -> None:
        """Queue an event."""

    def note_handshake(self, rtt: float) -> None:
        """Learn from the round trip of a handshake without retransmission."""

    def handshake_done(self, conn: Conn) -> None:
        """Note that a passively opened connection is established."""


class Conn:
    """One TCP connection; made by ``Stack.connect``, ``Listener.accept`` or ``Incoming.accept``.

    Attributes for the owner: ``state``, ``error`` (errno that ended the
    connection, 0 while healthy; sticky), ``soft_error`` (last ICMP errno on an
    established connection, a hint), ``local`` and ``remote`` as (address, port),
    ``mss`` (payload octets per segment sent), ``settings``, and ``tag``, which
    belongs to the owner. The others belong to the stack.
    """

    __slots__ = (
        "_pending_error",
        "advertised_mss",
        "bytes_acked",
        "bytes_sent",
        "cc",
        "challenge_at",
        "challenges",
        "close_called",
        "config",
        "detector",
        "dsacks",
        "episode",
        "error",
        "give_up",
        "header_size",
        "heap_at",
        "host",
        "in_ack",
        "in_control",
        "in_data",
        "in_lazy",
        "in_retransmit",
        "keep_at",
        "keep_probes",
        "key",
        "last_received",
        "linger_at",
        "listener",
        "local",
        "loop",
        "mss",
        "open",
        "overhead",
        "peer_mss",
        "persist_at",
        "persist_count",
        "persist_since",
        "probe_wanted",
        "pto_at",
        "rcv",
        "remote",
        "retransmissions",
        "rtt",
        "rtx_at",
        "segments_in",
        "segments_out",
        "settings",
        "snd",
        "soft_error",
        "stalled_since",
        "state",
        "syn_wanted",
        "tag",
        "tail_end",
        "tail_probes",
        "tail_sent",
        "timeouts",
        "timestamps",
        "ts_offset",
        "ts_recent",
        "tx_mtu",
        "undos",
        "writer",
        "wscale_offer",
    )

    def __init__(
        self,
        host: Host,
        writer: SegmentWriter,
        settings: TcpSettings,
        config: StackConfig,
        *,
        key: bytes,
        iss: int,
        ts_offset: int,
        tx_mtu: int,
        rx_mtu: int,
        loop: bool,
    ) -> None:
        self.host = host
        self.writer = writer
        self.config = config
        self.settings = settings = replace(settings)
        self.key = key
        self.loop = loop
        self.local = (addresses.unpack(writer.source), writer.source_port)
        self.remote = (addresses.unpack(writer.destination), writer.destination_port)
        self.tag: object = None
        self.state = _CLOSED
        self.error = 0
        self.soft_error = 0
        self._pending_error = 0
        self.listener: Listener | None = None
        self.open = False
        self.close_called = False

        self.header_size = 60 if len(writer.source) == 16 else 40
        self.overhead = self.header_size
        self.tx_mtu = tx_mtu
        self.peer_mss = _DEFAULT_MSS[len(writer.source)]
        self.advertised_mss = min(rx_mtu - self.header_size, 65535)
        if settings.max_segment is not None:
            self.advertised_mss = min(self.advertised_mss, settings.max_segment)
        self.mss = self.peer_mss
        self.timestamps = False
        self.ts_offset = ts_offset
        self.ts_recent = 0
        self.wscale_offer = 0
        while (
            self.wscale_offer < 14 and max(settings.rcvbuf, settings.rcvbuf_max) >> self.wscale_offer > 65535
        ):
            self.wscale_offer += 1

        self.snd = Sender(iss, settings.sndbuf)
        self.rcv = Receiver(settings, config, every_segment=loop)
        self.rtt = RttEstimator(config)
        self.detector = LossDetector(config)
        self.episode = Episode()
        # Inside one stack nothing is lost and memory is the only bound.
        control = settings.congestion or ("none" if loop else config.congestion)
        self.cc = congestion.make(control, config.initial_window, settings.sndbuf)

        self.syn_wanted = False
        self.probe_wanted = False
        self.rtx_at = inf
        self.pto_at = inf
        self.tail_end = 0
        self.tail_sent: Sent | None = None
        self.give_up = inf
        self.stalled_since = 0.0
        self.persist_at = inf
        self.persist_count = 0
        self.persist_since = 0.0
        self.keep_at = inf
        self.keep_probes = 0
        self.linger_at = inf
        self.challenge_at = -inf
        self.challenges = 0
        self.last_received = host.now

        self.in_control = self.in_retransmit = self.in_data = self.in_ack = self.in_lazy = False
        self.heap_at = inf

        self.segments_in = 0
        self.segments_out = 0
        self.retransmissions = 0
        self.timeouts = 0
        self.dsacks = 0
        self.undos = 0
        self.tail_probes = 0
        self.bytes_sent = 0
        self.bytes_acked = 0

    def __repr__(self) -> str:
        return f"<Conn {self.state.name} :{self.local[1]}>"

    # -- user calls

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Copy as much of *data* as fits into the send buffer; return how much (0: full).

        Data may be queued from SYN_SENT on.

        Raises:
            BrokenPipeError: after ``shutdown_write``, ``close``, or the end of the connection.
        """
        if self.snd.fin_queued or self.state is _CLOSED or self.close_called:
            raise BrokenPipeError(errno.EPIPE, "connection is shut down for writing")
        size = self.snd.write(data)
        if size:
            self.host.touch(self)
        return size

    def recv(self, n: int) -> bytes:
        """Take up to *n* received octets; ``b""`` when none wait (see ``eof`` and ``error``)."""
        data = self.rcv.read(n)
        if data:
            self._after_read()
        return data

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """Take received octets into *buffer*; return how many."""
        size = self.rcv.read_into(buffer)
        if size:
            self._after_read()
        return size

    def peek(self, n: int) -> bytes:
        """Return up to *n* received octets and leave them there."""
        return bytes(self.rcv.buffer[:n])

    def _after_read(self) -> None:
        if self.state in _RECEIVING and self.rcv.window_opened(self.advertised_mss):
            self.rcv.acknowledge_now(self.host.now)
            self.host.touch(self)

    def readable(self) -> int:
        """Return how many octets wait to be received."""
        return len(self.rcv.buffer)

    def writable(self) -> int:
        """Return how many octets ``send`` would take now."""
        if self.snd.fin_queued or self.state is _CLOSED or self.close_called:
            return 0
        return max(0, self.snd.limit - len(self.snd.buffer))

    def unacked(self) -> int:
        """Return octets of ours not yet acknowledged by the peer, a FIN counted as one."""
        if self.state is _CLOSED:
            return 0
        fin = self.snd.fin_queued and (self.snd.fin < 0 or self.snd.snd_una <= self.snd.fin)
        return len(self.snd.buffer) + fin

    def eof(self) -> bool:
        """Tell whether the peer's FIN was reached and everything before it was read."""
        return (self.rcv.fin_reached or self.rcv.discard) and not self.rcv.buffer

    def shutdown_write(self) -> None:
        """Send FIN after what is queued; receiving goes on."""
        if self.snd.fin_queued or self.state is _CLOSED:
            return
        self.snd.fin_queued = True
        self.host.touch(self)

    def shutdown_read(self) -> None:
        """Discard what waits and what will come; the peer is not told (as in Linux)."""
        self.rcv.discard = True
        if self.rcv.buffer:
            self.rcv.buffer.clear()
            self._after_read()

    def close(self) -> None:
        """Give the connection up: FIN after queued data, or RST when unread data would be lost.

        Source: RFC 9293 section 3.10.4; RFC 2525 section 2.17.
        """
        if self.close_called:
            return
        self.close_called = True
        if self.state is _CLOSED:
            return
        if self.state is _SYN_SENT:
            self.finish()
        elif self.settings.linger_reset or self.rcv.buffer:
            self.abort()
        else:
            self.rcv.discard = True
            if self.state is State.FIN_WAIT_2:
                self.linger_at = ARM_LINGER
            self.snd.fin_queued = True
            self.host.touch(self)

    def abort(self) -> None:
        """Send RST and forget the connection.

        Source: RFC 9293 section 3.10.5.
        """
        self.close_called = True
        if self.state is _CLOSED:
            return
        if self.state not in (_SYN_SENT, _TIME_WAIT):
            self.send_reset()
        self.finish()

    def take_error(self) -> int:
        """Return and clear the pending error as SO_ERROR does (``error`` itself stays)."""
        error, self._pending_error = self._pending_error, 0
        return error

    def settings_changed(self) -> None:
        """Apply changes made to ``settings`` on a live connection.

        Buffer sizes, keepalive, user timeout and Nagle take effect; the window
        scale and ``max_segment`` were fixed by the handshake.
        """
        settings = self.settings
        self.snd.limit = settings.sndbuf
        self.cc.set_ceiling(settings.sndbuf)
        self.rcv.limit = max(self.rcv.limit, settings.rcvbuf) if self.open else settings.rcvbuf
        self.rcv.max_limit = max(settings.rcvbuf, settings.rcvbuf_max)
        if self.open:
            self.arm_keepalive()
        self.set_stalled(self.stalled_since)
        if self.state is not _CLOSED:
            self.host.touch(self)

    def info(self) -> dict[str, int | float | str]:
        """Return counters and estimates, TCP_INFO's content under this package's names.

        Times in seconds, sizes in octets.
        """
        snd, rcv, rtt = self.snd, self.rcv, self.rtt
        return {
            "state": self.state.value,
            "state_name": self.state.name,
            "options": "".join(
                name
                for name, on in (
                    ("ts ", self.timestamps),
                    ("sack ", rcv.sack),
                    ("wscale", bool(snd.shift or rcv.shift)),
                )
                if on
            ).strip(),
            "snd_wscale": snd.shift,
            "rcv_wscale": rcv.shift,
            "rto": rtt.rto,
            "srtt": rtt.srtt,
            "rttvar": rtt.rttvar,
            "min_rtt": 0.0 if rtt.min_rtt == inf else rtt.min_rtt,
            "backoff": rtt.timeouts,
            "snd_mss": self.mss,
            "advmss": self.advertised_mss,
            "pmtu": self.tx_mtu,
            "cwnd": self.cc.cwnd,
            "ssthresh": self.cc.ssthresh,
            "pipe": snd.pipe,
            "unacked": max(0, snd.snd_nxt - snd.snd_una),
            "sacked": snd.sacked_octets,
            "lost": snd.lost_octets,
            "notsent": snd.unsent(),
            "snd_wnd": max(0, snd.edge - snd.snd_una),
            "rcv_wnd": max(0, rcv.edge - rcv.rcv_nxt),
            "rcv_space": rcv.limit,
            "retransmissions": self.retransmissions,
            "timeouts": self.timeouts,
            "dsacks": self.dsacks,
            "undos": self.undos,
            "tail_probes": self.tail_probes,
            "out_of_order": rcv.out_of_order,
            "duplicates": rcv.duplicates,
            "segments_out": self.segments_out,
            "segments_in": self.segments_in,
            "bytes_sent": self.bytes_sent,
            "bytes_acked": self.bytes_acked,
            "bytes_received": rcv.octets,
        }

    def news(self) -> int:
        """Return the event mask of the present state, for an owner that starts to listen."""
        mask = CONNECTED | WRITABLE
        if self.rcv.buffer:
            mask |= READABLE
        if self.rcv.fin_reached:
            mask |= READABLE | HUP
        if self.error:
            mask |= ERROR | READABLE | HUP
        if self.state is _CLOSED or self.state is _TIME_WAIT:
            mask |= CLOSED_EVENT
        return mask

    # -- life cycle, for the stack's other modules

    def tsval(self, now: float) -> int:
        """Return our timestamp clock: milliseconds from a secret offset."""
        return (int(now * 1000) + self.ts_offset) & MASK

    def update_mss(self) -> None:
        """Compute the payload per segment from the peer's MSS, the path and the options."""
        self.overhead = self.header_size + (_TIMESTAMPS_SIZE if self.timestamps else 0)
        limit = min(self.peer_mss, self.tx_mtu - self.header_size)
        if self.settings.max_segment is not None:
            limit = min(limit, self.settings.max_segment)
        self.mss = max(limit, _MIN_MSS) - (self.overhead - self.header_size)
        self.cc.set_mss(self.mss)

    def lower_mtu(self, mtu: int) -> None:
        """Send smaller packets; what is in flight above that was dropped on the way."""
        if mtu < self.tx_mtu:
            self.tx_mtu = mtu
            if self.state not in (_CLOSED, _SYN_SENT, _TIME_WAIT):
                self.update_mss()
                self.snd.mark_oversized(self.mss)
                self.host.touch(self)

    def establish(self, now: float) -> None:
        """Enter ESTABLISHED: the handshake is complete in both directions."""
        self.state = _ESTABLISHED
        self.open = True
        self.detector.plain = not self.rcv.sack
        self.rtt.on_progress()
        self.cc.on_connected(self.mss, now)
        self.arm_keepalive()
        if self.listener is not None:
            self.host.handshake_done(self)
        else:
            self.host.report(self, CONNECTED | WRITABLE)

    def arm_keepalive(self) -> None:
        """Start, move or stop the keepalive timer."""
        self.keep_at = self.last_received + self.settings.keep_idle if self.settings.keepalive else inf
        self.keep_probes = 0

    def set_stalled(self, since: float) -> None:
        """Note since when the oldest outstanding octet waits (the user timeout runs from there)."""
        self.stalled_since = since
        outstanding = self.open and self.snd.snd_una < self.snd.snd_nxt
        self.give_up = since + (self.settings.user_timeout or USER_TIMEOUT) if outstanding else inf

    def arm_tail_probe(self, now: float) -> None:
        """Start the probe timeout, unless a probe is out, recovery runs, or the retransmission is due first.

        Source: RFC 8985 section 7.2; the floor and RTTVAR are of spec/netstack.md section 4.
        """
        rtt, snd = self.rtt, self.snd
        self.pto_at = inf
        if (
            self.tail_end
            or rtt.timeouts
            or not rtt.srtt
            or snd.lost_octets
            or not self.rcv.sack
            or not self.config.tail_probe
        ):
            return
        wait = 2.0 * (rtt.srtt + rtt.rttvar)
        if len(snd.order) == 1:
            wait += _DELAYED_ACK
        due = now + max(wait, self.config.tail_probe_min)
        if due < self.rtx_at:
            self.pto_at = due

    def on_lost(self, lost: int, now: float) -> None:
        """Begin or continue a recovery: *lost* octets were found missing by time."""
        snd = self.snd
        first = snd.snd_una >= self.episode.end
        if first:
            self.episode.begin(snd.snd_una, snd.snd_nxt)
            self.detector.new_recovery()
        self.pto_at = inf
        self.cc.on_loss(lost, snd.pipe, first, now)

    def undo(self) -> None:
        """Take the latest recovery back: nothing was lost."""
        self.episode.over()
        self.undos += 1
        self.cc.on_undo()
        self.snd.unmark_lost()
        self.detector.widen(self.snd.snd_una, self.snd.snd_nxt)

    def send_reset(self) -> None:
        """Send RST with the sequence number the peer expects next."""
        snd = self.snd
        packet = self.writer.plain(
            to_wire(snd.snd_nxt, snd.iss), to_wire(self.rcv.rcv_nxt, self.rcv.irs), RST | ACK, 0, b""
        )
        self.host.send_control(packet, self.writer.destination)

    def enter_time_wait(self, now: float) -> None:
        """Enter TIME_WAIT, shortened: both directions are done."""
        self.state = _TIME_WAIT
        self.open = False
        self.rtx_at = self.pto_at = self.persist_at = self.keep_at = self.give_up = inf
        self.detector.deadline = inf
        self.linger_at = now + self.config.time_wait
        self.snd.drop()
        self.host.report(self, CLOSED_EVENT)

    def fail(self, error: int) -> None:
        """End the connection with *error*; what was received stays readable."""
        if self.state is not _CLOSED:
            self.error = self._pending_error = error
            self.finish()

    def finish(self) -> None:
        """Leave the table."""
        if self.state is _CLOSED:
            return
        silent = self.state is _TIME_WAIT
        self.state = _CLOSED
        self.open = False
        self.syn_wanted = self.probe_wanted = False
        self.rtx_at = self.pto_at = self.persist_at = self.keep_at = self.linger_at = self.give_up = inf
        self.detector.deadline = inf
        self.snd.drop()
        self.rcv.drop()
        self.host.forget(self)
        if self.error:
            self.host.report(self, ERROR | HUP | READABLE | WRITABLE | CLOSED_EVENT)
        elif not silent:
            self.host.report(self, CLOSED_EVENT)
