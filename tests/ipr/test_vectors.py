"""Every case of the ipr_*.json vectors, encoded and decoded."""

from __future__ import annotations

from typing import Any

import pytest
from support import vectors

from smolmix_sync.address import Recipient
from smolmix_sync.crypto import ed25519_public_from_seed
from smolmix_sync.errors import WireError
from smolmix_sync.ipr import legacy, reasons, requests, responses
from smolmix_sync.ipr.bincode import Reader, Writer
from smolmix_sync.ipr.codec import BundleEncoder, bundle, split_bundle, unbundle_untrusted
from smolmix_sync.ipr.lp import LpFrame, LpKind, StreamFrame, StreamMessageType
from smolmix_sync.ipr.signing import sign, verify
from smolmix_sync.ipr.values import IpPair, Timestamp
from smolmix_sync.nodeversion import best_ipr_version

Case = dict[str, Any]


def ip_pair(value: Case) -> IpPair:
    return IpPair(value["ipv4"], value["ipv6"])


def timestamp(value: Case) -> Timestamp:
    result = Timestamp(*value["tuple"])
    if "unix_nanos" in value:
        assert result.unix_nanos == int(value["unix_nanos"])
        assert Timestamp.from_unix_nanos(int(value["unix_nanos"])) == result
    return result


def optional_int(value: Any) -> int | None:
    return None if value is None else int(value)


# ipr_bincode


def check_encode(case: Case) -> None:
    kind, wire = case["type"], bytes.fromhex(case["hex"])
    value = case.get("value")
    writer, reader = Writer(), Reader(wire)
    if kind in ("u16", "u32", "u64"):
        value = int(value)
        writer.varint(value)
        back: Any = reader.varint(int(kind[1:]))
    elif kind in ("i16", "i32", "i64"):
        value = int(value)
        writer.zigzag(value)
        back = reader.zigzag(int(kind[1:]))
    elif kind == "u8":
        value = int(value)
        writer.u8(value)
        back = reader.u8()
    elif kind == "i8":
        value = int(value)
        writer.i8(value)
        back = reader.i8()
    elif kind == "bool":
        writer.flag(value)
        back = reader.flag()
    elif kind == "f64":
        writer.f64(value)
        back = reader.f64()
    elif kind == "option<u64>":
        value = optional_int(value)
        writer.option(value, writer.varint)
        back = reader.option(reader.varint)
    elif kind == "option<bool>":
        writer.option(value, writer.flag)
        back = reader.option(reader.flag)
    elif kind == "string":
        writer.string(value)
        back = reader.string()
    elif kind == "bytes":
        value = bytes.fromhex(case["value_hex"])
        writer.blob(value)
        back = reader.blob()
    elif kind == "ip_pair":
        value = ip_pair(value)
        writer.ip_pair(value)
        back = reader.ip_pair()
    elif kind == "offset_date_time":
        value = timestamp(value)
        writer.timestamp(value)
        back = reader.timestamp()
    elif kind == "recipient":
        value = Recipient.parse(value)
        assert value.encode().hex() == case["raw_hex"]
        writer.recipient(value)
        back = reader.recipient()
    else:
        pytest.fail(f"no check for the type {kind}")
    reader.end()
    assert writer.getvalue() == wire
    assert back == value


def check_decode(case: Case) -> None:
    reader = Reader(bytes.fromhex(case["hex"]))
    read = {
        "u8": reader.u8,
        "i8": reader.i8,
        "u16": lambda: reader.varint(16),
        "u32": lambda: reader.varint(32),
        "u64": lambda: reader.varint(64),
        "i16": lambda: reader.zigzag(16),
        "i32": lambda: reader.zigzag(32),
        "i64": lambda: reader.zigzag(64),
        "bool": reader.flag,
        "option<bool>": lambda: reader.option(reader.flag),
        "option<u64>": lambda: reader.option(reader.varint),
        "string": reader.string,
        "f64": reader.f64,
    }[case["type"]]
    if "ok" not in case["result"]:
        with pytest.raises(WireError):
            read(), reader.end()
        return
    value = read()
    reader.end()
    shown = case["result"]["ok"]
    # The recorded text is Rust's Debug form.
    if case["type"] == "string":
        assert shown == f'"{value}"'
    elif case["type"] == "f64":
        assert float(shown) == value
    elif value is None:
        assert shown == "None"
    else:
        inner = str(value).lower() if isinstance(value, bool) else str(value)
        assert shown == (f"Some({inner})" if case["type"].startswith("option") else inner)


