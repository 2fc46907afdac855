"""ICMP messages, the errno they mean, and the quoted packets that are believed."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.netsim import seeded_urandom

from smolmix_sync.errors import WireError
from smolmix_sync.netstack import Stack, icmp, ipv4, ipv6
from smolmix_sync.netstack.ip import TCP
from smolmix_sync.netstack.segment import SYN, SegmentWriter

V4 = (b"\x0a\0\0\x01", b"\x0a\0\0\x02")
V6 = (b"\xfd" + bytes(14) + b"\x01", b"\xfd" + bytes(14) + b"\x02")


@given(
    st.booleans(),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=99),
)
def test_what_is_encoded_decodes_to_the_same(
    v6: bool, type_: int, code: int, rest: bytes, body: bytes
) -> None:
    ends = V6 if v6 else V4
    got = icmp.decode_untrusted(*ends, icmp.encode(*ends, type_, code, rest, body))
    assert (got.type, got.code, got.rest, got.body) == (type_, code, rest, body)
    assert got.version == (6 if v6 else 4)


@given(st.booleans(), st.binary(max_size=80))
def test_garbage_raises_only_wire_error(v6: bool, data: bytes) -> None:
    for message in (data, icmp.encode(*(V6 if v6 else V4), 3, 0, bytes(4), data)):
        try:
            icmp.quote_untrusted(icmp.decode_untrusted(*(V6 if v6 else V4), message))
        except WireError as error:
            assert str(error).startswith("icmp_")  # noqa: PT017


@pytest.mark.parametrize(
    ("version", "type_", "code", "expected"),
    [
        (4, 3, 0, errno.ENETUNREACH),
        (4, 3, 1, errno.EHOSTUNREACH),
        (4, 3, 2, errno.ENOPROTOOPT),
        (4, 3, 3, errno.ECONNREFUSED),
        (4, 3, 4, None),
        (4, 3, 6, errno.ENETUNREACH),
        (4, 3, 11, errno.ENETUNREACH),
        (4, 3, 13, errno.EHOSTUNREACH),
        (4, 11, 0, errno.EHOSTUNREACH),
        (4, 12, 0, None),
        (6, 1, 0, errno.ENETUNREACH),
        (6, 1, 1, errno.EHOSTUNREACH),
        (6, 1, 3, errno.EHOSTUNREACH),
        (6, 1, 4, errno.ECONNREFUSED),
        (6, 2, 0, None),
        (6, 3, 0, errno.EHOSTUNREACH),
        (6, 4, 0, None),
    ],
)
def test_errors_mean_an_errno(version: int, type_: int, code: int, expected: int | None) -> None:
    message = icmp.IcmpMessage(version, type_, code, bytes(4), b"")
    assert icmp.errno_of(message) == expected
    assert icmp.is_error(message)


def quote(body: bytes, version: int) -> icmp.Quote:
    return icmp.quote_untrusted(icmp.IcmpMessage(version, 3 if version == 4 else 1, 1, bytes(4), body))


def test_quotes_are_decoded() -> None:
    packet = SegmentWriter(V4[0], 1, V4[1], 2).plain(3, 4, SYN, 5, b"payload")
    got = quote(packet[:28], 4)
    assert (got.source, got.destination, got.protocol, got.total_length) == (*V4, TCP, len(packet))
    assert got.transport == packet[20:28]
    hop = bytes((TCP, 0)) + bytes(6)
    got = quote(ipv6.encode(*V6, 0, hop + packet[20:]), 6)
    assert (got.source, got.destination, got.protocol) == (*V6, TCP)
    assert got.transport == packet[20:]
    assert got.total_length == 40 + 8 + len(packet) - 20


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (bytes(27), 4),
        (b"\x65" + bytes(40), 4),
        (b"\x44" + bytes(40), 4),
        (b"\x4f" + bytes(40), 4),
        (b"\x45" + bytes(5) + b"\0\x01" + bytes(40), 4),  # a later fragment
        (bytes(47), 6),
        (b"\x45" + bytes(60), 6),
        (ipv6.encode(*V6, 0, b"\x06\x09" + bytes(6)), 6),
        (ipv6.encode(*V6, 0, b"\x06\0" + bytes(9)), 6),
        (ipv6.encode(*V6, 44, b"\x11\0\0\x08" + bytes(20)), 6),
        (ipv6.encode(*V6, 44, b"\x06\0\0\x01" + bytes(20)), 6),
    ],
)
def test_short_or_odd_quotes_are_refused(body: bytes, version: int) -> None:
    with pytest.raises(WireError, match="icmp_quote"):
        quote(body, version)


def test_the_mtu_of_an_old_router_is_the_next_plateau() -> None:
    message = icmp.IcmpMessage(4, 3, 4, bytes(4), b"")
    for length, expected in ((1500, 1492), (1492, 1006), (500, 576), (9000, 8166)):
        assert icmp.mtu_of(message, icmp.Quote(*V4, TCP, b"", length)) == expected
    assert icmp.mtu_of(icmp.IcmpMessage(4, 3, 1, bytes(4), b""), icmp.Quote(*V4, TCP, b"", 1)) is None


def error_for(stack: Stack, quoted: bytes, code: int = 1) -> str:
    """Let an unreachable about *quoted* arrive; return the drop reason."""
    before = dict(stack.counters.drops)
    message = icmp.encode(b"\x0a\0\0\x63", V4[0], 3, code, bytes(4), quoted)
    stack.receive_data(ipv4.encode(b"\x0a\0\0\x63", V4[0], 1, message), 0.0)
    return next((name for name, count in stack.counters.drops.items() if count != before[name]), "")


def test_errors_about_what_we_never_sent_are_ignored() -> None:
    stack = Stack("10.0.0.1", urandom=seeded_urandom(1))
    ours = SegmentWriter(V4[0], 50_000, V4[1], 80).plain(1, 0, SYN, 0, b"")
    theirs = SegmentWriter(V4[1], 80, V4[0], 50_000).plain(1, 0, SYN, 0, b"")
    datagram = ipv4.encode(*V4, 17, b"\xc3\x50\0\x35" + bytes(4))
    for quoted in (ours, theirs, datagram, ipv4.encode(*V4, 47, bytes(8)), ipv4.encode(*V4, 1, bytes(8))):
        assert error_for(stack, quoted) == "icmp_unmatched"


def test_errors_without_a_meaning_leave_sockets_alone() -> None:
    stack = Stack("10.0.0.1", urandom=seeded_urandom(1))
    socket = stack.udp()
    socket.connect("10.0.0.2", 53)
    socket.send(b"query")
    (packet,) = stack.data_to_send(0.0)
    assert error_for(stack, packet, code=5) == ""
    assert socket.error == 0
    other = stack.udp()
    other.connect("10.0.0.2", 54)
    assert error_for(stack, packet, code=3) == ""
    assert (socket.take_error(), other.take_error()) == (errno.ECONNREFUSED, 0)


def test_fragmentation_needed_for_a_datagram_is_emsgsize_and_remembered() -> None:
    stack = Stack("10.0.0.1", urandom=seeded_urandom(1))
    socket = stack.udp()
    socket.connect("10.0.0.2", 53)
    socket.send(bytes(1400))
    (packet,) = stack.data_to_send(0.0)
    message = icmp.encode(b"\x0a\0\0\x63", V4[0], 3, 4, b"\0\0\x03\xe8", packet[:28])
    stack.receive_data(ipv4.encode(b"\x0a\0\0\x63", V4[0], 1, message), 0.0)
    assert socket.take_error() == errno.EMSGSIZE
    socket.send(bytes(1400))
    assert [len(part) <= 1000 for part in stack.data_to_send(0.0)] == [True, True]
