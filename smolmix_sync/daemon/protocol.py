"""The packets between the daemon and its clients.

One request or reply is one SOCK_SEQPACKET packet. Numbers are big-endian, but for cookies, which are the kernel's own
eight octets. A request::

    offset  size  field
    0       4     "SMX1"
    4       1     operation, see Op
    5       1     flags, by operation
    6       2     port
    8       4     request id, chosen by the client, echoed in the reply
    12      4     timeout in milliseconds, 0 for the default
    16      1     family: 0 any, 4 or 6
    17      1     type: 1 TCP, 2 UDP
    18      2     n, length of the host
    20      n     host: a name or an address, ASCII
    20+n          any number of: tag (1), length (1), value

A reply::

    0       4     "SMX1"
    4       1     operation | 0x80
    5       1     flags: 1 the error is a resolver's (EAI, positive), 2 the peer has finished (FIN)
    6       2     errno, 0 for success
    8       4     request id
    12      20    local address block (spec/sockets.md section 7)
    32      20    remote address block
    52      8     cookie of the client's end of the pair
    60            by operation: JSON, addresses, or the words of an error

Source: spec/sockets.md section 12.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from smolmix_sync.errors import WireError

__all__ = [
    "MAX_REPLY",
    "MAX_REQUEST",
    "NO_BLOCK",
    "NO_COOKIE",
    "Op",
    "Reply",
    "ReplyFlag",
    "Request",
    "RequestFlag",
    "Tag",
    "decode_addresses_untrusted",
    "encode_addresses",
]

MAGIC = b"SMX1"
MAX_REQUEST = 1024
MAX_REPLY = 65536
NO_BLOCK = bytes(20)
NO_COOKIE = bytes(8)

_REQUEST = struct.Struct("!4sBBHIIBBH")
_REPLY = struct.Struct("!4sBBHI20s20s8s")
_OPTION = struct.Struct("!ii")
_IS_REPLY = 0x80


class Op(enum.IntEnum):
    """What a client asks for."""

    CONNECT = 1
    """A connected descriptor: the daemon makes the pair and replies when the peer has answered."""
    ATTACH = 2
    """Serve the other end of a pair of mine, which comes with the request."""
    RESOLVE = 3
    LISTEN = 4
    SETOPT = 5
    STATUS = 6
    CANCEL = 7
    WATCH = 8
    """A STATUS reply now and after every change of the tunnel's state, until the connection is closed."""


class RequestFlag(enum.IntFlag):
    """Bits of a request's flags."""

    REVERSE = 1
    """RESOLVE: the host is an address, its name is wanted."""
    WAIT = 1
    """STATUS: reply when the tunnel is READY, at most after the timeout."""


class ReplyFlag(enum.IntFlag):
    """Bits of a reply's flags."""

    RESOLVER = 1
    FIN = 2


class Tag(enum.IntEnum):
    """What may follow the host in a request."""

    JUNK = 1
    """u32: octets of filling in the pair, read away when the connect is over."""
    COOKIE = 2
    """8 octets: SO_COOKIE of the client's end of the pair."""
    LOCAL_PORT = 3
    """u16: bind here."""
    OPTION = 4
    """i32 level, i32 option, then the value as setsockopt takes it."""
    ISOLATE = 5
    """text: the request is for the tunnel of this key."""
    BACKLOG = 6
    """u16: for LISTEN."""