def test_bincode_vectors_are_written_and_read_alike() -> None:
    vectors.run("ipr_bincode.json", {"encode": check_encode, "decode": check_decode})


# ipr_requests, ipr_v10.requests, ipr_signing


def legacy_request(case: Case, version: int) -> legacy.LegacyRequest:
    kind, f = case["kind"], case["fields"]
    if kind == "Data":
        return legacy.LegacyDataRequest(version, bytes.fromhex(f["ip_packets_hex"]))
    request_id, reply_to = int(f["request_id"]), Recipient.parse(f["reply_to"])
    when = timestamp(f["timestamp"]) if "timestamp" in f else None
    signature = bytes.fromhex(f["signature"]) if f.get("signature") else None
    if kind in ("StaticConnect", "DynamicConnect"):
        return legacy.LegacyConnectRequest(
            version,
            request_id,
            reply_to,
            ip_pair(f["ips"]) if kind == "StaticConnect" else None,
            f["reply_to_hops"],
            f["reply_to_avg_mix_delays"],
            optional_int(f["buffer_timeout"]),
            when,
            signature,
        )
    if kind == "Disconnect":
        return legacy.LegacyDisconnectRequest(version, request_id, reply_to, when, signature)
    simple = {"Ping": legacy.LegacyPingRequest, "Health": legacy.LegacyHealthRequest}[kind]
    return simple(version, request_id, reply_to, when)


def current_request(case: Case, version: int) -> requests.Request:
    kind, f = case["kind"], case["fields"]
    if kind == "Data":
        return requests.DataRequest(version, bytes.fromhex(f["ip_packets_hex"]))
    request_id, when = int(f["request_id"]), timestamp(f["timestamp"])
    if kind == "Connect":
        return requests.ConnectRequest(version, request_id, when, optional_int(f["buffer_timeout"]))
    simple = {
        "Disconnect": requests.DisconnectRequest,
        "Ping": requests.PingRequest,
        "Health": requests.HealthRequest,
    }[kind]
    return simple(version, request_id, when)


def check_request(case: Case, version: int | None = None) -> None:
    version = version or int(case["version"])
    wire = bytes.fromhex(case["hex"])
    if version < 8:
        request: Any = legacy_request(case, version)
        assert legacy.decode_legacy_request_untrusted(wire) == request
    else:
        request = current_request(case, version)
        assert requests.decode_request_untrusted(wire) == request
    assert request.encode() == wire


def test_request_vectors_are_encoded_and_decoded() -> None:
    vectors.run("ipr_requests.json", {"vectors": check_request})


def check_signing(case: Case) -> None:
    seed, public, signable, signature, unsigned, signed = vectors.unhex(
        case,
        "ed25519_seed_hex",
        "ed25519_public_hex",
        "signable_hex",
        "signature_hex",
        "unsigned_message_hex",
        "signed_message_hex",
    )
    request = legacy.decode_legacy_request_untrusted(unsigned)
    assert isinstance(request, legacy.LegacyConnectRequest | legacy.LegacyDisconnectRequest)
    assert request.reply_to == Recipient.parse(case["reply_to"])
    assert request.reply_to.identity == public == ed25519_public_from_seed(seed)
    assert request.signable() == signable
    assert request.encode() == unsigned
    assert not verify(request)
    done = sign(request, seed)
    assert done.signature == signature
    assert done.encode() == signed
    assert legacy.decode_legacy_request_untrusted(signed) == done
    assert verify(done)


def test_signing_vectors_are_signed_and_verified() -> None:
    vectors.run("ipr_signing.json", {"vectors": check_signing})


# ipr_responses, ipr_v10


def reason(value: Any, kind: type[reasons.ReasonKind]) -> reasons.Reason:
    if isinstance(value, dict):
        return reasons.Reason(kind["OTHER"], value["Other"])
    name = "".join("_" + c if c.isupper() else c for c in value).upper().lstrip("_")
    return reasons.Reason(kind[name])


