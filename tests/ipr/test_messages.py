"""Requests and responses of every version: round trips, garbage, and what the caller must not do."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smolmix_sync.address import Recipient
from smolmix_sync.crypto import ed25519_public_from_seed, ed25519_sign
from smolmix_sync.errors import WireError
from smolmix_sync.ipr import legacy, reasons, requests, responses
from smolmix_sync.ipr.signing import is_acceptable, sign, verify
from smolmix_sync.ipr.values import IpPair, Timestamp

SEED = bytes(range(32))
KEY = ed25519_public_from_seed(SEED)
ME = Recipient(KEY, bytes(32), KEY)

ids = st.integers(0, 2**64 - 1)
stamps = st.integers(-(10**18), 10**19).map(Timestamp.from_unix_nanos)
pairs = st.builds(
    IpPair, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).filter(lambda a: not a.scope_id).map(str)
)
octet = st.integers(0, 255)


def reason_of(kind: type[reasons.ReasonKind]) -> st.SearchStrategy[reasons.Reason]:
    plain = [reasons.Reason(member) for member in kind if not member.is_other()]
    return st.sampled_from(plain) | st.text().map(lambda text: reasons.Reason(kind["OTHER"], text))


builds = st.builds(reasons.BuildInfo, *[st.text(max_size=8)] * 10)
infos = (
    st.builds(reasons.GenericInfo, st.text())
    | st.builds(reasons.VersionMismatch, octet, octet)
    | st.builds(reasons.ExitPolicyFilterCheckFailed, st.text())
)
levels = st.sampled_from(reasons.InfoLevel)
routable = st.none() | st.booleans()
current = st.sampled_from(requests.CURRENT_VERSIONS)

current_requests = (
    st.builds(requests.DataRequest, current, st.binary(max_size=400))
    | st.builds(requests.ConnectRequest, current, ids, stamps, st.none() | ids)
    | st.builds(requests.DisconnectRequest, current, ids, stamps)
    | st.builds(requests.PingRequest, current, ids, stamps)
    | st.builds(requests.HealthRequest, current, ids, stamps)
)
current_responses = (
    st.builds(responses.DataResponse, current, st.binary(max_size=400))
    | st.builds(
        responses.ConnectResponse, st.sampled_from([8, 9]), ids, st.builds(responses.ConnectSuccess, pairs)
    )
    | st.builds(
        responses.ConnectResponse,
        st.just(10),
        ids,
        st.builds(responses.ConnectSuccess, pairs, st.integers(0, 65535)),
    )
    | st.builds(responses.ConnectResponse, current, ids, reason_of(reasons.ConnectFailure))
    | st.builds(responses.DisconnectResponse, current, ids, st.none() | reason_of(reasons.DisconnectFailure))
    | st.builds(responses.UnrequestedDisconnect, current, reason_of(reasons.UnrequestedReason))
    | st.builds(responses.PongResponse, current, ids)
    | st.builds(responses.HealthResponse, current, ids, builds, routable)
    | st.builds(responses.InfoResponse, current, ids, infos, levels)
)


def legacy_requests(version: int) -> st.SearchStrategy[legacy.LegacyRequest]:
    stamp = stamps if version == 7 else st.none()
    signature = st.none() | st.binary(min_size=64, max_size=64) if version == 7 else st.none()
    v, me = st.just(version), st.just(ME)
    delays = st.none() | st.floats(allow_nan=False)
    return (
        st.builds(
            legacy.LegacyConnectRequest,
            *(v, ids, me, st.none() | pairs, st.none() | octet, delays, st.none() | ids, stamp, signature),
        )
        | st.builds(legacy.LegacyDisconnectRequest, v, ids, me, stamp, signature)
        | st.builds(legacy.LegacyDataRequest, v, st.binary(max_size=400))
        | st.builds(legacy.LegacyPingRequest, v, ids, me, stamp)
        | st.builds(legacy.LegacyHealthRequest, v, ids, me, stamp)
    )


def legacy_responses(version: int) -> st.SearchStrategy[legacy.LegacyResponse]:
    v, me, none = st.just(version), st.just(ME), st.none()
    static = {6: reasons.StaticConnectFailureV6, 7: reasons.StaticConnectFailureV7}[version]
    connect = legacy.LegacyConnectResponse
    return (
        st.builds(connect, v, ids, me, st.just(True), none, none | reason_of(static))
        | st.builds(connect, v, ids, me, st.just(False), pairs, none)
        | st.builds(connect, v, ids, me, st.just(False), none, reason_of(reasons.DynamicConnectFailure))
        | st.builds(
            legacy.LegacyDisconnectResponse, v, ids, me, none | reason_of(reasons.LegacyDisconnectFailure)
        )
        | st.builds(legacy.LegacyUnrequestedDisconnect, v, me, reason_of(reasons.UnrequestedReason))
        | st.builds(legacy.LegacyDataResponse, v, st.binary(max_size=400))
        | st.builds(legacy.LegacyPongResponse, v, ids, me)
        | st.builds(legacy.LegacyHealthResponse, v, ids, me, builds, routable)
        | st.builds(legacy.LegacyInfoResponse, v, ids, me, infos, levels)
    )


CODECS = {
    "requests": (current_requests, requests.decode_request_untrusted),
    "responses": (current_responses, responses.decode_response_untrusted),
    "v6 requests": (legacy_requests(6), legacy.decode_legacy_request_untrusted),
    "v7 requests": (legacy_requests(7), legacy.decode_legacy_request_untrusted),
    "v6 responses": (legacy_responses(6), legacy.decode_legacy_response_untrusted),
    "v7 responses": (legacy_responses(7), legacy.decode_legacy_response_untrusted),
}


@pytest.mark.parametrize("kind", CODECS)
@given(st.data())
def test_messages_come_back_and_no_truncation_or_extension_is_accepted(kind: str, data: Any) -> None:
    strategy, decode = CODECS[kind]
    message = data.draw(strategy)
    wire = message.encode()
    assert decode(wire) == message
    with pytest.raises(WireError):
        decode(wire + b"\0")
    with pytest.raises(WireError):
        decode(wire[: data.draw(st.integers(0, len(wire) - 1))])


@pytest.mark.parametrize("kind", CODECS)
@given(st.data())
def test_altered_messages_raise_only_wire_error_and_still_come_back(kind: str, data: Any) -> None:
    strategy, decode = CODECS[kind]
    wire = bytearray(data.draw(strategy).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(octet)
    with contextlib.suppress(WireError):
        message = decode(bytes(wire))
        again = message.encode()
        # Not the same octets: longer varints are accepted. NaN is not equal to itself.
        assert decode(again).encode() == again


@given(st.binary(max_size=60), st.sampled_from([8, 9, 10, None]))
@example(b"", 9)
@example(b"\x0b\x01\x03\x01", None)
def test_garbage_raises_only_wire_error(data: bytes, layout: int | None) -> None:
    for first in (b"", b"\x06", b"\x07", b"\x09", b"\x09\x01\x01", b"\x0a\x01"):
        for decode in (
            requests.decode_request_untrusted,
            legacy.decode_legacy_request_untrusted,
            legacy.decode_legacy_response_untrusted,
        ):
            with contextlib.suppress(WireError):
                decode(first + data)
        with contextlib.suppress(WireError):
            responses.decode_response_untrusted(first + data, layout)


def test_only_the_ip_packet_router_is_asked() -> None:
    wire = bytearray(requests.PingRequest(9, 1, Timestamp.from_unix(0)).encode())
    for provider in (0, 2, 3):
        wire[1] = provider
        with pytest.raises(WireError, match="service provider"):
            requests.decode_request_untrusted(bytes(wire))
    with pytest.raises(WireError):
        requests.decode_request_untrusted(b"\x09\xfb\x00" + bytes(wire[1:]))


def test_what_a_version_does_not_have_is_the_callers_fault() -> None:
    stamp, pair = Timestamp.from_unix(0), IpPair("10.0.0.2", "fc00::2")
    with pytest.raises(ValueError, match="MTU"):
        responses.ConnectResponse(9, 1, responses.ConnectSuccess(pair, 1420)).encode()
    with pytest.raises(ValueError, match="MTU"):
        responses.ConnectResponse(10, 1, responses.ConnectSuccess(pair)).encode()
    with pytest.raises(ValueError, match="timestamp"):
        legacy.LegacyPingRequest(6, 1, ME, stamp).encode()
    with pytest.raises(ValueError, match="timestamp"):
        legacy.LegacyPingRequest(7, 1, ME).encode()
    with pytest.raises(ValueError, match="signatures"):
        legacy.LegacyDisconnectRequest(6, 1, ME, None, bytes(64)).encode()
    with pytest.raises(ValueError, match="addresses"):
        legacy.LegacyConnectResponse(7, 1, ME, True, pair).encode()


def test_reasons_read_as_the_sdk_words_them() -> None:
    kinds = reasons
    assert str(kinds.Reason(kinds.ConnectFailure.CLIENT_ALREADY_CONNECTED)) == "client is already connected"
    assert str(kinds.Reason(kinds.ConnectFailure.NO_AVAILABLE_IP)) == "no available ip address"
    assert str(kinds.Reason(kinds.ConnectFailure.OTHER, "because")) == "because"
    assert str(kinds.Reason(kinds.DisconnectFailure.CLIENT_NOT_CONNECTED)) == "client is not connected"
    timeouts = [str(kinds.Reason(kind)) for kind in list(kinds.UnrequestedReason)[:2]]
    assert timeouts == ["client mixnet traffic timeout", "client tun traffic timeout"]
    # Enums of different versions share numbers, not texts.
    assert str(kinds.Reason(kinds.DynamicConnectFailure.NO_AVAILABLE_IP)) == "no available ip"
    assert str(kinds.GenericInfo("hello")) == "hello"
    assert str(kinds.VersionMismatch(9, 8)) == "version mismatch: request v9, response v8"
    refused = str(kinds.ExitPolicyFilterCheckFailed("1.2.3.4:25"))
    assert refused == "destination failed exit policy filter check: 1.2.3.4:25"


NOW = 1_800_000_000.0


def signed(age: float = 0.0) -> legacy.LegacyConnectRequest:
    request = legacy.LegacyConnectRequest(7, 5, ME, timestamp=Timestamp.from_unix(NOW - age))
    return sign(request, SEED)


def test_a_recent_signed_request_is_acceptable() -> None:
    assert is_acceptable(signed(), NOW)
    assert is_acceptable(signed(10.0), NOW)
    assert is_acceptable(signed(-3600), NOW)


def test_a_late_unsigned_or_altered_request_is_not() -> None:
    assert not is_acceptable(signed(10.1), NOW)
    request = signed()
    request.request_id += 1
    assert not verify(request)
    request.signature = None
    assert not is_acceptable(request, NOW)
    assert not is_acceptable(legacy.LegacyDisconnectRequest(6, 1, ME), NOW)
    wrong = sign(legacy.LegacyDisconnectRequest(7, 1, ME, Timestamp.from_unix(NOW)), bytes(32))
    assert not is_acceptable(wrong, NOW)


def test_a_longer_varint_breaks_the_signature_as_at_the_real_exit() -> None:
    request = legacy.LegacyConnectRequest(7, 5, ME, timestamp=Timestamp.from_unix(NOW))
    minimal = request.signable()
    assert minimal[0] == 5
    longer = b"\xfb\x00" + minimal
    wire = b"\x07\x01" + longer + b"\x01\x40" + ed25519_sign(SEED, longer)
    decoded = legacy.decode_legacy_request_untrusted(wire)
    assert isinstance(decoded, legacy.LegacyConnectRequest)
    assert decoded.request_id == 5
    assert not verify(decoded)
