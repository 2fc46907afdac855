"""Requests and responses of IPR versions 6 and 7, bare and answered to a full Nym address.

Kept for completeness: exits of 1.21 still accept them, nothing of ours sends them.

Requests are ``version tag payload`` with the tags 0 StaticConnect, 1 DynamicConnect,
2 Disconnect, 3 Data, 4 Ping, 5 Health. Responses are ``version tag request_id reply_to
rest`` with 0 StaticConnect, 1 DynamicConnect, 2 Disconnect, 3 UnrequestedDisconnect (no
request_id), 4 Data (the bundle alone), 5 Pong, 6 Health, 7 Info. Version 7 adds a
timestamp to every request but Data, and an optional signature to the first three.

Source: common/ip-packet-requests/src/{v6,v7}; spec/ipr.md section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smolmix_sync.address import Recipient
from smolmix_sync.errors import WireError
from smolmix_sync.ipr.bincode import Reader, Writer
from smolmix_sync.ipr.reasons import (
    BuildInfo,
    DynamicConnectFailure,
    InfoLevel,
    InfoReply,
    LegacyDisconnectFailure,
    Reason,
    ReasonKind,
    StaticConnectFailureV6,
    StaticConnectFailureV7,
    UnrequestedReason,
    read_info,
    read_reason,
    write_info,
    write_reason,
)
from smolmix_sync.ipr.values import IpPair, Timestamp

__all__ = [
    "LEGACY_VERSIONS",
    "LegacyConnectRequest",
    "LegacyConnectResponse",
    "LegacyDataRequest",
    "LegacyDataResponse",
    "LegacyDisconnectRequest",
    "LegacyDisconnectResponse",
    "LegacyHealthRequest",
    "LegacyHealthResponse",
    "LegacyInfoResponse",
    "LegacyPingRequest",
    "LegacyPongResponse",
    "LegacyRequest",
    "LegacyResponse",
    "LegacyUnrequestedDisconnect",
    "SignableRequest",
    "decode_legacy_request_untrusted",
    "decode_legacy_response_untrusted",
]

# From the specification.
LEGACY_VERSIONS = (6, 7)
_STATIC, _DYNAMIC, _DISCONNECT = range(3)
_DATA, _PING, _HEALTH = 3, 4, 5
_R_UNREQUESTED, _R_DATA, _R_PONG, _R_HEALTH, _R_INFO = range(3, 8)


def _write_timestamp(writer: Writer, version: int, timestamp: Timestamp | None) -> None:
    if (timestamp is not None) != (version == 7):
        raise ValueError("version 7 carries a timestamp, version 6 does not")
    if timestamp is not None:
        writer.timestamp(timestamp)


def _read_timestamp(reader: Reader, version: int) -> Timestamp | None:
    return reader.timestamp() if version == 7 else None


def _sealed(version: int, tag: int, signable: bytes, signature: bytes | None) -> bytes:
    """Return a connect or disconnect request: what is signed, and in version 7 the signature."""
    writer = Writer(bytes((version, tag)) + signable)
    if version == 7:
        writer.option(signature, writer.blob)
    elif signature is not None:
        raise ValueError("version 6 has no signatures")
    return writer.getvalue()


@dataclass(slots=True)
class LegacyConnectRequest:
    """Asks for addresses: for ``ips`` (StaticConnect), or for any when it is None (DynamicConnect)."""

    version: int
    request_id: int
    reply_to: Recipient
    ips: IpPair | None = None
    reply_to_hops: int | None = None
    reply_to_avg_mix_delays: float | None = None
    buffer_timeout_ms: int | None = None
    timestamp: Timestamp | None = None
    signature: bytes | None = field(default=None, repr=False)

    def signable(self) -> bytes:
        """Return what version 7 signs: the request from its id to its timestamp."""
        writer = Writer().varint(self.request_id)
        if self.ips is not None:
            writer.ip_pair(self.ips)
        writer.recipient(self.reply_to).option(self.reply_to_hops, writer.u8)
        writer.option(self.reply_to_avg_mix_delays, writer.f64).option(self.buffer_timeout_ms, writer.varint)
        _write_timestamp(writer, self.version, self.timestamp)
        return writer.getvalue()

    def encode(self) -> bytes:
        """Return the whole message."""
        tag = _DYNAMIC if self.ips is None else _STATIC
        return _sealed(self.version, tag, self.signable(), self.signature)


@dataclass(slots=True)
class LegacyDisconnectRequest:
    """Gives the addresses back."""

    version: int
    request_id: int
    reply_to: Recipient
    timestamp: Timestamp | None = None
    signature: bytes | None = field(default=None, repr=False)

    def signable(self) -> bytes:
        """Return what version 7 signs: the request from its id to its timestamp."""
        writer = Writer().varint(self.request_id).recipient(self.reply_to)
        _write_timestamp(writer, self.version, self.timestamp)
        return writer.getvalue()

    def encode(self) -> bytes:
        """Return the whole message."""
        return _sealed(self.version, _DISCONNECT, self.signable(), self.signature)


SignableRequest = LegacyConnectRequest | LegacyDisconnectRequest


@dataclass(slots=True)
class LegacyDataRequest:
    """IP packets for the exit, as one bundle."""

    version: int
    bundle: bytes

    def encode(self) -> bytes:
        """Return the whole message."""
        return Writer(bytes((self.version, _DATA))).blob(self.bundle).getvalue()


@dataclass(slots=True)
class LegacyPingRequest:
    """Asks for a pong; never signed."""

    version: int
    request_id: int
    reply_to: Recipient
    timestamp: Timestamp | None = None

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = Writer(bytes((self.version, _PING))).varint(self.request_id).recipient(self.reply_to)
        _write_timestamp(writer, self.version, self.timestamp)
        return writer.getvalue()


@dataclass(slots=True)
class LegacyHealthRequest:
    """Asks for the exit's build; never signed."""

    version: int
    request_id: int
    reply_to: Recipient
    timestamp: Timestamp | None = None

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = Writer(bytes((self.version, _HEALTH))).varint(self.request_id).recipient(self.reply_to)
        _write_timestamp(writer, self.version, self.timestamp)
        return writer.getvalue()


