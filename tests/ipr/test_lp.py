from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.ipr.lp import LpFrame, LpKind, StreamFrame, StreamMessageType


@given(st.integers(0, 2**64 - 1), st.sampled_from(StreamMessageType), st.integers(0, 2**32 - 1), st.binary())
def test_stream_frames_come_back(
    stream_id: int, kind: StreamMessageType, number: int, payload: bytes
) -> None:
    frame = StreamFrame(stream_id, kind, number, payload)
    assert StreamFrame.decode_untrusted(frame.encode()) == frame
    if kind > StreamMessageType.DATA:
        with pytest.raises(WireError, match="message type"):
            StreamFrame.decode_untrusted(frame.encode(), extended=False)


@given(st.binary(max_size=40))
def test_garbage_raises_only_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert LpFrame.decode_untrusted(data).encode() == data
        StreamFrame.decode_untrusted(data)


@given(st.binary(min_size=14, max_size=40))
def test_garbage_behind_a_stream_header_raises_only_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        StreamFrame.decode_untrusted(b"\x03\x00" + data)


def test_other_kinds_are_frames_but_no_streams() -> None:
    frame = LpFrame(LpKind.FORWARD, bytes(14), b"payload")
    assert LpFrame.decode_untrusted(frame.encode()) == frame
    with pytest.raises(WireError, match="not a stream"):
        StreamFrame.decode_untrusted(frame.encode())


def test_attributes_have_one_length() -> None:
    with pytest.raises(ValueError):
        LpFrame(LpKind.OPAQUE, bytes(13), b"").encode()
