from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.ipr.ip_header import destination_untrusted, parse_packet_untrusted

SRC4, DST4 = b"\x0a\x00\x00\x02", b"\x01\x01\x01\x01"
SRC6, DST6 = b"\xfc" + bytes(14) + b"\x02", b"\x26\x06" + bytes(14)
UDP = struct.pack(">HHHH", 5000, 53, 12, 0) + b"data"
TCP = struct.pack(">HHIIBBHHH", 5000, 443, 0, 0, 0x50, 2, 0, 0, 0)


def v4(protocol: int, payload: bytes, *, ihl: int = 5, fragment: int = 0, total: int | None = None) -> bytes:
    size = ihl * 4 + len(payload) if total is None else total
    head = struct.pack(">BBHHHBBH4s4s", 0x40 | ihl, 0, size, 0, fragment, 64, protocol, 0, SRC4, DST4)
    return head + bytes(max(0, ihl * 4 - 20)) + payload


def v6(protocol: int, payload: bytes, *, size: int | None = None) -> bytes:
    size = len(payload) if size is None else size
    return struct.pack(">IHBB16s16s", 6 << 28, size, protocol, 64, SRC6, DST6) + payload


AUTHENTICATION = b"\x11\x01" + bytes(10)


@pytest.mark.parametrize(
    ("packet", "port"),
    [
        (v4(17, UDP), 53),
        (v4(6, TCP), 443),
        (v4(6, TCP + b"payload", ihl=6), 443),
        (v4(1, bytes(8)), 0),
        (v4(99, b""), 0),
        (v4(17, UDP, fragment=0x4000), 53),
        (v4(51, AUTHENTICATION + UDP), 53),
        (v4(17, UDP) + b"trailing", 53),
        (v6(17, UDP), 53),
        (v6(58, bytes(8)), 0),
        (v6(0, b"\x3c\x00" + bytes(6) + b"\x11\x01" + bytes(14) + UDP), 53),
        (v6(43, b"\x06\x00" + bytes(6) + TCP), 443),
        (v6(51, AUTHENTICATION + UDP), 53),
        (v6(44, b"\x11\x00\x00\x00" + bytes(4) + UDP), 53),
        (v6(59, b""), 0),
    ],
)
def test_addresses_and_port_are_found(packet: bytes, port: int) -> None:
    found = parse_packet_untrusted(packet)
    version = packet[0] >> 4
    assert (found.source, found.destination) == ((SRC4, DST4) if version == 4 else (SRC6, DST6))
    assert found.port == port
    assert destination_untrusted(packet) == found.destination


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        b"\x60" + bytes(38),
        b"\x55" + bytes(60),
        v4(17, UDP)[:-1],
        v4(17, UDP, total=19),
        v4(17, UDP, ihl=4),
        v4(17, UDP, fragment=0x2000),
        v4(17, UDP, fragment=0x0001),
        v4(17, UDP[:7]),
        v4(6, TCP[:19]),
        v4(6, TCP[:12] + b"\x40" + TCP[13:]),
        v4(6, TCP[:12] + b"\x60" + TCP[13:]),
        v4(1, bytes(7)),
        v4(51, AUTHENTICATION[:7]),
        v4(51, AUTHENTICATION[:11]),
        v6(17, UDP, size=13),
        v6(58, bytes(7)),
        v6(0, b"\x11\x01" + bytes(13)),
        v6(44, b"\x11\x00\x00\x01" + bytes(4) + UDP),
        v6(44, b"\x11\x00\x00\x08" + bytes(4) + UDP),
    ],
)
def test_what_etherparse_refuses_is_refused(packet: bytes) -> None:
    with pytest.raises(WireError):
        parse_packet_untrusted(packet)


@given(st.binary(max_size=100), st.sampled_from([b"", b"\x45", b"\x46\0\0\x40", b"\x60\0\0\0\0\x20\0"]))
def test_garbage_raises_only_wire_error(data: bytes, start: bytes) -> None:
    with contextlib.suppress(WireError):
        parse_packet_untrusted(start + data)
