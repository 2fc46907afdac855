"""TCP options."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.netstack.options import Options, decode_untrusted, encode

word = st.integers(0, 0xFFFFFFFF)
pair = st.tuples(word, word)


@given(
    st.builds(
        Options,
        mss=st.none() | st.integers(0, 65535),
        window_scale=st.none() | st.integers(0, 14),
        sack_permitted=st.booleans(),
        timestamps=st.none() | pair,
        sack=st.lists(pair, max_size=4).map(tuple),
    )
)
def test_what_is_encoded_decodes_to_the_same(options: Options) -> None:
    data = encode(options)
    assert len(data) % 4 == 0
    assert decode_untrusted(data) == options


@given(st.binary(max_size=40))
@example(b"\x02")
@example(b"\x05\x0a" + bytes(4))
@example(b"\x08\x00")
@example(b"\x01" * 40)
def test_garbage_raises_only_wire_error(data: bytes) -> None:
    try:
        decode_untrusted(data)
    except WireError as error:
        assert str(error) == "tcp_options"  # noqa: PT017


def test_unknown_options_are_skipped_and_end_stops() -> None:
    options = decode_untrusted(bytes.fromhex("fe04dead 0204 05b4 00 0402"))
    assert options.mss == 1460
    assert not options.sack_permitted


def test_a_shift_above_14_counts_as_14() -> None:
    assert decode_untrusted(b"\x03\x03\xff").window_scale == 14


@pytest.mark.parametrize("text", ["0203", "0200", "0201", "020405", "08", "050a00000000000000"])
def test_illegal_lengths_are_refused(text: str) -> None:
    with pytest.raises(WireError):
        decode_untrusted(bytes.fromhex(text))
