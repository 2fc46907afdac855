"""Responses of IPR versions 8, 9 and 10.

Wire layout::

    offset  size  field
    0       1     version
    1       1     0 Data, 1 Control
    2       n     Data: the bundle as a byte string
    2       1     Control: 0 Connect, 1 Disconnect, 2 UnrequestedDisconnect, 3 Pong, 4 Health, 5 Info
    3       1..9  request_id, varint; absent from UnrequestedDisconnect
            n     the reply

Version 10 differs in one place: a Connect success ends with the exit's MTU.

Source: common/ip-packet-requests/src/v8/response.rs; spec/ipr.md sections 3 and 9.
"""

from __future__ import annotations

from dataclasses import dataclass

from smolmix_sync.errors import WireError
from smolmix_sync.ipr.bincode import Reader, Writer, encode_varint
from smolmix_sync.ipr.reasons import (
    BuildInfo,
    ConnectFailure,
    DisconnectFailure,
    InfoLevel,
    InfoReply,
    Reason,
    UnrequestedReason,
    read_info,
    read_reason,
    write_info,
    write_reason,
)
from smolmix_sync.ipr.requests import CURRENT_VERSIONS
from smolmix_sync.ipr.values import IpPair

__all__ = [
    "ConnectResponse",
    "ConnectSuccess",
    "ControlResponse",
    "DataResponse",
    "DisconnectResponse",
    "HealthResponse",
    "InfoResponse",
    "PongResponse",
    "Response",
    "UnrequestedDisconnect",
    "decode_response_untrusted",
]

# From the specification.
_CONTROL = 1
_CONNECT, _DISCONNECT, _UNREQUESTED, _PONG, _HEALTH, _INFO = range(6)
_FIRST_WITH_MTU = 10


def _control(version: int, tag: int, request_id: int) -> Writer:
    return Writer(bytes((version, _CONTROL, tag))).varint(request_id)


@dataclass(slots=True)
class DataResponse:
    """IP packets from the exit, as one bundle."""

    version: int
    bundle: bytes

    def encode(self) -> bytes:
        """Return the whole message."""
        return b"".join((bytes((self.version, 0)), encode_varint(len(self.bundle)), self.bundle))


@dataclass(frozen=True, slots=True)
class ConnectSuccess:
    """The addresses given; ``mtu`` is there in version 10 and None before."""

    ips: IpPair
    mtu: int | None = None


@dataclass(slots=True)
class ConnectResponse:
    """The answer to a connect request."""

    version: int
    request_id: int
    reply: ConnectSuccess | Reason

    def encode(self) -> bytes:
        """Return the whole message.

        Raises:
            ValueError: an MTU before version 10, or none in version 10.
        """
        writer = _control(self.version, _CONNECT, self.request_id)
        if isinstance(self.reply, Reason):
            write_reason(writer.varint(1), self.reply)
            return writer.getvalue()
        writer.varint(0).ip_pair(self.reply.ips)
        if (self.reply.mtu is not None) != (self.version >= _FIRST_WITH_MTU):
            raise ValueError("version 10 names an MTU, the versions before do not")
        if self.reply.mtu is not None:
            writer.varint(self.reply.mtu)
        return writer.getvalue()


@dataclass(slots=True)
class DisconnectResponse:
    """The answer to a disconnect request; ``failure`` None is success."""

    version: int
    request_id: int
    failure: Reason | None = None

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = _control(self.version, _DISCONNECT, self.request_id)
        if self.failure is None:
            writer.varint(0)
        else:
            write_reason(writer.varint(1), self.failure)
        return writer.getvalue()


@dataclass(slots=True)
class UnrequestedDisconnect:
    """The exit ends the session."""

    version: int
    reason: Reason

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = Writer(bytes((self.version, _CONTROL, _UNREQUESTED)))
        write_reason(writer, self.reason)
        return writer.getvalue()


@dataclass(slots=True)
class PongResponse:
    """The answer to a ping."""

    version: int
    request_id: int

    def encode(self) -> bytes:
        """Return the whole message."""
        return _control(self.version, _PONG, self.request_id).getvalue()


@dataclass(slots=True)
class HealthResponse:
    """The answer to a health request."""

    version: int
    request_id: int
    build_info: BuildInfo
    routable: bool | None = None

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = _control(self.version, _HEALTH, self.request_id)
        self.build_info.write(writer)
        return writer.option(self.routable, writer.flag).getvalue()


@dataclass(slots=True)
class InfoResponse:
    """A notice; ``request_id`` is 0 when it belongs to no request."""

    version: int
    request_id: int
    reply: InfoReply
    level: InfoLevel

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = _control(self.version, _INFO, self.request_id)
        write_info(writer, self.reply, self.level)
        return writer.getvalue()


ControlResponse = (
    ConnectResponse
    | DisconnectResponse
    | UnrequestedDisconnect
    | PongResponse
    | HealthResponse
    | InfoResponse
)
Response = DataResponse | ControlResponse


def decode_response_untrusted(data: bytes, layout: int | None = None) -> Response:
    """Decode a whole response.

    Args:
        data: the message.
        layout: the version whose layout to apply whatever the first octet says; the caller
            compares ``version``, as real clients do. None takes it from the first octet.

    Raises:
        WireError: a malformed message, or a first octet other than 8, 9, 10 with *layout* None.
    """
    reader = Reader(data)
    version = reader.u8()
    if layout is None:
        if version not in CURRENT_VERSIONS:
            raise WireError(f"response of version {version}")
        layout = version
    if reader.tag(2) == 0:
        response: Response = DataResponse(version, reader.blob())
    else:
        response = _read_control(reader, version, layout)
    reader.end()
    return response


def _read_control(reader: Reader, version: int, layout: int) -> ControlResponse:
    tag = reader.tag(6)
    if tag == _UNREQUESTED:
        return UnrequestedDisconnect(version, read_reason(reader, UnrequestedReason))
    request_id = reader.varint()
    if tag == _CONNECT:
        if reader.tag(2):
            return ConnectResponse(version, request_id, read_reason(reader, ConnectFailure))
        ips = reader.ip_pair()
        mtu = reader.varint(16) if layout >= _FIRST_WITH_MTU else None
        return ConnectResponse(version, request_id, ConnectSuccess(ips, mtu))
    if tag == _DISCONNECT:
        failure = read_reason(reader, DisconnectFailure) if reader.tag(2) else None
        return DisconnectResponse(version, request_id, failure)
    if tag == _PONG:
        return PongResponse(version, request_id)
    if tag == _HEALTH:
        return HealthResponse(version, request_id, BuildInfo.read(reader), reader.option(reader.flag))
    return InfoResponse(version, request_id, *read_info(reader))