LegacyRequest = (
    LegacyConnectRequest
    | LegacyDisconnectRequest
    | LegacyDataRequest
    | LegacyPingRequest
    | LegacyHealthRequest
)


def _read_version(reader: Reader) -> int:
    version = reader.u8()
    if version not in LEGACY_VERSIONS:
        raise WireError(f"version {version} is not 6 or 7")
    return version


def decode_legacy_request_untrusted(data: bytes) -> LegacyRequest:
    """Decode a whole request of version 6 or 7; its signature is not verified here.

    Raises:
        WireError: another version, or a malformed message.
    """
    reader = Reader(data)
    version = _read_version(reader)
    tag = reader.tag(6)
    request: LegacyRequest
    if tag == _DATA:
        request = LegacyDataRequest(version, reader.blob())
    else:
        request_id = reader.varint()
        ips = reader.ip_pair() if tag == _STATIC else None
        reply_to = reader.recipient()
        if tag in (_STATIC, _DYNAMIC):
            hops = reader.option(reader.u8)
            delay = reader.option(reader.f64)
            buffer_timeout_ms = reader.option(reader.varint)
            timestamp = _read_timestamp(reader, version)
            signature = reader.option(reader.signature) if version == 7 else None
            request = LegacyConnectRequest(
                version, request_id, reply_to, ips, hops, delay, buffer_timeout_ms, timestamp, signature
            )
        elif tag == _DISCONNECT:
            timestamp = _read_timestamp(reader, version)
            signature = reader.option(reader.signature) if version == 7 else None
            request = LegacyDisconnectRequest(version, request_id, reply_to, timestamp, signature)
        else:
            kind = LegacyPingRequest if tag == _PING else LegacyHealthRequest
            request = kind(version, request_id, reply_to, _read_timestamp(reader, version))
    reader.end()
    return request


def _response(version: int, tag: int, request_id: int, reply_to: Recipient) -> Writer:
    return Writer(bytes((version, tag))).varint(request_id).recipient(reply_to)


@dataclass(slots=True)
class LegacyConnectResponse:
    """The answer to a connect request.

    ``failure`` None is success; then ``ips`` are the addresses given when ``static`` is
    false, and None when it is true, because the client named them itself.
    """

    version: int
    request_id: int
    reply_to: Recipient
    static: bool
    ips: IpPair | None = None
    failure: Reason | None = None

    def encode(self) -> bytes:
        """Return the whole message.

        Raises:
            ValueError: a dynamic success without addresses, or addresses elsewhere.
        """
        if (self.ips is not None) != (not self.static and self.failure is None):
            raise ValueError("a dynamic success names addresses, nothing else does")
        tag = _STATIC if self.static else _DYNAMIC
        writer = _response(self.version, tag, self.request_id, self.reply_to)
        if self.failure is not None:
            write_reason(writer.varint(1), self.failure)
            return writer.getvalue()
        writer.varint(0)
        if self.ips is not None:
            writer.ip_pair(self.ips)
        return writer.getvalue()


