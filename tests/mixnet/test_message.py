from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import vectors
from support.mixnet_cases import message_of

from smolmix_sync.address import Recipient
from smolmix_sync.crypto import blake3_digest
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.fragments import (
    FragmentHeader,
    pad_message,
    required_fragments,
    split,
    unpad_untrusted,
)
from smolmix_sync.mixnet.message import (
    NymMessage,
    PlainMessage,
    RepliableContent,
    RepliableMessage,
    ReplyData,
    ReplySurb,
    SurbRequest,
    decode_message_untrusted,
    repliable_overhead,
    reply_surb_size,
)
from smolmix_sync.mixnet.packets import per_fragment
from smolmix_sync.mixnet.sphinx import NodeAddress, PacketSize, Surb

TAG = bytes(range(16))


def decoded(padded: bytes) -> NymMessage | None:
    try:
        return decode_message_untrusted(unpad_untrusted(padded))
    except WireError:
        return None


def surb(octet: int = 7, hops: int = 4, size: int = 16) -> ReplySurb:
    keys = tuple(bytes((octet,)) * size for _ in range(hops))
    return ReplySurb(bytes((octet,)) * 16, Surb(bytes((octet,)) * 348, NodeAddress("1.2.3.4", 5), keys))


def test_messages_agree_with_the_recorded_vectors() -> None:
    def check(case: dict[str, Any]) -> None:
        message = message_of(case["message"])
        for entry in case["message"].get("surbs", ()):
            reply_surb = ReplySurb.decode_untrusted(bytes.fromhex(entry["bytes"]))
            assert reply_surb.encode().hex() == entry["bytes"]
            assert reply_surb.encryption_key.hex() == entry["encryption_key"]
            assert reply_surb.digest.hex() == entry["key_digest"]
        size = per_fragment(PacketSize[case["packet_size"].upper()])
        assert size == case["available_plaintext_per_packet"]
        encoded = message.encode()
        assert required_fragments(len(encoded), size - 1)[0] == case["required_packets_estimate"]
        padded = pad_message(encoded, size)
        known = bytes.fromhex(case["padded_without_trailing_zeros"])
        assert padded == known.ljust(case["padded_len"], b"\0")
        assert blake3_digest(padded).hex() == case["padded_blake3"]
        assert decode_message_untrusted(unpad_untrusted(padded)) == message
        recorded = case["fragments"]
        heads = [FragmentHeader.decode_untrusted(bytes.fromhex(entry["header"]))[0] for entry in recorded]
        ids = list(dict.fromkeys(head.set_id for head in heads))
        fragments = split(padded, size, iter(ids).__next__)
        assert len(fragments) == len(recorded)
        for fragment, entry in zip(fragments, recorded, strict=True):
            assert fragment.startswith(bytes.fromhex(entry["header"]))
            assert len(fragment) == len(entry["header"]) // 2 + entry["payload_len"]
            assert blake3_digest(fragment).hex() == entry["blake3"]

    vectors.run("message_nym_message.json", {"cases": check})


def test_malformed_fragments_and_messages_are_judged_as_in_the_recorded_vectors() -> None:
    def fragment(case: dict[str, Any]) -> None:
        data, expected = bytes.fromhex(case["bytes"]), case["result"].get("ok")
        if expected is None:
            with pytest.raises(WireError):
                FragmentHeader.decode_untrusted(data)
            return
        header, size = FragmentHeader.decode_untrusted(data)
        assert header.set_id == expected["id"]
        assert (header.total, header.position) == (expected["total"], expected["current"])
        assert (header.previous_set, header.next_set) == (expected["previous"], expected["next"])
        assert data[size:].hex() == expected["payload"]

    def message(case: dict[str, Any]) -> None:
        found = decoded(bytes.fromhex(case["padded"]))
        expected = case["result"].get("ok")
        assert found == (None if expected is None else message_of(expected))

    vectors.run("message_malformed.json", {"fragments": fragment, "padded_messages": message})


RECIPIENT = Recipient(bytes(32), bytes(range(32)), bytes(32))  # y = 0 is a point


