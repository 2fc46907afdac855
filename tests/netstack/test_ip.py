"""IPv4, IPv6, reassembly and the path-MTU cache."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.netstack import ipv4, ipv6
from smolmix_sync.netstack.counters import DROP_REASONS
from smolmix_sync.netstack.ip import Fragment
from smolmix_sync.netstack.pathmtu import PathMtuCache
from smolmix_sync.netstack.reassembly import Reassembler

V4 = (b"\x0a\0\0\x01", b"\x0a\0\0\x02")
V6 = (b"\xfd" + bytes(14) + b"\x01", b"\xfd" + bytes(14) + b"\x02")


@given(st.integers(0, 255), st.binary(max_size=100), st.binary(max_size=10))
def test_ipv4_round_trip_cuts_trailing_octets(protocol: int, payload: bytes, trailer: bytes) -> None:
    got = ipv4.decode_untrusted(ipv4.encode(*V4, protocol, payload) + trailer)
    assert (got.source, got.destination, got.protocol, got.payload) == (*V4, protocol, payload)
    assert got.fragment is None


def test_ipv4_header_fields() -> None:
    packet = ipv4.encode(*V4, 6, b"x")
    assert packet[6:8] == b"\x40\x00"  # DF
    assert packet[4:6] == b"\0\0"
    assert packet[8] == 64
    assert packet[1] == 0


def test_ipv4_options_are_skipped() -> None:
    plain = bytearray(ipv4.encode(*V4, 17, b"data"))
    packet = bytearray(plain[:20] + b"\x01\x01\x01\x00" + plain[20:])
    packet[0] = 0x46
    packet[2:4] = len(packet).to_bytes(2, "big")
    packet[10:12] = b"\0\0"
    packet[10:12] = ipv4.internet_checksum(bytes(packet[:24])).to_bytes(2, "big")
    assert ipv4.decode_untrusted(bytes(packet)).payload == b"data"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p[:19], "ip_short"),
        (lambda p: b"\x44" + p[1:], "ip_length"),
        (lambda p: b"\x4f" + p[1:], "ip_length"),
        (lambda p: p[:3] + b"\xff" + p[4:], "ip_length"),
        (lambda p: p[:8] + b"\x01" + p[9:], "ip_checksum"),
        (lambda p: b"\x55" + p[1:], "ip_version"),
    ],
)
def test_ipv4_lies_are_refused_by_name(change: object, reason: str) -> None:
    packet = ipv4.encode(*V4, 17, b"data")
    with pytest.raises(WireError, match=reason):
        ipv4.decode_untrusted(change(packet))  # type: ignore[operator]


@given(st.binary(max_size=120))
def test_garbage_raises_only_named_wire_errors(data: bytes) -> None:
    for decode in (ipv4.decode_untrusted, ipv6.decode_untrusted):
        for packet in (data, b"\x45" + data, b"\x60" + data):
            try:
                decode(packet)
            except WireError as error:
                assert str(error) in DROP_REASONS  # noqa: PT017


def test_ipv6_extension_headers_are_walked() -> None:
    hop = bytes((60, 0)) + bytes(6)
    destination = bytes((43, 1)) + bytes(14)
    routing = bytes((17, 0, 0, 0)) + bytes(4)
    packet = ipv6.encode(*V6, 0, hop + destination + routing + b"payload")
    got = ipv6.decode_untrusted(packet)
    assert (got.protocol, got.payload) == (17, b"payload")


@pytest.mark.parametrize(
    "chain",
    [
        (60, bytes((0, 0)) + bytes(6) + bytes((17, 0)) + bytes(6)),  # hop-by-hop not first
        (43, bytes((17, 0, 0, 1)) + bytes(4)),  # segments left
        (60, bytes((17, 9)) + bytes(6)),  # overruns
        (60, b"\x11"),
        (44, b"\x11\0\0"),
        (60, (bytes((60, 0)) + bytes(6)) * 20),
    ],
)
def test_bad_chains_are_refused(chain: tuple[int, bytes]) -> None:
    with pytest.raises(WireError, match="ipv6_extension"):
        ipv6.decode_untrusted(ipv6.encode(*V6, *chain))


def test_an_atomic_fragment_is_a_whole_packet() -> None:
    got = ipv6.decode_untrusted(ipv6.encode(*V6, 44, bytes((17, 0, 0, 0)) + b"\0\0\0\x07" + b"data"))
    assert (got.protocol, got.payload, got.fragment) == (17, b"data", None)


@pytest.mark.parametrize("family", [4, 6])
@given(data=st.data())
def test_fragments_in_any_order_and_twice_give_the_datagram(family: int, data: st.DataObject) -> None:
    codec, pair = (ipv4, V4) if family == 4 else (ipv6, V6)
    payload = random.Random(1).randbytes(data.draw(st.integers(1, 9000)))
    mtu = data.draw(st.integers(100, 1500))
    packets = codec.fragment(*pair, 17, payload, mtu, 4711)
    assert all(len(packet) <= mtu for packet in packets)
    if len(packets) == 1:
        return
    order = data.draw(st.permutations(packets))
    reassembler = Reassembler(16, 65535, 15.0)
    results = []
    for packet in [order[0], *order]:
        got = codec.decode_untrusted(packet)
        assert got.fragment is not None
        results.append(
            reassembler.add(got.source, got.destination, got.protocol, got.fragment, got.payload, 0.0)
        )
    assert results[-1] == (17, payload)
    assert results[:-1] == [None] * len(order)
    assert len(reassembler) == 0


def part(
    reassembler: Reassembler, offset: int, size: int, more: bool, ident: int = 1, now: float = 0.0
) -> object:
    return reassembler.add(*V4, 17, Fragment(ident, offset, more), bytes(size), now)


def test_overlap_drops_the_datagram() -> None:
    reassembler = Reassembler(16, 65535, 15.0)
    part(reassembler, 0, 16, True)
    with pytest.raises(WireError, match="fragment_overlap"):
        part(reassembler, 8, 16, True)
    assert len(reassembler) == 0


@pytest.mark.parametrize(
    "parts",
    [
        [(0, 7, True)],
        [(0, 0, True)],
        [(65528, 16, False)],
        [(0, 8, False), (16, 8, True)],
        [(16, 8, False), (24, 8, False)],
    ],
)
def test_impossible_fragments_are_refused(parts: list[tuple[int, int, bool]]) -> None:
    reassembler = Reassembler(16, 65535, 15.0)
    with pytest.raises(WireError, match="fragment_bad"):
        for index, values in enumerate(parts):
            if index == 0 and len(parts) > 1 and values[0] == 0:
                part(reassembler, 32, 8, True)
                part(reassembler, 48, 8, False)
            part(reassembler, *values)


def test_reassembly_is_bounded_and_times_out() -> None:
    reassembler = Reassembler(2, 65535, 15.0)
    part(reassembler, 0, 8, True, ident=1, now=0.0)
    part(reassembler, 0, 8, True, ident=2, now=5.0)
    with pytest.raises(WireError, match="fragment_limit"):
        part(reassembler, 0, 8, True, ident=3, now=6.0)
    assert reassembler.next_deadline() == 15.0
    part(reassembler, 0, 8, True, ident=3, now=16.0)
    assert reassembler.expired == 1
    assert reassembler.expire(100.0) == 2
    assert reassembler.next_deadline() is None


def test_the_path_mtu_cache_is_bounded() -> None:
    cache = PathMtuCache(2, 600.0)
    for index in range(5):
        assert cache.lower(bytes((10, 0, 0, index)), 1000, 1500, 0.0)
    assert cache.get(b"\x0a\0\0\x04", 1500, 1.0) == 1000
    assert cache.get(b"\x0a\0\0\x00", 1500, 1.0) == 1500
    assert not cache.lower(b"\x0a\0\0\x04", 500, 1500, 0.0)
    assert cache.get(b"\x0a\0\0\x04", 1500, 601.0) == 1500
