"""The JSON text messages between client and gateway, both directions.

Source: spec/gateway.md sections 3.1 to 3.3; common/gateway-requests/src/types.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.strict_json import (
    JsonObject,
    check_text,
    compact,
    load_object_untrusted,
    nested,
)

__all__ = [
    "MAX_TEXT_SIZE",
    "AuthenticateReply",
    "AuthenticateV2",
    "BandwidthReply",
    "ClaimFreeTestnetBandwidth",
    "EcashCredential",
    "EncryptedRequest",
    "EncryptedResponse",
    "ErrorReply",
    "ForgetMe",
    "ForgetMeAck",
    "HandshakeError",
    "HandshakeMessage",
    "HandshakePayload",
    "LegacyAuthenticate",
    "LegacyCredential",
    "OutOfBandwidthReply",
    "RegisterReply",
    "RememberMe",
    "RememberMeAck",
    "Request",
    "Response",
    "SendReply",
    "SensitiveRequest",
    "SensitiveResponse",
    "SupportedProtocol",
    "SupportedProtocolReply",
    "TicketReplayReply",
    "UpgradeModeJwt",
    "decode_handshake_untrusted",
    "decode_request_untrusted",
    "decode_response_untrusted",
    "decode_sensitive_request_untrusted",
    "decode_sensitive_response_untrusted",
]

#: Ours: the longest legitimate text is an e-cash credential, about 1.3 kB written as integers.
MAX_TEXT_SIZE: Final = 1 << 16

_SESSION_TYPES: Final = ("Vpn", "Mixnet", "Wasm", "Native", "Socks5", "Unknown")


# Client to gateway.


@dataclass(slots=True)
class SupportedProtocol:
    """Asks for the gateway's protocol version."""

    def encode(self) -> str:
        """Return the JSON text."""
        return '{"type":"supportedProtocol"}'


@dataclass(slots=True)
class HandshakePayload:
    """One message of the registration handshake, in both directions.

    *legacy_tag* names the first one ``registerHandshakeInitRequest``, as the request enum itself does.
    """

    protocol_version: int
    data: bytes = field(repr=False)
    legacy_tag: bool = False

    def encode(self) -> str:
        """Return the JSON text."""
        tag = "registerHandshakeInitRequest" if self.legacy_tag else "handshakePayload"
        return compact({"type": tag, "protocol_version": self.protocol_version, "data": list(self.data)})


@dataclass(slots=True)
class AuthenticateV2:
    """The proof of a known client on a new connection (section 5)."""

    protocol_version: int
    client_identity: bytes = field(repr=False)
    address_ciphertext: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    timestamp: int
    signature: bytes = field(repr=False)

    def encode(self) -> str:
        """Return the JSON text; the only message with camelCase fields."""
        return compact(
            {
                "type": "authenticateV2",
                "protocolVersion": self.protocol_version,
                "clientIdentity": list(self.client_identity),
                "addressCiphertext": base64.b64encode(self.address_ciphertext).decode(),
                "nonce": base64.b64encode(self.nonce).decode(),
                "requestUnixTimestamp": self.timestamp,
                "requestSignature": list(self.signature),
            }
        )


@dataclass(slots=True)
class ClaimFreeTestnetBandwidth:
    """Asks for the free daily allowance."""

    def encode(self) -> str:
        """Return the JSON text."""
        return '{"type":"claimFreeTestnetBandwidth"}'


@dataclass(slots=True)
class EcashCredential:
    """A zk-nym ticket, sealed with the shared key."""

    enc_credential: bytes = field(repr=False)
    iv: bytes = field(repr=False)

    def encode(self) -> str:
        """Return the JSON text; the nonce is called ``iv`` here."""
        fields = {"enc_credential": list(self.enc_credential), "iv": list(self.iv)}
        return compact({"type": "ecashCredential", **fields})


@dataclass(slots=True)
class UpgradeModeJwt:
    """A token of the operators' team for network-wide upgrades."""

    token: str = field(repr=False)

    def encode(self) -> str:
        """Return the JSON text."""
        return compact({"type": "upgradeModeJWT", "token": self.token})


@dataclass(slots=True)
class EncryptedRequest:
    """A sealed :data:`SensitiveRequest`."""

    ciphertext: bytes = field(repr=False)
    nonce: bytes = field(repr=False)

    def encode(self) -> str:
        """Return the JSON text."""
        fields = {"ciphertext": list(self.ciphertext), "nonce": list(self.nonce)}
        return compact({"type": "encryptedRequest", **fields})


