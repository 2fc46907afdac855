"""Properties of the gateway's codecs: what is written is read back, garbage raises WireError only."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.gateway import text as wire
from smolmix_sync.mixnet.gateway.authentication import address_is_sealed_with
from smolmix_sync.mixnet.gateway.final_hop import split_payload_untrusted
from smolmix_sync.mixnet.gateway.frames import (
    PlainFrameError,
    decode_forward_untrusted,
    decode_pushed_untrusted,
    encode_forward,
    encode_frame,
    encode_pushed,
)
from smolmix_sync.mixnet.gateway.handshake import ClientHandshake, GatewayHandshake
from smolmix_sync.mixnet.gateway.sealing import open_untrusted, seal
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress

KEY = bytes(range(32))

octets = st.binary(max_size=60)
u8 = st.integers(0, 255)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)

requests = st.one_of(
    st.just(wire.SupportedProtocol()),
    st.just(wire.ClaimFreeTestnetBandwidth()),
    st.builds(wire.HandshakePayload, u8, octets, st.booleans()),
    st.builds(
        wire.AuthenticateV2,
        u8,
        st.binary(min_size=32, max_size=32),
        octets,
        octets,
        st.integers(0, (1 << 64) - 1),
        st.binary(min_size=64, max_size=64),
    ),
    st.builds(wire.EcashCredential, octets, octets),
    st.builds(wire.EncryptedRequest, octets, octets),
    st.builds(wire.UpgradeModeJwt, st.text(max_size=20)),
    st.builds(wire.LegacyAuthenticate, st.none() | u8, st.text(max_size=5), st.text(max_size=5), st.just("")),
    st.builds(wire.LegacyCredential, st.just("bandwidthCredential"), octets, octets),
)
responses = st.one_of(
    st.builds(wire.SupportedProtocolReply, u8),
    st.builds(wire.RegisterReply, u8, st.booleans(), st.booleans()),
    st.builds(wire.AuthenticateReply, u8, st.booleans(), i64, st.booleans()),
    st.builds(wire.BandwidthReply, i64, st.booleans()),
    st.builds(wire.SendReply, i64, st.booleans()),
    st.builds(wire.EncryptedResponse, octets, octets),
    st.builds(wire.ErrorReply, st.text(max_size=20)),
    st.builds(wire.OutOfBandwidthReply, i64, i64),
    st.just(wire.TicketReplayReply()),
)
handshakes = st.one_of(
    st.builds(wire.HandshakePayload, u8, octets), st.builds(wire.HandshakeError, st.text(max_size=20))
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DECODERS = (wire.decode_request_untrusted, wire.decode_response_untrusted, wire.decode_handshake_untrusted)
FIELDS = [
    *("protocol_version", "data", "status", "upgrade_mode", "bandwidth_remaining", "available_total"),
    *("remaining_bandwidth", "ciphertext", "nonce", "message", "error", "protocolVersion", "clientIdentity"),
    *("addressCiphertext", "requestUnixTimestamp", "requestSignature", "enc_credential", "iv", "token"),
    *("address", "enc_address", "version"),
]
TYPES = [
    *("supportedProtocol", "handshakePayload", "authenticateV2", "claimFreeTestnetBandwidth", "register"),
    *("ecashCredential", "upgradeModeJWT", "encryptedRequest", "authenticate", "bandwidthCredential"),
    *("bandwidth", "send", "error", "encryptedResponse", "typedError", "handshakeError"),
]


@given(requests)
def test_requests_are_read_back(request: wire.Request) -> None:
    assert wire.decode_request_untrusted(request.encode()) == request


@given(responses)
def test_responses_are_read_back(response: wire.Response) -> None:
    assert wire.decode_response_untrusted(response.encode()) == response


@given(handshakes)
def test_handshake_messages_are_read_back(message: wire.HandshakeMessage) -> None:
    assert wire.decode_handshake_untrusted(message.encode()) == message


@given(st.text(max_size=200))
@example('{"type":"ecashCredential","enc_credential":[1],"iv":[2],"nonce":[3]}')
@example("\ufeff{}")
def test_text_garbage_raises_only_wire_error(text: str) -> None:
    for decode in DECODERS:
        try:
            message = decode(text)
        except WireError:
            continue
        assert decode(message.encode()) == message


@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_fields_of_wrong_types_raise_only_wire_error(tag: str, fields: dict[str, object]) -> None:
    text = json.dumps({"type": tag, **fields})
    for decode in DECODERS:
        try:
            message = decode(text)
        except WireError:
            continue
        assert decode(message.encode()) == message


@given(st.binary(max_size=80))
@example(b'{"ForgetMe":{"client":true,"stats":false},"RememberMe":{}}')
@example(b'{"ForgetMe":null}')
@example(b'{"Other":{}}')
def test_sealed_garbage_raises_only_wire_error(plaintext: bytes) -> None:
    for decode in (wire.decode_sensitive_request_untrusted, wire.decode_sensitive_response_untrusted):
        try:
            message = decode(plaintext)
        except WireError:
            continue
        assert decode(message.encode()) == message


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"error","message":"\\ud800"}',
        '{"type":"error","message":NaN}',
        "[" * 60_000,
        '{"type":"supportedProtocol","version":' + "9" * 5000 + "}",
        '{"type":["supportedProtocol"]}',
        '{"type":"send","type":"send","remaining_bandwidth":1}',
        '{"type":"send","remaining_bandwidth":1.0}',
        '{"type":"send","remaining_bandwidth":true}',
        '{"type":"send","remaining_bandwidth":9223372036854775808}',
        '{"type":"typedError","error":{"out_of_bandwidth":{},"ticket_replay":null}}',
    ],
)
def test_what_the_reference_refuses_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        wire.decode_response_untrusted(text)


def test_oversized_text_is_refused() -> None:
    text = wire.HandshakePayload(6, bytes(wire.MAX_TEXT_SIZE)).encode()
    with pytest.raises(WireError, match="longer"):
        wire.decode_request_untrusted(text)


@given(st.binary(max_size=100))
@example(b"")
@example(b"\x01\x00")
@example(b"\x01\x00" + bytes(11))
@example(b"\x02\x00" + bytes(12))
@example(b"\x02\x00" + bytes(12) + b"\x02\x00" + bytes(20))
def test_frame_garbage_raises_only_wire_error(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode_forward_untrusted(frame, KEY)
    with pytest.raises(WireError):
        decode_pushed_untrusted(frame, KEY)


@given(st.integers(0, 2), st.booleans(), st.sampled_from([386, 2413, 8557, 16749, 33133]))
def test_forwarded_packets_are_read_back(rotation: int, ipv6: bool, size: int) -> None:
    packet = MixPacket(NodeAddress("2001:db8::1" if ipv6 else "192.0.2.1", 1789), bytes(size), rotation)
    assert decode_forward_untrusted(encode_forward(packet, KEY, bytes, 6), KEY) == packet


@given(st.binary(max_size=100), st.integers(0, 200))
def test_changed_frames_are_not_read(payload: bytes, position: int) -> None:
    frame = bytearray(encode_pushed(payload, KEY, bytes))
    assert decode_pushed_untrusted(bytes(frame), KEY) == payload
    frame[position % len(frame)] ^= 0x40
    with pytest.raises(WireError):
        decode_pushed_untrusted(bytes(frame), KEY)


def test_plain_frames_are_told_apart() -> None:
    with pytest.raises(PlainFrameError):
        decode_pushed_untrusted(b"\x01\x00" + bytes(12) + b"hello", KEY)


@given(st.binary(max_size=500))
def test_sealing_is_undone_by_the_same_key_only(plaintext: bytes) -> None:
    ciphertext, nonce = seal(KEY, plaintext, bytes)
    assert open_untrusted(KEY, ciphertext, nonce) == plaintext
    for wrong in ((bytes(32), ciphertext, nonce), (KEY, ciphertext, nonce[1:]), (KEY, ciphertext[:8], nonce)):
        with pytest.raises(WireError):
            open_untrusted(*wrong)


@given(st.binary(max_size=200))
@example(bytes(124))
@example(bytes(80))
@example(bytes(92))
def test_handshake_garbage_raises_only_wire_error(data: bytes) -> None:
    client = ClientHandshake(KEY, bytes(32), lambda size: b"\x07" * size)
    with pytest.raises(WireError):
        client.receive_untrusted(data)
    gateway = GatewayHandshake(KEY, lambda size: b"\x08" * size)
    try:
        gateway.respond_untrusted(data)
    except WireError:
        assert len(data) != 80 or not any(data[32:64])
    gateway.respond_untrusted(client.init())
    with pytest.raises(WireError):
        gateway.finish_untrusted(data)


@given(st.binary(max_size=450))
@example(bytes(405))
@example(bytes(404))
def test_final_hop_garbage_raises_only_wire_error(payload: bytes) -> None:
    try:
        split = split_payload_untrusted(payload, 1)
    except WireError:
        return
    if split.ack is None:
        assert split.message == payload
    else:
        assert len(split.message) == len(payload) - 405


def test_ack_payload_goes_to_the_client_whole() -> None:
    assert split_payload_untrusted(b"a" * 21, 1).message == b"a" * 21


def test_authentication_fields_have_fixed_sizes() -> None:
    good = json.loads(wire.AuthenticateV2(6, bytes(32), bytes(48), bytes(12), 1, bytes(64)).encode())
    wire.decode_request_untrusted(json.dumps(good))
    for name, value in (
        ("clientIdentity", [0] * 31),
        ("requestSignature", [0] * 65),
        ("nonce", "AAA"),
        ("nonce", "A A="),
        ("addressCiphertext", "\u00e9"),
        ("requestUnixTimestamp", 1 << 64),
    ):
        with pytest.raises(WireError):
            wire.decode_request_untrusted(json.dumps({**good, name: value}))


def test_nonce_of_a_wrong_size_does_not_authenticate() -> None:
    request = wire.AuthenticateV2(6, bytes(32), bytes(48), bytes(11), 1, bytes(64))
    assert not address_is_sealed_with(KEY, request)


def test_forwarded_packet_of_a_strange_size_is_named() -> None:
    plaintext = MixPacket(NodeAddress("192.0.2.1", 1), bytes(100)).encode()
    with pytest.raises(WireError, match="failed to serialise created sphinx packet: 100 octets"):
        decode_forward_untrusted(encode_frame(2, plaintext, KEY, bytes), KEY)
