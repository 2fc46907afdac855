"""The encoding of IPR messages: bincode 1.3, big-endian, varint integers.

Writers always use the shortest varint; readers accept longer ones, as the real decoder
does, but no value above the field's type and nothing behind the last field.

Source: spec/ipr.md section 1; bincode 1.3 ``DefaultOptions``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import TypeVar

from smolmix_sync.address import RECIPIENT_SIZE, Recipient
from smolmix_sync.errors import WireError
from smolmix_sync.ipr.values import IpPair, Timestamp

__all__ = ["Reader", "Writer", "encode_varint", "varint_size"]

T = TypeVar("T")
E = TypeVar("E", bound=enum.IntEnum)

# From the specification.
_U16, _U32, _U64 = 251, 252, 253
_WIDTHS = {_U16: 2, _U32: 4, _U64: 8}
_SIGNATURE_SIZE = 64

_DOUBLE = struct.Struct(">d")
_OFFSET = struct.Struct("bbb")


def encode_varint(value: int) -> bytes:
    """Return *value*, ``0..2**64-1``, as a minimal varint.

    Raises:
        ValueError: *value* is outside that range.
    """
    if 0 <= value < _U16:
        return bytes((value,))
    if 0 <= value < 1 << 16:
        return b"\xfb" + value.to_bytes(2, "big")
    if 0 <= value < 1 << 32:
        return b"\xfc" + value.to_bytes(4, "big")
    if 0 <= value < 1 << 64:
        return b"\xfd" + value.to_bytes(8, "big")
    raise ValueError("a varint holds 0..2**64-1")


def varint_size(value: int) -> int:
    """Return the octets of the varint of *value*."""
    return len(encode_varint(value))


class Writer:
    """Collects the fields of one message; every method returns the writer."""

    __slots__ = ("_buffer",)

    def __init__(self, start: bytes = b"") -> None:
        self._buffer = bytearray(start)

    def getvalue(self) -> bytes:
        """Return what was written."""
        return bytes(self._buffer)

    def u8(self, value: int) -> Writer:
        """Append one raw octet."""
        self._buffer.append(value)
        return self

    def i8(self, value: int) -> Writer:
        """Append one octet in two's complement."""
        self._buffer += value.to_bytes(1, "big", signed=True)
        return self

    def flag(self, value: bool) -> Writer:
        """Append 0 or 1."""
        return self.u8(int(value))

    def varint(self, value: int) -> Writer:
        """Append an unsigned integer of 16 bits or more, a length or an enum tag."""
        self._buffer += encode_varint(value)
        return self

    def zigzag(self, value: int) -> Writer:
        """Append a signed integer of 16 bits or more."""
        return self.varint(2 * value if value >= 0 else -2 * value - 1)

    def f64(self, value: float) -> Writer:
        """Append a double, 8 octets big-endian."""
        self._buffer += _DOUBLE.pack(value)
        return self

    def blob(self, value: bytes) -> Writer:
        """Append octets behind their length."""
        self.varint(len(value))
        self._buffer += value
        return self

    def string(self, value: str) -> Writer:
        """Append text in UTF-8 behind its length in octets."""
        return self.blob(value.encode())

    def option(self, value: T | None, write: Callable[[T], object]) -> Writer:
        """Append 0 for None, else 1 and what *write* (a method of this writer) appends."""
        if value is None:
            return self.u8(0)
        self.u8(1)
        write(value)
        return self

    def ip_pair(self, value: IpPair) -> Writer:
        """Append 20 raw octets."""
        self._buffer += value.encode()
        return self

    def recipient(self, value: Recipient) -> Writer:
        """Append an address as a byte string of 96 octets."""
        return self.blob(value.encode())

    def timestamp(self, value: Timestamp) -> Writer:
        """Append a timestamp's nine fields."""
        self.zigzag(value.year).varint(value.ordinal)
        self.u8(value.hour).u8(value.minute).u8(value.second).varint(value.nanosecond)
        self._buffer += _OFFSET.pack(value.offset_hours, value.offset_minutes, value.offset_seconds)
        return self


