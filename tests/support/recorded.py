"""Octets that software of others sent, kept in ``tests/vectors/recorded`` and read by our decoders.

A file is ``{"provenance": {"peer", "version", "date", "network"}, "cases": [...]}``. A case is::

    {"kind": a name in READERS, "direction": "peer_to_us",
     "hex" or "text": what was sent,
     "with": {keys needed to open it, all made for the recording},
     "expect": {what our decoder makes of it}}

:func:`read` turns a case into what ``expect`` says: the fields of our decoded object with its class name as
``type``, octets as hex, octets above 64 as their length and SHA-256. A case passes when everything that
``expect`` names is read again with the same value, so a recorder may leave out what does not matter.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support import vectors

from smolmix_sync.address import Recipient
from smolmix_sync.errors import WireError
from smolmix_sync.ipr.codec import unbundle_untrusted
from smolmix_sync.ipr.lp import StreamFrame, StreamMessageType
from smolmix_sync.ipr.requests import DataRequest
from smolmix_sync.ipr.requests import decode_request_untrusted as decode_ipr_request_untrusted
from smolmix_sync.ipr.responses import DataResponse
from smolmix_sync.ipr.responses import decode_response_untrusted as decode_ipr_response_untrusted
from smolmix_sync.mixnet.acks import decode_ack_untrusted
from smolmix_sync.mixnet.cover import is_cover
from smolmix_sync.mixnet.fragment_encryption import decrypt_fragment_untrusted, decrypt_reply_fragment
from smolmix_sync.mixnet.fragments import FragmentHeader
from smolmix_sync.mixnet.gateway import text as wire
from smolmix_sync.mixnet.gateway.authentication import address_is_sealed_with, signature_is_valid
from smolmix_sync.mixnet.gateway.final_hop import split_payload_untrusted
from smolmix_sync.mixnet.gateway.frames import decode_forward_untrusted, decode_pushed_untrusted
from smolmix_sync.mixnet.gateway.handshake import ClientHandshake, GatewayHandshake
from smolmix_sync.mixnet.gateway.sealing import open_untrusted
from smolmix_sync.mixnet.message import RepliableMessage, decode_message_untrusted
from smolmix_sync.mixnet.noise import NoiseLink
from smolmix_sync.mixnet.sphinx import ForwardHop, FrameDecoder, MixPacket, NodeAddress, unwrap_untrusted

Json = dict[str, Any]
_LONGEST = 64


def plain(value: Any) -> Any:
    """Return *value* as JSON would have it."""
    if isinstance(value, (bytes, bytearray)):
        if len(value) <= _LONGEST:
            return bytes(value).hex()
        return {"length": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (Recipient, NodeAddress)):
        return f"{value.ip}:{value.port}" if isinstance(value, NodeAddress) else str(value)
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _scripted(*chunks: bytes) -> Callable[[int], bytes]:
    """Return a source of randomness that gives *chunks*, then zeros."""
    waiting = list(chunks)
    return lambda size: waiting.pop(0) if waiting else bytes(size)


def _key(keys: Mapping[str, str], name: str) -> bytes:
    return bytes.fromhex(keys[name])


# --- gateway ---


def gateway_response(text: str, keys: Mapping[str, str]) -> Json:
    """A gateway's text after ``register`` or ``authenticate``; ``shared_key`` opens a sealed one."""
    response = wire.decode_response_untrusted(text)
    told: Json = plain(response)
    if isinstance(response, wire.EncryptedResponse):
        opened = open_untrusted(_key(keys, "shared_key"), response.ciphertext, response.nonce)
        told["inside"] = plain(wire.decode_sensitive_response_untrusted(opened))
    return told


def gateway_request(text: str, keys: Mapping[str, str]) -> Json:
    """A client's text to a gateway; ``shared_key`` checks an authentication and opens a sealed request."""
    request = wire.decode_request_untrusted(text)
    told: Json = plain(request)
    if isinstance(request, wire.AuthenticateV2):
        told["signature_is_valid"] = signature_is_valid(request)
        told["address_is_sealed"] = address_is_sealed_with(_key(keys, "shared_key"), request)
    elif isinstance(request, wire.EncryptedRequest):
        opened = open_untrusted(_key(keys, "shared_key"), request.ciphertext, request.nonce)
        told["inside"] = plain(wire.decode_sensitive_request_untrusted(opened))
    return told


