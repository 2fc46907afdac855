"""The checksum against the textbook loop of RFC 1071."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from smolmix_sync.netstack.checksum import fold, internet_checksum, transport_checksum


def textbook(data: bytes) -> int:
    """RFC 1071 section 4.1, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for index in range(0, len(data), 2):
        total += data[index] << 8 | data[index + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=3000))
@example(b"")
@example(b"\0" * 100)
@example(b"\xff\xff")
@example(b"\xff" * 1461)
def test_fast_checksum_agrees_with_the_textbook(data: bytes) -> None:
    assert internet_checksum(data) == textbook(data)


@given(st.integers(0, 1 << 20000))
@example((1 << 5840) - 1)
@example((1 << 5840) * 2 - 1)
@example(65535 << 2000)
def test_fold_is_the_remainder(value: int) -> None:
    assert fold(value) == value % 65535


@given(st.binary(min_size=1, max_size=200), st.sampled_from([4, 16]))
def test_a_message_with_its_checksum_sums_to_zero(data: bytes, size: int) -> None:
    source, destination = bytes(range(size)), bytes(range(100, 100 + size))
    padded = data + b"\0" * (len(data) % 2) + b"\0\0"
    checksum = transport_checksum(source, destination, 17, padded)
    filled = padded[:-2] + checksum.to_bytes(2, "big")
    assert transport_checksum(source, destination, 17, filled) == 0


def test_the_example_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