@dataclass(slots=True)
class Request:
    """One request; see the module for the octets."""

    op: Op
    ident: int = 0
    host: str = ""
    port: int = 0
    timeout: float = 0.0
    family: int = 0
    type: int = 1
    flags: int = 0
    junk: int = 0
    cookie: bytes = NO_COOKIE
    local_port: int = 0
    options: dict[tuple[int, int], bytes] = field(default_factory=dict)
    isolate: str = ""
    backlog: int = 128

    def encode(self) -> bytes:
        """Return the packet.

        Raises:
            ValueError: it would be longer than ``MAX_REQUEST``.
        """
        host = self.host.encode("ascii")
        milliseconds = min(0xFFFFFFFF, max(0, round(self.timeout * 1000)))
        parts = [
            _REQUEST.pack(
                MAGIC,
                self.op,
                self.flags,
                self.port,
                self.ident,
                milliseconds,
                self.family,
                self.type,
                len(host),
            ),
            host,
        ]
        if self.junk:
            parts.append(_tail(Tag.JUNK, self.junk.to_bytes(4, "big")))
        if self.cookie != NO_COOKIE:
            parts.append(_tail(Tag.COOKIE, self.cookie))
        if self.local_port:
            parts.append(_tail(Tag.LOCAL_PORT, self.local_port.to_bytes(2, "big")))
        if self.backlog != 128:
            parts.append(_tail(Tag.BACKLOG, self.backlog.to_bytes(2, "big")))
        if self.isolate:
            parts.append(_tail(Tag.ISOLATE, self.isolate.encode()))
        for (level, option), value in self.options.items():
            parts.append(_tail(Tag.OPTION, _OPTION.pack(level, option) + value))
        packet = b"".join(parts)
        if len(packet) > MAX_REQUEST:
            raise ValueError("request too long")
        return packet

    @classmethod
    def decode_untrusted(cls, data: bytes) -> Request:
        """Decode a packet.

        Raises:
            WireError: not a request; a tag that is not known is ignored.
        """
        if not _REQUEST.size <= len(data) <= MAX_REQUEST:
            raise WireError("a request has 20 to 1024 octets")
        magic, op, flags, port, ident, milliseconds, family, kind, length = _REQUEST.unpack_from(data)
        if magic != MAGIC:
            raise WireError("not SMX1")
        if family not in (0, 4, 6) or kind not in (0, 1, 2):
            raise WireError("unknown family or type")
        host, tail = data[_REQUEST.size : _REQUEST.size + length], data[_REQUEST.size + length :]
        if len(host) != length or not host.isascii():
            raise WireError("host cut short, or not ASCII")
        try:
            request = cls(
                Op(op), ident, host.decode("ascii"), port, milliseconds / 1000, family, kind or 1, flags
            )
        except ValueError:
            raise WireError(f"unknown operation {op}") from None
        while tail:
            if len(tail) < 2 or len(tail) < 2 + tail[1]:
                raise WireError("a value is cut short")
            request._take(tail[0], tail[2 : 2 + tail[1]])
            tail = tail[2 + tail[1] :]
        return request

    def _take(self, tag: int, value: bytes) -> None:
        sizes = {Tag.JUNK: 4, Tag.COOKIE: 8, Tag.LOCAL_PORT: 2, Tag.BACKLOG: 2}
        if tag in sizes and len(value) != sizes[Tag(tag)]:
            raise WireError(f"value of tag {tag} has a wrong length")
        if tag == Tag.JUNK:
            self.junk = int.from_bytes(value, "big")
        elif tag == Tag.COOKIE:
            self.cookie = value
        elif tag == Tag.LOCAL_PORT:
            self.local_port = int.from_bytes(value, "big")
        elif tag == Tag.BACKLOG:
            self.backlog = int.from_bytes(value, "big")
        elif tag == Tag.ISOLATE:
            try:
                self.isolate = value.decode()
            except UnicodeDecodeError:
                raise WireError("isolation key is not UTF-8") from None
        elif tag == Tag.OPTION:
            if len(value) < _OPTION.size:
                raise WireError("an option is cut short")
            self.options[_OPTION.unpack_from(value)] = value[_OPTION.size :]


def _tail(tag: Tag, value: bytes) -> bytes:
    if len(value) > 255:
        raise ValueError("value too long")
    return bytes((tag, len(value))) + value


@dataclass(slots=True)
class Reply:
    """One reply; see the module for the octets."""

    op: int
    ident: int = 0
    errno: int = 0
    flags: int = 0
    local: bytes = NO_BLOCK
    remote: bytes = NO_BLOCK
    cookie: bytes = NO_COOKIE
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the packet; a payload that does not fit is cut."""
        head = _REPLY.pack(
            MAGIC,
            self.op | _IS_REPLY,
            self.flags,
            self.errno,
            self.ident,
            self.local,
            self.remote,
            self.cookie,
        )
        return head + self.payload[: MAX_REPLY - _REPLY.size]

    @classmethod
    def decode_untrusted(cls, data: bytes) -> Reply:
        """Decode a packet.

        Raises:
            WireError: not a reply.
        """
        if len(data) < _REPLY.size:
            raise WireError("a reply has at least 60 octets")
        magic, op, flags, number, ident, local, remote, cookie = _REPLY.unpack_from(data)
        if magic != MAGIC or not op & _IS_REPLY:
            raise WireError("not a reply of SMX1")
        return cls(op & ~_IS_REPLY, ident, number, flags, local, remote, cookie, data[_REPLY.size :])

    @property
    def detail(self) -> str:
        """The payload of an error as text."""
        return self.payload.decode("utf-8", "replace")


def encode_addresses(blocks: list[bytes], name: str) -> bytes:
    """Encode the answer of RESOLVE: u16 count, address blocks, then the canonical name to the end."""
    return len(blocks).to_bytes(2, "big") + b"".join(blocks) + name.encode("utf-8", "replace")


def decode_addresses_untrusted(payload: bytes) -> tuple[list[bytes], str]:
    """Decode the answer of RESOLVE.

    Raises:
        WireError: cut short.
    """
    count = int.from_bytes(payload[:2], "big")
    end = 2 + 20 * count
    if len(payload) < max(2, end):
        raise WireError("addresses are cut short")
    blocks = [payload[at : at + 20] for at in range(2, end, 20)]
    return blocks, payload[end:].decode("utf-8", "replace")
