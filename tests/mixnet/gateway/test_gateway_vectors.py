"""The recorded handshakes, texts and frames of the real crates, against our codecs and sessions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support import vectors

from smolmix_sync.address import base58_encode
from smolmix_sync.crypto import blake3_digest, ed25519_public_from_seed, x25519, x25519_base
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.gateway import text as wire
from smolmix_sync.mixnet.gateway.authentication import (
    address_is_sealed_with,
    authenticate,
    signature_is_valid,
    signed_octets,
)
from smolmix_sync.mixnet.gateway.client import ClientState, GatewayClient
from smolmix_sync.mixnet.gateway.clients import ClientTable
from smolmix_sync.mixnet.gateway.events import Pushed, Registered
from smolmix_sync.mixnet.gateway.final_hop import SURB_ACK_SIZE, split_payload_untrusted
from smolmix_sync.mixnet.gateway.frames import (
    decode_forward_untrusted,
    decode_pushed_untrusted,
    encode_forward,
    encode_pushed,
)
from smolmix_sync.mixnet.gateway.handshake import derive_shared_key
from smolmix_sync.mixnet.gateway.sealing import open_untrusted
from smolmix_sync.mixnet.gateway.server import GatewayServerSession
from smolmix_sync.mixnet.sphinx import FinalHop, MixPacket, NodeAddress, PacketSize, unwrap_untrusted


def scripted(*chunks: bytes) -> Callable[[int], bytes]:
    """Return a source of randomness that gives the recorded values, in order."""
    waiting = list(chunks)

    def urandom(size: int) -> bytes:
        chunk = waiting.pop(0)
        assert len(chunk) == size
        return chunk

    return urandom


def _check_handshake(case: dict[str, Any]) -> None:
    client, gateway = case["client_ephemeral"], case["gateway_ephemeral"]
    init, material, answer, _ = (bytes.fromhex(message["data_hex"]) for message in case["messages"])
    seed = bytes.fromhex(case["client_identity"]["ed25519_seed"])
    gateway_seed = bytes.fromhex(case["gateway_identity"]["ed25519_seed"])
    gateway_identity = ed25519_public_from_seed(gateway_seed)
    shared_key = bytes.fromhex(case["shared_key"])
    assert gateway_identity.hex() == case["gateway_identity"]["ed25519_public"]
    assert init[:32].hex() == case["destination_address"]
    for ephemeral in (client, gateway):
        assert x25519_base(bytes.fromhex(ephemeral["x25519_private"])).hex() == ephemeral["x25519_public"]
    private, theirs = bytes.fromhex(client["x25519_private"]), bytes.fromhex(gateway["x25519_public"])
    assert x25519(private, theirs).hex() == case["x25519_shared"]
    assert derive_shared_key(private, theirs, init[64:]) == shared_key
    assert base58_encode(shared_key) == case["shared_key_bs58"]
    assert blake3_digest(shared_key).hex() == case["shared_key_blake3_digest"]

    # Both whole sessions, with the recorded randomness: every text must come out as recorded.
    texts = [message["text"] for message in case["messages"]]
    server = GatewayServerSession(
        gateway_seed,
        ClientTable(),
        urandom=scripted(bytes.fromhex(gateway["x25519_private"]), material[-12:]),
    )
    server.start(0.0, 1e9)
    server.receive_data(texts[0], 0.0)
    assert server.data_to_send(0.0) == [texts[1]]
    server.receive_data(texts[2], 0.0)
    assert server.data_to_send(0.0)[0] == texts[3]
    proposed = case["client_proposed_protocol"]
    session = GatewayClient(seed, gateway_identity, urandom=scripted(private, init[64:], answer[-12:]))
    session.start(0.0, 1e9)
    session.data_to_send(0.0)
    session.receive_data(wire.SupportedProtocolReply(proposed).encode(), 0.0)
    # Our client never proposes more than it speaks, which one of the recorded ones did.
    expected = json.loads(texts[0]) | {"protocol_version": min(proposed, 6)}
    [first] = session.data_to_send(0.0)
    assert json.loads(first) == expected
    session.receive_data(texts[1], 0.0)
    assert session.data_to_send(0.0) == [texts[2]]
    session.receive_data(texts[3], 0.0)
    session.receive_data(wire.RegisterReply(case["negotiated_protocol"], True).encode(), 0.0)
    assert session.next_event() == Registered(shared_key)
    assert session.state is ClientState.READY
    assert session.protocol_version == case["negotiated_protocol"]
    for text in texts:
        message = wire.decode_handshake_untrusted(text)
        assert isinstance(message, wire.HandshakePayload)
        assert message.encode() == text


def test_handshake_vectors() -> None:
    vectors.run("gateway_handshake.json", {"handshakes": _check_handshake})


VARIANTS = {
    "RegisterHandshakeInitRequest": wire.HandshakePayload,
    "EcashCredential": wire.EcashCredential,
    "AuthenticateV2": wire.AuthenticateV2,
    "Authenticate": (wire.LegacyAuthenticate, wire.AuthenticateReply),
    "SupportedProtocol": (wire.SupportedProtocol, wire.SupportedProtocolReply),
    "ClaimFreeTestnetBandwidth": wire.ClaimFreeTestnetBandwidth,
    "UpgradeModeJWT": wire.UpgradeModeJwt,
    "EncryptedRequest": wire.EncryptedRequest,
    "EncryptedResponse": wire.EncryptedResponse,
    "BandwidthCredential": wire.LegacyCredential,
    "BandwidthCredentialV2": wire.LegacyCredential,
    "Register": wire.RegisterReply,
    "Bandwidth": wire.BandwidthReply,
    "Send": wire.SendReply,
    "Error": wire.ErrorReply,
    "TypedError": (wire.OutOfBandwidthReply, wire.TicketReplayReply),
}


def _check_parser(case: dict[str, Any]) -> None:
    decode = {"request": wire.decode_request_untrusted, "response": wire.decode_response_untrusted}[
        case["kind"]
    ]
    if case["accepted"]:
        assert isinstance(decode(case["text"]), VARIANTS[case["variant"]])
    else:
        with pytest.raises(WireError):
            decode(case["text"])


def _check_request(case: dict[str, Any], shared_key: bytes) -> None:
    request, extra = wire.decode_request_untrusted(case["text"]), case["extra"]
    assert isinstance(request, VARIANTS[case["rust_variant"]])
    assert request.encode() == case["text"]
    if isinstance(request, wire.AuthenticateV2):
        seed, nonce = vectors.unhex(extra, "identity_seed", "nonce")
        timestamp = extra["request_unix_timestamp"]
        signed = signed_octets(
            request.protocol_version,
            request.client_identity,
            bytes.fromhex(extra["address_ciphertext"]),
            nonce,
            timestamp,
        )
        assert signed.hex() == extra["signed_plaintext"]
        assert request.signature.hex() == extra["signature"]
        assert signature_is_valid(request)
        assert address_is_sealed_with(shared_key, request)
        assert authenticate(seed, shared_key, timestamp, request.protocol_version, scripted(nonce)) == request
    if isinstance(request, wire.EncryptedRequest):
        plaintext = open_untrusted(shared_key, request.ciphertext, request.nonce)
        assert plaintext.decode() == extra["inner_json"]
        assert wire.decode_sensitive_request_untrusted(plaintext).encode() == plaintext


def _check_response(case: dict[str, Any], shared_key: bytes) -> None:
    response = wire.decode_response_untrusted(case["text"])
    assert isinstance(response, VARIANTS[case["rust_variant"]])
    assert response.encode() == case["text"]
    if isinstance(response, wire.EncryptedResponse):
        plaintext = open_untrusted(shared_key, response.ciphertext, response.nonce)
        assert plaintext.decode() == case["extra"]["inner_json"]
        assert wire.decode_sensitive_response_untrusted(plaintext).encode() == plaintext


def test_text_vectors() -> None:
    keys = vectors.load("gateway_text.json")["keys"]
    shared_key = bytes.fromhex(keys["shared_key"])
    identity = ed25519_public_from_seed(bytes.fromhex(keys["client_identity_seed"]))
    assert base58_encode(identity) == keys["client_identity_bs58"]
    checks = {
        "requests": lambda case: _check_request(case, shared_key),
        "responses": lambda case: _check_response(case, shared_key),
        "parser_behaviour": _check_parser,
    }
    vectors.run("gateway_text.json", checks)


def _check_forward(case: dict[str, Any], shared_key: bytes) -> None:
    frame, packet, nonce, plaintext = vectors.unhex(case, "frame", "sphinx_packet", "nonce", "plaintext")
    mix_packet = decode_forward_untrusted(frame, shared_key)
    assert mix_packet == MixPacket(NodeAddress.parse(case["first_hop"]), packet, case["key_rotation"])
    assert len(mix_packet.packet) == case["sphinx_packet_len"] == case["bandwidth_cost"]
    assert PacketSize.of_packet_untrusted(packet).name.lower() == case["packet_size_name"]
    assert (mix_packet.encode_v1() if case["version"] == 1 else mix_packet.encode()) == plaintext
    protocol_version = {1: 4, 2: 6}[case["version"]]
    assert encode_forward(mix_packet, shared_key, scripted(nonce), protocol_version) == frame


def _check_pushed(case: dict[str, Any], shared_key: bytes) -> None:
    frame, message, nonce = vectors.unhex(case, "frame", "message", "nonce")
    assert decode_pushed_untrusted(frame, shared_key) == message
    assert encode_pushed(message, shared_key, scripted(nonce)) == frame
    assert len(message) == case["len"]
    assert Pushed(message).is_ack is (case["client_routes_as"] == "ack")


def _check_malformed(case: dict[str, Any], shared_key: bytes) -> None:
    frame = bytes.fromhex(case["frame"])
    if case["accepted"]:
        decode_forward_untrusted(frame, shared_key)
        return
    with pytest.raises(WireError) as caught:
        decode_forward_untrusted(frame, shared_key)
    assert str(caught.value) == case["error"]


def _check_packet_size(case: dict[str, Any]) -> None:
    if not case["size"]:  # Outfox, which we never send
        with pytest.raises(WireError):
            PacketSize.from_tag_untrusted(case["tag"])
        return
    size = PacketSize[case["name"].upper()]
    assert (size.tag, size.packet_size) == (case["tag"], case["size"])
    assert (size.payload_size, size.plaintext_size) == (case["payload_size"], case["plaintext_size"])


def test_binary_vectors() -> None:
    shared_key = bytes.fromhex(vectors.load("gateway_binary.json")["keys"]["shared_key"])
    checks = {
        "requests": lambda case: _check_forward(case, shared_key),
        "responses": lambda case: _check_pushed(case, shared_key),
        "malformed_requests": lambda case: _check_malformed(case, shared_key),
        "packet_sizes": _check_packet_size,
    }
    vectors.run("gateway_binary.json", checks)


def _check_final_hop(case: dict[str, Any]) -> None:
    packet, key, payload = vectors.unhex(case, "sphinx_packet", "node_private_key", "recovered_payload")
    hop = unwrap_untrusted(packet, key)
    assert isinstance(hop, FinalHop)
    assert hop.destination.hex() == case["destination"]
    assert hop.identifier.hex() == case["identifier"]
    assert hop.message == payload
    # The recorded payload is random where the ack's address should be; with one there, it splits.
    address = NodeAddress("192.0.2.1", 1789)
    split = split_payload_untrusted(address.encode_padded(19) + payload[19:], 2)
    assert split.message == payload[SURB_ACK_SIZE:]
    assert split.ack == MixPacket(address, payload[19:SURB_ACK_SIZE], 2)


def test_final_hop_vectors() -> None:
    vectors.run("gateway_final_hop.json", {"packets": _check_final_hop})