@dataclass(slots=True)
class LegacyAuthenticate:
    """Authentication of protocol 3 and below: parsed to be refused."""

    protocol_version: int | None
    address: str = field(repr=False)
    enc_address: str = field(repr=False)
    iv: str = field(repr=False)

    def encode(self) -> str:
        """Return the JSON text."""
        fields: dict[str, object] = {"type": "authenticate", "protocol_version": self.protocol_version}
        fields.update(address=self.address, enc_address=self.enc_address, iv=self.iv)
        return compact(fields)


@dataclass(slots=True)
class LegacyCredential:
    """A credential of an earlier format: parsed to be refused."""

    tag: str
    enc_credential: bytes = field(repr=False)
    iv: bytes = field(repr=False)

    def encode(self) -> str:
        """Return the JSON text."""
        fields = {"enc_credential": list(self.enc_credential), "iv": list(self.iv)}
        return compact({"type": self.tag, **fields})


Request = (
    SupportedProtocol
    | HandshakePayload
    | AuthenticateV2
    | ClaimFreeTestnetBandwidth
    | EcashCredential
    | UpgradeModeJwt
    | EncryptedRequest
    | LegacyAuthenticate
    | LegacyCredential
)


# Gateway to client.


@dataclass(slots=True)
class SupportedProtocolReply:
    """The gateway's protocol version."""

    version: int

    def encode(self) -> str:
        """Return the JSON text."""
        return compact({"type": "supportedProtocol", "version": self.version})


@dataclass(slots=True)
class RegisterReply:
    """The end of a registration."""

    protocol_version: int
    status: bool
    upgrade_mode: bool = False

    def encode(self) -> str:
        """Return the JSON text."""
        return compact(
            {
                "type": "register",
                "protocol_version": self.protocol_version,
                "status": self.status,
                "upgrade_mode": self.upgrade_mode,
            }
        )


@dataclass(slots=True)
class AuthenticateReply:
    """The answer to :class:`AuthenticateV2`."""

    protocol_version: int
    status: bool
    bandwidth_remaining: int
    upgrade_mode: bool = False

    def encode(self) -> str:
        """Return the JSON text."""
        return compact(
            {
                "type": "authenticate",
                "protocol_version": self.protocol_version,
                "status": self.status,
                "bandwidth_remaining": self.bandwidth_remaining,
                "upgrade_mode": self.upgrade_mode,
            }
        )


@dataclass(slots=True)
class BandwidthReply:
    """The answer to a claim or a credential."""

    available_total: int
    upgrade_mode: bool = False

    def encode(self) -> str:
        """Return the JSON text."""
        fields = {"available_total": self.available_total, "upgrade_mode": self.upgrade_mode}
        return compact({"type": "bandwidth", **fields})


@dataclass(slots=True)
class SendReply:
    """The answer to one accepted packet; a gateway sends one for each."""

    remaining_bandwidth: int
    upgrade_mode: bool = False

    def encode(self) -> str:
        """Return the JSON text."""
        flag = "true" if self.upgrade_mode else "false"
        return f'{{"type":"send","remaining_bandwidth":{self.remaining_bandwidth},"upgrade_mode":{flag}}}'


@dataclass(slots=True)
class EncryptedResponse:
    """A sealed :data:`SensitiveResponse`."""

    ciphertext: bytes = field(repr=False)
    nonce: bytes = field(repr=False)

    def encode(self) -> str:
        """Return the JSON text."""
        fields = {"ciphertext": list(self.ciphertext), "nonce": list(self.nonce)}
        return compact({"type": "encryptedResponse", **fields})


@dataclass(slots=True)
class ErrorReply:
    """An error as free text."""

    message: str

    def encode(self) -> str:
        """Return the JSON text."""
        return compact({"type": "error", "message": self.message})


@dataclass(slots=True)
class OutOfBandwidthReply:
    """The packet was dropped: the balance does not cover it."""

    required: int
    available: int

    def encode(self) -> str:
        """Return the JSON text."""
        fields = {"required": self.required, "available": self.available}
        return compact({"type": "typedError", "error": {"out_of_bandwidth": fields}})


@dataclass(slots=True)
class TicketReplayReply:
    """The ticket was spent before; no gateway of this generation sends it."""

    def encode(self) -> str:
        """Return the JSON text."""
        return '{"type":"typedError","error":"ticket_replay"}'


Response = (
    SupportedProtocolReply
    | RegisterReply
    | AuthenticateReply
    | BandwidthReply
    | SendReply
    | EncryptedResponse
    | ErrorReply
    | OutOfBandwidthReply
    | TicketReplayReply
)


