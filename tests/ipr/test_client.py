from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import vectors

from smolmix_sync.errors import IprError
from smolmix_sync.ipr import client as ipr
from smolmix_sync.ipr import reasons, requests, responses
from smolmix_sync.ipr.codec import bundle
from smolmix_sync.ipr.events import parse_destination
from smolmix_sync.ipr.lp import StreamFrame, StreamMessageType
from smolmix_sync.ipr.values import IpPair, Timestamp

UNIX = 1_800_000_000.0
IPS = IpPair("10.0.0.2", "fc00::2")
STREAM = 0x1122334455667788
DATA = StreamMessageType.DATA


class Session:
    """An IprClient and the exit's answers, at a time the test moves."""

    def __init__(self, version: int = 9, **config: Any) -> None:
        counter = itertools.count(1)
        self.now = 100.0
        self.client = ipr.IprClient(
            version,
            STREAM,
            urandom=lambda size: next(counter).to_bytes(size, "big"),
            config=ipr.IprClientConfig(**config),
        )

    def sent(self, room: int | None = None) -> list[StreamFrame | requests.Request]:
        """What left: requests, or frames that carry none."""
        out: list[StreamFrame | requests.Request] = []
        for message in self.client.data_to_send(self.now, room):
            if self.client.version == 8:
                out.append(requests.decode_request_untrusted(message))
                continue
            frame = StreamFrame.decode_untrusted(message)
            assert frame.stream_id == STREAM
            is_data = frame.msg_type is DATA
            out.append(requests.decode_request_untrusted(frame.payload) if is_data else frame)
        return out

    def answer(self, response: responses.Response | bytes, number: int = 0, stream: int = STREAM) -> None:
        payload = response if isinstance(response, bytes) else response.encode()
        if self.client.version >= 9:
            payload = StreamFrame(stream, DATA, number, payload).encode()
        self.client.receive_data(payload, self.now)

    def data(self, *packets: bytes, number: int) -> None:
        self.answer(responses.DataResponse(self.client.version, bundle(packets)), number)

    def events(self) -> list[ipr.IprClientEvent]:
        return list(iter(self.client.next_event, None))

    def advance(self, seconds: float) -> list[ipr.IprClientEvent]:
        """Let time pass as a real owner would, from deadline to deadline."""
        until = self.now + seconds
        while (deadline := self.client.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.client.handle_deadline(self.now)
            after = self.client.next_deadline()
            assert after is None or after > self.now
        self.now = until
        return self.events()

    def connect(self) -> requests.ConnectRequest:
        self.client.connect(self.now, UNIX + self.now)
        request = self.sent()[-1]
        assert isinstance(request, requests.ConnectRequest)
        return request

    def success(self, request: requests.ConnectRequest) -> responses.ConnectResponse:
        mtu = 1380 if request.version == 10 else None
        return responses.ConnectResponse(
            request.version, request.request_id, responses.ConnectSuccess(IPS, mtu)
        )

    def establish(self) -> None:
        self.answer(self.success(self.connect()))
        assert isinstance(self.events()[0], ipr.Connected)


def connected(version: int = 9, **config: Any) -> Session:
    session = Session(version, **config)
    session.establish()
    return session


# Connecting


def test_a_session_opens_its_stream_and_asks_for_addresses() -> None:
    session = Session()
    assert session.client.state is ipr.IprState.IDLE
    assert not session.client.wants_to_send
    session.client.connect(session.now, UNIX)
    assert session.client.wants_to_send
    opening, request = session.sent()
    assert opening == StreamFrame(STREAM, StreamMessageType.OPEN, 0)
    assert request == requests.ConnectRequest(9, 1, Timestamp.from_unix(UNIX))
    assert session.client.next_deadline() == session.now + 6
    session.answer(session.success(request))
    assert session.events() == [ipr.Connected(IPS, None, 9)]
    assert (session.client.state, session.client.ips) == (ipr.IprState.CONNECTED, IPS)


def test_v10_names_the_mtu() -> None:
    session = Session(10)
    session.answer(session.success(session.connect()))
    assert session.events() == [ipr.Connected(IPS, 1380, 10)]
    assert session.client.mtu == 1380


def test_v8_speaks_bare() -> None:
    session = Session(8, buffer_timeout_ms=5)
    session.client.connect(session.now, UNIX)
    (request,) = session.sent()
    assert request == requests.ConnectRequest(8, 1, Timestamp.from_unix(UNIX), 5)
    session.answer(session.success(request))
    session.data(b"a", number=0)
    assert session.events() == [ipr.Connected(IPS, None, 8), ipr.PacketsReceived([b"a"])]
    wire = session.client.encode_data([b"b"], session.now)
    assert wire == requests.DataRequest(8, b"\0\1b").encode()
    session.client.receive_data(StreamFrame(STREAM, DATA, 1, b"\x08\0\0").encode(), session.now)
    assert session.client.stats.dropped_foreign == 1


def test_unanswered_connect_is_repeated_and_only_the_newest_answer_counts() -> None:
    session = Session()
    first = session.connect()
    assert session.advance(6) == []
    (second,) = session.sent()
    assert isinstance(second, requests.ConnectRequest)
    assert second.request_id != first.request_id
    # The exit gave other addresses to the second request, which made those of the first invalid.
    session.answer(session.success(first))
    assert session.events() == []
    session.answer(session.success(second))
    assert session.events() == [ipr.Connected(IPS, None, 9)]
    assert session.advance(10) == []


def test_connect_request_that_was_overtaken_changes_the_addresses() -> None:
    session = Session()
    first = session.connect()
    session.advance(6)
    (second,) = session.sent()
    assert isinstance(second, requests.ConnectRequest)
    session.answer(session.success(second))
    assert session.events() == [ipr.Connected(IPS, None, 9)]
    # The first one, sent anew by the layer below, reaches the exit after the second.
    same = session.success(first)
    session.answer(same)
    assert session.events() == []
    other = responses.ConnectSuccess(ipr.IpPair("10.0.9.9", "fc00::909"), None)
    session.answer(dataclasses.replace(same, reply=other))
    (end,) = session.events()
    assert isinstance(end, ipr.Disconnected)
    assert not end.requested
    assert session.client.state is ipr.IprState.CLOSED


def test_repeating_does_not_move_the_end_of_waiting() -> None:
    session = Session()
    session.connect()
    assert session.advance(59.9) == []
    assert session.advance(0.2) == [ipr.ConnectTimedOut()]
    assert session.client.next_deadline() is None


def test_v10_falls_back_to_v9_on_the_same_stream() -> None:
    session = Session(10)
    first = session.connect()
    assert session.advance(14.9) == []
    assert session.advance(0.2) == [ipr.FellBack(9)]
    (second,) = session.sent()
    assert isinstance(second, requests.ConnectRequest)
    assert second.version == 9
    assert second.request_id != first.request_id
    assert second.timestamp.unix_nanos - first.timestamp.unix_nanos == 15 * 10**9
    # The late answer names addresses that the second request made the exit take back.
    session.answer(session.success(first))
    assert session.events() == []
    session.answer(session.success(second))
    assert session.events() == [ipr.Connected(IPS, None, 9)]
    frame = StreamFrame.decode_untrusted(session.client.encode_data([b"x"], session.now))
    assert (frame.sequence_num, frame.payload[0]) == (2, 9)


def test_silence_ends_in_a_time_out() -> None:
    session = Session(10)
    session.connect()
    assert session.advance(75.1) == [ipr.FellBack(9), ipr.ConnectTimedOut()]
    assert session.client.state is ipr.IprState.CLOSED
    assert session.client.next_deadline() is None
    assert not session.client.wants_to_send
    # A late answer finds nobody; a new attempt stays with v9 and does not open the stream again.
    session.client.connect(session.now, UNIX)
    (request,) = session.sent()
    assert isinstance(request, requests.ConnectRequest)
    assert request.version == 9


def test_a_refusal_closes_the_session() -> None:
    session = Session()
    request = session.connect()
    failure = reasons.Reason(reasons.ConnectFailure.NO_AVAILABLE_IP)
    session.answer(responses.ConnectResponse(9, request.request_id, failure))
    assert session.events() == [ipr.ConnectRefused("no available ip address")]
    assert session.client.state is ipr.IprState.CLOSED
    session.answer(session.success(request))
    assert session.events() == []


def test_other_answers_are_ignored_while_connecting() -> None:
    session = Session()
    request = session.connect()
    success = responses.ConnectSuccess(IPS)
    reason = reasons.Reason(reasons.UnrequestedReason.OTHER, "old")
    session.answer(responses.ConnectResponse(9, request.request_id + 1, success))
    session.answer(responses.ConnectResponse(8, request.request_id, success))
    session.answer(responses.ConnectResponse(9, request.request_id, success), stream=STREAM + 1)
    session.answer(responses.UnrequestedDisconnect(9, reason))
    session.answer(responses.DisconnectResponse(9, request.request_id))
    session.answer(responses.PongResponse(9, request.request_id))
    session.answer(responses.HealthResponse(9, request.request_id, reasons.BuildInfo()))
    session.data(b"early", number=1)
    session.answer(b"")
    assert session.client.stats.dropped_foreign == 9
    session.answer(b"\x09\x01\x00")
    session.client.receive_data(b"\x09\x01\x00", session.now)
    assert session.client.stats.dropped_malformed == 2
    assert session.events() == []
    assert session.client.state is ipr.IprState.CONNECTING
    session.answer(session.success(request))
    assert session.events() == [ipr.Connected(IPS, None, 9)]


def test_connecting_twice_at_once_is_the_callers_fault() -> None:
    session = Session()
    session.connect()
    with pytest.raises(ValueError, match="under way"):
        session.client.connect(session.now, UNIX)


def test_new_addresses_can_be_asked_for_while_connected() -> None:
    session = connected()
    session.data(b"one", number=1)
    session.data(b"waits", number=3)
    request = session.connect()
    assert session.events() == [ipr.PacketsReceived([b"one"]), ipr.PacketsReceived([b"waits"])]
    assert session.client.ips is None
    session.answer(session.success(request))
    session.data(b"from one again", number=1)
    assert session.events() == [ipr.Connected(IPS, None, 9), ipr.PacketsReceived([b"from one again"])]


def test_the_open_frame_can_be_left_out_and_streams_are_random() -> None:
    session = Session(send_open=False)
    session.client.connect(session.now, UNIX)
    assert [type(sent) for sent in session.sent()] == [requests.ConnectRequest]
    assert ipr.IprClient(urandom=lambda size: b"\7" * size).stream_id == 0x0707070707070707


@pytest.mark.parametrize("config", [{"buffer_timeout_ms": 0}, {"keepalive_retry": 0.0}])
def test_settings_that_cannot_work_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ipr.IprClientConfig(**config)


@pytest.mark.parametrize("version", [6, 7, 11])
def test_other_versions_cannot_be_spoken(version: int) -> None:
    with pytest.raises(ValueError):
        ipr.IprClient(version, urandom=bytes)


def test_a_vector_session_is_reproduced_octet_for_octet() -> None:
    flow = vectors.load("ipr_lp_stream.json").get("flow_v9")
    if flow is None:
        pytest.skip("vectors: ipr_lp_stream.json has no flow_v9 in this set")
    client = ipr.IprClient(
        9, int(flow["stream_id"]), urandom=lambda _: int(flow["request_id"]).to_bytes(8, "big")
    )
    nanos = int(flow["timestamp"]["unix_nanos"])
    client.connect(0.0, nanos / 1e9)
    opening, request = client.data_to_send(0.0)
    assert opening.hex() == flow["client_open_hex"]
    # Our clock has microseconds; the rest is the same.
    stamp = Timestamp(*flow["timestamp"]["tuple"])
    frame = StreamFrame.decode_untrusted(request)
    sent = requests.decode_request_untrusted(frame.payload)
    assert isinstance(sent, requests.ConnectRequest)
    assert abs(sent.timestamp.unix_nanos - stamp.unix_nanos) < 10_000
    sent.timestamp = stamp
    frame.payload = sent.encode()
    assert frame.encode().hex() == flow["client_connect_hex"]
    packet, reply, data = vectors.unhex(flow, "ip_packet_hex", "ipr_connect_reply_hex", "ipr_data_hex")
    client.receive_data(reply, 1.0)
    assert client.next_event() == ipr.Connected(
        IpPair(flow["allocated"]["ipv4"], flow["allocated"]["ipv6"]), None, 9
    )
    assert client.encode_data([packet], 1.0).hex() == flow["client_data_hex"]
    client.receive_data(data, 1.0)
    assert client.next_event() == ipr.PacketsReceived([packet])
    assert client.next_event() is None


# Data


def test_data_takes_sequence_numbers_and_bundles() -> None:
    session = connected()
    for number, packets in enumerate([[b"a"], [b"b", b"cc"]], start=1):
        frame = StreamFrame.decode_untrusted(session.client.encode_data(packets, session.now))
        assert (frame.msg_type, frame.sequence_num) == (DATA, number)
        assert frame.payload == requests.DataRequest(9, bundle(packets)).encode()
    assert session.client.stats.packets_sent == 3
    with pytest.raises(ValueError, match="packets"):
        session.client.encode_data([], session.now)
    session.client._sequence_num = 2**32 - 1
    numbers = [
        StreamFrame.decode_untrusted(session.client.encode_data([b"a"], session.now)).sequence_num
        for _ in range(2)
    ]
    assert numbers == [2**32 - 1, 0]


def test_nothing_is_encoded_without_a_session() -> None:
    session = Session()
    for call in (
        lambda: session.client.encode_data([b"a"], 0.0),
        lambda: session.client.ping(0.0),
        lambda: session.client.health(0.0),
    ):
        with pytest.raises(IprError, match="not connected"):
            call()


def test_data_is_put_in_order_within_the_hold() -> None:
    session = connected()
    session.data(b"2", number=2)
    assert session.events() == []
    session.now += 0.05
    session.data(b"1", number=1)
    assert session.events() == [ipr.PacketsReceived([b"1", b"2"])]
    session.data(b"4", b"", b"5", number=4)
    assert session.advance(0.059) == []
    assert session.advance(0.002) == [ipr.PacketsReceived([b"4", b"5"])]
    session.data(b"3", number=3)
    assert session.events() == [ipr.PacketsReceived([b"3"])]
    stats = session.client.stats
    assert (stats.packets_received, stats.resequence_expired) == (5, 1)


def test_control_is_acted_on_at_any_number_and_leaves_no_gap() -> None:
    session = connected(resequence_hold=10.0)
    session.data(b"2", number=2)
    session.answer(responses.InfoResponse(9, 0, reasons.GenericInfo("hi"), reasons.InfoLevel.INFO), 7)
    assert session.events() == [ipr.InfoReceived("hi", reasons.InfoLevel.INFO)]
    session.answer(responses.InfoResponse(9, 0, reasons.GenericInfo("ho"), reasons.InfoLevel.WARN), 1)
    assert session.events() == [
        ipr.PacketsReceived([b"2"]),
        ipr.InfoReceived("ho", reasons.InfoLevel.WARN),
    ]


def test_ordering_can_be_switched_off() -> None:
    session = connected(resequence_hold=0.0)
    session.data(b"9", number=9)
    assert session.events() == [ipr.PacketsReceived([b"9"])]


@given(st.integers(0, 70000), st.sampled_from([8, 9, 10]))
@example(0, 9)
@example(20, 9)
@example(271, 9)
@example(65563, 9)
def test_the_room_of_a_bundle_is_exact(room: int, version: int) -> None:
    size = ipr.bundle_room(version, room)
    if size:
        assert size + ipr.data_overhead(version, size) <= room
    assert size + 1 + ipr.data_overhead(version, size + 1) > room


def test_the_overheads_are_those_of_the_message_budget() -> None:
    client = connected().client
    # spec/message-layer.md section 13: a packet of 1557 octets fits one Sphinx packet, without SURBs.
    assert client.bundle_room(1581) == 1559
    assert client.data_overhead(1422) + 1422 == 1444
    message = client.encode_data([bytes(1557)], 0.0)
    assert len(message) == 1581 == 1559 + client.data_overhead(1559)


# Keepalive


def test_a_packet_of_our_own_is_asked_for_25_s_after_the_last() -> None:
    session = connected()
    session.advance(20)
    session.client.encode_data([b"a"], session.now)
    assert session.client.keepalive_deadline() == session.now + 25
    assert session.advance(24.9) == []
    assert session.advance(0.2) == [ipr.KeepaliveDue()]
    assert session.advance(5) == [ipr.KeepaliveDue()]
    session.client.encode_data([b"a"], session.now)
    assert session.advance(24.9) == []


def test_pings_do_not_count_as_a_packet() -> None:
    session = connected()
    due = session.client.keepalive_deadline()
    session.client.ping(session.now)
    assert session.client.keepalive_deadline() == due


def test_one_late_call_deals_with_every_deadline() -> None:
    session = connected()
    session.data(b"2", number=2)
    session.now += 1000
    session.client.handle_deadline(session.now)
    assert session.events() == [ipr.PacketsReceived([b"2"]), ipr.KeepaliveDue()]
    deadline = session.client.next_deadline()
    assert deadline is not None
    assert deadline > session.now


# Requests and notices


def test_a_ping_is_timed() -> None:
    session = connected()
    request_id = session.client.ping(session.now)
    assert session.sent() == [
        requests.PingRequest(9, request_id, Timestamp.from_unix(UNIX + session.now)),
    ]
    session.advance(0.5)
    session.answer(responses.PongResponse(9, request_id + 1))
    session.answer(responses.PongResponse(9, request_id))
    session.answer(responses.PongResponse(9, request_id))
    (event,) = session.events()
    assert isinstance(event, ipr.PongReceived)
    assert (event.request_id, event.rtt) == (request_id, pytest.approx(0.5))
    assert session.client.stats.dropped_foreign == 2


def test_health_names_the_build() -> None:
    session = connected()
    request_id = session.client.health(session.now)
    assert isinstance(session.sent()[0], requests.HealthRequest)
    build = reasons.BuildInfo(build_version="1.37.0")
    session.answer(responses.HealthResponse(9, request_id, build, None))
    session.answer(responses.HealthResponse(9, request_id, build, None))
    assert session.events() == [ipr.HealthReceived(request_id, build, None)]


def test_only_so_many_unanswered_pings_are_remembered_and_queued() -> None:
    session = connected(pending_requests_limit=2, control_queue_limit=3)
    ids = [session.client.ping(session.now) for _ in range(4)]
    assert len(session.sent()) == 3
    assert session.client.stats.dropped_overflow == 1
    for request_id in ids:
        session.answer(responses.PongResponse(9, request_id))
    assert [event.request_id for event in session.events() if isinstance(event, ipr.PongReceived)] == ids[2:]


def test_control_messages_wait_for_room() -> None:
    session = Session()
    session.client.connect(session.now, UNIX)
    assert session.sent(15) == []
    assert [type(sent) for sent in session.sent(16)] == [StreamFrame]
    assert session.sent(20) == []
    assert [type(sent) for sent in session.sent(60)] == [requests.ConnectRequest]
    bare = Session(8)
    bare.client.connect(bare.now, UNIX)
    assert len(bare.sent(30)) == 1


def test_stream_pings_are_answered_and_other_stream_control_is_not() -> None:
    session = connected()
    for msg_type in StreamMessageType:
        if msg_type is not DATA:
            frame = StreamFrame(STREAM, msg_type, 77, b"x")
            session.client.receive_data(frame.encode(), session.now)
    foreign = StreamFrame(STREAM + 1, StreamMessageType.PING, 5)
    session.client.receive_data(foreign.encode(), session.now)
    assert session.sent() == [StreamFrame(STREAM, StreamMessageType.PONG, 77)]
    assert session.events() == []


def test_a_policy_refusal_names_its_destination() -> None:
    session = connected()
    for destination in ("10.1.2.3:25", "[2606:4700::0]:443", "nonsense"):
        refusal = reasons.ExitPolicyFilterCheckFailed(destination)
        session.answer(responses.InfoResponse(9, 0, refusal, reasons.InfoLevel.WARN))
    assert session.events() == [
        ipr.PolicyRefused("10.1.2.3:25", ("10.1.2.3", 25)),
        ipr.PolicyRefused("[2606:4700::0]:443", ("2606:4700::", 443)),
        ipr.PolicyRefused("nonsense", None),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1", "1.2.3.4:²", "::1:80", "[1.2.3.4]:80", "x:1"],
)
def test_a_destination_that_reads_otherwise_has_no_address(text: str) -> None:
    assert parse_destination(text) is None


def test_events_nobody_takes_are_bounded() -> None:
    session = connected(event_queue_limit=3, resequence_hold=0.0)
    for number in range(5):
        session.data(b"x", number=number)
    reason = reasons.Reason(reasons.UnrequestedReason.OTHER, "full")
    session.answer(responses.UnrequestedDisconnect(9, reason))
    events = session.events()
    assert events[:3] == [ipr.PacketsReceived([b"x"])] * 3
    assert events[3:] == [ipr.Disconnected("full", False)]
    assert session.client.stats.dropped_overflow == 2


# Disconnecting


def test_a_disconnect_is_requested_and_answered() -> None:
    session = connected()
    session.client.disconnect(session.now)
    session.client.disconnect(session.now)
    (request,) = session.sent()
    assert isinstance(request, requests.DisconnectRequest)
    session.data(b"last", number=1)
    session.data(b"waits", number=3)
    session.answer(responses.DisconnectResponse(9, request.request_id + 1))
    assert session.client.state is ipr.IprState.DISCONNECTING
    session.answer(responses.DisconnectResponse(9, request.request_id))
    assert session.events() == [
        ipr.PacketsReceived([b"last"]),
        ipr.PacketsReceived([b"waits"]),
        ipr.Disconnected("disconnected", True),
    ]
    assert session.client.next_deadline() is None


def test_an_exit_that_forgot_us_ends_the_session_too() -> None:
    session = connected()
    session.client.disconnect(session.now)
    (request,) = session.sent()
    assert isinstance(request, requests.DisconnectRequest)
    failure = reasons.Reason(reasons.DisconnectFailure.CLIENT_NOT_CONNECTED)
    session.answer(responses.DisconnectResponse(9, request.request_id, failure))
    assert session.events() == [ipr.Disconnected("client is not connected", True)]


def test_an_unanswered_disconnect_times_out() -> None:
    session = connected()
    session.client.disconnect(session.now)
    (event,) = session.advance(5)
    assert isinstance(event, ipr.Disconnected)
    assert event.requested
    assert session.client.state is ipr.IprState.CLOSED


def test_an_unrequested_disconnect_is_told_with_its_reason() -> None:
    session = connected()
    reason = reasons.Reason(reasons.UnrequestedReason.CLIENT_MIXNET_TRAFFIC_TIMEOUT)
    session.answer(responses.UnrequestedDisconnect(9, reason))
    session.answer(responses.UnrequestedDisconnect(9, reason))
    assert session.events() == [ipr.Disconnected("client mixnet traffic timeout", False)]


def test_disconnecting_before_being_connected_closes_silently() -> None:
    session = Session()
    session.connect()
    session.client.disconnect(session.now)
    assert session.client.state is ipr.IprState.CLOSED
    assert session.advance(100) == []


# Robustness


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=6), st.sampled_from([8, 9, 10]))
def test_garbage_never_raises(messages: list[bytes], version: int) -> None:
    session = connected(version)
    for message in messages:
        session.client.receive_data(message, session.now)
        session.answer(bytes((version,)) + message, number=len(message))
        session.answer(bytes((version, 1)) + message)
    session.advance(1)
    assert session.client.state in (ipr.IprState.CONNECTED, ipr.IprState.CLOSED)