def failure(reply: Any, kind: type[reasons.ReasonKind]) -> reasons.Reason | None:
    return None if reply == "Success" or "Success" in reply else reason(reply["Failure"], kind)


def info(reply: Case) -> tuple[reasons.InfoReply, reasons.InfoLevel]:
    level = reasons.InfoLevel[reply["level"].upper()]
    if "Generic" in reply:
        return reasons.GenericInfo(reply["Generic"]), level
    if "VersionMismatch" in reply:
        return reasons.VersionMismatch(**reply["VersionMismatch"]), level
    return reasons.ExitPolicyFilterCheckFailed(reply["ExitPolicyFilterCheckFailed"]), level


def legacy_response(case: Case, version: int) -> legacy.LegacyResponse:
    kind, reply = case["kind"], case.get("reply")
    if kind == "Data":
        return legacy.LegacyDataResponse(version, bytes.fromhex(case["ip_packet_hex"]))
    reply_to = Recipient.parse(case["reply_to"])
    if kind == "UnrequestedDisconnect":
        return legacy.LegacyUnrequestedDisconnect(version, reply_to, reason(reply, reasons.UnrequestedReason))
    request_id = int(case["request_id"])
    if kind == "StaticConnect":
        kinds = {6: reasons.StaticConnectFailureV6, 7: reasons.StaticConnectFailureV7}[version]
        why = failure(reply, kinds)
        return legacy.LegacyConnectResponse(version, request_id, reply_to, True, None, why)
    if kind == "DynamicConnect":
        why = failure(reply, reasons.DynamicConnectFailure)
        ips = ip_pair(reply["Success"]) if why is None else None
        return legacy.LegacyConnectResponse(version, request_id, reply_to, False, ips, why)
    if kind == "Disconnect":
        why = failure(reply, reasons.LegacyDisconnectFailure)
        return legacy.LegacyDisconnectResponse(version, request_id, reply_to, why)
    if kind == "Pong":
        return legacy.LegacyPongResponse(version, request_id, reply_to)
    if kind == "Health":
        build = reasons.BuildInfo(**reply["build_info"])
        return legacy.LegacyHealthResponse(version, request_id, reply_to, build, reply["routable"])
    assert kind == "Info"
    return legacy.LegacyInfoResponse(version, request_id, reply_to, *info(reply))


def current_response(case: Case, version: int) -> responses.Response:
    kind, reply = case["kind"], case.get("reply")
    if kind == "Data":
        return responses.DataResponse(version, bytes.fromhex(case["ip_packet_hex"]))
    if kind == "UnrequestedDisconnect":
        return responses.UnrequestedDisconnect(version, reason(reply, reasons.UnrequestedReason))
    request_id = int(case["request_id"])
    if kind == "Connect":
        why = failure(reply, reasons.ConnectFailure)
        done = why or responses.ConnectSuccess(ip_pair(reply["Success"]))
        return responses.ConnectResponse(version, request_id, done)
    if kind == "Disconnect":
        return responses.DisconnectResponse(version, request_id, failure(reply, reasons.DisconnectFailure))
    if kind == "Pong":
        return responses.PongResponse(version, request_id)
    if kind == "Health":
        build = reasons.BuildInfo(**reply["build_info"])
        return responses.HealthResponse(version, request_id, build, reply["routable"])
    assert kind == "Info"
    return responses.InfoResponse(version, request_id, *info(reply))


def check_response(case: Case) -> None:
    version, wire = int(case["version"]), bytes.fromhex(case["hex"])
    if version < 8:
        response: Any = legacy_response(case, version)
        assert legacy.decode_legacy_response_untrusted(wire) == response
    else:
        response = current_response(case, version)
        assert responses.decode_response_untrusted(wire) == response
    assert response.encode() == wire


def check_parse(case: Case, layout: int) -> None:
    wire = bytes.fromhex(case["hex"])
    if case["ok"]:
        response = responses.decode_response_untrusted(wire, layout)
        assert response.version == wire[0]
    else:
        with pytest.raises(WireError):
            responses.decode_response_untrusted(wire, layout)


