"""Requests of IPR versions 8, 9 and 10: the same octets but for the first.

Wire layout::

    offset  size  field
    0       1     version
    1       1     service provider type, 1 for the IP packet router
    2       1     0 Data, 1 Control
    3       n     Data: the bundle as a byte string
    3       1     Control: 0 Connect, 1 Disconnect, 2 Ping, 3 Health
    4       1..9  request_id, varint
            1..10   Connect: buffer_timeout in milliseconds, option of varint
            11..17  timestamp

Source: common/ip-packet-requests/src/v8/request.rs; spec/ipr.md section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from smolmix_sync.errors import WireError
from smolmix_sync.ipr.bincode import Reader, Writer, encode_varint
from smolmix_sync.ipr.values import Timestamp

__all__ = [
    "CURRENT_VERSIONS",
    "IP_PACKET_ROUTER",
    "ConnectRequest",
    "DataRequest",
    "DisconnectRequest",
    "HealthRequest",
    "PingRequest",
    "Request",
    "decode_request_untrusted",
]

# From the specification.
CURRENT_VERSIONS = (8, 9, 10)
IP_PACKET_ROUTER = 1
_CONTROL = 1
_CONNECT, _DISCONNECT, _PING, _HEALTH = range(4)


def _control(version: int, tag: int, request_id: int) -> Writer:
    return Writer(bytes((version, IP_PACKET_ROUTER, _CONTROL, tag))).varint(request_id)


@dataclass(slots=True)
class DataRequest:
    """IP packets for the exit, as one bundle."""

    version: int
    bundle: bytes

    def encode(self) -> bytes:
        """Return the whole message."""
        head = bytes((self.version, IP_PACKET_ROUTER, 0))
        return b"".join((head, encode_varint(len(self.bundle)), self.bundle))


@dataclass(slots=True)
class ConnectRequest:
    """Asks for a pair of addresses.

    ``buffer_timeout_ms`` is how long the exit may hold packets to fill a bundle; None leaves
    it at 20 ms. Never send 0: the exit of 1.21 makes a timer of it and panics.
    """

    version: int
    request_id: int
    timestamp: Timestamp
    buffer_timeout_ms: int | None = None

    def encode(self) -> bytes:
        """Return the whole message."""
        writer = _control(self.version, _CONNECT, self.request_id)
        return writer.option(self.buffer_timeout_ms, writer.varint).timestamp(self.timestamp).getvalue()


@dataclass(slots=True)
class DisconnectRequest:
    """Gives the addresses back."""

    version: int
    request_id: int
    timestamp: Timestamp

    def encode(self) -> bytes:
        """Return the whole message."""
        return _control(self.version, _DISCONNECT, self.request_id).timestamp(self.timestamp).getvalue()


@dataclass(slots=True)
class PingRequest:
    """Asks for a pong."""

    version: int
    request_id: int
    timestamp: Timestamp

    def encode(self) -> bytes:
        """Return the whole message."""
        return _control(self.version, _PING, self.request_id).timestamp(self.timestamp).getvalue()


@dataclass(slots=True)
class HealthRequest:
    """Asks for the exit's build."""

    version: int
    request_id: int
    timestamp: Timestamp

    def encode(self) -> bytes:
        """Return the whole message."""
        return _control(self.version, _HEALTH, self.request_id).timestamp(self.timestamp).getvalue()


Request = DataRequest | ConnectRequest | DisconnectRequest | PingRequest | HealthRequest


def decode_request_untrusted(data: bytes) -> Request:
    """Decode a whole request of version 8, 9 or 10.

    Raises:
        WireError: another version, another service provider, or a malformed message.
    """
    reader = Reader(data)
    version = reader.u8()
    if version not in CURRENT_VERSIONS:
        raise WireError(f"request of version {version}")
    # The dispatcher looks at this octet as such, so no longer varint of 1 gets past it.
    if reader.u8() != IP_PACKET_ROUTER:
        raise WireError("request for another service provider")
    request: Request
    if reader.tag(2) == 0:
        request = DataRequest(version, reader.blob())
    else:
        tag = reader.tag(4)
        request_id = reader.varint()
        if tag == _CONNECT:
            buffer_timeout_ms = reader.option(reader.varint)
            request = ConnectRequest(version, request_id, reader.timestamp(), buffer_timeout_ms)
        else:
            kind = (DisconnectRequest, PingRequest, HealthRequest)[tag - 1]
            request = kind(version, request_id, reader.timestamp())
    reader.end()
    return request
