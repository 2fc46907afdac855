"""TCP segments: decoding what arrives, and the per-connection writer of what leaves.

Source: RFC 9293 section 3.1; spec/netstack.md section 8 for the fast paths.
"""

from __future__ import annotations

import struct

from smolmix_sync.errors import WireError
from smolmix_sync.netstack import ipv4, ipv6
from smolmix_sync.netstack.checksum import fold
from smolmix_sync.netstack.ip import TCP
from smolmix_sync.netstack.options import Options
from smolmix_sync.netstack.options import decode_untrusted as decode_options_untrusted

__all__ = ["ACK", "FIN", "PSH", "RST", "SYN", "URG", "Segment", "SegmentWriter", "decode_untrusted"]

# From the specification.
FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20

_HEADER = struct.Struct("!HHIIHHHH")
_HEADER_TIMESTAMPS = struct.Struct("!HHIIHHHHIII")
_PAIR = struct.Struct("!II")
_NOP_NOP_TIMESTAMPS = 0x0101080A
_TIMESTAMPS_PREFIX = b"\x01\x01\x08\x0a"
_FLAGS = 0x3F
# Ours: lengths of one connection are few (a full segment, an ACK, a tail).
_MAX_CACHED_HEADERS = 64


class Segment:
    """One decoded segment, numbers as on the wire.

    ``options`` is set only when the segment carries more than timestamps.
    """

    __slots__ = (
        "ack",
        "destination_port",
        "flags",
        "options",
        "payload",
        "seq",
        "source_port",
        "tsecr",
        "tsval",
        "window",
    )

    def __init__(
        self,
        source_port: int,
        destination_port: int,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        payload: bytes,
        tsval: int | None = None,
        tsecr: int = 0,
        options: Options | None = None,
    ) -> None:
        self.source_port = source_port
        self.destination_port = destination_port
        self.seq = seq
        self.ack = ack
        self.flags = flags
        self.window = window
        self.payload = payload
        self.tsval = tsval
        self.tsecr = tsecr
        self.options = options

    @property
    def length(self) -> int:
        """Sequence space taken: payload, SYN and FIN."""
        flags = self.flags
        return len(self.payload) + (flags & FIN) + ((flags & SYN) >> 1)


def decode_untrusted(data: bytes, pseudo_header: int) -> Segment:
    """Decode one segment and check its checksum.

    Args:
        data: header and payload.
        pseudo_header: source address, destination address, protocol and length as one partial sum.

    Raises:
        WireError: the argument names the drop counter.
    """
    size = len(data)
    if size < 20:
        raise WireError("tcp_short")
    total = int.from_bytes(data, "big")
    if size & 1:
        total <<= 8
    if fold(total + pseudo_header):
        raise WireError("tcp_checksum")
    source, destination, seq, ack, bits, window, _, _ = _HEADER.unpack_from(data)
    head = bits >> 10 & 0x3C
    if head == 32 <= size and data[20:24] == _TIMESTAMPS_PREFIX:
        tsval, tsecr = _PAIR.unpack_from(data, 24)
        return Segment(source, destination, seq, ack, bits & _FLAGS, window, data[32:], tsval, tsecr)
    if head == 20:
        return Segment(source, destination, seq, ack, bits & _FLAGS, window, data[20:])
    if head < 20 or head > size:
        raise WireError("tcp_header")
    options = decode_options_untrusted(data[20:head])
    tsval, tsecr = options.timestamps or (None, 0)
    return Segment(source, destination, seq, ack, bits & _FLAGS, window, data[head:], tsval, tsecr, options)


class SegmentWriter:
    """Builds the IP packets of one address and port pair.

    IP headers are cached by payload length; the checksum is summed from the
    header's integers, so no header is serialised twice.
    """

    __slots__ = (
        "_constant",
        "_flow_label",
        "_headers",
        "_v6",
        "destination",
        "destination_port",
        "source",
        "source_port",
    )

    def __init__(
        self,
        source: bytes,
        source_port: int,
        destination: bytes,
        destination_port: int,
        flow_label: int = 0,
    ) -> None:
        self._flow_label = flow_label
        self.source = source
        self.source_port = source_port
        self.destination = destination
        self.destination_port = destination_port
        self._v6 = len(source) == 16
        self._constant = (
            int.from_bytes(source, "big")
            + int.from_bytes(destination, "big")
            + TCP
            + source_port
            + destination_port
        )
        self._headers: dict[int, bytes] = {}

    def _ip_header(self, size: int) -> bytes:
        head = self._headers.get(size)
        if head is None:
            if self._v6:
                head = ipv6.header(self.source, self.destination, TCP, size, self._flow_label)
            else:
                head = ipv4.header(self.source, self.destination, TCP, size)
            if len(self._headers) < _MAX_CACHED_HEADERS:
                self._headers[size] = head
        return head

    def plain(self, seq: int, ack: int, flags: int, window: int, payload: bytes | bytearray) -> bytes:
        """Return a packet without options."""
        size = 20 + len(payload)
        bits = 0x5000 | flags
        total = self._constant + size + seq + ack + bits + window
        if payload:
            value = int.from_bytes(payload, "big")
            total += value << 8 if size & 1 else value
        head = _HEADER.pack(
            self.source_port, self.destination_port, seq, ack, bits, window, 0xFFFF - fold(total), 0
        )
        return b"".join((self._ip_header(size), head, payload))

    def stamped(
        self, seq: int, ack: int, flags: int, window: int, tsval: int, tsecr: int, payload: bytes | bytearray
    ) -> bytes:
        """Return a packet with the timestamps option alone."""
        size = 32 + len(payload)
        bits = 0x8000 | flags
        total = self._constant + size + seq + ack + bits + window + _NOP_NOP_TIMESTAMPS + tsval + tsecr
        if payload:
            value = int.from_bytes(payload, "big")
            total += value << 8 if size & 1 else value
        head = _HEADER_TIMESTAMPS.pack(
            self.source_port,
            self.destination_port,
            seq,
            ack,
            bits,
            window,
            0xFFFF - fold(total),
            0,
            _NOP_NOP_TIMESTAMPS,
            tsval,
            tsecr,
        )
        return b"".join((self._ip_header(size), head, payload))

    def with_options(
        self, seq: int, ack: int, flags: int, window: int, options: bytes, payload: bytes | bytearray = b""
    ) -> bytes:
        """Return a packet with any option area (a multiple of 4 octets, at most 40)."""
        head_size = 20 + len(options)
        size = head_size + len(payload)
        bits = head_size << 10 | flags
        total = self._constant + size + seq + ack + bits + window + int.from_bytes(options, "big")
        value = int.from_bytes(payload, "big")
        total += value << 8 if size & 1 else value
        head = _HEADER.pack(
            self.source_port, self.destination_port, seq, ack, bits, window, 0xFFFF - fold(total), 0
        )
        return b"".join((self._ip_header(size), head, options, payload))
