from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.mixnet.cover import cover_plaintext, is_cover
from smolmix_sync.mixnet.fragments import pad_message, split


def test_cover_fills_a_fragment_and_is_recognised() -> None:
    plaintext = cover_plaintext(1611)
    assert len(plaintext) == 1611
    assert plaintext.startswith(b"The cake is a lie!\1\0")
    assert is_cover(plaintext)


@given(st.binary(max_size=100), st.integers(1, 2**31 - 1))
def test_no_fragment_is_taken_for_cover(message: bytes, set_id: int) -> None:
    assert not any(map(is_cover, split(pad_message(message, 64), 64, lambda: set_id)))