def gateway_handshake(text: str, keys: Mapping[str, str]) -> Json:
    """A message of the registration handshake, of either side, as it is."""
    message: Json = plain(wire.decode_handshake_untrusted(text))
    return message


def gateway_handshake_material(text: str, keys: Mapping[str, str]) -> Json:
    """The gateway's material, taken by a client with ``identity_seed``, ``private``, ``salt``."""
    message = wire.decode_handshake_untrusted(text)
    assert isinstance(message, wire.HandshakePayload)
    handshake = ClientHandshake(
        _key(keys, "identity_seed"),
        _key(keys, "gateway_identity"),
        _scripted(_key(keys, "private"), _key(keys, "salt")),
    )
    handshake.receive_untrusted(message.data)
    return {"protocol_version": message.protocol_version, "shared_key": plain(handshake.shared_key)}


def gateway_handshake_answer(text: str, keys: Mapping[str, str]) -> Json:
    """A client's material, taken by a gateway with ``identity_seed``, ``private`` and the client's ``init``."""
    message = wire.decode_handshake_untrusted(text)
    assert isinstance(message, wire.HandshakePayload)
    handshake = GatewayHandshake(_key(keys, "identity_seed"), _scripted(_key(keys, "private")))
    handshake.respond_untrusted(_key(keys, "init"))
    handshake.finish_untrusted(message.data)
    return {
        "protocol_version": message.protocol_version,
        "client_identity": plain(handshake.client_identity),
        "shared_key": plain(handshake.shared_key),
    }


def gateway_pushed(frame: bytes, keys: Mapping[str, str]) -> Json:
    """A binary frame from the gateway, opened with ``shared_key``."""
    return {"payload": plain(decode_pushed_untrusted(frame, _key(keys, "shared_key")))}


def gateway_forward(frame: bytes, keys: Mapping[str, str]) -> Json:
    """A binary frame from a client, opened with ``shared_key``."""
    packet: Json = plain(decode_forward_untrusted(frame, _key(keys, "shared_key")))
    return packet


# --- Sphinx and the message layer ---


def sphinx_route(data: bytes, keys: Mapping[str, str]) -> Json:
    """A mix packet (version 2), unwrapped at every node of ``nodes``, ``ip:port`` to private key."""
    packet = MixPacket.decode_untrusted(data)
    nodes: Mapping[str, str] = keys["nodes"]  # type: ignore[assignment]
    address, octets = packet.first_hop, packet.packet
    hops: list[Json] = []
    while True:
        hop = unwrap_untrusted(octets, bytes.fromhex(nodes[plain(address)]))
        if not isinstance(hop, ForwardHop):
            break
        hops.append({"node": plain(address), "delay_ns": hop.delay_ns, "version": hop.version})
        address, octets = hop.next_address, hop.packet
    final = split_payload_untrusted(hop.message, packet.key_rotation)
    return {
        "key_rotation": packet.key_rotation,
        "size": len(packet.packet),
        "hops": hops,
        "last": plain(address),
        "destination": plain(hop.destination),
        "message": plain(final.message),
        "ack": plain(final.ack),
    }


def mixnet_ack(payload: bytes, keys: Mapping[str, str]) -> Json:
    """An acknowledgement, opened with ``ack_key``."""
    return {"identifier": plain(decode_ack_untrusted(_key(keys, "ack_key"), payload))}


def _fragment(fragment: bytes) -> Json:
    header, size = FragmentHeader.decode_untrusted(fragment)
    return {"header": plain(header), "payload": plain(fragment[size:])}


def mixnet_fragment(payload: bytes, keys: Mapping[str, str]) -> Json:
    """A fragment for a client with ``encryption_private``; its own cover comes back in the same shape."""
    fragment = decrypt_fragment_untrusted(payload, _key(keys, "encryption_private"))
    return {"cover": True} if is_cover(fragment) else {"cover": False, **_fragment(fragment)}


def mixnet_reply_fragment(payload: bytes, keys: Mapping[str, str]) -> Json:
    """A fragment that came through a SURB with the encryption key ``reply_key``."""
    return _fragment(decrypt_reply_fragment(payload, _key(keys, "reply_key")))


