"""TCP options. Source: RFC 9293 section 3.2, RFC 7323, RFC 2018."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from smolmix_sync.errors import WireError

__all__ = ["Options", "decode_untrusted", "encode", "encode_sack"]

# From the specification.
_END = 0
_NOP = 1
_MSS = 2
_WINDOW_SCALE = 3
_SACK_PERMITTED = 4
_SACK = 5
_TIMESTAMPS = 8
_MAX_SHIFT = 14

_PAIR = struct.Struct("!II")
_MSS_OPTION = struct.Struct("!BBH")
_TIMESTAMPS_OPTION = struct.Struct("!BBII")


@dataclass(slots=True)
class Options:
    """The options of one segment, None or empty when absent; SACK edges as on the wire."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()


def decode_untrusted(data: bytes) -> Options:
    """Decode the option area of a header; unknown options are skipped.

    Raises:
        WireError: an option's length is illegal or overruns the header.
    """
    options = Options()
    offset, end = 0, len(data)
    while offset < end:
        kind = data[offset]
        if kind == _NOP:
            offset += 1
            continue
        if kind == _END:
            break
        if offset + 1 >= end:
            raise WireError("tcp_options")
        size = data[offset + 1]
        if size < 2 or offset + size > end:
            raise WireError("tcp_options")
        if kind == _TIMESTAMPS and size == 10:
            options.timestamps = _PAIR.unpack_from(data, offset + 2)
        elif kind == _SACK and size > 2 and size % 8 == 2:
            options.sack = tuple(_PAIR.iter_unpack(data[offset + 2 : offset + size]))
        elif kind == _MSS and size == 4:
            options.mss = data[offset + 2] << 8 | data[offset + 3]
        elif kind == _WINDOW_SCALE and size == 3:
            options.window_scale = min(data[offset + 2], _MAX_SHIFT)  # RFC 7323 section 2.3
        elif kind == _SACK_PERMITTED and size == 2:
            options.sack_permitted = True
        offset += size
    return options


def encode_sack(blocks: Sequence[tuple[int, int]]) -> bytes:
    """Return the SACK option with two NOPs in front, so that it keeps 4-octet alignment."""
    return (
        b"\x01\x01\x05" + bytes((2 + 8 * len(blocks),)) + b"".join([_PAIR.pack(*block) for block in blocks])
    )


def encode(options: Options) -> bytes:
    """Return the option area for *options*, padded to a multiple of 4 octets."""
    parts = []
    if options.mss is not None:
        parts.append(_MSS_OPTION.pack(_MSS, 4, options.mss))
    if options.sack_permitted:
        parts.append(b"\x04\x02" if options.timestamps is not None else b"\x01\x01\x04\x02")
    elif options.timestamps is not None:
        parts.append(b"\x01\x01")
    if options.timestamps is not None:
        parts.append(_TIMESTAMPS_OPTION.pack(_TIMESTAMPS, 10, *options.timestamps))
    if options.window_scale is not None:
        parts.append(b"\x01\x03\x03" + bytes((options.window_scale,)))
    if options.sack:
        parts.append(encode_sack(options.sack))
    return b"".join(parts)