class Reader:
    """Takes the fields of one message apart; every method raises only WireError.

    The reader is for untrusted octets throughout, so its methods do not repeat the word.
    """

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        self._data = bytes(data)
        self._offset = offset

    def end(self) -> None:
        """Check that nothing is left.

        Raises:
            WireError: octets remain.
        """
        if self._offset != len(self._data):
            raise WireError("octets behind the end of the message")

    def take(self, size: int) -> bytes:
        """Return the next *size* octets.

        Raises:
            WireError: fewer remain.
        """
        stop = self._offset + size
        if stop > len(self._data):
            raise WireError("message ends within a field")
        taken = self._data[self._offset : stop]
        self._offset = stop
        return taken

    def u8(self) -> int:
        """Return one raw octet."""
        return self.take(1)[0]

    def i8(self) -> int:
        """Return one octet in two's complement."""
        return int.from_bytes(self.take(1), "big", signed=True)

    def flag(self) -> bool:
        """Return a truth value, 0 or 1 on the wire."""
        value = self.u8()
        if value > 1:
            raise WireError("a bool is 0 or 1")
        return value == 1

    def varint(self, bits: int = 64) -> int:
        """Return an unsigned integer below ``2**bits``, however long its varint is."""
        value = self.u8()
        if value >= _U16:
            width = _WIDTHS.get(value)
            if width is None:
                raise WireError("varint of a width that no field has")
            value = int.from_bytes(self.take(width), "big")
            if value >> bits:
                raise WireError(f"integer exceeds {bits} bits")
        return value

    def zigzag(self, bits: int = 32) -> int:
        """Return a signed integer of *bits* bits."""
        value = self.varint(bits)
        return -(value >> 1) - 1 if value & 1 else value >> 1

    def f64(self) -> float:
        """Return a double."""
        value: float = _DOUBLE.unpack(self.take(8))[0]
        return value

    def blob(self) -> bytes:
        """Return octets that stand behind their length."""
        return self.take(self.varint())

    def string(self) -> str:
        """Return text that stands in UTF-8 behind its length."""
        try:
            return self.blob().decode()
        except UnicodeDecodeError:
            raise WireError("text is not UTF-8") from None

    def option(self, read: Callable[[], T]) -> T | None:
        """Return None, or what *read* (a method of this reader) returns."""
        tag = self.u8()
        if tag > 1:
            raise WireError("an option is 0 or 1")
        return read() if tag else None

    def tag(self, count: int) -> int:
        """Return an enum tag below *count*."""
        value = self.varint(32)
        if value >= count:
            raise WireError("unknown enum tag")
        return value

    def member(self, kind: type[E]) -> E:
        """Return the member of an enum without payloads."""
        return kind(self.tag(len(kind)))

    def ip_pair(self) -> IpPair:
        """Return an address pair."""
        return IpPair.decode_untrusted(self.take(20))

    def recipient(self) -> Recipient:
        """Return an address that stands as a byte string of 96 octets."""
        octets = self.blob()
        if len(octets) != RECIPIENT_SIZE:
            raise WireError("an address has 96 octets")
        return Recipient.decode_untrusted(octets)

    def signature(self) -> bytes:
        """Return the 64 octets of an Ed25519 signature."""
        octets = self.blob()
        if len(octets) != _SIGNATURE_SIZE:
            raise WireError("a signature has 64 octets")
        return octets

    def timestamp(self) -> Timestamp:
        """Return a timestamp, its fields checked."""
        value = Timestamp(
            self.zigzag(32),
            self.varint(16),
            self.u8(),
            self.u8(),
            self.u8(),
            self.varint(32),
            self.i8(),
            self.i8(),
            self.i8(),
        )
        value.check_untrusted()
        return value