def messages() -> st.SearchStrategy[NymMessage]:
    data = st.binary(max_size=80)
    v2 = st.sampled_from([content for content in RepliableContent if not content.is_v1])
    v1 = st.sampled_from([content for content in RepliableContent if content.is_v1])
    count = st.integers(0, 3)

    def repliable_v2(
        content: RepliableContent, number: int, hops: int, rotation: int, data: bytes
    ) -> NymMessage:
        surbs = [surb(index, hops) for index in range(number)]
        payload = data if content.is_data else b""
        return RepliableMessage(TAG, content, surbs, rotation if surbs else 0, payload)

    def repliable_v1(content: RepliableContent, number: int, data: bytes) -> NymMessage:
        surbs = [surb(index, 4, 192) for index in range(number)]
        return RepliableMessage(TAG, content, surbs, 0, data if content.is_data else b"")

    return st.one_of(
        st.builds(PlainMessage, data),
        st.builds(ReplyData, st.binary(min_size=1, max_size=80)),
        st.builds(SurbRequest, st.just(RECIPIENT), st.integers(0, 2**32 - 1)),
        st.builds(repliable_v2, v2, count, st.integers(1, 5), st.integers(0, 2), data),
        st.builds(repliable_v1, v1, count, data),
    )


@given(messages())
def test_messages_survive_the_round_trip(message: NymMessage) -> None:
    assert decode_message_untrusted(message.encode()) == message


@given(messages(), st.data())
def test_truncated_or_damaged_messages_raise_only_wire_error(
    message: NymMessage, data: st.DataObject
) -> None:
    octets = bytearray(message.encode())
    if octets:
        octets[data.draw(st.integers(0, min(60, len(octets)) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(octets)))
    for damaged in (bytes(octets), bytes(octets[:cut])):
        try:
            decode_message_untrusted(damaged)
        except WireError:
            pass


@given(st.binary(max_size=40), st.binary(max_size=700))
@example(b"\1" + TAG + b"\3\0\1\0\0", bytes(396))
@example(b"\1" + TAG + b"\3\0\1\x0c\0", bytes(1000))
def test_garbage_raises_only_wire_error(head: bytes, tail: bytes) -> None:
    for data in (head, head + tail, b"\1" + TAG + head + tail, b"\2" + head):
        try:
            decode_message_untrusted(data)
        except WireError:
            pass


@pytest.mark.parametrize("hops", [0, 6, 12])
def test_surbs_with_impossible_hops_are_refused(hops: int) -> None:
    head = b"\1" + TAG + bytes((3, 0, 1, hops, 0))
    with pytest.raises(WireError, match="hops"):
        decode_message_untrusted(head + b"\4" * 2000)


def test_octets_behind_surbs_alone_are_ignored() -> None:
    encoded = RepliableMessage(TAG, RepliableContent.ADDITIONAL_SURBS_V2, [surb()], 1).encode()
    message = decode_message_untrusted(encoded + b"junk")
    assert isinstance(message, RepliableMessage)
    assert (len(message.surbs), message.data) == (1, b"")


def test_the_overhead_is_what_the_encoding_takes() -> None:
    for count, hops in ((0, 4), (1, 4), (3, 4), (2, 1)):
        surbs = [surb(index, hops) for index in range(count)]
        encoded = RepliableMessage(TAG, RepliableContent.DATA_V2, surbs, 1, b"data").encode()
        assert len(encoded) == repliable_overhead(count, hops) + 4
    assert (reply_surb_size(4), reply_surb_size(1)) == (460, 412)


@pytest.mark.parametrize(
    "message",
    [
        ReplyData(b""),
        RepliableMessage(TAG, RepliableContent.ADDITIONAL_SURBS_V2, [], 0, b"data"),
        RepliableMessage(TAG, RepliableContent.DATA_V2, [surb(1, 4), surb(2, 1)], 1),
        RepliableMessage(TAG, RepliableContent.DATA_V2, [surb(1, 4, 192)], 1),
        RepliableMessage(TAG, RepliableContent.DATA_V1, [surb(1, 4)], 0),
    ],
)
def test_messages_that_peers_would_misread_are_not_encoded(message: NymMessage) -> None:
    with pytest.raises(ValueError):
        message.encode()


def test_nothing_secret_is_in_a_repr() -> None:
    shown = "".join(map(repr, chain([surb(65)], [PlainMessage(b"AAAA"), ReplyData(b"AAAA")])))
    assert "A" * 4 not in shown


@pytest.mark.parametrize("size", [0, 396, 411, 413])
def test_a_surb_of_impossible_length_is_refused(size: int) -> None:
    with pytest.raises(WireError):
        ReplySurb.decode_untrusted(bytes(16 + 348) + b"\4" + bytes(size))
