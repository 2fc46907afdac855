"""Scripts of segments in virtual time: what goes in, what must come out, how long passes between.

The peer is hand-made; its sequence numbers and ours are written relative to
the initial ones, as in the figures of RFC 9293 section 3.8::

    book = Playbook()
    conn = book.connect()
    book.out("S", seq=0)
    book.into("SA", seq=0, ack=1, mss=1460)
    book.out("A", seq=1, ack=1)
"""

from __future__ import annotations

from dataclasses import dataclass

from support.netsim import seeded_urandom

from smolmix_sync.netstack import (
    Conn,
    Listener,
    Stack,
    StackConfig,
    State,
    TcpSettings,
    addresses,
    icmp,
    ipv4,
    ipv6,
)
from smolmix_sync.netstack.ip import ICMP, TCP
from smolmix_sync.netstack.options import Options
from smolmix_sync.netstack.options import decode_untrusted as decode_options
from smolmix_sync.netstack.options import encode as encode_options
from smolmix_sync.netstack.secretnumbers import SecretNumbers
from smolmix_sync.netstack.segment import ACK, FIN, PSH, RST, SYN, SegmentWriter, decode_untrusted
from smolmix_sync.netstack.seqnum import MASK

FLAGS = {"S": SYN, "F": FIN, "R": RST, "P": PSH, "A": ACK}
OURS, PEER = "10.0.0.2", "10.0.0.1"
OURS_V6, PEER_V6 = "fd00::2", "fd00::1"
IRS = 1_000_000


@dataclass
class Got:
    """One segment of ours, numbers relative."""

    flags: str
    seq: int
    ack: int
    window: int
    payload: bytes
    options: Options
    packet: bytes


class _FixedIsn(SecretNumbers):
    """Starts every connection at the same sequence number."""

    def __init__(self, iss: int) -> None:
        super().__init__(seeded_urandom(1))
        self.iss = iss

    def isn(self, key: bytes, now: float) -> int:
        return self.iss


