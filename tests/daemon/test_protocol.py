"""The daemon's packets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.daemon.protocol import (
    MAX_REQUEST,
    Op,
    Reply,
    Request,
    decode_addresses_untrusted,
    encode_addresses,
)
from smolmix_sync.errors import WireError

requests = st.builds(
    Request,
    op=st.sampled_from(Op),
    ident=st.integers(0, 2**32 - 1),
    host=st.text("abcdefghijklmnopqrstuvwxyz0123456789.:-", max_size=253),
    port=st.integers(0, 65535),
    timeout=st.integers(0, 2**32 - 1).map(lambda ms: ms / 1000),
    family=st.sampled_from((0, 4, 6)),
    type=st.sampled_from((1, 2)),
    flags=st.integers(0, 255),
    junk=st.integers(0, 2**32 - 1),
    cookie=st.binary(min_size=8, max_size=8),
    local_port=st.integers(0, 65535),
    options=st.dictionaries(
        st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)),
        st.binary(max_size=16),
        max_size=8,
    ),
    isolate=st.text(max_size=20),
    backlog=st.integers(0, 65535),
)
replies = st.builds(
    Reply,
    op=st.integers(0, 127),
    ident=st.integers(0, 2**32 - 1),
    errno=st.integers(0, 65535),
    flags=st.integers(0, 255),
    local=st.binary(min_size=20, max_size=20),
    remote=st.binary(min_size=20, max_size=20),
    cookie=st.binary(min_size=8, max_size=8),
    payload=st.binary(max_size=2000),
)


@given(requests)
def test_request_comes_back_as_it_was(request: Request) -> None:
    assert Request.decode_untrusted(request.encode()) == request


@given(replies)
def test_reply_comes_back_as_it_was(reply: Reply) -> None:
    assert Reply.decode_untrusted(reply.encode()) == reply


@given(st.binary(max_size=MAX_REQUEST + 10) | st.binary(max_size=200).map(lambda tail: b"SMX1\x01" + tail))
def test_garbage_raises_only_wire_errors(data: bytes) -> None:
    for decode in (Request.decode_untrusted, Reply.decode_untrusted, decode_addresses_untrusted):
        try:
            decode(data)
        except WireError:
            pass


def test_header_has_the_documented_octets() -> None:
    packet = Request(Op.CONNECT, 7, "example.org", 80, 1.5, 4).encode()
    assert packet == (
        b"SMX1"  # magic
        b"\x01\x00\x00\x50"  # CONNECT, no flags, port 80
        b"\x00\x00\x00\x07"  # request id
        b"\x00\x00\x05\xdc"  # 1500 ms
        b"\x04\x01\x00\x0b"  # IPv4, TCP, 11 octets of host
        b"example.org"
    )
    assert len(Reply(1).encode()) == 60


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"SMX1" + bytes(15), "20 to 1024"),
        (b"SMX2" + bytes(16), "SMX1"),
        (struct.pack("!4sBBHIIBBH", b"SMX1", 1, 0, 0, 0, 0, 5, 1, 0), "family"),
        (struct.pack("!4sBBHIIBBH", b"SMX1", 99, 0, 0, 0, 0, 0, 1, 0), "operation"),
        (struct.pack("!4sBBHIIBBH", b"SMX1", 1, 0, 0, 0, 0, 0, 1, 9) + b"short", "host"),
        (struct.pack("!4sBBHIIBBH", b"SMX1", 1, 0, 0, 0, 0, 0, 1, 0) + b"\x01\x04\x00", "cut short"),
        (struct.pack("!4sBBHIIBBH", b"SMX1", 1, 0, 0, 0, 0, 0, 1, 0) + b"\x02\x01\x00", "wrong length"),
    ],
)
def test_malformed_request_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        Request.decode_untrusted(data)


def test_unknown_tag_is_ignored() -> None:
    data = Request(Op.STATUS).encode() + b"\xee\x02hi"
    assert Request.decode_untrusted(data) == Request(Op.STATUS)


def test_request_beyond_the_limit_is_not_made() -> None:
    with pytest.raises(ValueError, match="too long"):
        Request(Op.CONNECT, host="a" * 1010).encode()


def test_addresses_come_back_as_they_were() -> None:
    blocks = [bytes([i]) * 20 for i in range(3)]
    assert decode_addresses_untrusted(encode_addresses(blocks, "name")) == (blocks, "name")
    with pytest.raises(WireError):
        decode_addresses_untrusted(b"\x00\x02" + bytes(39))
