from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smolmix_sync.address import Recipient
from smolmix_sync.errors import WireError
from smolmix_sync.ipr.bincode import Reader, Writer, encode_varint, varint_size

READERS = {
    "u8": lambda r: r.u8(),
    "i8": lambda r: r.i8(),
    "flag": lambda r: r.flag(),
    "u16": lambda r: r.varint(16),
    "u64": lambda r: r.varint(),
    "i32": lambda r: r.zigzag(),
    "f64": lambda r: r.f64(),
    "blob": lambda r: r.blob(),
    "string": lambda r: r.string(),
    "option": lambda r: r.option(r.varint),
    "tag": lambda r: r.tag(3),
    "ip_pair": lambda r: r.ip_pair(),
    "recipient": lambda r: r.recipient(),
    "signature": lambda r: r.signature(),
    "timestamp": lambda r: r.timestamp(),
}


@pytest.mark.parametrize("kind", READERS)
@given(data=st.binary(max_size=120))
@example(data=b"\xfe" * 20)
@example(data=b"\xff" * 20)
@example(data=b"\xfd" + b"\xff" * 8)
@example(data=b"\x60" + b"\xff" * 96)
def test_garbage_raises_only_wire_error(kind: str, data: bytes) -> None:
    reader = Reader(data)
    with contextlib.suppress(WireError):
        READERS[kind](reader)
        reader.end()


@given(st.integers(0, 2**64 - 1))
def test_varints_are_minimal_and_come_back(value: int) -> None:
    wire = encode_varint(value)
    assert len(wire) == varint_size(value)
    assert len(wire) == (1 if value < 251 else 3 if value < 2**16 else 5 if value < 2**32 else 9)
    assert Reader(wire).varint() == value


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_varint_outside_64_bits_is_the_callers_fault(value: int) -> None:
    with pytest.raises(ValueError):
        encode_varint(value)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-128, 127), st.floats(allow_nan=False), st.booleans())
def test_numbers_come_back(wide: int, narrow: int, real: float, flag: bool) -> None:
    reader = Reader(Writer().zigzag(wide).i8(narrow).f64(real).flag(flag).getvalue())
    assert (reader.zigzag(), reader.i8(), reader.f64(), reader.flag()) == (wide, narrow, real, flag)
    reader.end()


@given(st.text(), st.binary(), st.none() | st.integers(0, 255))
def test_texts_octets_and_options_come_back(text: str, blob: bytes, option: int | None) -> None:
    writer = Writer(b"\x09").string(text).blob(blob)
    writer.option(option, writer.u8)
    reader = Reader(writer.getvalue(), 1)
    assert (reader.string(), reader.blob(), reader.option(reader.u8)) == (text, blob, option)
    reader.end()


def test_addresses_and_signatures_have_one_length() -> None:
    with pytest.raises(WireError, match="96"):
        Reader(Writer().blob(bytes(95)).getvalue()).recipient()
    with pytest.raises(WireError, match="64"):
        Reader(Writer().blob(bytes(65)).getvalue()).signature()
    key = b"\x01" + bytes(31)
    recipient = Recipient(key, key, key)
    assert Reader(Writer().recipient(recipient).getvalue()).recipient() == recipient