# The registration wrapper, both directions: HandshakePayload above, or this.


@dataclass(slots=True)
class HandshakeError:
    """The other side gave up the handshake."""

    message: str

    def encode(self) -> str:
        """Return the JSON text."""
        return compact({"type": "handshakeError", "message": self.message})


HandshakeMessage = HandshakePayload | HandshakeError


# Inside EncryptedRequest and EncryptedResponse.


@dataclass(slots=True)
class ForgetMe:
    """Asks to delete this client's data, or its statistics."""

    client: bool
    stats: bool

    def encode(self) -> bytes:
        """Return the JSON plaintext."""
        return compact({"ForgetMe": {"client": self.client, "stats": self.stats}}).encode()


@dataclass(slots=True)
class RememberMe:
    """Names the kind of session for the gateway's statistics."""

    session_type: str

    def encode(self) -> bytes:
        """Return the JSON plaintext."""
        return compact({"RememberMe": {"session_type": self.session_type}}).encode()


@dataclass(slots=True)
class ForgetMeAck:
    """Answers :class:`ForgetMe`."""

    def encode(self) -> bytes:
        """Return the JSON plaintext."""
        return b'{"ForgetMeAck":{}}'


@dataclass(slots=True)
class RememberMeAck:
    """Answers :class:`RememberMe`."""

    def encode(self) -> bytes:
        """Return the JSON plaintext."""
        return b'{"RememberMeAck":{}}'


SensitiveRequest = ForgetMe | RememberMe
SensitiveResponse = ForgetMeAck | RememberMeAck


# Decoders.


