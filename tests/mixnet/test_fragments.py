from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync.crypto import blake3_digest
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.fragments import (
    COVER_FRAGMENT_ID,
    MAX_SET,
    FragmentHeader,
    check_fragment_id_untrusted,
    draw_set_id,
    fragment_id,
    pad_message,
    required_fragments,
    set_count,
    split,
    unpad_untrusted,
)


def pattern(length: int, seed: int) -> bytes:
    return bytes((((i * i * 13 + i * 7 + seed) % 251) ^ ((i >> 8) & 0xFF)) & 0xFF for i in range(length))


def recorded(fragment_set: Any) -> tuple[int, list[tuple[int, Any]]]:
    """Return the size of a recorded set, and the fragments recorded of it with their indices."""
    if isinstance(fragment_set, list):
        return len(fragment_set), list(enumerate(fragment_set))
    size, first, last = fragment_set["count"], fragment_set["first"], fragment_set["last"]
    return size, [*enumerate(first), *enumerate(last, size - len(last))]


def test_chunking_agrees_with_the_recorded_vectors() -> None:
    def check(case: dict[str, Any]) -> None:
        message = pattern(case["message_len"], case["pattern_seed"])
        assert blake3_digest(message).hex() == case["message_blake3"]
        size = case["max_plaintext_size"]
        assert required_fragments(len(message), size) == (case["required_fragments"], case["space_left"])
        sets = [recorded(fragment_set) for fragment_set in case["sets"]]
        ids = [
            int(fragments[0][1]["header"][:8], 16) & 0x7FFFFFFF if fragments else 1 for _, fragments in sets
        ]
        assert set_count(len(message), size) == len(sets)
        fragments = split(message, size, iter(ids).__next__)
        assert len(fragments) == case["total_fragments"] == sum(total for total, _ in sets)
        start = 0
        for total, known in sets:
            for index, entry in known:
                fragment = fragments[start + index]
                header, header_size = FragmentHeader.decode_untrusted(fragment)
                assert fragment[:header_size].hex() == header.encode().hex() == entry["header"]
                assert len(fragment) - header_size == entry["payload_len"]
                assert blake3_digest(fragment).hex() == entry["blake3"]
                if "bytes" in entry:
                    assert fragment.hex() == entry["bytes"]
            start += total

    vectors.run("message_chunking.json", {"cases": check})


@given(st.integers(0, 5000), st.integers(20, 90))
def test_required_fragments_says_what_split_does_and_padding_fills_the_last(length: int, size: int) -> None:
    message = bytes(length)
    padded = pad_message(message, size)
    fragments = split(padded, size, count(1).__next__)
    assert all(len(fragment) == size for fragment in fragments)
    assert required_fragments(length + 1, size) == (len(fragments), len(padded) - length - 1)
    assert required_fragments(len(padded), size) == (len(fragments), 0)


@pytest.mark.parametrize("extra", [-1, 0, 1, 2])
@pytest.mark.parametrize("sets", [1, 2, 3, 4])
def test_padding_fills_the_last_fragment_at_every_border_between_sets(sets: int, extra: int) -> None:
    size = 24
    full = MAX_SET * (size - 7)
    border = {1: full, 2: 2 * (full - 3), 3: 2 * (full - 3) + full - 6, 4: 2 * (full - 3) + 2 * (full - 6)}[
        sets
    ]
    padded = pad_message(b"\7" * (border + extra), size)
    fragments = split(padded, size, count(1).__next__)
    assert all(len(fragment) == size for fragment in fragments)
    assert unpad_untrusted(padded) == b"\7" * (border + extra)


@given(st.binary(max_size=300), st.integers(30, 90))
def test_padding_is_undone(message: bytes, size: int) -> None:
    assert unpad_untrusted(pad_message(message, size)) == message


def test_a_message_without_marker_is_malformed() -> None:
    with pytest.raises(WireError):
        unpad_untrusted(bytes(10))


@given(st.binary(max_size=12))
def test_garbage_as_header_raises_only_wire_error_and_what_is_accepted_encodes_the_same(data: bytes) -> None:
    try:
        header, size = FragmentHeader.decode_untrusted(data)
    except WireError:
        return
    assert header.encode() == data[:size]


def headers() -> st.SearchStrategy[FragmentHeader]:
    ids = st.integers(1, 0x7FFFFFFF)

    def make(
        set_id: int, linked_id: int, total: int, position: int, first: bool, linked: bool
    ) -> FragmentHeader:
        if not linked or linked_id == set_id:
            return FragmentHeader(set_id, total, 1 + position % total)
        return FragmentHeader(set_id, total if first else MAX_SET, 1 if first else MAX_SET, linked_id)

    return st.builds(make, ids, ids, st.integers(1, MAX_SET), st.integers(0), st.booleans(), st.booleans())


@given(headers(), st.binary(max_size=5))
def test_headers_survive_the_round_trip(header: FragmentHeader, payload: bytes) -> None:
    encoded = header.encode()
    assert FragmentHeader.decode_untrusted(encoded + payload) == (header, len(encoded))
    identifier = fragment_id(encoded + payload)
    assert identifier == header.set_id.to_bytes(4, "big") + bytes((header.position,))
    assert check_fragment_id_untrusted(identifier) == identifier
    assert (header.previous_set is None) or (header.next_set is None)


def test_set_ids_are_never_zero_nor_negative() -> None:
    draws: Iterator[bytes] = iter([bytes(4), b"\x80\0\0\0", b"\xff\xff\xff\xff"])
    assert draw_set_id(lambda _: next(draws)) == 0x7FFFFFFF


def test_a_set_is_never_linked_to_itself() -> None:
    ids = iter([5, 5, 6])
    fragments = split(bytes(24 * 255), 24, ids.__next__)
    assert {FragmentHeader.decode_untrusted(fragment)[0].set_id for fragment in fragments} == {5, 6}


@pytest.mark.parametrize("data", [b"", bytes(4), bytes(6), b"\x80\0\0\1\1"])
def test_malformed_fragment_identifiers_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        check_fragment_id_untrusted(data)


def test_the_identifier_of_cover_is_accepted() -> None:
    assert check_fragment_id_untrusted(COVER_FRAGMENT_ID) == bytes(5)