def test_response_vectors_are_encoded_and_decoded() -> None:
    vectors.run(
        "ipr_responses.json",
        {"vectors": check_response, "parse_v8": lambda case: check_parse(case, 8)},
    )


def check_v10_success(case: Case) -> None:
    wire = bytes.fromhex(case["hex"])
    success = responses.ConnectSuccess(ip_pair(case["ips"]), case["mtu"])
    response = responses.ConnectResponse(10, int(case["request_id"]), success)
    assert response.encode() == wire
    assert responses.decode_response_untrusted(wire) == response
    with pytest.raises(WireError):
        responses.decode_response_untrusted(wire, 9)


def check_v10_frame(case: Case) -> None:
    frame = StreamFrame(
        int(case["stream_id"]),
        StreamMessageType(case["msg_type"]),
        case["sequence_num"],
        bytes.fromhex(case["payload_hex"]),
    )
    assert frame.encode().hex() == case["hex"]
    assert StreamFrame.decode_untrusted(bytes.fromhex(case["hex"])) == frame


def check_version(case: Case) -> None:
    assert best_ipr_version(case["node_version"]) == case["best"]


def test_v10_vectors_are_encoded_and_decoded() -> None:
    vectors.run(
        "ipr_v10.json",
        {
            "connect_success": check_v10_success,
            "parse": lambda case: check_parse(case, 10),
            "requests": lambda case: check_request(case, 10),
            "lp_frames": check_v10_frame,
            "versions": check_version,
        },
    )


# ipr_codec


def check_encoder(case: Case) -> None:
    encoder = BundleEncoder()
    for step in case["steps"]:
        out = encoder.flush() if step.get("flush") else encoder.encode(bytes.fromhex(step["data_hex"]))
        assert out.hex() == step["out_hex"]


def check_bundle_one(case: Case) -> None:
    packet, wire = vectors.unhex(case, "packet_hex", "bundle_hex")
    assert bundle([packet]) == wire
    assert split_bundle(wire) == ([packet], b"")


def check_unbundle(case: Case) -> None:
    wire = bytes.fromhex(case["in_hex"])
    packets, rest = split_bundle(wire)
    assert [packet.hex() for packet in packets] == case["packets_hex"]
    assert rest.hex() == case["leftover_hex"]
    assert unbundle_untrusted(wire) == [packet for packet in packets if packet]
    assert bundle(packets) + rest == wire


def test_bundle_vectors_are_encoded_step_by_step_and_decoded() -> None:
    vectors.run(
        "ipr_codec.json",
        {"encode": check_encoder, "bundle_one": check_bundle_one, "decode": check_unbundle},
    )


# ipr_lp_stream


def check_frame(case: Case) -> None:
    wire = bytes.fromhex(case["hex"])
    frame = StreamFrame(
        int(case["stream_id"]),
        StreamMessageType[case["msg_type"].upper()],
        case["sequence_num"],
        bytes.fromhex(case["payload_hex"]),
    )
    assert frame.encode() == wire
    assert StreamFrame.decode_untrusted(wire) == frame
    assert LpFrame.decode_untrusted(wire).encode() == wire


def check_lp(case: Case) -> None:
    wire = bytes.fromhex(case["hex"])
    if case["lp_kind"] is None:
        with pytest.raises(WireError):
            LpFrame.decode_untrusted(wire)
        return
    names = {
        "Opaque": LpKind.OPAQUE,
        "Registration": LpKind.REGISTRATION,
        "Forward": LpKind.FORWARD,
        "SphinxStream": LpKind.SPHINX_STREAM,
    }
    frame = LpFrame.decode_untrusted(wire)
    assert frame.kind is names[case["lp_kind"]]
    stream = case["stream"]
    if stream is None:
        with pytest.raises(WireError):
            StreamFrame.from_frame_untrusted(frame, extended=False)
        return
    assert StreamFrame.from_frame_untrusted(frame, extended=False) == StreamFrame(
        int(stream["stream_id"]),
        StreamMessageType(stream["msg_type"]),
        stream["sequence_num"],
        bytes.fromhex(stream["payload_hex"]),
    )


def test_lp_vectors_are_encoded_and_decoded() -> None:
    vectors.run("ipr_lp_stream.json", {"frames": check_frame, "decode": check_lp})