class Playbook:
    """A stack under test and a peer made of words."""

    def __init__(
        self,
        config: StackConfig | None = None,
        *,
        v6: bool = False,
        irs: int = IRS,
        iss: int | None = None,
        **stack_arguments: bool,
    ) -> None:
        self.stack = Stack(OURS, OURS_V6, config=config, urandom=seeded_urandom(1), **stack_arguments)
        if iss is not None:
            self.stack._numbers = _FixedIsn(iss)
        self.now = 0.0
        self.v6 = v6
        self.ours, self.peer = (OURS_V6, PEER_V6) if v6 else (OURS, PEER)
        self.irs = irs
        self.iss = 0
        self.our_port = 0
        self.peer_port = 80
        self.tsval = 1000
        self.timestamps = False
        self.last_tsval = 0
        self.queue: list[Got] = []

    # -- ours

    def connect(self, settings: TcpSettings | None = None, *, local_port: int = 0) -> Conn:
        conn = self.stack.connect(
            self.peer, self.peer_port, self.now, settings=settings, local_port=local_port
        )
        self.our_port = conn.local[1]
        self.iss = conn.snd.iss
        return conn

    def listen(self, port: int = 80, backlog: int = 16, settings: TcpSettings | None = None) -> Listener:
        listener = self.stack.listen(None, port, backlog, settings=settings)
        self.our_port, self.peer_port = port, 40000
        return listener

    # -- the peer's segments

    def into(
        self,
        flags: str,
        seq: int,
        ack: int = 0,
        payload: bytes = b"",
        *,
        window: int = 65535,
        mss: int | None = None,
        wscale: int | None = None,
        sack_ok: bool = False,
        ts: tuple[int, int] | bool | None = None,
        sack: tuple[tuple[int, int], ...] = (),
        peer_port: int | None = None,
        raw_ack: int | None = None,
        now: float | None = None,
    ) -> None:
        """Let a segment of the peer arrive; with timestamps on, one is made up unless *ts* is False."""
        if ts is None and self.timestamps and "R" not in flags:
            ts = True
        if ts is True:
            self.tsval += 1
            ts = (self.tsval, self.last_tsval)
        blocks = tuple(((self.iss + left) & MASK, (self.iss + right) & MASK) for left, right in sack)
        options = encode_options(Options(mss, wscale, sack_ok, ts if isinstance(ts, tuple) else None, blocks))
        writer = SegmentWriter(
            addresses.pack(self.peer), peer_port or self.peer_port, addresses.pack(self.ours), self.our_port
        )
        bits = sum(FLAGS[flag] for flag in flags)
        wire_ack = raw_ack if raw_ack is not None else (self.iss + ack) & MASK if "A" in flags else 0
        packet = writer.with_options((self.irs + seq) & MASK, wire_ack, bits, window, options, payload)
        self.stack.receive_data(packet, self.now)

    def icmp_error(
        self, type_: int, code: int, quoted: bytes, *, rest: bytes = bytes(4), source: str | None = None
    ) -> None:
        """Let an ICMP error about one of our packets arrive."""
        router, ours = addresses.pack(source or self.peer), addresses.pack(self.ours)
        if self.v6:
            message = icmp.encode(router, ours, type_, code, rest, quoted[:1232])
            packet = ipv6.encode(router, ours, 58, message)
        else:
            message = icmp.encode(router, ours, type_, code, rest, quoted[:548])
            packet = ipv4.encode(router, ours, ICMP, message)
        self.stack.receive_data(packet, self.now)

    # -- what comes out

    def pull(self, room: int | None = None) -> list[Got]:
        """Take what the stack sends now."""
        result = []
        for packet in self.stack.data_to_send(self.now, room):
            decoded = (ipv6 if packet[0] >> 4 == 6 else ipv4).decode_untrusted(packet)
            if decoded.protocol != TCP:
                result.append(Got("icmp", 0, 0, 0, decoded.payload, Options(), packet))
                continue
            data = decoded.payload
            pseudo = int.from_bytes(decoded.source + decoded.destination, "big") + TCP + len(data)
            segment = decode_untrusted(data, pseudo)
            options = decode_options(data[20 : (data[12] >> 4) * 4])
            if options.timestamps:
                self.last_tsval = options.timestamps[0]
            flags = "".join(name for name, bit in FLAGS.items() if segment.flags & bit and name != "P")
            if segment.flags & SYN:
                self.iss = segment.seq
                self.our_port = segment.source_port
            relative = (segment.ack - self.irs) & MASK if segment.flags & ACK else 0
            seq = (segment.seq - self.iss + 0x80000000 & MASK) - 0x80000000
            result.append(Got(flags, seq, relative, segment.window, segment.payload, options, packet))
        return result

    def out(
        self,
        flags: str,
        seq: int | None = None,
        ack: int | None = None,
        payload: bytes | int | None = b"",
        **checks: object,
    ) -> Got:
        """Expect exactly one next segment; *payload* an int checks the size, None anything."""
        if not self.queue:
            self.queue = self.pull()
        assert self.queue, f"expected {flags}, nothing was sent at {self.now}"
        got = self.queue.pop(0)
        assert got.flags == flags, f"expected {flags}, got {got}"
        if seq is not None:
            assert got.seq == seq, f"expected seq {seq}, got {got}"
        if ack is not None:
            assert got.ack == ack, f"expected ack {ack}, got {got}"
        if isinstance(payload, int):
            assert len(got.payload) == payload, f"expected {payload} octets, got {len(got.payload)}"
        elif payload is not None:
            assert got.payload == payload, f"expected {payload!r}, got {got}"
        for name, value in checks.items():
            actual = getattr(got, name, None) if hasattr(got, name) else getattr(got.options, name)
            assert actual == value, f"{name}: expected {value!r}, got {actual!r}"
        return got

    def nothing(self) -> None:
        """Expect silence now."""
        self.queue += self.pull()
        assert not self.queue, f"expected nothing, got {self.queue}"

    def advance(self, seconds: float) -> None:
        """Let time pass, running every timer on its way; output is collected."""
        target = self.now + seconds
        while True:
            due = self.stack.next_deadline()
            if due is None or due > target:
                break
            self.now = max(self.now, due)
            self.stack.handle_deadline(self.now)
            self.queue += self.pull()
            after = self.stack.next_deadline()
            assert after is None or after > self.now, "still due after handle_deadline and data_to_send"
        self.now = target

    def advance_to_output(self, limit: float = 300.0) -> float:
        """Let time pass until something is sent; return how long it took."""
        start = self.now
        while not self.queue:
            due = self.stack.next_deadline()
            assert due is not None, "nothing will ever be sent"
            assert due <= start + limit, "nothing was sent in time"
            self.now = max(self.now, due)
            self.stack.handle_deadline(self.now)
            self.queue += self.pull()
        return self.now - start

    # -- whole openings

    def established(
        self,
        settings: TcpSettings | None = None,
        *,
        mss: int = 1460,
        wscale: int | None = 7,
        sack: bool = True,
        timestamps: bool = False,
        window: int = 65535,
        rtt: float = 0.0,
    ) -> Conn:
        """Return a connection in ESTABLISHED by an active open."""
        conn = self.connect(settings)
        syn = self.out("S", seq=0)
        self.timestamps = timestamps
        self.now += rtt
        ts = (self.tsval, syn.options.timestamps[0]) if timestamps and syn.options.timestamps else False
        self.into("SA", 0, 1, mss=mss, wscale=wscale, sack_ok=sack, ts=ts, window=window)
        assert conn.state is State.ESTABLISHED
        self.out("A", seq=1, ack=1)
        self.nothing()
        list(self.stack.events())
        return conn

    def accepted(self, listener: Listener) -> Conn:
        """Return a connection in ESTABLISHED by a passive open."""
        self.into("S", 0, mss=1460, sack_ok=True, wscale=7)
        self.out("SA", seq=0, ack=1)
        self.into("A", 1, 1)
        conn = listener.accept()
        assert conn is not None
        return conn
