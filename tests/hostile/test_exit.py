"""A malicious exit: a page of attacks. Other connections carry their data, tables stay small, and nothing goes elsewhere.

What an exit can do by right is no attack here: it drops, delays and reads what is not encrypted, and it can
forge any packet whose numbers it sees.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.contacts import recorded_contacts
from support.greenlets import wait_until
from support.hostile_exit import OURS, OURS6, PEER, HostileExit, Inside, address
from support.mixnet_world import World

from smolmix_sync.address import base58_encode
from smolmix_sync.errors import IprDenied, IprError, NoExit, SetupTimeout
from smolmix_sync.ipr.client import IprClientConfig, IprState
from smolmix_sync.ipr.codec import bundle
from smolmix_sync.ipr.events import Connected, ConnectRefused, ConnectTimedOut, Disconnected
from smolmix_sync.ipr.lp import LpFrame, LpKind, StreamFrame, StreamMessageType
from smolmix_sync.ipr.reasons import (
    BuildInfo,
    ExitPolicyFilterCheckFailed,
    InfoLevel,
    Reason,
    UnrequestedReason,
)
from smolmix_sync.ipr.responses import (
    ConnectResponse,
    ConnectSuccess,
    DataResponse,
    HealthResponse,
    InfoResponse,
    PongResponse,
    UnrequestedDisconnect,
)
from smolmix_sync.ipr.values import IpPair
from smolmix_sync.localnet import LocalNet
from smolmix_sync.mixnet.message import ReplyData, SurbRequest
from smolmix_sync.mixnet.reconstruction import Reconstructor
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.netstack import icmp, ipv4, ipv6, udp
from smolmix_sync.netstack.ip import ICMP, TCP, UDP
from smolmix_sync.netstack.segment import ACK, FIN, RST, SYN, SegmentWriter
from smolmix_sync.reactor import liveness
from smolmix_sync.tunnel import Tunnel

Attack = Callable[[Inside], object]
RNG = random.Random(12)
EVIL = "203.0.113.66"


def check_bounds(inside: Inside) -> None:
    """Every table that an exit can fill."""
    client, stack = inside.client, inside.stack
    config = IprClientConfig()
    assert len(client._control) <= config.control_queue_limit
    assert len(client._events) <= config.event_queue_limit
    assert len(client._resequencer) <= config.resequence_limit
    assert len(client._pings) + len(client._healths) <= 2 * config.pending_requests_limit
    assert len(stack._ingress.reassembler) <= stack.config.reassembly_datagrams
    assert len(stack._scheduler._control) <= stack.config.max_control
    assert len(stack._path_mtu._table) <= stack.config.pmtu_entries
    assert len(stack.connections) <= stack.config.max_connections
    assert len(stack.incoming) == 0
    for packet in inside.out:
        # Whatever we were sent, we speak in our own name.
        source = packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]
        assert source in (address(OURS), address(OURS6))


# --- the session ---

SESSION: list[Any] = []


def session(sentence: str, counter: str | None = None) -> Callable[[Attack], Attack]:
    def keep(attack: Attack) -> Attack:
        SESSION.append(pytest.param(counter, attack, id=sentence))
        return attack

    return keep


@session("it answers on streams of others", "dropped_foreign")
def _(inside: Inside) -> None:
    payload = ConnectResponse(10, inside.request_id, inside.success(IpPair("10.0.6.6", "fc00::6"))).encode()
    for _ in range(2000):
        inside.raw(StreamFrame(RNG.getrandbits(64), StreamMessageType.DATA, 0, payload).encode())


@session("it gives other addresses later, unasked", "dropped_foreign")
def _(inside: Inside) -> None:
    for number in range(1, 200):
        ips = IpPair(f"10.0.1.{number}", f"fc00::{number}")
        inside.answer(ConnectResponse(10, inside.request_id, ConnectSuccess(ips, 1420)))
        inside.answer(ConnectResponse(10, RNG.getrandbits(64), ConnectSuccess(ips, 1420)))
    assert inside.client.ips == IpPair(OURS, OURS6)


@session("it answers pings and health checks that nobody made", "dropped_foreign")
def _(inside: Inside) -> None:
    for _ in range(2000):
        inside.answer(PongResponse(10, RNG.getrandbits(64)))
        inside.answer(HealthResponse(10, RNG.getrandbits(64), BuildInfo(binary_name="x", rustc_channel="y")))


@session("it answers one ping for ever", "dropped_foreign")
def _(inside: Inside) -> None:
    ident = inside.client.ping(inside.now)
    for _ in range(1000):
        inside.answer(PongResponse(10, ident))


@session("it pings us without an end", "dropped_overflow")
def _(inside: Inside) -> None:
    for number in range(10_000):
        inside.raw(inside.frame(b"", number, StreamMessageType.PING))
    assert len(inside.client.data_to_send(inside.now)) <= 16


@session("it sends pongs, opens and acknowledgements of opens without an end")
def _(inside: Inside) -> None:
    for number in range(3000):
        for kind in (StreamMessageType.PONG, StreamMessageType.OPEN, StreamMessageType.OPEN_ACK):
            inside.raw(inside.frame(os.urandom(number % 50), number, kind))
    assert inside.client.data_to_send(inside.now) == []


@session("its sequence numbers jump at random")
def _(inside: Inside) -> None:
    received = inside.client.stats.packets_received
    for number in range(5000):
        inside.data([b"\x45"], RNG.choice((0, 1, number, RNG.getrandbits(32), 2**32 - 1)))
        check_bounds(inside)
    inside.advance(1.0)
    assert inside.client.stats.packets_received - received >= 5000  # held for a moment, lost never
    inside.sequence = 10**6


@session("it leaves a gap before every message")
def _(inside: Inside) -> None:
    for _ in range(2000):
        inside.sequence += 2
        inside.data([b"\x45"], inside.sequence)
        assert len(inside.client._resequencer) <= 256
    inside.advance(0.1)
    assert len(inside.client._resequencer) == 0


@session("its bundles are hundreds of thousands of empty packets")
def _(inside: Inside) -> None:
    before = inside.client.stats.packets_received
    inside.answer(DataResponse(10, bytes(1 << 20)), 1)
    assert inside.client.stats.packets_received == before
    inside.sequence = 1


@session("its bundles lie about their lengths")
def _(inside: Inside) -> None:
    for octets in (b"\xff\xff" + bytes(10), b"\x00", b"\x00\x05abc", b"\x00\x01E" * 3 + b"\xff", b""):
        inside.sequence += 1
        inside.answer(DataResponse(10, octets), inside.sequence)


@session("it speaks other versions", "dropped_foreign")
def _(inside: Inside) -> None:
    for version in (0, 6, 7, 8, 9, 11, 255):
        inside.raw(inside.frame(bytes((version,)) + DataResponse(10, bundle([b"x"])).encode()[1:]))


@session("it sends frames of other kinds", "dropped_malformed")
def _(inside: Inside) -> None:
    for kind in (LpKind.OPAQUE, LpKind.REGISTRATION, LpKind.FORWARD):
        inside.raw(LpFrame(kind, os.urandom(14), os.urandom(100)).encode())
    for size in range(64):
        inside.raw(os.urandom(size))


@session("it sends notices of sixty kilobytes, without an end")
def _(inside: Inside) -> None:
    reply = ExitPolicyFilterCheckFailed("\x1b[2J" * 15_000)
    for _ in range(300):
        inside.answer(InfoResponse(10, 0, reply, InfoLevel.ERROR))
    inside.events.clear()


@session("it says, for all we connect to, that its policy forbids what is no address")
def _(inside: Inside) -> None:
    for destination in ("", ":", "1.2.3.4", "[::1", "1.2.3.4:99999", "x:80", "1.2.3.4:-1", "[::1]:80", ":::"):
        inside.answer(InfoResponse(10, 0, ExitPolicyFilterCheckFailed(destination), InfoLevel.WARN))


@session("it floods us while nobody takes the events", "dropped_overflow")
def _(inside: Inside) -> None:
    message = DataResponse(10, bundle([b"\x45" * 20] * 20)).encode()
    for number in range(6000):
        inside.client.receive_data(inside.frame(message, number + 1), inside.now)
    check_bounds(inside)
    inside.take()
    inside.sequence = 6000


@pytest.mark.parametrize(("counter", "attack"), SESSION)
def test_session_stays_as_it_was(counter: str | None, attack: Attack) -> None:
    inside = Inside().connect()
    ours, theirs = inside.open()
    before = getattr(inside.client.stats, counter) if counter else 0
    attack(inside)
    if counter:
        assert getattr(inside.client.stats, counter) > before
    check_bounds(inside)
    assert inside.client.state is IprState.CONNECTED
    assert inside.client.ips == IpPair(OURS, OURS6)
    assert not any(isinstance(event, Disconnected) for event in inside.events)
    assert inside.carries(ours, theirs)
    check_bounds(inside)


@pytest.mark.parametrize("version", [8, 9, 10])
@pytest.mark.parametrize(
    "ips",
    [
        ("127.0.0.1", OURS6), ("127.8.8.8", OURS6), ("0.0.0.0", OURS6), ("0.1.2.3", OURS6), ("224.0.0.1", OURS6),
        ("255.255.255.255", OURS6), ("240.0.0.1", OURS6), ("169.254.169.254", OURS6), (OURS, "::1"), (OURS, "::"),
        (OURS, "ff02::1"), (OURS, "fe80::1"), (OURS, "::ffff:127.0.0.1"), (OURS, "::ffff:10.0.0.1"),
    ],
)  # fmt: skip
def test_addresses_that_no_host_has_are_refused(version: int, ips: tuple[str, str]) -> None:
    inside = Inside(version).connect(IpPair(*ips))
    assert inside.client.state is IprState.CLOSED
    assert inside.client.ips is None
    assert [type(event) for event in inside.events] == [ConnectRefused]


@pytest.mark.parametrize("mtu", [0, 1, 39, 68, 576, 1279])
def test_mtu_that_nothing_fits_into_counts_as_none(mtu: int) -> None:
    inside = Inside().connect(mtu=mtu)
    assert isinstance(inside.events[-1], Connected)
    assert inside.events[-1].mtu is None
    inside = Inside().connect(mtu=65535)
    ours, theirs = inside.open()
    assert inside.carries(ours, theirs)


def test_exit_that_never_answers_is_given_up_in_time() -> None:
    inside = Inside()
    for _ in range(200):
        inside.advance(1.0)
        inside.client.data_to_send(inside.now)
        inside.raw(inside.frame(b"", 1, StreamMessageType.PING))
    assert inside.client.state is IprState.CLOSED
    assert any(isinstance(event, ConnectTimedOut) for event in inside.events)


def test_exit_that_ends_the_session_is_believed() -> None:
    inside = Inside().connect()
    inside.answer(UnrequestedDisconnect(10, Reason(UnrequestedReason.OTHER, "\x1b]0;x" * 10_000)))
    assert inside.client.state is IprState.CLOSED
    assert isinstance(inside.events[-1], Disconnected)


# --- the packets ---

PACKETS: list[Any] = []


def packets(sentence: str, counter: str | None = None) -> Callable[[Attack], Attack]:
    def keep(attack: Attack) -> Attack:
        PACKETS.append(pytest.param(counter, attack, id=sentence))
        return attack

    return keep


def deliver(inside: Inside, many: list[bytes]) -> None:
    for packet in many:
        inside.stack.receive_data(packet, inside.now)


def victim(inside: Inside) -> Any:
    return next(iter(inside.stack.connections.values()))


def udp_packet(source: str, target: str, sport: int, dport: int, data: bytes) -> bytes:
    src, dst = address(source), address(target)
    return ipv4.encode(src, dst, UDP, udp.encode(src, sport, dst, dport, data))


@packets("it sends segments of connections that there are not", "tcp_no_connection")
def _(inside: Inside) -> None:
    for number in range(20_000):
        writer = SegmentWriter(address(EVIL), number % 65536, address(OURS), RNG.randrange(65536))
        inside.stack.receive_data(writer.plain(number, number, ACK, 1000, b"data"), inside.now)
    check_bounds(inside)


@packets("it sends to addresses that are not ours", "ip_not_for_us")
def _(inside: Inside) -> None:
    for target in ("10.0.0.1", "127.0.0.1", "192.168.1.1", "224.0.0.1", "255.255.255.255", "8.8.8.8"):
        deliver(inside, [udp_packet(EVIL, target, 53, 53, b"x")] * 50)


@packets("it sends in our own name", "ip_spoofed_own_address")
def _(inside: Inside) -> None:
    deliver(inside, [udp_packet(OURS, OURS, 7, 7, b"x")] * 500)
    writer = SegmentWriter(address(OURS), victim(inside).local[1], address(OURS), victim(inside).local[1])
    deliver(inside, [writer.plain(1, 0, SYN, 1000, b"")] * 100)


@packets("it sends in the name of this machine's loopback, of everybody and of nobody", "ip_source")
def _(inside: Inside) -> None:
    for source in ("127.0.0.1", "127.0.0.53", "0.0.0.0", "224.0.0.251", "255.255.255.255"):
        deliver(inside, [udp_packet(source, OURS, 53, 53, b"x")] * 100)
    src, dst = address("::1"), address(OURS6)
    deliver(inside, [ipv6.encode(src, dst, UDP, udp.encode(src, 5, dst, 5, b"x"))] * 100)


@packets("it resets out of the window")
def _(inside: Inside) -> None:
    conn = victim(inside)
    seq, ack = inside.numbers(conn)
    out = len(inside.out)
    for number in range(3000):
        forged = inside.forged(conn, seq + (1 << 30) + number * 1000, ack, RST)
        inside.stack.receive_data(forged, inside.now)
    inside.advance(0.2)
    assert len(inside.out) - out < 50


@packets("it resets inside the window, but not at its edge: a challenge is the answer")
def _(inside: Inside) -> None:
    conn = victim(inside)
    seq, ack = inside.numbers(conn)
    for number in range(1, 3000):
        inside.stack.receive_data(inside.forged(conn, seq + number, ack, RST), inside.now)
    out = len(inside.out)
    inside.advance(0.5)
    assert len(inside.out) - out <= 30


@packets("it opens the connection a second time")
def _(inside: Inside) -> None:
    conn = victim(inside)
    for number in range(2000):
        inside.stack.receive_data(
            inside.forged(conn, RNG.getrandbits(32), 0, SYN), inside.now + number / 1000
        )


@packets("it acknowledges what was never sent", "tcp_ack_range")
def _(inside: Inside) -> None:
    conn = victim(inside)
    seq, ack = inside.numbers(conn)
    for number in range(1, 2000):
        inside.stack.receive_data(inside.forged(conn, seq, ack + number * 1000, ACK), inside.now)


@packets("it sends data far beyond the window")
def _(inside: Inside) -> None:
    conn = victim(inside)
    seq, ack = inside.numbers(conn)
    for number in range(2000):
        forged = inside.forged(conn, seq + (6 << 20) + number * 1400, ack, ACK, bytes(1400))
        inside.stack.receive_data(forged, inside.now)
    assert conn.readable() == 0


@packets("it fills the window with holes")
def _(inside: Inside) -> None:
    conn = victim(inside)
    seq, ack = inside.numbers(conn)
    for number in range(1, 4000):
        inside.stack.receive_data(
            inside.forged(conn, seq + 100_000 + number * 3, ack, ACK, b"xy"), inside.now
        )
    assert conn.rcv.rcv_nxt == seq - conn.rcv.irs


@packets("it forges unreachables for connections of ours, without their numbers", "icmp_unmatched")
def _(inside: Inside) -> None:
    conn = victim(inside)
    _, ack = inside.numbers(conn)
    for number in range(1, 2000):
        far = (ack + (1 << 29) + number) % 2**32
        quoted = ipv4.encode(
            address(OURS), address(PEER), TCP, struct.pack("!HHII", conn.local[1], 80, far, 0) + bytes(12)
        )
        deliver(inside, [error(quoted, 3, number % 16, b"\0\0\0\x44")])


def error(quoted: bytes, kind: int, code: int, rest: bytes = bytes(4)) -> bytes:
    message = icmp.encode(address(EVIL), address(OURS), kind, code, rest, quoted)
    return ipv4.encode(address(EVIL), address(OURS), ICMP, message)


@packets("it forges unreachables for packets that we never sent", "icmp_unmatched")
def _(inside: Inside) -> None:
    for number in range(3000):
        target = f"203.0.{number % 250}.{number // 250 + 1}"
        deliver(inside, [error(udp_packet(OURS, target, number, 53, b"q"), 3, 3)])
        deliver(inside, [error(udp_packet(OURS, target, number, 53, b"q"), 3, 4, b"\0\0\0\x44")])


@packets("its errors quote the packets of others", "icmp_unmatched")
def _(inside: Inside) -> None:
    for _ in range(500):
        deliver(inside, [error(udp_packet(EVIL, PEER, 5, 53, b"q"), 3, 3)])


@packets("its errors quote themselves, cut short and nonsense", "icmp_quote")
def _(inside: Inside) -> None:
    quoted = udp_packet(OURS, PEER, 5, 53, b"q")
    for size in range(28):
        deliver(inside, [error(quoted[:size], 3, 3), error(os.urandom(size), 11, 0)])
    nested = quoted
    for _ in range(10):
        nested = error(nested, 3, 3)
    deliver(inside, [nested])


@packets("it says that the path takes packets of one octet", "icmp_unmatched")
def _(inside: Inside) -> None:
    conn = victim(inside)
    conn.send(b"x" * 3000)
    packets_ = inside.stack.data_to_send(inside.now)
    for mtu in (0, 1, 20, 40, 67):
        for packet in packets_:
            deliver(inside, [error(packet[:28], 3, 4, struct.pack("!HH", 0, mtu))])
    assert conn.tx_mtu >= 552
    for packet in packets_:
        inside.peer.receive_data(packet, inside.now)
    inside.advance(3.0)
    theirs = next(iter(inside.peer.connections.values()))
    assert theirs.recv(10_000) == b"x" * 3000


@packets("it pings us without an end", "icmp_rate")
def _(inside: Inside) -> None:
    for number in range(5000):
        message = icmp.echo(address(EVIL), address(OURS), 1, number % 65536, bytes(1000))
        inside.stack.receive_data(ipv4.encode(address(EVIL), address(OURS), ICMP, message), inside.now)
    out = len(inside.out)
    inside.advance(1.0)
    assert len(inside.out) - out <= 40


def fragment(ident: int, offset: int, data: bytes, more: bool, source: str = EVIL) -> bytes:
    head = bytearray(ipv4.encode(address(source), address(OURS), UDP, data))
    struct.pack_into("!HHH", head, 2, len(head), ident & 0xFFFF, (0x2000 if more else 0) | offset // 8)
    head[10:12] = b"\0\0"
    total = sum(struct.unpack("!10H", head[:20]))
    total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (0xFFFF - ((total & 0xFFFF) + (total >> 16))).to_bytes(2, "big")
    return bytes(head)


@packets("it begins ten thousand datagrams and finishes none", "fragment_limit")
def _(inside: Inside) -> None:
    for ident in range(10_000):
        inside.stack.receive_data(fragment(ident, 0, bytes(1400 // 8 * 8), True), inside.now)
        assert len(inside.stack._ingress.reassembler) <= 16
    inside.advance(16.0)
    assert len(inside.stack._ingress.reassembler) == 0


@packets("its fragments overlap: teardrop", "fragment_overlap")
def _(inside: Inside) -> None:
    for ident in range(500):
        deliver(inside, [fragment(ident, 0, bytes(64), True), fragment(ident, 24, b"x" * 24, False)])
        deliver(inside, [fragment(ident, 64, bytes(64), True), fragment(ident, 0, bytes(128), True)])


@packets("its fragments make more than a datagram holds: the ping of death", "fragment_bad")
def _(inside: Inside) -> None:
    for ident in range(200):
        deliver(inside, [fragment(ident, 65528, bytes(1400), False), fragment(ident, 65520, bytes(8), True)])


@packets("its fragments are one octet long, empty, or end twice", "fragment_bad")
def _(inside: Inside) -> None:
    for ident in range(300):
        deliver(inside, [fragment(ident, 0, b"x", True), fragment(ident, 8, b"", True)])
        deliver(inside, [fragment(ident, 64, bytes(8), False), fragment(ident, 8, bytes(8), False)])


@packets("a datagram comes in eight thousand fragments of eight octets, last first")
def _(inside: Inside) -> None:
    began = time.process_time()
    for offset in range(65_520, -8, -8):
        inside.stack.receive_data(fragment(7, offset, bytes(8), offset != 65_520), inside.now)
    assert time.process_time() - began < 2.0


@packets("its lengths are wrong in every header", "ip_length")
def _(inside: Inside) -> None:
    good = udp_packet(EVIL, OURS, 7, 7, b"hello")
    for at in range(len(good)):
        for value in (0, 1, 0x0F, 0x45, 0x4F, 0x60, 0x7F, 0xFF):
            inside.stack.receive_data(good[:at] + bytes((value,)) + good[at + 1 :], inside.now)
    for size in range(len(good)):
        inside.stack.receive_data(good[:size], inside.now)
        inside.stack.receive_data(good + bytes(size), inside.now)


@packets("its IPv6 packets are a thousand extension headers")
def _(inside: Inside) -> None:
    began = time.process_time()
    for kind in (0, 43, 60, 44, 50, 51, 135):
        chain = bytes((kind, 0)) + bytes(6)
        inside.stack.receive_data(
            ipv6.encode(address("2001:db8::66"), address(OURS6), kind, chain * 1000), inside.now
        )
    assert time.process_time() - began < 1.0


@packets("its options are garbage, its data begins behind the end")
def _(inside: Inside) -> None:
    conn = victim(inside)
    seq, ack = inside.numbers(conn)
    good = bytearray(inside.forged(conn, seq - 1, ack, ACK, b""))
    for number in range(4000):
        bad = bytearray(good)
        bad[32] = (number % 16) << 4
        bad += os.urandom(number % 44)
        struct.pack_into("!H", bad, 2, len(bad))
        inside.stack.receive_data(bytes(bad), inside.now)


@packets("it knocks at a listener of ours from ten thousand addresses", "tcp_backlog")
def _(inside: Inside) -> None:
    listener = inside.stack.listen(None, 8080, backlog=64)
    for number in range(10_000):
        source = bytes((9, 9)) + number.to_bytes(2, "big")
        writer = SegmentWriter(source, 999, address(OURS), 8080)
        inside.stack.receive_data(writer.plain(number, 0, SYN, 1000, b""), inside.now)
    assert len(inside.stack.connections) <= 130
    listener.close()
    inside.advance(1.0)


@packets("it fills a socket that nobody reads", "udp_queue_full")
def _(inside: Inside) -> None:
    sock = inside.stack.udp(None, 5353)
    for _ in range(2000):
        inside.stack.receive_data(udp_packet(EVIL, OURS, 5, 5353, bytes(1300)), inside.now)
    held = 0
    while (one := sock.recv()) is not None:
        held += len(one[0])
    assert held <= inside.stack.config.udp_rcvbuf
    sock.close()


@packets("it sends random octets as packets", "ip_version")
def _(inside: Inside) -> None:
    for number in range(5000):
        inside.stack.receive_data(RNG.randbytes(number % 120), inside.now)


@pytest.mark.parametrize(("counter", "attack"), PACKETS)
def test_connection_beside_it_carries_its_data(counter: str | None, attack: Attack) -> None:
    inside = Inside().connect()
    ours, theirs = inside.open()
    before = inside.stack.counters.drops[counter] if counter else 0
    attack(inside)
    if counter:
        assert inside.stack.counters.drops[counter] > before
    inside.advance(2.0)
    check_bounds(inside)
    assert ours.error == 0
    assert inside.carries(ours, theirs)


def test_handshake_with_absurd_options_still_sends_whole_segments() -> None:
    """A SYN-ACK with an MSS of 1, a window scale of 255 and no window."""
    inside = Inside().connect()
    conn = inside.stack.connect(PEER, 81, inside.now)
    inside.stack.data_to_send(inside.now)
    writer = SegmentWriter(address(PEER), 81, address(OURS), conn.local[1])
    plain = bytearray(writer.plain(77, (conn.snd.iss + 1) % 2**32, SYN | ACK, 65535, b""))
    plain[32] = 7 << 4
    for options in (b"\x02\x04\0\1\x03\x03\xff\0", b"\x02\x04\0\0\x03\x03\x0f\0"):
        packet = ipv4.encode(address(PEER), address(OURS), TCP, bytes(plain[20:]) + options)
        inside.stack.receive_data(_checksummed(packet), inside.now)
    assert conn.error == 0
    conn.send(bytes(10_000))
    sent = inside.stack.data_to_send(inside.now + 1)
    assert len(sent) < 200  # not ten thousand packets of an octet


def _checksummed(packet: bytes) -> bytes:
    from smolmix_sync.netstack.checksum import transport_checksum

    body = bytearray(packet[20:])
    body[16:18] = b"\0\0"
    body[16:18] = transport_checksum(packet[12:16], packet[16:20], TCP, bytes(body)).to_bytes(2, "big")
    return packet[:20] + bytes(body)


# --- the message layer: what an exit does with our SURBs ---


def pair(seed: int) -> tuple[World, Any, Any, bytes]:
    """Return a world, a client, an exit, and the tag by which the exit knows the client."""
    world = World(seed=seed)
    client, exit_ = world.client(7), world.client(8, surb_threshold_buffer=50)
    client.core.send(exit_.core.address, b"hello", world.now, surbs=20)
    assert world.run(60, until=lambda: exit_.messages)
    return world, client, exit_, exit_.messages[0].sender_tag


def test_exit_that_asks_for_all_the_surbs_in_the_world_gets_few() -> None:
    world, client, exit_, tag = pair(21)
    for _ in range(5):
        request = SurbRequest(exit_.core.address, 0xFFFFFFFF).encode()
        outgoing = exit_.core._cut_reply(
            tag, request, TrafficSettings().primary_packet_size, is_surb_request=True
        )
        exit_.core.replies.queue(tag, outgoing, world.now)
    world.run(5)
    stats = client.core.stats
    assert stats.surb_requests_received >= 1
    assert stats.surb_requests_held >= 1
    assert stats.surbs_sent <= 20 + stats.surb_requests_received * TrafficSettings().max_surbs_per_request
    assert client.core.queued(world.now) <= 2 * 150  # two answers of at most 500 SURBs each
    # Its own data still leaves: answers take every second packet at most.
    client.core.send(exit_.core.address, b"data", world.now)
    assert world.run(20, until=lambda: b"data" in [one.message for one in exit_.messages])


def test_exit_that_asks_in_the_name_of_another_gets_nothing() -> None:
    world, client, exit_, tag = pair(22)
    other = world.client(8)
    client.core.send(other.core.address, b"x", world.now)
    world.run(5)
    request = SurbRequest(other.core.address, 100).encode()
    outgoing = exit_.core._cut_reply(
        tag, request, TrafficSettings().primary_packet_size, is_surb_request=True
    )
    exit_.core.replies.queue(tag, outgoing, world.now)
    sent = client.core.stats.surbs_sent
    world.run(20, until=lambda: client.core.stats.surb_requests_ignored)
    assert client.core.stats.surb_requests_ignored == 1
    assert client.core.stats.surbs_sent == sent


def test_stranger_who_knows_our_address_cannot_speak_for_the_exit() -> None:
    """A reply that came by no SURB has no replier; the bridge takes those of its exit alone."""
    from types import SimpleNamespace

    from smolmix_sync.reactor.bridge import Bridge, BridgeStats

    world, client, exit_, _ = pair(23)
    stranger = world.client(8)
    queued = ReplyData(DataResponse(8, bundle([udp_packet(EVIL, OURS, 53, 53, b"forged")])).encode()).encode()
    # As PlainMessage.encode would, but with the kind octet of a reply.
    stranger.core.send_plain(client.core.address, b"", world.now)
    core = stranger.core
    honest = core._split
    core._split = lambda message, size: honest(queued, size)
    assert world.run(30, until=lambda: client.messages)
    [event] = client.messages
    assert event.replier is None
    heard: list[Any] = []
    bridge = SimpleNamespace(
        exit_address=exit_.core.address, stats=BridgeStats(), watch=SimpleNamespace(heard=heard.append)
    )
    Bridge.receive(bridge, event, world.now)  # type: ignore[arg-type]
    assert heard == []
    assert bridge.stats.foreign_messages == 1


def test_fragments_that_contradict_each_other_cost_no_memory() -> None:
    sets = Reconstructor(TrafficSettings(max_fragment_sets=64, max_reassembly_bytes=100_000))
    rng = random.Random(6)
    for number in range(20_000):
        head = bytearray(rng.randbytes(12))
        head[0] &= 0x7F
        try:
            sets.insert_untrusted("exit", bytes(head) + bytes(number % 300), number / 100)
        except ValueError:
            pass
        assert sets.pending <= 64
        assert sets._bytes <= 100_000
    sets.handle_deadline(10**6)
    assert sets.pending == 0
    assert sets._bytes == 0


# --- a whole tunnel through an exit that is one of our clients ---


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.fixture(scope="module")
def exit_(net: LocalNet) -> Iterator[HostileExit]:
    with HostileExit(net.client_settings()) as exit_:
        yield exit_
        assert exit_.errors == []


@pytest.fixture(scope="module")
def tunnel(net: LocalNet, exit_: HostileExit) -> Iterator[Tunnel]:
    with recorded_contacts() as contacts:
        with Tunnel(**net.client_settings(), ipr_address=exit_.address, ipr_version=10) as one:
            yield one
        # The nym-api and the gateway's port, and nothing that the exit named.
        assert len(set(contacts.dialled)) == 2
        assert contacts.looked_up == []


def echo(tunnel: Tunnel) -> None:
    word = os.urandom(300)
    with tunnel.tcp_connect(f"{PEER}:7", timeout=30) as sock:
        sock.settimeout(30)
        sock.sendall(word)
        got = b""
        while len(got) < len(word):
            got += sock.recv(1000)
        assert got == word


Live = Callable[[HostileExit, Tunnel], object]


def flood(exit_: HostileExit, *many: bytes) -> None:
    exit_.send(*many)


def ip_flood(make: Callable[[str, int], bytes]) -> Live:
    def attack(exit_: HostileExit, tunnel: Tunnel) -> None:
        ours = tunnel.allocated_ips.ipv4
        for number in range(10):
            payload = DataResponse(10, bundle([make(ours, number)] * 3)).encode()
            exit_.send(exit_.frame(payload, 1_000_000 * number))

    return attack


LIVE: dict[str, Live] = {
    "it sends garbage": lambda exit_, tunnel: exit_.send(*(os.urandom(n * 40) for n in range(1, 10))),
    "it sends on other streams": lambda exit_, tunnel: exit_.send(
        *(StreamFrame(n, StreamMessageType.DATA, n, os.urandom(50)).encode() for n in range(1, 10))
    ),
    "it gives other addresses unasked": lambda exit_, tunnel: exit_.send(
        *(exit_.frame(ConnectResponse(10, n, ConnectSuccess(IpPair("127.0.0.1", "::1"), 1)).encode()) for n in range(9))
    ),
    "it pings without an end": lambda exit_, tunnel: exit_.send(
        *(exit_.frame(b"", n, StreamMessageType.PING) for n in range(15))
    ),
    "it sends packets in the name of loopback": ip_flood(lambda ours, n: udp_packet("127.0.0.1", ours, n, 53, b"x")),
    "it sends packets to this machine's loopback": ip_flood(
        lambda ours, n: udp_packet(EVIL, "127.0.0.1", n, 53, b"x")
    ),
    "it sends packets to other machines of the local network": ip_flood(
        lambda ours, n: udp_packet(EVIL, "192.168.1.1", n, 53, b"x")
    ),
    "it sends fragments that overlap": ip_flood(
        lambda ours, n: fragment(n, 8 * (n % 2), bytes(24), True)
    ),
    "it resets connections that there are not": ip_flood(
        lambda ours, n: SegmentWriter(address(EVIL), 80, address(ours), 40_000 + n).plain(n, n, RST | ACK, 0, b"")
    ),
    "it opens connections to us": ip_flood(
        lambda ours, n: SegmentWriter(address(EVIL), 80, address(ours), 22 + n).plain(n, n, SYN | FIN, 0, b"")
    ),
    "it refuses everything by its policy, in words": lambda exit_, tunnel: exit_.send(
        *(
            exit_.frame(InfoResponse(10, 0, ExitPolicyFilterCheckFailed("\x1b[2J" * 100), InfoLevel.ERROR).encode())
            for _ in range(5)
        )
    ),
}  # fmt: skip


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("attack", LIVE.values(), ids=LIVE)
def test_tunnel_goes_on(exit_: HostileExit, tunnel: Tunnel, attack: Live) -> None:
    tunnel.wait_ready(30)
    ips = tunnel.allocated_ips
    attack(exit_, tunnel)
    echo(tunnel)
    assert tunnel.state.name == "READY"
    assert tunnel.allocated_ips == ips


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize(
    "habit", ["swaps messages", "sends every message twice", "changes an octet in every third message"]
)
def test_tunnel_carries_its_data_over_an_exit_that(exit_: HostileExit, tunnel: Tunnel, habit: str) -> None:
    kept: list[bytes] = []
    count = [0]

    def twist(message: bytes) -> list[bytes]:
        count[0] += 1
        if habit.startswith("swaps"):
            kept.append(message)
            return [kept.pop(), kept.pop()] if len(kept) == 2 else []
        if habit.startswith("sends"):
            return [message, message]
        return [message[:-1] + bytes([message[-1] ^ 1])] if count[0] % 3 == 0 else [message]

    tunnel.wait_ready(30)
    exit_.twist = twist
    try:
        echo(tunnel)
    finally:
        exit_.twist = lambda message: [message]
        exit_.send(*kept)


@pytest.mark.interop
@pytest.mark.slow
def test_exit_is_never_told_our_address(exit_: HostileExit, tunnel: Tunnel) -> None:
    tunnel.wait_ready(30)
    echo(tunnel)
    ours = tunnel.nym_address
    heard = b"".join(exit_.heard)
    assert len(heard) > 500
    assert exit_.tag is not None
    for secret in (ours.identity, ours.encryption, ours.encode(), base58_encode(ours.identity).encode()):
        assert secret not in heard
        assert secret not in exit_.tag


@pytest.mark.interop
@pytest.mark.slow
def test_exit_that_gives_addresses_of_this_machine_is_not_used(net: LocalNet, exit_: HostileExit) -> None:
    def twist(message: bytes) -> list[bytes]:
        frame = StreamFrame.decode_untrusted(message)
        ident = max(exit_.streams)
        found = frame.payload
        # Version, service and tag stay; the addresses are 127.0.0.1 and ::1 now.
        at = found.find(b"\x0a\x00")
        if at > 0 and b"\xfc" + bytes(13) in found:
            found = found[:at] + b"\x7f\0\0\1" + bytes(15) + b"\1" + found[at + 20 :]
        return [StreamFrame(ident, frame.msg_type, frame.sequence_num, found).encode()]

    exit_.twist = twist
    settings = {**net.client_settings(), "ipr_address": exit_.address}
    try:
        with (
            pytest.raises(IprDenied, match="no host's"),
            Tunnel(**settings, connect_timeout=15.0, ipr_version=10),
        ):
            pass
    finally:
        exit_.twist = lambda message: [message]


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("habit", ["says nothing", "gives addresses and carries nothing"])
def test_exit_that(net: LocalNet, exit_: HostileExit, habit: str) -> None:
    settings = {**net.client_settings(), "ipr_address": exit_.address}
    if habit == "says nothing":
        exit_.silent = True
    else:
        exit_.twist = lambda message: [message] if len(message) < 80 else []
    began = time.monotonic()
    try:
        with (
            pytest.raises((SetupTimeout, NoExit, IprError)),
            Tunnel(**settings, connect_timeout=4.0, ipr_timeout=2.0),
        ):
            pass
    finally:
        exit_.silent = False
        exit_.twist = lambda message: [message]
    assert time.monotonic() - began < 8


@pytest.mark.interop
@pytest.mark.slow
def test_exit_that_falls_silent_is_noticed_and_sockets_are_told(
    net: LocalNet, exit_: HostileExit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENCE", 0.5)
    monkeypatch.setattr(liveness, "PROBE_INTERVAL", 0.5)
    settings = {**net.client_settings(), "ipr_address": exit_.address}
    with Tunnel(**settings, connect_timeout=30.0) as tunnel:
        sock = tunnel.tcp_connect(f"{PEER}:7", timeout=20)
        exit_.twist = lambda message: []
        try:
            sock.settimeout(20)
            with pytest.raises(OSError):
                while sock.send(b"x"):
                    assert sock.recv(1)
            wait_until(lambda: tunnel.state.name != "READY", 30)
        finally:
            exit_.twist = lambda message: [message]
        sock.close()
