"""A client session and a server session joined in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolmix_sync.crypto import ed25519_public_from_seed
from smolmix_sync.mixnet.gateway import (
    Authenticated,
    BandwidthChanged,
    ClientAuthenticated,
    ClientForgotten,
    ClientRegistered,
    ClientSettings,
    ClientState,
    ClientTable,
    ForgetAcknowledged,
    ForwardPacket,
    GatewayClient,
    GatewayRefused,
    GatewayServerSession,
    MustWait,
    OutOfBandwidth,
    PingWanted,
    ProbeFinished,
    Pushed,
    Refusal,
    Registered,
    RememberAcknowledged,
    ServerSettings,
    ServerState,
    SessionClosed,
    SessionRemembered,
)
from smolmix_sync.mixnet.gateway import constants as c
from smolmix_sync.mixnet.gateway import text as wire
from smolmix_sync.mixnet.gateway.authentication import authenticate
from smolmix_sync.mixnet.gateway.frames import encode_frame, encode_pushed
from smolmix_sync.mixnet.gateway.sealing import seal
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress

NOON = 1_763_726_400.0  # 2025-11-21 12:00:00 UTC
GATEWAY_SEED = b"g" * 32
CLIENT_SEED = b"c" * 32
CLIENT = ed25519_public_from_seed(CLIENT_SEED)
GATEWAY = ed25519_public_from_seed(GATEWAY_SEED)
PACKET = MixPacket(NodeAddress("192.0.2.1", 1789), bytes(2413), 1)


def randomness(seed: str) -> Callable[[int], bytes]:
    counter = 0

    def urandom(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_128(f"{seed}{counter}".encode()).digest(size)

    return urandom


@dataclass
class Line:
    """One websocket between two sessions, the time, and what both reported."""

    client: GatewayClient
    server: GatewayServerSession
    now: float = 0.0
    client_events: list[object] = field(default_factory=list)
    server_events: list[object] = field(default_factory=list)
    to_server: list[str | bytes] = field(default_factory=list)
    to_client: list[str | bytes] = field(default_factory=list)

    def start(self, unix: float = NOON, server_unix: float | None = None) -> Line:
        self.server.start(self.now, unix if server_unix is None else server_unix)
        self.client.start(self.now, unix)
        return self.run()

    def run(self) -> Line:
        while self.step():
            pass
        return self

    def step(self) -> bool:
        moved = False
        for data in self.client.data_to_send(self.now):
            self.to_server.append(data)
            self.server.receive_data(data, self.now)
            moved = True
        for data in self.server.data_to_send(self.now):
            self.to_client.append(data)
            self.client.receive_data(data, self.now)
            moved = True
        while (event := self.client.next_event()) is not None:
            self.client_events.append(event)
            moved = True
        while (happened := self.server.next_event()) is not None:
            self.server_events.append(happened)
            moved = True
        return moved

    def advance(self, seconds: float) -> Line:
        """Let time pass, deadline by deadline."""
        end = self.now + seconds
        while True:
            deadlines = [machine.next_deadline() for machine in (self.client, self.server)]
            due = min((when for when in deadlines if when is not None and when <= end), default=None)
            if due is None:
                break
            self.now = max(self.now, due)
            for machine in (self.client, self.server):
                machine.handle_deadline(self.now)
                after = machine.next_deadline()
                assert after is None or after > self.now
            self.run()
        self.now = end
        return self.run()

    def texts(self) -> list[str]:
        return [data for data in self.to_client if isinstance(data, str)]

    def errors(self) -> list[str]:
        messages = [json.loads(text) for text in self.texts()]
        return [message["message"] for message in messages if message["type"] == "error"]

    def refusal(self) -> Refusal:
        [refused] = [event for event in self.client_events if isinstance(event, GatewayRefused)]
        return refused.kind


def line(
    table: ClientTable,
    client: GatewayClient | None = None,
    *,
    server_settings: ServerSettings | None = None,
    gateway_seed: bytes = GATEWAY_SEED,
    client_settings: ClientSettings | None = None,
    now: float = 0.0,
) -> Line:
    if client is None:
        client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("c"), settings=client_settings)
    server = GatewayServerSession(gateway_seed, table, urandom=randomness("s"), settings=server_settings)
    return Line(client, server, now)


def reconnect(table: ClientTable, earlier: Line, seconds: float = 2.0, **options: ServerSettings) -> Line:
    earlier.client.connection_lost(earlier.now)
    earlier.server.connection_lost(earlier.now)
    again = line(table, earlier.client.successor(), now=earlier.now + seconds, **options)
    return again.start(NOON + again.now)


def test_new_client_registers_and_claims_the_daily_allowance() -> None:
    table = ClientTable()
    joined = line(table).start()
    assert joined.client.state is ClientState.READY
    assert joined.server.state is ServerState.READY
    assert joined.server.address == CLIENT
    assert joined.client.shared_key == table.records[CLIENT].shared_key
    registered, ready, claimed = joined.client_events
    assert isinstance(registered, Registered)
    assert ready == Authenticated(0)
    assert claimed == BandwidthChanged(c.FREE_BANDWIDTH)
    assert joined.client.bandwidth == c.FREE_BANDWIDTH
    assert joined.server_events == [ClientRegistered(CLIENT), ClientAuthenticated(CLIENT)]
    assert joined.client.next_deadline() is None
    assert joined.server.next_deadline() is None


def test_known_client_authenticates_on_its_next_connection() -> None:
    table = ClientTable()
    first = line(table).start()
    again = reconnect(table, first)
    assert again.client.state is ClientState.READY
    assert again.client_events == [Authenticated(c.FREE_BANDWIDTH)]
    assert json.loads(again.to_server[0])["type"] == "authenticateV2"
    assert len(again.to_server) == 1


def test_stored_client_asks_for_the_version_first() -> None:
    table = ClientTable()
    key = line(table).start().client.shared_key
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("x"), shared_key=key)
    joined = line(table, client, now=5.0).start(NOON + 5)
    assert [json.loads(text)["type"] for text in joined.to_server] == ["supportedProtocol", "authenticateV2"]
    assert joined.client.protocol_version == 6


def test_packets_are_forwarded_and_paid_for() -> None:
    joined = line(ClientTable()).start()
    for _ in range(3):
        assert joined.client.forward(PACKET, joined.now)
    joined.run()
    assert joined.server_events[-3:] == [ForwardPacket(PACKET)] * 3
    assert joined.client.bandwidth == c.FREE_BANDWIDTH - 3 * 2413
    assert joined.client.counters.packets_forwarded == 3


def test_pushed_messages_reach_the_client_as_messages_and_acks() -> None:
    table = ClientTable()
    joined = line(table).start()
    assert table.deliver(CLIENT, bytes(1643), 0.0) is joined.server
    assert table.deliver(CLIENT, bytes(21), 0.0) is joined.server
    message, ack = joined.run().client_events[-2:]
    assert isinstance(message, Pushed)
    assert isinstance(ack, Pushed)
    assert (len(message.payload), message.is_ack, ack.is_ack) == (1643, False, True)


def test_stored_messages_come_before_the_reply_to_authentication() -> None:
    table = ClientTable()
    first = line(table).start()
    first.server.connection_lost(0.0)
    for octet in (b"1", b"2"):
        assert table.deliver(CLIENT, octet * 30, 0.0) is None
    again = reconnect(table, first)
    assert [isinstance(data, bytes) for data in again.to_client] == [True, True, False]
    assert again.client_events == [Pushed(b"1" * 30), Pushed(b"2" * 30), Authenticated(c.FREE_BANDWIDTH)]
    assert table.stored(CLIENT) == 0


def test_stored_messages_come_before_the_reply_to_registration_under_the_new_key() -> None:
    table = ClientTable()
    table.store(CLIENT, b"early" * 9, 0.0)
    joined = line(table).start()
    assert joined.client_events[0] == Pushed(b"early" * 9)


def test_stored_messages_expire_after_a_day_and_the_inbox_is_bounded() -> None:
    table = ClientTable(max_inbox=3, max_inboxes=2)
    for index in range(5):
        table.store(CLIENT, bytes((index,)), float(index))
    assert table.dropped == 2
    assert list(table.take_stored(CLIENT, 86_403.0)) == [b"\x03", b"\x04"]
    for address in (b"a", b"b", b"c"):
        table.store(address, b"x", 0.0)
    assert table.stored(b"a") == 0
    table.purge(1.0)
    assert table.stored(b"c") == 1
    table.purge(86_500.0)
    assert table.stored(b"c") == 0


def test_client_table_forgets_the_oldest_absent_client_when_full() -> None:
    table = ClientTable(max_clients=2)
    joined = line(table).start()
    for address in (b"a" * 32, b"b" * 32):
        table.register(address, bytes(32))
    assert set(table.records) == {CLIENT, b"b" * 32}
    assert joined.server.state is ServerState.READY


def test_gateway_with_another_key_is_refused() -> None:
    joined = line(ClientTable(), gateway_seed=b"x" * 32).start()
    assert joined.refusal() is Refusal.HANDSHAKE
    assert joined.client.state is ClientState.CLOSED
    assert joined.client.shared_key is None
    assert json.loads(joined.to_server[-1])["type"] == "handshakeError"


def test_wrong_shared_key_is_refused_with_the_text_twice() -> None:
    table = ClientTable()
    line(table).start().server.connection_lost(0.0)
    stranger = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("w"), shared_key=bytes(32))
    joined = line(table, stranger, now=3.0).start(NOON + 3)
    assert joined.errors() == [c.ERROR_BAD_ADDRESS] * 2
    assert joined.refusal() is Refusal.AUTHENTICATION
    assert joined.server_events == [SessionClosed(c.ERROR_BAD_ADDRESS)]


def test_unknown_client_loses_its_key_and_registers_on_the_next_connection() -> None:
    table = ClientTable()
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("n"), shared_key=b"k" * 32)
    joined = line(table, client).start()
    assert joined.refusal() is Refusal.NOT_REGISTERED
    assert joined.errors() == [c.ERROR_NOT_REGISTERED] * 2
    again = reconnect(table, joined)
    assert isinstance(again.client_events[0], Registered)


def test_replayed_authentication_is_refused() -> None:
    table = ClientTable()
    first = line(table).start()
    again = reconnect(table, first)
    [recorded] = again.to_server
    again.server.connection_lost(again.now)
    server = GatewayServerSession(GATEWAY_SEED, table, urandom=randomness("r"))
    server.start(again.now, NOON + again.now)
    server.receive_data(recorded, again.now)
    texts = [wire.decode_response_untrusted(text) for text in server.data_to_send(again.now)]
    assert texts == [wire.ErrorReply(c.ERROR_TIMESTAMP_REUSED)] * 2


def test_second_authentication_within_a_second_waits_for_the_next() -> None:
    table = ClientTable()
    first = line(table).start(NOON + 0.25)
    first.client.connection_lost(0.0)
    first.server.connection_lost(0.0)
    client = first.client.successor()
    assert client.start_delay(NOON + 0.5) == pytest.approx(0.51)
    assert client.start_delay(NOON + 1.0) == 0.0
    again = line(table, client).start(NOON + 0.5)
    assert again.client.state is ClientState.WAITING
    assert again.client_events == [MustWait(pytest.approx(0.51))]
    assert again.to_server == []
    again.advance(0.6)
    assert again.client.state is ClientState.READY


def test_client_whose_clock_was_set_back_far_registers_anew_at_once() -> None:
    table = ClientTable()
    first = line(table).start()
    first.server.connection_lost(0.0)
    client = first.client.successor()
    assert client.start_delay(NOON - 3600) == 0.0
    again = line(table, client).start(NOON - 3600, NOON)
    assert again.client.state is ClientState.READY
    assert isinstance(again.client_events[0], Registered)
    assert again.client.last_auth_timestamp == int(NOON)


def test_clock_set_back_while_waiting_waits_again() -> None:
    table = ClientTable()
    first = line(table).start()
    first.server.connection_lost(0.0)
    again = line(table, first.client.successor()).start(NOON)
    assert again.client.state is ClientState.WAITING
    again.client.update_clock(0.0, NOON - 2)
    again.advance(1.5)
    assert again.client.state is ClientState.WAITING
    again.advance(2.0)
    assert again.client.state is ClientState.READY


@pytest.mark.parametrize("skew", [-200.0, 200.0])
def test_skewed_clock_is_refused_and_the_next_connection_registers(skew: float) -> None:
    table = ClientTable()
    key = line(table).start().client.shared_key
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("k"), shared_key=key)
    table.live.clear()
    joined = line(table, client).start(NOON + skew, NOON)
    assert joined.refusal() is Refusal.CLOCK_SKEW
    assert len(joined.errors()) == 2
    again = line(table, joined.client.successor(), now=2.0).start(NOON + skew + 2, NOON + 2)
    assert isinstance(again.client_events[0], Registered)
    assert again.client.state is ClientState.READY


def test_allowance_ends_at_midnight_and_is_claimed_again_before_the_next_packet() -> None:
    joined = line(ClientTable()).start()
    joined.advance(12 * 3600 + 5)
    joined.client.forward(PACKET, joined.now)
    joined.run()
    assert joined.client_events[-1] == BandwidthChanged(c.FREE_BANDWIDTH)
    assert joined.client.bandwidth == c.FREE_BANDWIDTH - 2413
    assert joined.server_events[-1] == ForwardPacket(PACKET)


def test_allowance_is_claimed_every_day_and_once_a_day() -> None:
    joined = line(ClientTable()).start()
    assert joined.client.counters.claims == 1
    joined.advance(11 * 3600)  # 23:00
    for day in range(2, 6):
        for _ in range(24):
            joined.advance(3600)
            assert joined.client.forward(PACKET, joined.now)
            joined.run()
        assert joined.client.counters.claims == day
        assert joined.client.bandwidth == c.FREE_BANDWIDTH - 24 * 2413
    assert not [event for event in joined.client_events if isinstance(event, OutOfBandwidth)]


def test_day_that_began_without_a_packet_is_claimed_with_the_first_one() -> None:
    joined = line(ClientTable()).start()
    joined.advance(3 * 86400)
    assert joined.client.counters.claims == 1
    joined.client.forward(PACKET, joined.now)
    joined.run()
    assert joined.client.counters.claims == 2
    assert joined.server_events[-1] == ForwardPacket(PACKET)


def test_out_of_bandwidth_claims_again() -> None:
    table = ClientTable()
    joined = line(table).start()
    joined.advance(10)
    table.records[CLIENT].balance = 5
    joined.client.forward(PACKET, joined.now)
    joined.run()
    assert OutOfBandwidth(2413, 5) in joined.client_events
    assert joined.client_events[-1] == BandwidthChanged(c.FREE_BANDWIDTH + 5)
    assert joined.client.counters.packets_refused == 1
    assert not [event for event in joined.server_events if isinstance(event, ForwardPacket)]


def test_low_balance_is_claimed_before_it_runs_out() -> None:
    table = ClientTable()
    joined = line(table).start()
    joined.advance(10)
    table.records[CLIENT].balance = c.BANDWIDTH_THRESHOLD
    for _ in range(2):
        joined.client.forward(PACKET, joined.now)
        joined.run()
    assert joined.client.counters.claims == 2
    assert joined.client.counters.packets_refused == 0


def test_small_allowance_does_not_cause_a_claim_per_packet() -> None:
    joined = line(ClientTable(), server_settings=ServerSettings(free_bandwidth=1_000_000)).start()
    for _ in range(50):
        joined.advance(0.05)
        joined.client.forward(PACKET, joined.now)
        joined.run()
    assert joined.client.counters.claims <= 4


def test_gateway_that_wants_tickets_is_reported_and_the_connection_stays() -> None:
    joined = line(ClientTable(), server_settings=ServerSettings(enforce_tickets=True)).start()
    assert joined.client_events[-1] == GatewayRefused(
        c.ERROR_TICKETS_ONLY, Refusal.TICKETS_REQUIRED, fatal=False
    )
    assert joined.client.state is ClientState.READY
    for _ in range(3):
        joined.client.forward(PACKET, joined.now)
    joined.advance(100)
    assert joined.client.counters.claims == 1
    assert joined.client.counters.packets_refused == 3


def test_tickets_of_a_provider_are_spent_instead_of_free_claims() -> None:
    client = GatewayClient(
        CLIENT_SEED, GATEWAY, urandom=randomness("t"), credential_provider=lambda gateway: b"ticket" + gateway
    )
    options = ServerSettings(enforce_tickets=True, accept_any_ticket=True)
    joined = line(ClientTable(), client, server_settings=options).start()
    assert joined.client_events[-1] == BandwidthChanged(c.TICKET_BANDWIDTH)


def test_refused_ticket_ends_the_claim() -> None:
    client = GatewayClient(
        CLIENT_SEED, GATEWAY, urandom=randomness("t"), credential_provider=lambda gateway: b"ticket"
    )
    joined = line(ClientTable(), client).start()
    assert joined.refusal() is Refusal.ERROR
    assert joined.client.next_deadline() is None


def test_upgrade_mode_needs_no_claims() -> None:
    joined = line(ClientTable(), server_settings=ServerSettings(upgrade_mode=True)).start()
    joined.client.forward(PACKET, joined.now)
    joined.run()
    assert joined.client.counters.claims == 0
    assert joined.client.bandwidth == c.UPGRADE_MODE_BANDWIDTH


def test_client_can_be_forgotten_and_remembered() -> None:
    table = ClientTable()
    joined = line(table).start()
    joined.client.remember_me(joined.now, "Mixnet")
    joined.run()
    assert joined.server_events[-1] == SessionRemembered("Mixnet")
    assert joined.client_events[-1] == RememberAcknowledged()
    joined.client.forget_me(joined.now)
    joined.client.forward(PACKET, joined.now)
    joined.run()
    assert ClientForgotten(CLIENT) in joined.server_events
    assert joined.client_events[-1] == ForgetAcknowledged()
    assert CLIENT not in table.records
    assert joined.server_events[-1] == ForwardPacket(PACKET)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("nonsense", c.ERROR_ONLY_REGISTER_OR_AUTHENTICATE),
        ('{"type":"unknown"}', c.ERROR_ONLY_REGISTER_OR_AUTHENTICATE),
        ('{"type":"claimFreeTestnetBandwidth"}', c.ERROR_ONLY_REGISTER_OR_AUTHENTICATE),
        (
            '{"type":"authenticate","protocol_version":2,"address":"","enc_address":"","iv":""}',
            c.ERROR_LEGACY_AUTHENTICATION,
        ),
        (b"\x01\x01" + bytes(40), c.ERROR_PREMATURE_BINARY),
    ],
)
def test_what_may_not_come_first_is_refused_once(first: str | bytes, message: str) -> None:
    server = GatewayServerSession(GATEWAY_SEED, ClientTable(), urandom=randomness("f"))
    server.start(0.0, NOON)
    server.receive_data(first, 0.0)
    assert server.data_to_send(0.0) == [wire.ErrorReply(message).encode()]
    assert server.next_event() == SessionClosed(message)


def test_pings_before_authentication_end_the_session() -> None:
    for kind in ("ping", "pong"):
        server = GatewayServerSession(GATEWAY_SEED, ClientTable(), urandom=randomness("f"))
        server.start(0.0, NOON)
        getattr(server, f"receive_{kind}")(b"", 0.0)
        [text] = server.data_to_send(0.0)
        assert f"type {kind} which was not expected" in str(text)
    joined = line(ClientTable()).start()
    joined.server.receive_ping(b"", 0.0)
    joined.server.receive_pong(b"1234", 0.0)
    assert joined.server.state is ServerState.READY


def test_silent_connection_is_closed_after_ten_seconds() -> None:
    server = GatewayServerSession(GATEWAY_SEED, ClientTable(), urandom=randomness("f"))
    server.start(0.0, NOON)
    server.receive_data('{"type":"supportedProtocol"}', 4.0)
    server.data_to_send(4.0)
    assert server.next_deadline() == 14.0
    server.handle_deadline(14.0)
    assert server.data_to_send(14.0) == [wire.ErrorReply(c.ERROR_INITIAL_TIMEOUT).encode()]


def handshake_until(step: int) -> Line:
    """Return a line on which *step* messages of the handshake have been delivered."""
    joined = line(ClientTable())
    joined.server.start(0.0, NOON)
    joined.client.start(0.0, NOON)
    for _ in range(2 + step):
        for sender, receiver in ((joined.client, joined.server), (joined.server, joined.client)):
            waiting = sender.data_to_send(0.0)
            if waiting:
                for data in waiting:
                    receiver.receive_data(data, 0.0)
                break
    return joined


def test_stalled_handshake_times_out_on_both_sides_after_five_seconds() -> None:
    joined = handshake_until(1)
    assert joined.server.state is ServerState.HANDSHAKE
    assert joined.server.next_deadline() == joined.client.next_deadline() == 5.0
    joined.client.handle_deadline(5.0)
    refused = joined.client.next_event()
    assert isinstance(refused, GatewayRefused)
    assert refused.kind is Refusal.TIMEOUT
    joined.server.data_to_send(5.0)
    joined.server.handle_deadline(5.0)
    error = c.ERROR_HANDSHAKE_PREFIX + c.ERROR_HANDSHAKE_TIMEOUT
    assert joined.server.data_to_send(5.0) == [
        wire.HandshakeError(c.ERROR_HANDSHAKE_TIMEOUT).encode(),
        *[wire.ErrorReply(error).encode()] * 2,
    ]


def test_texts_that_do_not_belong_to_the_handshake_are_skipped() -> None:
    joined = handshake_until(1)
    joined.server.receive_data("{}", 0.0)
    joined.server.receive_data(b"\x01", 0.0)
    joined.client.receive_data('{"type":"send","remaining_bandwidth":1}', 0.0)
    joined.client.receive_data("[]", 0.0)
    joined.client.receive_data(wire.BandwidthReply(1).encode(), 0.0)
    joined.run()
    assert joined.client.state is ClientState.READY


@pytest.mark.parametrize("data", [b"", bytes(91), bytes(92)])
def test_malformed_client_material_is_refused(data: bytes) -> None:
    joined = handshake_until(1)
    joined.server.receive_data(wire.HandshakePayload(6, data).encode(), 0.0)
    kinds = [json.loads(text)["type"] for text in joined.server.data_to_send(0.0)]
    assert kinds[-3:] == ["handshakeError", "error", "error"]
    assert joined.server.state is ServerState.CLOSED


@pytest.mark.parametrize("data", [b"", bytes(80), b"\x02" + bytes(79), bytes(20)])
def test_malformed_first_message_is_refused(data: bytes) -> None:
    server = GatewayServerSession(GATEWAY_SEED, ClientTable(), urandom=randomness("f"))
    server.start(0.0, NOON)
    server.receive_data(wire.HandshakePayload(6, data).encode(), 0.0)
    error = c.ERROR_HANDSHAKE_PREFIX + c.ERROR_HANDSHAKE_MALFORMED
    assert server.data_to_send(0.0)[1:] == [wire.ErrorReply(error).encode()] * 2


def test_other_side_giving_up_the_handshake_ends_both() -> None:
    joined = handshake_until(1)
    joined.server.receive_data(wire.HandshakeError("no").encode(), 0.0)
    assert joined.server.state is ServerState.CLOSED
    joined = handshake_until(1)
    joined.client.receive_data(wire.HandshakeError("no").encode(), 0.0)
    assert joined.client.next_event() == GatewayRefused("no", Refusal.HANDSHAKE)


@pytest.mark.parametrize("final", [b"", b"\x00", b"\x01\x01"])
def test_handshake_without_confirmation_is_refused(final: bytes) -> None:
    joined = handshake_until(1)
    for data in joined.server.data_to_send(0.0):
        joined.client.receive_data(data, 0.0)
    joined.client.receive_data(wire.HandshakePayload(6, final).encode(), 0.0)
    refused = joined.client.next_event()
    assert isinstance(refused, GatewayRefused)
    assert refused.kind is Refusal.HANDSHAKE


def test_registration_reply_before_the_handshake_ended_is_refused() -> None:
    joined = handshake_until(1)
    for data in joined.server.data_to_send(0.0):
        joined.client.receive_data(data, 0.0)
    joined.client.receive_data(wire.RegisterReply(6, True).encode(), 0.0)
    assert joined.client.state is ClientState.CLOSED
    assert joined.client.shared_key is None


@pytest.mark.parametrize(("theirs", "proposed"), [(4, 4), (5, 5), (6, 6), (9, 6)])
def test_client_proposes_the_lower_version(theirs: int, proposed: int) -> None:
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("v"))
    client.start(0.0, NOON)
    client.data_to_send(0.0)
    client.receive_data(wire.SupportedProtocolReply(theirs).encode(), 0.0)
    [text] = client.data_to_send(0.0)
    assert json.loads(text)["protocol_version"] == proposed


def test_version_4_forwards_without_the_key_rotation() -> None:
    joined = line(ClientTable())
    joined.server.start(0.0, NOON)
    joined.client.start(0.0, NOON)
    joined.client.data_to_send(0.0)
    joined.client.receive_data(wire.SupportedProtocolReply(4).encode(), 0.0)
    joined.run()
    assert joined.client.protocol_version == 4
    joined.client.forward(PACKET, 0.0)
    joined.run()
    assert joined.server_events[-1] == ForwardPacket(MixPacket(PACKET.first_hop, PACKET.packet, 0))


@pytest.mark.parametrize("version", [0, 3])
def test_gateway_of_an_old_protocol_is_refused(version: int) -> None:
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("v"))
    client.start(0.0, NOON)
    client.receive_data(wire.SupportedProtocolReply(version).encode(), 0.0)
    refused = client.next_event()
    assert isinstance(refused, GatewayRefused)
    assert refused.kind is Refusal.VERSION


def test_gateway_choosing_a_newer_protocol_than_ours_is_refused() -> None:
    joined = handshake_until(0)
    joined.client.receive_data(wire.HandshakePayload(7, bytes(124)).encode(), 0.0)
    assert isinstance(refused := joined.client.next_event(), GatewayRefused)
    assert refused.kind is Refusal.VERSION
    client = GatewayClient(
        CLIENT_SEED, GATEWAY, urandom=randomness("v"), shared_key=bytes(32), protocol_version=6
    )
    client.start(0.0, NOON)
    client.receive_data(wire.AuthenticateReply(7, True, 0).encode(), 0.0)
    assert client.state is ClientState.CLOSED


def test_authentication_of_an_old_or_new_version_is_refused() -> None:
    table = ClientTable()
    key = line(table).start().client.shared_key
    assert key is not None
    for version in (3, 7):
        server = GatewayServerSession(GATEWAY_SEED, table, urandom=randomness("s"))
        server.start(10.0, NOON + 10)
        request = authenticate(CLIENT_SEED, key, int(NOON) + 10, version, randomness("q"))
        server.receive_data(request.encode(), 10.0)
        [first, second] = server.data_to_send(10.0)
        assert first == second
        assert f"the client reports {version}" in str(first)
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("v"), shared_key=key, protocol_version=6)
    client.start(0.0, NOON)
    client.receive_data(str(first), 0.0)
    assert isinstance(refused := client.next_event(), GatewayRefused)
    assert refused.kind is Refusal.VERSION


def test_tampered_authentication_is_refused() -> None:
    table = ClientTable()
    key = line(table).start().client.shared_key
    assert key is not None
    request = authenticate(CLIENT_SEED, key, int(NOON) + 10, 6, randomness("q"))
    request.timestamp += 1
    server = GatewayServerSession(GATEWAY_SEED, table, urandom=randomness("s"))
    server.start(10.0, NOON + 10)
    server.receive_data(request.encode(), 10.0)
    assert server.data_to_send(10.0) == [wire.ErrorReply(c.ERROR_BAD_SIGNATURE).encode()] * 2


def test_refused_status_is_an_authentication_failure() -> None:
    for reply in (wire.AuthenticateReply(6, False, 0), wire.BandwidthReply(1)):
        client = GatewayClient(
            CLIENT_SEED, GATEWAY, urandom=randomness("v"), shared_key=bytes(32), protocol_version=6
        )
        client.start(0.0, NOON)
        client.receive_data(reply.encode(), 0.0)
        assert client.state is ClientState.CLOSED


def test_unreadable_reply_during_set_up_ends_the_session() -> None:
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("v"))
    client.start(0.0, NOON)
    client.receive_data('{"type":"newThing"}', 0.0)
    assert isinstance(refused := client.next_event(), GatewayRefused)
    assert refused.kind is Refusal.PROTOCOL


def test_client_does_not_go_deaf_after_an_error() -> None:
    joined = line(ClientTable()).start()
    joined.client.receive_data(wire.ErrorReply("whatever").encode(), 0.0)
    joined.client.receive_data("garbage", 0.0)
    joined.client.receive_data(wire.TicketReplayReply().encode(), 0.0)
    joined.client.receive_data(wire.EncryptedResponse(bytes(20), bytes(12)).encode(), 0.0)
    joined.server.push(b"x" * 30, 0.0)
    joined.run()
    assert joined.client_events[-1] == Pushed(b"x" * 30)
    assert joined.client.counters.dropped_malformed == 2


def test_plain_and_foreign_frames_are_dropped_and_counted() -> None:
    joined = line(ClientTable()).start()
    key = joined.client.shared_key
    assert key is not None
    joined.client.receive_data(b"\x01\x00" + bytes(12) + b"plain message", 0.0)
    joined.client.receive_data(encode_pushed(b"x", b"k" * 32, randomness("f")), 0.0)
    joined.client.receive_data(encode_frame(2, b"x", key, randomness("f")), 0.0)
    joined.client.receive_data(b"\x01", 0.0)
    joined.client.receive_data(b"\x01\x01short", 0.0)
    assert joined.client.next_event() is None
    assert joined.client.counters.dropped_unencrypted == 1
    assert joined.client.counters.dropped_undecryptable == 4


def test_frame_before_any_key_is_dropped() -> None:
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("v"))
    client.start(0.0, NOON)
    client.receive_data(bytes(50), 0.0)
    assert client.counters.dropped_undecryptable == 1


def test_server_answers_malformed_frames_and_stays() -> None:
    joined = line(ClientTable()).start()
    joined.server.receive_data(b"\x07\x00" + bytes(20), 0.0)
    joined.server.receive_data("{", 0.0)
    joined.server.receive_data(wire.EncryptedRequest(bytes(20), bytes(12)).encode(), 0.0)
    joined.server.receive_data(wire.EcashCredential(bytes(20), bytes(12)).encode(), 0.0)
    joined.server.receive_data(wire.UpgradeModeJwt("a.b.c").encode(), 0.0)
    joined.run()
    assert (
        joined.errors()[0]
        == "Provided binary request was malformed - received request with an unknown kind: 7"
    )
    assert len(joined.errors()) == 5
    assert joined.server.state is ServerState.READY


def test_sealed_nonsense_is_answered_with_an_error() -> None:
    joined = line(ClientTable()).start()
    assert joined.client.shared_key is not None
    for plaintext in (
        b'{"ForgetMe":{"client":1,"stats":false}}',
        b"{}",
        b'{"RememberMe":{"session_type":"x"}}',
        b"\xff",
    ):
        sealed = seal(joined.client.shared_key, plaintext, randomness("z"))
        joined.server.receive_data(wire.EncryptedRequest(*sealed).encode(), 0.0)
    joined.run()
    assert len(joined.errors()) == 4


def test_supported_protocol_is_answered_on_an_authenticated_connection() -> None:
    joined = line(ClientTable()).start()
    joined.server.receive_data('{"type":"supportedProtocol"}', 0.0)
    assert joined.server.data_to_send(0.0) == ['{"type":"supportedProtocol","version":6}']


def test_unanswered_control_request_times_out() -> None:
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("v"))
    client.start(0.0, NOON)
    assert client.next_deadline() == 30.0
    client.handle_deadline(29.0)
    assert client.state is ClientState.NEGOTIATING
    client.handle_deadline(30.0)
    assert isinstance(refused := client.next_event(), GatewayRefused)
    assert refused.kind is Refusal.TIMEOUT


def test_queues_are_bounded() -> None:
    small = ClientSettings(max_queued_frames=2, max_events=3)
    joined = line(
        ClientTable(), client_settings=small, server_settings=ServerSettings(max_queued_frames=2)
    ).start()
    assert [joined.client.forward(PACKET, 0.0) for _ in range(3)] == [True, True, False]
    assert [joined.server.push(b"x" * 30, 0.0) for _ in range(3)] == [True, True, False]
    for _ in range(5):
        joined.client.receive_data(wire.ErrorReply("x").encode(), 0.0)
    assert joined.client.counters.dropped_overflow == 2
    for _ in range(5):
        joined.server.receive_data("{", 0.0)
    assert joined.server.state is ServerState.CLOSED


def test_output_respects_the_room_given() -> None:
    joined = line(ClientTable()).start()
    for _ in range(3):
        joined.client.forward(PACKET, 0.0)
        joined.server.push(bytes(1643), 0.0)
    assert [len(data) for data in joined.client.data_to_send(0.0, room=2452 * 2)] == [2452, 2452]
    assert len(joined.client.data_to_send(0.0, room=1)) == 1
    assert [len(data) for data in joined.server.data_to_send(0.0, room=2000)] == [1673]


def test_session_that_is_not_ready_takes_no_commands() -> None:
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("v"))
    assert not client.forward(PACKET, 0.0)
    client.claim_bandwidth(0.0)
    client.forget_me(0.0)
    client.receive_data("{}", 0.0)
    assert client.data_to_send(0.0) == []
    assert client.identity == CLIENT
    server = GatewayServerSession(GATEWAY_SEED, ClientTable(), urandom=randomness("v"))
    assert not server.push(b"x", 0.0)


def test_auto_claim_can_be_switched_off() -> None:
    joined = line(ClientTable(), client_settings=ClientSettings(auto_claim=False)).start()
    joined.client.forward(PACKET, 0.0)
    joined.run()
    assert joined.client.counters.claims == 0
    assert joined.client_events[-1] == OutOfBandwidth(2413, 0)
    joined.client.claim_bandwidth(0.0)
    assert joined.run().client_events[-1] == BandwidthChanged(c.FREE_BANDWIDTH)


# Duplicate connections.


def test_newest_connection_takes_over() -> None:
    table = ClientTable()
    first = line(table).start()
    second = line(table, first.client.successor(), now=2.0).start(NOON + 2)
    assert second.client.state is ClientState.READY
    assert first.server.state is ServerState.CLOSED
    assert table.live[CLIENT] is second.server
    first.server.connection_lost(2.0)
    assert table.live[CLIENT] is second.server
    third = line(table, now=4.0).start(NOON + 4)
    assert third.client.state is ClientState.READY
    assert second.server.state is ServerState.CLOSED


RUST = ServerSettings(newest_wins=False)


def rival(table: ClientTable, first: Line, now: float = 2.0) -> Line:
    return line(table, first.client.successor(), now=now, server_settings=RUST).start(NOON + now)


def test_older_connection_that_answers_the_ping_stays() -> None:
    table = ClientTable()
    first = line(table, server_settings=RUST).start()
    second = rival(table, first)
    assert second.server.state is ServerState.DUPLICATE
    ping = first.run().server_events[-1]
    assert isinstance(ping, PingWanted)
    assert len(ping.payload) == 8
    first.server.receive_pong(b"notthis!", 2.1)
    first.server.receive_pong(ping.payload, 2.1)
    assert first.run().server_events[-1] == ProbeFinished(second.server)
    second.run()
    assert second.refusal() is Refusal.ALREADY_CONNECTED
    assert second.errors() == [c.ERROR_DUPLICATE] * 2
    assert table.live[CLIENT] is first.server


def test_older_connection_that_is_silent_is_replaced_after_a_second() -> None:
    table = ClientTable()
    first = line(table, server_settings=RUST).start()
    second = rival(table, first)
    first.now = 2.0
    first.advance(1.0)
    assert first.server.state is ServerState.CLOSED
    assert ProbeFinished(second.server) in first.server_events
    second.run()
    assert second.client.state is ClientState.READY
    assert table.live[CLIENT] is second.server


def test_older_connection_that_does_not_report_is_replaced_after_two_seconds() -> None:
    table = ClientTable()
    first = line(table, server_settings=RUST).start()
    second = rival(table, first)
    second.advance(2.0)
    assert second.client.state is ClientState.READY
    assert first.server.state is ServerState.CLOSED


def test_older_connection_that_ends_during_the_probe_is_replaced() -> None:
    table = ClientTable()
    first = line(table, server_settings=RUST).start()
    second = rival(table, first)
    first.server.connection_lost(2.2)
    second.run()
    assert second.client.state is ClientState.READY
    assert table.live[CLIENT] is second.server


def test_second_rival_during_a_probe_is_refused() -> None:
    table = ClientTable()
    first = line(table, server_settings=RUST).start()
    second = rival(table, first)
    third = line(table, second.client.successor(), now=3.5, server_settings=RUST).start(NOON + 3.5)
    assert third.refusal() is Refusal.ALREADY_CONNECTED


def test_rival_that_ends_during_the_probe_leaves_the_older_connection_alone() -> None:
    table = ClientTable()
    first = line(table, server_settings=RUST).start()
    second = rival(table, first)
    second.server.connection_lost(2.2)
    first.now = 2.0
    first.advance(5.0)
    assert first.server.state is ServerState.READY


def test_authentication_older_than_the_live_session_is_stale() -> None:
    table = ClientTable()
    first = line(table, server_settings=RUST).start(NOON + 0.5)
    assert first.client.shared_key is not None
    request = authenticate(CLIENT_SEED, first.client.shared_key, int(NOON), 6, randomness("q"))
    server = GatewayServerSession(GATEWAY_SEED, table, urandom=randomness("s"), settings=RUST)
    server.start(0.0, NOON + 0.5)
    server.receive_data(request.encode(), 0.0)
    assert server.data_to_send(0.0) == [wire.ErrorReply(c.ERROR_STALE_AUTHENTICATION).encode()] * 2


def test_registration_while_a_connection_lives_is_refused() -> None:
    table = ClientTable()
    line(table, server_settings=RUST).start()
    second = line(table, now=2.0, server_settings=RUST).start(NOON + 2)
    assert second.errors() == [c.ERROR_DUPLICATE] * 2
    assert second.refusal() is Refusal.ALREADY_CONNECTED


def test_client_forgotten_during_the_probe_is_not_registered() -> None:
    table = ClientTable()
    first = line(table, server_settings=RUST).start()
    second = rival(table, first)
    table.forget(CLIENT)
    first.server.connection_lost(2.1)
    second.run()
    assert second.refusal() is Refusal.NOT_REGISTERED


def test_keys_do_not_show_in_representations() -> None:
    joined = line(ClientTable()).start()
    key = joined.client.shared_key
    assert key is not None
    shown = (
        repr(joined.client_events) + repr(joined.client) + repr(joined.server_events) + repr(Registered(key))
    )
    assert repr(key) not in shown
    assert key.hex() not in shown


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=80), st.binary(max_size=80)), max_size=12), st.integers(0, 5))
def test_garbage_never_raises_at_the_server(garbage: list[str | bytes], step: int) -> None:
    joined = handshake_until(step) if step < 5 else line(ClientTable()).start()
    for data in garbage:
        joined.server.receive_data(data, 0.0)
        joined.server.data_to_send(0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=80), st.binary(max_size=80)), max_size=12), st.integers(0, 5))
def test_garbage_never_raises_at_the_client(garbage: list[str | bytes], step: int) -> None:
    joined = handshake_until(step) if step < 5 else line(ClientTable()).start()
    for data in garbage:
        joined.client.receive_data(data, 0.0)
        joined.client.data_to_send(0.0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["forward", "push", "claim", "reconnect", "midnight", "replay"]), max_size=12),
)
def test_any_sequence_of_events_ends_ready_with_the_same_balance_on_both_sides(actions: list[str]) -> None:
    table = ClientTable()
    joined = line(table).start()
    for action in actions:
        if action == "forward":
            joined.client.forward(PACKET, joined.now)
        elif action == "push":
            table.deliver(CLIENT, bytes(40), joined.now)
        elif action == "claim":
            joined.client.claim_bandwidth(joined.now)
        elif action == "reconnect":
            joined = reconnect(table, joined)
        elif action == "midnight":
            joined.advance(86_400.0)
        elif action == "replay":
            server = GatewayServerSession(GATEWAY_SEED, table, urandom=randomness("a"))
            server.start(joined.now, NOON + joined.now)
            for data in joined.to_server:
                server.receive_data(data, joined.now)
            assert server.state is not ServerState.READY
        joined.run()
    joined.client.forward(PACKET, joined.now)
    joined.run()
    assert joined.client.state is ClientState.READY
    assert joined.client.bandwidth == table.records[CLIENT].balance


def test_last_second_used_is_to_be_stored() -> None:
    joined = line(ClientTable()).start(NOON + 0.9)
    assert joined.client.last_auth_timestamp == int(NOON)
    again = reconnect(ClientTable(), joined)
    assert again.client.last_auth_timestamp == 0  # that table knew nothing of us


def test_reply_that_was_not_asked_for_ends_the_set_up_but_not_a_ready_session() -> None:
    client = GatewayClient(CLIENT_SEED, GATEWAY, urandom=randomness("v"))
    client.start(0.0, NOON)
    client.receive_data(wire.BandwidthReply(1).encode(), 0.0)
    assert isinstance(refused := client.next_event(), GatewayRefused)
    assert refused.kind is Refusal.PROTOCOL
    joined = line(ClientTable()).start()
    joined.client.receive_data(wire.SupportedProtocolReply(6).encode(), 0.0)
    assert joined.client.state is ClientState.READY


def test_text_while_waiting_for_the_clock_is_ignored() -> None:
    table = ClientTable()
    first = line(table).start()
    again = line(table, first.client.successor()).start()
    again.client.receive_data(wire.BandwidthReply(1).encode(), 0.0)
    again.client.receive_data("nonsense", 0.0)
    assert again.client.state is ClientState.WAITING


def test_registration_reply_of_a_newer_protocol_is_refused() -> None:
    joined = handshake_until(3)
    final, _ = joined.server.data_to_send(0.0)
    joined.client.receive_data(final, 0.0)
    joined.client.receive_data(wire.RegisterReply(7, True).encode(), 0.0)
    assert isinstance(refused := joined.client.next_event(), GatewayRefused)
    assert refused.kind is Refusal.VERSION


def test_forgetting_statistics_keeps_the_registration() -> None:
    table = ClientTable()
    joined = line(table).start()
    joined.client.forget_me(0.0, client=False, stats=True)
    assert joined.run().client_events[-1] == ForgetAcknowledged()
    assert CLIENT in table.records


def test_unanswered_claim_ends_the_session() -> None:
    client = line(ClientTable()).start().client
    client.claim_bandwidth(5.0)
    client.claim_bandwidth(6.0)
    assert client.counters.claims == 2
    assert client.next_deadline() == 35.0
    client.handle_deadline(35.0)
    assert isinstance(refused := client.next_event(), GatewayRefused)
    assert refused.kind is Refusal.TIMEOUT


def test_malformed_packet_error_does_not_answer_a_claim() -> None:
    client = line(ClientTable()).start().client
    client.claim_bandwidth(5.0)
    client.receive_data(wire.ErrorReply(c.ERROR_MALFORMED_BINARY_PREFIX + "x").encode(), 5.0)
    assert client.next_deadline() == 35.0
    client.receive_data(wire.OutOfBandwidthReply(1, 0).encode(), 6.0)
    assert client.counters.claims == 2


def test_lost_connection_closes_quietly() -> None:
    joined = line(ClientTable()).start()
    joined.client.forward(PACKET, 0.0)
    joined.client.connection_lost(0.0)
    assert joined.client.state is ClientState.CLOSED
    assert joined.client.data_to_send(0.0) == []
    assert joined.client.next_event() is None
    joined.server.connection_lost(0.0)
    joined.server.connection_lost(0.0)
    joined.server.replace(0.0)
    assert [joined.server.next_event() for _ in range(2)] == [SessionClosed("connection lost"), None]
