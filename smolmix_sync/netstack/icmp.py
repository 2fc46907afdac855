"""ICMP and ICMPv6: messages, the errno of an error, and the packet it quotes.

Source: RFC 792, RFC 1122 section 3.2.2, RFC 4443; spec/netstack.md section 3.2.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from smolmix_sync.errors import WireError
from smolmix_sync.netstack.checksum import internet_checksum, transport_checksum
from smolmix_sync.netstack.ip import ICMPV6, TCP
from smolmix_sync.netstack.ipv6 import upper_layer

__all__ = [
    "ECHO_REPLY",
    "ECHO_REPLY_V6",
    "ECHO_REQUEST",
    "ECHO_REQUEST_V6",
    "IcmpMessage",
    "Quote",
    "decode_untrusted",
    "echo",
    "encode",
    "errno_of",
    "is_error",
    "mtu_of",
    "quote_untrusted",
]

# From the specification.
ECHO_REPLY = 0
ECHO_REQUEST = 8
ECHO_REQUEST_V6 = 128
ECHO_REPLY_V6 = 129
_UNREACHABLE = 3
_TIME_EXCEEDED = 11
_PARAMETER_PROBLEM = 12
_FRAGMENTATION_NEEDED = 4
_UNREACHABLE_V6 = 1
_PACKET_TOO_BIG_V6 = 2
_TIME_EXCEEDED_V6 = 3
_PARAMETER_PROBLEM_V6 = 4

_HEADER = struct.Struct("!BBH4s")

_UNREACHABLE_ERRNO = {
    0: errno.ENETUNREACH,
    1: errno.EHOSTUNREACH,
    2: errno.ENOPROTOOPT,
    3: errno.ECONNREFUSED,
    6: errno.ENETUNREACH,
    7: errno.EHOSTUNREACH,
    9: errno.EHOSTUNREACH,
    10: errno.EHOSTUNREACH,
    11: errno.ENETUNREACH,
    12: errno.EHOSTUNREACH,
    13: errno.EHOSTUNREACH,
}
_UNREACHABLE_V6_ERRNO = {
    0: errno.ENETUNREACH,
    1: errno.EHOSTUNREACH,
    3: errno.EHOSTUNREACH,
    4: errno.ECONNREFUSED,
}
# RFC 1191 section 7.1: where a router does not name its MTU, try the next common one.
_PLATEAUS = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 576)


@dataclass(slots=True)
class IcmpMessage:
    """One message; *rest* is the second header word."""

    version: int
    type: int
    code: int
    rest: bytes
    body: bytes


@dataclass(slots=True)
class Quote:
    """The packet an error quotes: one we are said to have sent."""

    source: bytes
    destination: bytes
    protocol: int
    transport: bytes
    total_length: int


def encode(
    source: bytes,
    destination: bytes,
    type_: int,
    code: int,
    rest: bytes,
    body: bytes | bytearray | memoryview,
) -> bytes:
    """Return an ICMP (4-octet addresses) or ICMPv6 message with its checksum."""
    message = _HEADER.pack(type_, code, 0, rest) + body
    if len(source) == 4:
        checksum = internet_checksum(message)
    else:
        checksum = transport_checksum(source, destination, ICMPV6, message)
    return message[:2] + checksum.to_bytes(2, "big") + message[4:]


def echo(source: bytes, destination: bytes, ident: int, seq: int, body: bytes) -> bytes:
    """Return an echo request."""
    kind = ECHO_REQUEST if len(source) == 4 else ECHO_REQUEST_V6
    return encode(source, destination, kind, 0, struct.pack("!HH", ident, seq), body)


def decode_untrusted(source: bytes, destination: bytes, data: bytes) -> IcmpMessage:
    """Decode one message and check its checksum.

    Raises:
        WireError: the argument names the drop counter.
    """
    if len(data) < _HEADER.size:
        raise WireError("icmp_short")
    v6 = len(source) == 16
    if transport_checksum(source, destination, ICMPV6, data) if v6 else internet_checksum(data):
        raise WireError("icmp_checksum")
    type_, code, _, rest = _HEADER.unpack_from(data)
    return IcmpMessage(6 if v6 else 4, type_, code, rest, data[8:])


def is_error(message: IcmpMessage) -> bool:
    """Tell whether *message* quotes a packet."""
    if message.version == 6:
        return message.type < 128
    return message.type in (_UNREACHABLE, _TIME_EXCEEDED, _PARAMETER_PROBLEM)


def errno_of(message: IcmpMessage) -> int | None:
    """Return the errno of an error message, None for one without (MTU, unknown codes)."""
    if message.version == 4:
        if message.type == _UNREACHABLE:
            return _UNREACHABLE_ERRNO.get(message.code)
        return errno.EHOSTUNREACH if message.type == _TIME_EXCEEDED else None
    if message.type == _UNREACHABLE_V6:
        return _UNREACHABLE_V6_ERRNO.get(message.code)
    return errno.EHOSTUNREACH if message.type == _TIME_EXCEEDED_V6 else None


def mtu_of(message: IcmpMessage, quote: Quote) -> int | None:
    """Return the MTU a "packet too big" message asks for, or None for another message."""
    if message.version == 6:
        return int.from_bytes(message.rest, "big") if message.type == _PACKET_TOO_BIG_V6 else None
    if message.type != _UNREACHABLE or message.code != _FRAGMENTATION_NEEDED:
        return None
    mtu = int.from_bytes(message.rest[2:], "big")
    if mtu == 0:
        mtu = next((plateau for plateau in _PLATEAUS if plateau < quote.total_length), 576)
    return mtu


def quote_untrusted(message: IcmpMessage) -> Quote:
    """Decode the quoted packet: at least its IP header and 8 octets of transport.

    Raises:
        WireError: the argument names the drop counter.
    """
    body = message.body
    if message.version == 4:
        if len(body) < 28 or body[0] >> 4 != 4:
            raise WireError("icmp_quote")
        size = (body[0] & 15) * 4
        if size < 20 or len(body) < size + 8 or int.from_bytes(body[6:8], "big") & 0x1FFF:
            raise WireError("icmp_quote")
        total = int.from_bytes(body[2:4], "big")
        return Quote(body[12:16], body[16:20], body[9], body[size:], total)
    if len(body) < 48 or body[0] >> 4 != 6:
        raise WireError("icmp_quote")
    try:
        protocol, transport, part = upper_layer(body[6], body[40:])
    except WireError:
        raise WireError("icmp_quote") from None
    if len(transport) < 8 or (part is not None and part.offset):
        raise WireError("icmp_quote")
    if protocol == TCP and part is not None:
        raise WireError("icmp_quote")  # we never fragment TCP
    return Quote(body[8:24], body[24:40], protocol, transport, 40 + int.from_bytes(body[4:6], "big"))