@dataclass(slots=True)
class LegacyDisconnectResponse:
    """The answer to a disconnect request; ``failure`` None is success."""

    version: int
    request_id: int
    reply_to: Recipient
    failure: Reason | None = None

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = _response(self.version, _DISCONNECT, self.request_id, self.reply_to)
        if self.failure is None:
            writer.varint(0)
        else:
            write_reason(writer.varint(1), self.failure)
        return writer.getvalue()


@dataclass(slots=True)
class LegacyUnrequestedDisconnect:
    """The exit ends the session."""

    version: int
    reply_to: Recipient
    reason: Reason

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = Writer(bytes((self.version, _R_UNREQUESTED))).recipient(self.reply_to)
        write_reason(writer, self.reason)
        return writer.getvalue()


@dataclass(slots=True)
class LegacyDataResponse:
    """IP packets from the exit, as one bundle."""

    version: int
    bundle: bytes

    def encode(self) -> bytes:
        """Return the whole message."""
        return Writer(bytes((self.version, _R_DATA))).blob(self.bundle).getvalue()


@dataclass(slots=True)
class LegacyPongResponse:
    """The answer to a ping."""

    version: int
    request_id: int
    reply_to: Recipient

    def encode(self) -> bytes:
        """Return the whole message."""
        return _response(self.version, _R_PONG, self.request_id, self.reply_to).getvalue()


@dataclass(slots=True)
class LegacyHealthResponse:
    """The answer to a health request."""

    version: int
    request_id: int
    reply_to: Recipient
    build_info: BuildInfo
    routable: bool | None = None

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = _response(self.version, _R_HEALTH, self.request_id, self.reply_to)
        self.build_info.write(writer)
        return writer.option(self.routable, writer.flag).getvalue()


@dataclass(slots=True)
class LegacyInfoResponse:
    """A notice; ``request_id`` is 0 when it belongs to no request."""

    version: int
    request_id: int
    reply_to: Recipient
    reply: InfoReply
    level: InfoLevel

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = _response(self.version, _R_INFO, self.request_id, self.reply_to)
        write_info(writer, self.reply, self.level)
        return writer.getvalue()


LegacyResponse = (
    LegacyConnectResponse
    | LegacyDisconnectResponse
    | LegacyUnrequestedDisconnect
    | LegacyDataResponse
    | LegacyPongResponse
    | LegacyHealthResponse
    | LegacyInfoResponse
)


def decode_legacy_response_untrusted(data: bytes) -> LegacyResponse:
    """Decode a whole response of version 6 or 7.

    Raises:
        WireError: another version, or a malformed message.
    """
    reader = Reader(data)
    version = _read_version(reader)
    tag = reader.tag(8)
    response: LegacyResponse
    if tag == _R_DATA:
        response = LegacyDataResponse(version, reader.blob())
    elif tag == _R_UNREQUESTED:
        reply_to = reader.recipient()
        response = LegacyUnrequestedDisconnect(version, reply_to, read_reason(reader, UnrequestedReason))
    else:
        response = _read_answer(reader, version, tag, reader.varint(), reader.recipient())
    reader.end()
    return response


def _read_answer(
    reader: Reader, version: int, tag: int, request_id: int, reply_to: Recipient
) -> LegacyResponse:
    if tag == _STATIC:
        static_failures = StaticConnectFailureV6 if version == 6 else StaticConnectFailureV7
        failure = _read_failure(reader, static_failures)
        return LegacyConnectResponse(version, request_id, reply_to, True, None, failure)
    if tag == _DYNAMIC:
        failure = _read_failure(reader, DynamicConnectFailure)
        ips = reader.ip_pair() if failure is None else None
        return LegacyConnectResponse(version, request_id, reply_to, False, ips, failure)
    if tag == _DISCONNECT:
        failure = _read_failure(reader, LegacyDisconnectFailure)
        return LegacyDisconnectResponse(version, request_id, reply_to, failure)
    if tag == _R_PONG:
        return LegacyPongResponse(version, request_id, reply_to)
    if tag == _R_HEALTH:
        build_info = BuildInfo.read(reader)
        return LegacyHealthResponse(version, request_id, reply_to, build_info, reader.option(reader.flag))
    return LegacyInfoResponse(version, request_id, reply_to, *read_info(reader))


def _read_failure(reader: Reader, kind: type[ReasonKind]) -> Reason | None:
    """Return None for success, ``00`` on the wire, or the reason behind ``01``."""
    return read_reason(reader, kind) if reader.tag(2) else None
