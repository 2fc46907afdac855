"""TCP segments: the three writers and the decoder agree, and garbage is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.netstack import ipv4, ipv6
from smolmix_sync.netstack.counters import DROP_REASONS
from smolmix_sync.netstack.ip import TCP
from smolmix_sync.netstack.options import Options, encode
from smolmix_sync.netstack.segment import FIN, SYN, Segment, SegmentWriter, decode_untrusted

word = st.integers(0, 0xFFFFFFFF)
half = st.integers(0, 0xFFFF)
PAIRS = {4: (b"\x0a\0\0\x01", b"\x0a\0\0\x02"), 6: (bytes(15) + b"\x01", b"\xfd" + bytes(14) + b"\x02")}


def decode(packet: bytes) -> Segment:
    decoded = (ipv4 if packet[0] >> 4 == 4 else ipv6).decode_untrusted(packet)
    pseudo = int.from_bytes(decoded.source + decoded.destination, "big") + TCP + len(decoded.payload)
    return decode_untrusted(decoded.payload, pseudo)


@given(
    st.sampled_from([4, 6]), half, half, word, word, st.integers(0, 63), half, st.none() | st.tuples(word, word),
    st.binary(max_size=1500),
)  # fmt: skip
def test_what_is_written_is_read_back(
    family: int,
    source_port: int,
    port: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    stamps: tuple[int, int] | None,
    payload: bytes,
) -> None:
    writer = SegmentWriter(PAIRS[family][0], source_port, PAIRS[family][1], port)
    options = encode(Options(timestamps=stamps))
    packet = writer.with_options(seq, ack, flags, window, options, payload)
    if stamps is None:
        assert writer.plain(seq, ack, flags, window, payload) == packet
    else:
        assert writer.stamped(seq, ack, flags, window, *stamps, payload) == packet
    got = decode(packet)
    assert (got.source_port, got.destination_port, got.seq, got.ack) == (source_port, port, seq, ack)
    assert (got.flags, got.window, got.payload) == (flags, window, payload)
    assert (None if got.tsval is None else (got.tsval, got.tsecr)) == stamps
    assert got.length == len(payload) + bool(flags & SYN) + bool(flags & FIN)


@given(st.binary(max_size=80))
def test_garbage_raises_only_named_wire_errors(data: bytes) -> None:
    try:
        decode_untrusted(data, (-int.from_bytes(data, "big") << 8 * (len(data) & 1)) % 65535)
    except WireError as error:
        assert str(error) in DROP_REASONS  # noqa: PT017


@pytest.mark.parametrize("position", range(20, 60))
def test_a_flipped_bit_anywhere_is_noticed(position: int) -> None:
    packet = bytearray(SegmentWriter(*PAIRS[4][:1], 1, PAIRS[4][1], 2).plain(3, 4, 16, 5, bytes(20)))
    packet[position] ^= 0x10
    with pytest.raises(WireError, match="tcp_checksum"):
        decode(bytes(packet))
