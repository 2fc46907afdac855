"""Frames on mix links, and the recorded framing vectors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync import crypto
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import (
    FinalHop,
    ForwardHop,
    FrameDecoder,
    MixFrame,
    MixPacket,
    NodeAddress,
    PacketSize,
    Surb,
    encode_frame,
    unwrap_untrusted,
)

_ADDRESS_SIZE = 19
_ACK_BLOCK_SIZE = _ADDRESS_SIZE + PacketSize.ACK.packet_size


def travel(packet: bytes, private_keys: list[str]) -> tuple[list[ForwardHop], FinalHop]:
    forwards = []
    for key in private_keys:
        result = unwrap_untrusted(packet, bytes.fromhex(key))
        if isinstance(result, ForwardHop):
            forwards.append(result)
            packet = result.packet
    assert isinstance(result, FinalHop)
    return forwards, result


def check_frame(case: dict[str, Any]) -> None:
    frame, packet = vectors.unhex(case, "frame", "packet")
    version, rotation = case["frame_version"], case["key_rotation"]
    assert encode_frame(packet, rotation, version) == frame
    assert PacketSize.of_packet_untrusted(packet).tag == case["size_tag"]
    expected = MixFrame(packet, rotation if version == 8 else 0, version)
    decoder = FrameDecoder()
    assert list(decoder.frames_untrusted(frame + frame)) == [expected, expected]
    one_by_one = [found for octet in frame for found in decoder.frames_untrusted(bytes((octet,)))]
    assert one_by_one == [expected]


def check_decode(case: dict[str, Any]) -> None:
    decoder = FrameDecoder()
    decoder.receive_data(bytes.fromhex(case["bytes"]))
    if case["result"] == "frame":
        found = decoder.next_frame_untrusted()
        assert found is not None
        assert encode_frame(found.packet, found.key_rotation, found.version) in bytes.fromhex(case["bytes"])
    elif case["result"] == "incomplete":
        assert decoder.next_frame_untrusted() is None
    else:
        assert case["result"].startswith("error")
        with pytest.raises(WireError):
            decoder.next_frame_untrusted()


def check_mix_packet(case: dict[str, Any]) -> None:
    first, second, packet = vectors.unhex(case, "v1", "v2", "packet")
    mix_packet = MixPacket(NodeAddress.parse(case["first_hop"]), packet, case["key_rotation"])
    assert mix_packet.encode() == second
    assert mix_packet.encode_v1() == first
    assert MixPacket.decode_untrusted(second) == mix_packet
    assert MixPacket.decode_untrusted(first, 1) == MixPacket(mix_packet.first_hop, packet, 0)


def check_bad_mix_packet(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["bytes"])
    if case["result"].startswith("error"):
        with pytest.raises(WireError):
            MixPacket.decode_untrusted(data, case["form"])
    else:
        mix_packet = MixPacket.decode_untrusted(data, case["form"])
        assert (mix_packet.encode_v1() if case["form"] == 1 else mix_packet.encode()) == data


def check_surb_ack(case: dict[str, Any]) -> None:
    block, ack_packet, key, fragment_id = vectors.unhex(case, "block", "ack_packet", "ack_key", "fragment_id")
    first_hop = NodeAddress.parse(case["first_hop"])
    assert first_hop.encode_padded(_ADDRESS_SIZE) + ack_packet == block
    assert len(block) == _ACK_BLOCK_SIZE
    forwards, final = travel(ack_packet, case["route_private_keys"])
    assert [str(hop.next_address) for hop in forwards] == case["route_sockets"][1:]
    assert [hop.delay_ns for hop in forwards] == case["delays_ns"][: len(forwards)]
    assert sum(hop.delay_ns for hop in forwards) == case["expected_total_delay_ns"]
    assert {hop.version for hop in forwards} == {258 if case["legacy_258"] else 259}
    assert final.destination.hex() == case["destination"]
    assert final.message.hex() == case["ack_plaintext"]
    assert crypto.aes128_ctr(key, final.message[:16], final.message[16:]) == fragment_id


def check_final_hop(case: dict[str, Any]) -> None:
    packet, plaintext = vectors.unhex(case, "packet", "plaintext")
    _, final = travel(packet, case["route_private_keys"])
    assert final.message == plaintext
    assert final.destination.hex() == case["destination"]
    check_delivery(case, plaintext)
    assert str(NodeAddress.decode_untrusted(plaintext[:_ADDRESS_SIZE])) == case["ack_next_hop"]
    assert plaintext[_ADDRESS_SIZE:_ACK_BLOCK_SIZE].hex() == case["ack_packet"]
    assert case["ack_key_rotation"] == case["frame_key_rotation"]


def check_delivery(case: dict[str, Any], plaintext: bytes) -> None:
    assert len(plaintext) >= _ACK_BLOCK_SIZE
    NodeAddress.decode_untrusted(plaintext[:_ADDRESS_SIZE])
    assert plaintext[_ACK_BLOCK_SIZE:].hex() == case["message"]


def check_bad_final_hop(case: dict[str, Any]) -> None:
    plaintext = bytes.fromhex(case["plaintext"])
    if case["result"] == "delivered":
        check_delivery(case, plaintext)
    elif len(plaintext) >= _ACK_BLOCK_SIZE:
        with pytest.raises(WireError):
            NodeAddress.decode_untrusted(plaintext[:_ADDRESS_SIZE])


def check_reply_surb(case: dict[str, Any]) -> None:
    data, key = vectors.unhex(case, "bytes", "encryption_key")
    assert len(data) == case["len"]
    assert data.startswith(key)
    assert crypto.blake3_digest(key).hex() == case["key_digest"]
    surb = Surb.decode_untrusted(data[len(key) :])
    assert key + surb.encode() == data
    assert surb.uses_key_seeds != case["legacy_258"]
    packet, _ = surb.use(b"a reply", PacketSize.REGULAR)
    _, final = travel(packet, case["route_private_keys"])
    assert final.message == b"a reply"
    # what is left beside the key's digest and the recipient's own SURB-ack
    assert PacketSize.REGULAR.plaintext_size - _ACK_BLOCK_SIZE - 32 - 1 == case["max_msg_len_regular"]


def test_vector_frames_mix_packets_acks_and_surbs() -> None:
    vectors.run(
        "sphinx_framing.json",
        {
            "frames": check_frame,
            "decode": check_decode,
            "mix_packets": check_mix_packet,
            "bad_mix_packets": check_bad_mix_packet,
            "surb_acks": check_surb_ack,
            "final_hop": check_final_hop,
            "bad_final_hop": check_bad_final_hop,
            "reply_surbs": check_reply_surb,
        },
    )


FRAMES = st.tuples(st.sampled_from((386, 2413)), st.integers(0, 2), st.sampled_from((7, 8)))


@given(st.lists(FRAMES, max_size=4), st.lists(st.integers(0, 3000), max_size=8))
def test_any_split_of_a_stream_gives_the_same_frames(
    described: list[tuple[int, int, int]], cuts: list[int]
) -> None:
    expected = [
        MixFrame(bytes((i,)) * size, rotation if version == 8 else 0, version)
        for i, (size, rotation, version) in enumerate(described)
    ]
    stream = b"".join(encode_frame(frame.packet, frame.key_rotation, frame.version) for frame in expected)
    decoder = FrameDecoder()
    found = []
    for cut in [*cuts, len(stream)]:
        found += decoder.frames_untrusted(stream[:cut])
        stream = stream[cut:]
    assert found == expected


@given(st.lists(st.binary(max_size=500), max_size=5))
def test_garbage_raises_only_wire_error(pieces: list[bytes]) -> None:
    decoder = FrameDecoder()
    try:
        for piece in pieces:
            list(decoder.frames_untrusted(piece))
    except WireError:
        with pytest.raises(WireError):
            decoder.next_frame_untrusted()


def test_frames_in_front_of_an_error_are_delivered_and_the_error_lasts() -> None:
    decoder = FrameDecoder()
    frames = decoder.frames_untrusted(encode_frame(bytes(386), 1) + b"\x09\x01\x00")
    assert next(frames).key_rotation == 1
    with pytest.raises(WireError, match="version 9"):
        next(frames)
    decoder.receive_data(encode_frame(bytes(386), 1))
    with pytest.raises(WireError, match="version 9"):
        decoder.next_frame_untrusted()


def test_packet_of_another_size_or_frame_version_is_refused() -> None:
    with pytest.raises(ValueError, match="385"):
        encode_frame(bytes(385), 0)
    with pytest.raises(ValueError, match="version 9"):
        encode_frame(bytes(386), 0, 9)