def _base64(fields: JsonObject, name: str) -> bytes:
    """Read standard base64 with padding."""
    try:
        return base64.b64decode(fields.text(name), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise WireError(f"field {name!r} is not base64") from exc


def _sized(value: bytes, size: int, name: str) -> bytes:
    if len(value) != size:
        raise WireError(f"{name} has {len(value)} octets, not {size}")
    return value


def _octets(fields: JsonObject, name: str, *aliases: str) -> bytes:
    return fields.octets(name, *aliases, limit=MAX_TEXT_SIZE)


def _handshake_payload(fields: JsonObject) -> HandshakePayload:
    legacy_tag = fields.fields["type"] == "registerHandshakeInitRequest"
    return HandshakePayload(fields.u8("protocol_version", 0), _octets(fields, "data"), legacy_tag)


def _authenticate_v2(fields: JsonObject) -> AuthenticateV2:
    return AuthenticateV2(
        fields.u8("protocolVersion"),
        _sized(_octets(fields, "clientIdentity"), 32, "client identity"),
        _base64(fields, "addressCiphertext"),
        _base64(fields, "nonce"),
        fields.u64("requestUnixTimestamp"),
        _sized(_octets(fields, "requestSignature"), 64, "signature"),
    )


def _legacy_authenticate(fields: JsonObject) -> LegacyAuthenticate:
    version = fields.u8("protocol_version") if fields.has("protocol_version") else None
    return LegacyAuthenticate(version, fields.text("address"), fields.text("enc_address"), fields.text("iv"))


def _legacy_credential(fields: JsonObject) -> LegacyCredential:
    return LegacyCredential(fields.fields["type"], _octets(fields, "enc_credential"), _octets(fields, "iv"))


_REQUESTS: Final[dict[str, Callable[[JsonObject], Request]]] = {
    "supportedProtocol": lambda fields: SupportedProtocol(),
    "handshakePayload": _handshake_payload,
    "registerHandshakeInitRequest": _handshake_payload,
    "authenticateV2": _authenticate_v2,
    "claimFreeTestnetBandwidth": lambda fields: ClaimFreeTestnetBandwidth(),
    "ecashCredential": lambda fields: EcashCredential(
        _octets(fields, "enc_credential"), _octets(fields, "iv", "nonce")
    ),
    "upgradeModeJWT": lambda fields: UpgradeModeJwt(fields.text("token")),
    "encryptedRequest": lambda fields: EncryptedRequest(
        _octets(fields, "ciphertext"), _octets(fields, "nonce")
    ),
    "authenticate": _legacy_authenticate,
    "bandwidthCredential": _legacy_credential,
    "bandwidthCredentialV2": _legacy_credential,
}


def _typed_error(fields: JsonObject) -> OutOfBandwidthReply | TicketReplayReply:
    error = fields.value("error")
    if error == "ticket_replay":
        return TicketReplayReply()
    inner = nested(error, "error")
    if list(inner.fields) != ["out_of_bandwidth"]:
        raise WireError("unknown typed error")
    values = inner.object("out_of_bandwidth")
    return OutOfBandwidthReply(values.i64("required"), values.i64("available"))


_RESPONSES: Final[dict[str, Callable[[JsonObject], Response]]] = {
    "supportedProtocol": lambda fields: SupportedProtocolReply(fields.u8("version")),
    "register": lambda fields: RegisterReply(
        fields.u8("protocol_version", 0), fields.boolean("status"), fields.boolean("upgrade_mode", False)
    ),
    "authenticate": lambda fields: AuthenticateReply(
        fields.u8("protocol_version", 0),
        fields.boolean("status"),
        fields.i64("bandwidth_remaining"),
        fields.boolean("upgrade_mode", False),
    ),
    "bandwidth": lambda fields: BandwidthReply(
        fields.i64("available_total"), fields.boolean("upgrade_mode", False)
    ),
    "send": lambda fields: SendReply(
        fields.i64("remaining_bandwidth"), fields.boolean("upgrade_mode", False)
    ),
    "encryptedResponse": lambda fields: EncryptedResponse(
        _octets(fields, "ciphertext"), _octets(fields, "nonce")
    ),
    "error": lambda fields: ErrorReply(fields.text("message")),
    "typedError": _typed_error,
}

_HANDSHAKE: Final[dict[str, Callable[[JsonObject], HandshakeMessage]]] = {
    "handshakePayload": _handshake_payload,
    "handshakeError": lambda fields: HandshakeError(fields.text("message")),
}


def _tagged(table: dict[str, Callable[[JsonObject], Any]], text: str) -> Any:
    fields = load_object_untrusted(text, MAX_TEXT_SIZE)
    tag = check_text(fields.value("type"), "type")
    decode = table.get(tag)
    if decode is None:
        raise WireError("unknown type of message")
    return decode(fields)


def decode_request_untrusted(text: str) -> Request:
    """Decode a text from a client.

    Raises:
        WireError: not JSON, an unknown ``type``, a missing field or one of the wrong type or range.
    """
    request: Request = _tagged(_REQUESTS, text)
    return request


# The form every gateway of this generation writes; a `send` comes back for every packet sent.
_SEND = re.compile(
    r'\{"type":"send","remaining_bandwidth":(-?\d{1,18}),"upgrade_mode":(true|false)\}', re.ASCII
)


def decode_response_untrusted(text: str) -> Response:
    """Decode a text from a gateway, outside the handshake.

    Raises:
        WireError: not JSON, an unknown ``type``, a missing field or one of the wrong type or range.
    """
    match = _SEND.fullmatch(text)
    if match is not None:
        return SendReply(int(match[1]), match[2] == "true")
    response: Response = _tagged(_RESPONSES, text)
    return response


def decode_handshake_untrusted(text: str) -> HandshakeMessage:
    """Decode a text of the registration handshake, from either side.

    Raises:
        WireError: not JSON, an unknown ``type``, a missing field or one of the wrong type or range.
    """
    message: HandshakeMessage = _tagged(_HANDSHAKE, text)
    return message


def _single(plaintext: bytes) -> tuple[str, JsonObject]:
    fields = load_object_untrusted(plaintext, MAX_TEXT_SIZE)
    if len(fields.fields) != 1:
        raise WireError("sealed message does not have exactly one variant")
    [variant] = fields.fields
    return variant, fields.object(variant)


def decode_sensitive_request_untrusted(plaintext: bytes) -> SensitiveRequest:
    """Decode what was inside an :class:`EncryptedRequest`.

    Raises:
        WireError: not JSON, an unknown variant, a missing field or one of the wrong type.
    """
    variant, fields = _single(plaintext)
    if variant == "ForgetMe":
        return ForgetMe(fields.boolean("client"), fields.boolean("stats"))
    if variant == "RememberMe":
        session_type = fields.text("session_type")
        if session_type not in _SESSION_TYPES:
            raise WireError("unknown session type")
        return RememberMe(session_type)
    raise WireError("unknown sealed request")


def decode_sensitive_response_untrusted(plaintext: bytes) -> SensitiveResponse:
    """Decode what was inside an :class:`EncryptedResponse`.

    Raises:
        WireError: not JSON or an unknown variant.
    """
    variant, _ = _single(plaintext)
    if variant == "ForgetMeAck":
        return ForgetMeAck()
    if variant == "RememberMeAck":
        return RememberMeAck()
    raise WireError("unknown sealed response")
