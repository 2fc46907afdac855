from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.ipr import reasons, requests, responses
from smolmix_sync.ipr import router as ipr
from smolmix_sync.ipr.codec import bundle, split_bundle
from smolmix_sync.ipr.lp import StreamFrame, StreamMessageType
from smolmix_sync.ipr.values import IpPair, Timestamp

TAG, OTHER = b"A" * 16, b"B" * 16
STREAM = 42
STAMP = Timestamp.from_unix(0)
DATA = StreamMessageType.DATA


def packed(host: str) -> bytes:
    return IpPair(host, "::").encode()[:4] if "." in host else IpPair("0.0.0.0", host).encode()[4:]


def udp(source: str, destination: str = "1.1.1.1", port: int = 53, payload: bytes = b"data") -> bytes:
    body = struct.pack(">HHHH", 5000, port, 8 + len(payload), 0) + payload
    if ":" in source:
        head = struct.pack(">IHBB", 6 << 28, len(body), 17, 64)
    else:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0)
    return head + packed(source) + packed(destination) + body


class Exit:
    """A router, and what clients would see of it, at a time the test moves."""

    def __init__(
        self,
        policy: ipr.Policy | None = None,
        urandom: Callable[[int], bytes] | None = None,
        **config: Any,
    ) -> None:
        counter = itertools.count(1)
        self.now = 0.0
        self.router = ipr.IpPacketRouter(
            urandom=urandom or (lambda size: next(counter).to_bytes(size, "big")),
            policy=policy,
            config=ipr.RouterConfig(**config),
        )

    def send(self, request: Any, tag: bytes | None = TAG, stream: int = STREAM) -> list[Any]:
        payload = request if isinstance(request, bytes) else request.encode()
        if payload[:1] >= b"\x09":
            payload = StreamFrame(stream, DATA, 7, payload).encode()
        self.router.receive_data(payload, tag, self.now)
        return self.events()

    def events(self) -> list[Any]:
        """Events, replies opened: (tag, stream or None, number or None, response, retransmissions)."""
        out: list[Any] = []
        for event in iter(self.router.next_event, None):
            if not isinstance(event, ipr.SendReply):
                out.append(event)
                continue
            message, stream, number = event.message, None, None
            if message[:2] == b"\x03\0":
                frame = StreamFrame.decode_untrusted(message)
                if frame.msg_type is not DATA:
                    out.append((event.sender_tag, frame))
                    continue
                message, stream, number = frame.payload, frame.stream_id, frame.sequence_num
            response = responses.decode_response_untrusted(message)
            out.append((event.sender_tag, stream, number, response, event.max_retransmissions))
        return out

    def advance(self, seconds: float) -> list[Any]:
        until = self.now + seconds
        while (deadline := self.router.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.router.handle_deadline(self.now)
            after = self.router.next_deadline()
            assert after is None or after > self.now
        self.now = until
        return self.events()

    def connect(self, version: int = 9, tag: bytes = TAG, **fields: Any) -> IpPair:
        *_, answer = self.send(requests.ConnectRequest(version, 5, STAMP, **fields), tag)
        success = answer[3].reply
        assert isinstance(success, responses.ConnectSuccess)
        return success.ips

    def data(
        self, *packets: bytes, version: int = 9, tag: bytes | None = TAG, stream: int = STREAM
    ) -> list[Any]:
        return self.send(requests.DataRequest(version, bundle(packets)), tag, stream)

    def from_network(self, *packets: bytes) -> list[Any]:
        for packet in packets:
            self.router.packet_from_network(packet, self.now)
        return self.events()


def dropped(at: Exit) -> dict[str, int]:
    stats = at.router.stats
    return {
        name: getattr(stats, name)
        for name in stats.__slots__
        if name.startswith("dropped") and getattr(stats, name)
    }


# Connecting


@pytest.mark.parametrize("version", [8, 9, 10])
def test_each_version_is_answered_in_kind(version: int) -> None:
    at = Exit()
    connected, answer = at.send(requests.ConnectRequest(version, 5, STAMP))
    ips = IpPair("10.0.0.3", "fc00::3")
    assert connected == ipr.ClientConnected(TAG, ips, version)
    success = responses.ConnectSuccess(ips, 1420 if version == 10 else None)
    response = responses.ConnectResponse(version, 5, success)
    lp = version > 8
    assert answer == (TAG, STREAM if lp else None, 0 if lp else None, response, 10)
    assert at.router.addresses() == {TAG: ips}


def test_a_bare_client_keeps_its_addresses_when_it_asks_again() -> None:
    at = Exit()
    ips = at.connect(8)
    (answer,) = at.send(requests.ConnectRequest(8, 6, STAMP))
    assert answer[3] == responses.ConnectResponse(8, 6, responses.ConnectSuccess(ips))


def test_a_stream_client_gets_new_addresses_and_a_new_count() -> None:
    at = Exit()
    first = at.connect()
    at.from_network(udp("1.1.1.1", first.ipv4))
    at.advance(0.05)
    at.from_network(udp("1.1.1.1", first.ipv4))
    gone, come, answer = at.send(requests.ConnectRequest(9, 6, STAMP), stream=43)
    second = answer[3].reply.ips
    assert gone == ipr.ClientDisconnected(TAG, first, "reconnect")
    assert come == ipr.ClientConnected(TAG, second, 9)
    assert first != second
    # What waited for the old addresses is gone, and so are they.
    assert at.advance(0.05) == []
    at.from_network(udp("1.1.1.1", first.ipv4), udp("1.1.1.1", second.ipv4))
    ((tag, stream, number, _, _),) = at.advance(0.05)
    assert (tag, stream, number) == (TAG, 43, 1)


def test_the_pool_gives_up_after_a_hundred_redraws() -> None:
    at = Exit(urandom=bytes)
    assert at.connect() == IpPair("10.0.0.2", "fc00::2")
    ((_, _, _, response, _),) = at.send(requests.ConnectRequest(9, 5, STAMP), OTHER)
    assert response.reply == reasons.Reason(reasons.ConnectFailure.NO_AVAILABLE_IP)


def test_the_client_table_is_bounded() -> None:
    at = Exit(max_clients=1)
    at.connect()
    ((_, _, _, response, _),) = at.send(requests.ConnectRequest(9, 5, STAMP), OTHER)
    assert response.reply == reasons.Reason(reasons.ConnectFailure.NO_AVAILABLE_IP)
    at.send(requests.DisconnectRequest(9, 6, STAMP))
    at.connect(tag=OTHER)


@given(st.binary(min_size=8, max_size=8))
def test_addresses_are_those_of_the_real_pool(drawn: bytes) -> None:
    ips = Exit(urandom=lambda _: drawn).connect()
    wire = ips.encode()
    assert wire[:2] == b"\x0a\0"
    assert wire[4:18] == b"\xfc" + bytes(13)
    assert wire[2:4] == wire[18:]
    assert 2 <= int.from_bytes(wire[2:4], "big") <= 65534


def test_disconnecting_frees_the_addresses_once() -> None:
    at = Exit()
    ips = at.connect()
    gone, answer = at.send(requests.DisconnectRequest(9, 6, STAMP))
    assert gone == ipr.ClientDisconnected(TAG, ips, "disconnect")
    assert answer == (TAG, STREAM, 0, responses.DisconnectResponse(9, 6), 10)
    (answer,) = at.send(requests.DisconnectRequest(9, 7, STAMP))
    failure = reasons.Reason(reasons.DisconnectFailure.CLIENT_NOT_CONNECTED)
    assert answer[3] == responses.DisconnectResponse(9, 7, failure)
    assert at.router.addresses() == {}


def test_ping_and_health_are_answered_to_anyone_on_their_stream() -> None:
    build = reasons.BuildInfo(build_version="1")
    at = Exit(build_info=build)
    assert at.send(requests.PingRequest(9, 6, STAMP), stream=9) == [
        (TAG, 9, 0, responses.PongResponse(9, 6), 10)
    ]
    assert at.send(requests.HealthRequest(8, 7, STAMP)) == [
        (TAG, None, None, responses.HealthResponse(8, 7, build), 10)
    ]


# What is dropped


def test_whatever_the_real_exit_drops_is_dropped_without_an_answer() -> None:
    at = Exit(versions=frozenset({9, 10}))
    ping = requests.PingRequest(9, 1, STAMP).encode()
    for message, why in [
        (b"", "malformed"),
        (b"\x09", "malformed"),
        (StreamFrame(1, DATA, 0, b"\x09").encode(), "malformed"),
        (StreamFrame(1, DATA, 0, ping + b"\0").encode(), "malformed"),
        (StreamFrame(1, DATA, 0, b"\x09\x00" + ping[2:]).encode(), "malformed"),
        (StreamFrame(1, DATA, 0, ping).encode()[:10] + b"\x09" + bytes(20), "malformed"),
        (requests.PingRequest(8, 1, STAMP).encode(), "version"),
        (StreamFrame(1, DATA, 0, b"\x0b" + ping[1:]).encode(), "version"),
        (b"\x06\x04\x01" + bytes(97), "version"),
        # v9 outside a stream: the transport rule.
        (ping, "version"),
    ]:
        before = dropped(at).get(f"dropped_{why}", 0)
        at.router.receive_data(message, TAG, 0.0)
        assert dropped(at).get(f"dropped_{why}", 0) == before + 1
    at.router.receive_data(StreamFrame(1, DATA, 0, ping).encode(), None, 0.0)
    assert dropped(at)["dropped_no_tag"] == 1
    assert at.events() == []
    assert at.router.stats.messages_received == 11


def test_a_bare_version_in_a_stream_is_dropped() -> None:
    at = Exit()
    message = StreamFrame(1, DATA, 0, requests.PingRequest(8, 1, STAMP).encode()).encode()
    at.router.receive_data(message, TAG, 0.0)
    assert dropped(at) == {"dropped_version": 1}


# Streams


def test_an_open_frame_may_carry_a_request_or_nothing() -> None:
    at = Exit()
    at.router.receive_data(StreamFrame(1, StreamMessageType.OPEN, 0).encode(), TAG, 0.0)
    assert at.events() == []
    ping = requests.PingRequest(9, 1, STAMP).encode()
    at.router.receive_data(StreamFrame(1, StreamMessageType.OPEN, 0, ping).encode(), TAG, 0.0)
    assert at.events() == [(TAG, 1, 0, responses.PongResponse(9, 1), 10)]
    assert dropped(at) == {}


def test_newer_stream_types_are_understood_or_dropped() -> None:
    at = Exit(send_open_ack=True)
    for msg_type in (
        StreamMessageType.OPEN,
        StreamMessageType.OPEN_ACK,
        StreamMessageType.PING,
        StreamMessageType.PONG,
    ):
        for tag in (TAG, None):
            at.router.receive_data(StreamFrame(1, msg_type, 9, b"").encode(), tag, 0.0)
    assert at.events() == [
        (TAG, StreamFrame(1, StreamMessageType.OPEN_ACK, 9)),
        (TAG, StreamFrame(1, StreamMessageType.PONG, 9)),
    ]
    assert dropped(at) == {"dropped_no_tag": 2}
    old = Exit(stream_extensions=False)
    old.router.receive_data(StreamFrame(1, StreamMessageType.PING, 9).encode(), TAG, 0.0)
    assert dropped(old) == {"dropped_malformed": 1}


# Packets of clients


@pytest.mark.parametrize("version", [8, 9, 10])
def test_packets_of_a_client_go_to_the_network_as_they_are(version: int) -> None:
    at = Exit()
    ips = at.connect(version)
    packets = [udp(ips.ipv4), udp(ips.ipv6, "2606::1"), udp(ips.ipv4, payload=bytes(60000))]
    assert at.data(*packets, b"", version=version) == [ipr.PacketAccepted(p, TAG) for p in packets]
    assert at.router.stats.packets_accepted == 3


def test_spoofed_unknown_and_malformed_sources_are_dropped() -> None:
    at = Exit()
    mine, theirs = at.connect(), at.connect(tag=OTHER)
    assert at.data(udp(theirs.ipv4), udp("10.0.9.9"), udp(mine.ipv4)[:-1], b"\x45") == []
    assert dropped(at) == {"dropped_spoofed": 2, "dropped_malformed": 2}


def test_a_refused_destination_is_named() -> None:
    asked: list[tuple[str, int]] = []

    def policy(host: str, port: int) -> bool:
        asked.append((host, port))
        return False

    at = Exit(policy)
    ips = at.connect()
    answers = at.data(udp(ips.ipv4, "10.1.2.3", 25), udp(ips.ipv6, "fc00::0:9", 443), stream=77)
    assert asked == [("10.1.2.3", 25), ("fc00::9", 443)]
    assert [answer[:3] for answer in answers] == [(TAG, 77, 0)] * 2
    assert [answer[3] for answer in answers] == [
        responses.InfoResponse(9, 0, reasons.ExitPolicyFilterCheckFailed(text), reasons.InfoLevel.WARN)
        for text in ("10.1.2.3:25", "[fc00::9]:443")
    ]
    assert at.router.stats.packets_refused == 2


# Packets for clients


def test_packets_for_a_client_are_bundled_for_20_ms() -> None:
    at = Exit()
    ips = at.connect()
    at.now = 0.005
    one, two = udp("1.1.1.1", ips.ipv4), udp("2606::1", ips.ipv6)
    assert at.from_network(one, two) == []
    # The timer has ticked since the connect.
    assert at.advance(0.0149) == []
    data = responses.DataResponse(9, bundle([one, two]))
    assert at.advance(0.0002) == [(TAG, STREAM, 1, data, 0)]
    assert at.router.stats.packets_to_clients == 2
    assert at.advance(1) == []


def test_a_full_bundle_leaves_at_once_and_restarts_the_timer() -> None:
    at = Exit()
    ips = at.connect()
    at.now = 0.015
    big = udp("1.1.1.1", ips.ipv4, payload=bytes(1000))
    ((_, _, number, response, _),) = at.from_network(big, big)
    assert (number, split_bundle(response.bundle)[0]) == (1, [big])
    assert at.router.next_deadline() == pytest.approx(0.035)
    oversize = udp("1.1.1.1", ips.ipv4, payload=bytes(2000))
    at.advance(0.05)
    ((_, _, number, response, _),) = at.from_network(oversize)
    assert (number, split_bundle(response.bundle)[0]) == (3, [oversize])
    assert at.router.next_deadline() == 10.0


@pytest.mark.parametrize(("asked_ms", "period"), [(None, 0.02), (0, 0.02), (100, 0.1)])
def test_the_client_chooses_how_long_packets_wait_and_zero_is_no_choice(
    asked_ms: int | None, period: float
) -> None:
    at = Exit()
    ips = at.connect(buffer_timeout_ms=asked_ms)
    at.from_network(udp("1.1.1.1", ips.ipv4))
    assert at.router.next_deadline() == pytest.approx(period)


def test_data_numbers_leave_out_zero_when_they_wrap() -> None:
    at = Exit()
    ips = at.connect()
    at.router._clients[TAG].sequence_num = 2**32 - 2
    numbers = []
    for _ in range(2):
        at.from_network(udp("1.1.1.1", ips.ipv4))
        numbers += [event[2] for event in at.advance(0.1)]
    assert numbers == [2**32 - 1, 1]


def test_packets_for_nobody_are_dropped() -> None:
    at = Exit()
    ips = at.connect()
    too_long = udp("1.1.1.1", ips.ipv4) + bytes(65536)
    assert at.from_network(udp("1.1.1.1", "10.0.9.9"), b"", b"\x45", too_long) == []
    assert dropped(at) == {"dropped_unroutable": 4}


# Reaping


def test_a_silent_client_is_reaped_and_told() -> None:
    at = Exit()
    ips = at.connect()
    at.now = 5.0
    at.data(udp(ips.ipv4))
    # Neither pings nor packets towards it keep a client.
    at.now = 50.0
    at.send(requests.PingRequest(9, 1, STAMP))
    at.from_network(udp("1.1.1.1", ips.ipv4))
    at.router.handle_deadline(50.0)
    assert len(at.events()) == 1
    assert at.advance(14) == []
    gone, told = at.advance(16)
    assert gone == ipr.ClientDisconnected(TAG, ips, "timeout")
    reason = reasons.Reason(reasons.UnrequestedReason.CLIENT_MIXNET_TRAFFIC_TIMEOUT)
    assert told == (TAG, STREAM, 0, responses.UnrequestedDisconnect(9, reason), 10)
    assert at.router.stats.clients_reaped == 1
    assert at.router.next_deadline() is None
    assert at.data(udp(ips.ipv4)) == []


def test_a_refused_packet_counts_as_activity_and_the_rest_do_not() -> None:
    at = Exit(lambda host, port: False, tell_reaped=False)
    ips, _ = at.connect(), at.connect(8, tag=OTHER)
    at.now = 40.0
    at.data(udp(ips.ipv4))
    at.data(udp("10.0.9.9"), tag=OTHER, version=8)
    (gone,) = at.advance(35)
    assert (gone.sender_tag, gone.reason) == (OTHER, "timeout")
    assert list(at.router.addresses()) == [TAG]


# Bounds and robustness


def test_events_nobody_takes_are_bounded() -> None:
    at = Exit(event_queue_limit=3)
    ips = at.connect()
    for _ in range(3):
        at.router.packet_from_network(udp("1.1.1.1", ips.ipv4, payload=bytes(2000)), 0.0)
    at.router.packet_from_network(udp("1.1.1.1", ips.ipv4, payload=bytes(2000)), 0.0)
    message = StreamFrame(STREAM, DATA, 0, requests.PingRequest(9, 1, STAMP).encode()).encode()
    at.router.receive_data(message, TAG, 0.0)
    assert at.router.stats.dropped_overflow == 2
    assert len(at.events()) == 3


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_garbage_never_raises(messages: list[bytes]) -> None:
    at = Exit()
    ips = at.connect()
    head = udp(ips.ipv4)[:20]
    for message in messages:
        at.router.receive_data(message, TAG, at.now)
        at.send(b"\x08\x01" + message)
        at.send(b"\x09\x01" + message)
        at.data(message, head + message)
        at.from_network(message, b"\x45" + message)
    at.advance(100)