def mixnet_message(data: bytes, keys: Mapping[str, str]) -> Json:
    """A whole message of the message layer; our encoder must make the same octets of what was read."""
    message = decode_message_untrusted(data)
    told: Json = plain(message)
    if isinstance(message, RepliableMessage):
        told["surbs"] = [
            {
                "digest": plain(surb.digest),
                "first_hop": plain(surb.surb.first_hop),
                "hops": len(surb.surb.key_material),
            }
            for surb in message.surbs
        ]
    return told | {"encodes_again": message.encode() == data}


# --- links between nodes ---


def _frames(octets: bytes) -> list[Any]:
    return [plain(frame) for frame in FrameDecoder().frames_untrusted(octets)]


def link_frames(data: bytes, keys: Mapping[str, str]) -> Json:
    """The beginning of a plain link from a node."""
    return {"frames": _frames(data)}


def _noise(link: NoiseLink, data: bytes) -> Json:
    link.receive_data(data)
    octets = b""
    while (plaintext := link.next_data_untrusted()) is not None:
        octets += plaintext
    return {
        "state": plain(link.state),
        "remote_static": plain(link.remote_static),
        "handshake_hash": plain(link.handshake_hash),
        "frames": _frames(octets),
    }


def noise_responder(data: bytes, keys: Mapping[str, str]) -> Json:
    """The beginning of a Noise link from a node to ours with ``static`` and the drawn ``ephemeral``."""
    urandom = _scripted(_key(keys, "ephemeral"))
    return _noise(NoiseLink.responder(_key(keys, "static"), urandom=urandom, now=0.0), data)


def noise_initiator(data: bytes, keys: Mapping[str, str]) -> Json:
    """What a node with the Noise key ``responder`` answers to ours with ``static`` and ``ephemeral``."""
    urandom = _scripted(_key(keys, "ephemeral"))
    link = NoiseLink.initiator(_key(keys, "static"), _key(keys, "responder"), urandom=urandom, now=0.0)
    return _noise(link, data)


# --- IPR ---


def _stream(data: bytes) -> tuple[Json, bytes | None]:
    """Return what the LP frame says, if there is one, and what it carries."""
    if data[:1] in (b"\x06", b"\x07", b"\x08"):
        return {"frame": None}, data
    frame = StreamFrame.decode_untrusted(data)
    told = plain(dataclasses.replace(frame, payload=b""))
    told["encodes_again"] = frame.encode() == data
    return {"frame": told}, frame.payload if frame.msg_type is StreamMessageType.DATA else None


def ipr_response(data: bytes, keys: Mapping[str, str]) -> Json:
    """A message of an exit to its client."""
    told, payload = _stream(data)
    if payload is None:
        return told
    response = decode_ipr_response_untrusted(payload, payload[0])
    told["response"] = plain(response)
    if isinstance(response, DataResponse):
        told["packets"] = plain(unbundle_untrusted(response.bundle))
    return told | {"encodes_again": response.encode() == payload}


def ipr_request(data: bytes, keys: Mapping[str, str]) -> Json:
    """A message of a client to its exit."""
    told, payload = _stream(data)
    if payload is None:
        return told
    request = decode_ipr_request_untrusted(payload)
    told["request"] = plain(request)
    if isinstance(request, DataRequest):
        told["packets"] = plain(unbundle_untrusted(request.bundle))
    return told | {"encodes_again": request.encode() == payload}


READERS: dict[str, Callable[[Any, Mapping[str, Any]], Json]] = {
    reader.__name__: reader
    for reader in (
        gateway_response,
        gateway_request,
        gateway_handshake,
        gateway_handshake_material,
        gateway_handshake_answer,
        gateway_pushed,
        gateway_forward,
        sphinx_route,
        mixnet_ack,
        mixnet_fragment,
        mixnet_reply_fragment,
        mixnet_message,
        link_frames,
        noise_responder,
        noise_initiator,
        ipr_response,
        ipr_request,
    )
}


def folder() -> Path:
    """Return where the recordings are."""
    return vectors.folder() / "recorded"


def read(case: Mapping[str, Any]) -> Json:
    """Return what our decoders make of a case.

    Raises:
        WireError: they refuse it.
        KeyError: no decoder is known for its kind.
    """
    data = case["text"] if "text" in case else bytes.fromhex(case["hex"])
    return READERS[case["kind"]](data, case.get("with", {}))


def differences(case: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what *case* expects and what is read where the two differ."""
    try:
        told = read(case)
    except WireError as error:
        told = {"error": str(error)}
    return {
        name: (value, told.get(name)) for name, value in case["expect"].items() if told.get(name) != value
    }
