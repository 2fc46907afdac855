"""Noise links: the recorded handshakes at both ends, and ends that misbehave."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync import crypto
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.noise import HANDSHAKE_TIMEOUT, MAX_PLAINTEXT, NoiseLink, NoiseState, noise_psk

INITIATOR, RESPONDER = b"i" * 32, b"r" * 32


def ends(
    initiator_static: bytes = INITIATOR,
    responder_static: bytes = RESPONDER,
    initiator_ephemeral: bytes = b"e" * 32,
    responder_ephemeral: bytes = b"f" * 32,
) -> tuple[NoiseLink, NoiseLink]:
    public = crypto.x25519_base(responder_static)
    initiator = NoiseLink.initiator(initiator_static, public, urandom=lambda n: initiator_ephemeral, now=0.0)
    responder = NoiseLink.responder(responder_static, urandom=lambda n: responder_ephemeral, now=0.0)
    return initiator, responder


def carry(source: NoiseLink, target: NoiseLink) -> list[bytes]:
    """Move what *source* has to send; return the frames."""
    frames = source.data_to_send()
    target.receive_data(b"".join(frames))
    return frames


def read_all(link: NoiseLink) -> list[bytes]:
    read = []
    while (data := link.next_data_untrusted()) is not None:
        read.append(data)
    return read


def open_ends() -> tuple[NoiseLink, NoiseLink]:
    initiator, responder = ends()
    for source, target in ((initiator, responder), (responder, initiator), (initiator, responder)):
        carry(source, target)
        assert target.next_data_untrusted() is None
    assert initiator.state is responder.state is NoiseState.OPEN
    return initiator, responder


def check_handshake(case: dict[str, Any]) -> None:
    statics = vectors.unhex(
        case, "initiator_static", "responder_static", "initiator_ephemeral", "responder_ephemeral"
    )
    assert crypto.x25519_base(statics[0]).hex() == case["initiator_static_public"]
    assert crypto.x25519_base(statics[1]).hex() == case["responder_static_public"]
    assert noise_psk(bytes.fromhex(case["responder_static_public"])).hex() == case["psk"]
    assert case["pattern"] == "Noise_XKpsk3_25519_AESGCM_SHA256"
    initiator, responder = ends(*statics)
    by_name = {"initiator": (initiator, responder), "responder": (responder, initiator)}
    for recorded in case["handshake"]:
        source, target = by_name[recorded["from"]]
        frames = carry(source, target)
        assert [frame.hex() for frame in frames] == [recorded["frame"]]
        assert recorded["frame"].endswith(recorded["message"])
        assert target.next_data_untrusted() is None
    assert initiator.handshake_hash.hex() == responder.handshake_hash.hex() == case["handshake_hash"]
    assert responder.remote_static == crypto.x25519_base(statics[0])
    for recorded in case["transport"]:
        source, target = by_name[recorded["from"]]
        plaintext, ciphertext, frame = vectors.unhex(recorded, "plaintext", "ciphertext", "frame")
        if plaintext:
            source.send(plaintext)
            assert source.data_to_send() == [frame]
        else:  # never sent by us, but read: the counter has to move at both ends
            assert source._send is not None
            assert source._send.encrypt(b"") == ciphertext
        assert frame.endswith(ciphertext)
        target.receive_data(frame)
        assert target.next_data_untrusted() == plaintext


def test_vector_handshakes_and_transport_messages_are_the_recorded_ones() -> None:
    vectors.run("sphinx_noise.json", {"data": check_handshake})


@given(st.lists(st.binary(max_size=100)), st.lists(st.integers(1, 50)))
def test_stream_arrives_however_it_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    initiator, responder = open_ends()
    for piece in pieces:
        initiator.send(piece)
    stream = b"".join(initiator.data_to_send())
    received = []
    for cut in [*cuts, len(stream)]:
        responder.receive_data(stream[:cut])
        stream = stream[cut:]
        received += read_all(responder)
    assert b"".join(received) == b"".join(pieces)


def test_long_data_is_cut_into_frames_and_no_data_makes_none() -> None:
    initiator, responder = open_ends()
    responder.send(b"")
    assert responder.data_to_send() == []
    responder.send(bytes(MAX_PLAINTEXT + 1))
    frames = carry(responder, initiator)
    assert [len(frame) for frame in frames] == [8 + 65535, 8 + 17]
    assert [len(data) for data in read_all(initiator)] == [MAX_PLAINTEXT, 1]


def test_nothing_is_sent_before_the_handshake_or_after_the_end() -> None:
    initiator, responder = ends()
    with pytest.raises(ValueError, match="handshake"):
        initiator.send(b"x")
    initiator, responder = open_ends()
    responder.receive_data(b"\x07" * 8)
    with pytest.raises(WireError):
        responder.next_data_untrusted()
    with pytest.raises(ValueError, match="closed"):
        responder.send(b"x")


def test_handshake_has_a_deadline() -> None:
    initiator, responder = ends()
    assert initiator.next_deadline() == responder.next_deadline() == HANDSHAKE_TIMEOUT
    responder.handle_deadline(HANDSHAKE_TIMEOUT - 0.1)
    assert responder.state is NoiseState.HANDSHAKE
    responder.handle_deadline(HANDSHAKE_TIMEOUT)
    assert responder.state is NoiseState.CLOSED
    assert responder.next_deadline() is None
    carry(initiator, responder)
    with pytest.raises(WireError, match="too long"):
        responder.next_data_untrusted()


def test_open_link_has_no_deadline() -> None:
    initiator, _ = open_ends()
    assert initiator.next_deadline() is None
    initiator.handle_deadline(1e9)
    assert initiator.state is NoiseState.OPEN


FRAME = bytes((1, 1, 0, 0, 48, 0, 0, 0)) + bytes(48)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x07" + FRAME[1:], "version 7"),
        (b"\x01\x02" + FRAME[2:], "pattern 2"),
        (b"\x01\x01\x01" + FRAME[3:], "type 1 in the handshake"),
        (bytes((1, 1, 0, 0, 1, 0, 0, 0, 0)), "1 octets"),
        (FRAME, "low order"),
        (FRAME[:8] + b"e" * 48, "tag"),
    ],
    ids=str,
)
def test_wrong_first_frame_closes_the_link(data: bytes, reason: str) -> None:
    _, responder = ends()
    responder.receive_data(data)
    for _ in range(2):
        with pytest.raises(WireError, match=reason):
            responder.next_data_untrusted()
    assert responder.state is NoiseState.CLOSED
    assert responder.data_to_send() == []
    responder.receive_data(bytes(100))
    assert not responder._buffer


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes((1, 1, 0, 0, 16, 0, 0, 0)) + bytes(16), "type 0 on an open link"),
        (bytes((1, 1, 1, 0, 16, 0, 0, 0)) + bytes(16), "tag"),
        (bytes((1, 1, 1, 0, 15, 0, 0, 0)) + bytes(15), "tag"),
        (bytes((1, 1, 1, 0, 0, 0, 0, 0)), "tag"),
    ],
    ids=str,
)
def test_wrong_data_frame_closes_the_link(data: bytes, reason: str) -> None:
    initiator, _ = open_ends()
    initiator.receive_data(data)
    with pytest.raises(WireError, match=reason):
        initiator.next_data_untrusted()
    assert initiator.state is NoiseState.CLOSED


def test_good_frames_in_front_of_a_bad_one_are_delivered() -> None:
    initiator, responder = open_ends()
    initiator.send(b"good")
    carry(initiator, responder)
    responder.receive_data(bytes(8))
    assert responder.next_data_untrusted() == b"good"
    with pytest.raises(WireError, match="version 0"):
        responder.next_data_untrusted()


def test_responder_for_another_key_refuses() -> None:
    initiator, _ = ends()
    other = NoiseLink.responder(b"x" * 32, urandom=lambda n: b"f" * 32, now=0.0)
    carry(initiator, other)
    with pytest.raises(WireError, match="tag"):
        other.next_data_untrusted()


def test_reserved_octets_are_ignored() -> None:
    initiator, responder = ends()
    frame = bytearray(initiator.data_to_send()[0])
    frame[5:8] = b"\xff\xff\xff"
    responder.receive_data(bytes(frame))
    assert responder.next_data_untrusted() is None
    assert responder.data_to_send()


def test_key_is_not_used_beyond_its_last_nonce() -> None:
    initiator, _ = open_ends()
    assert initiator._send is not None
    initiator._send._nonce = 2**64 - 1
    with pytest.raises(WireError, match="used up"):
        initiator.send(b"x")


@given(st.binary(max_size=200))
def test_garbage_raises_only_wire_error(data: bytes) -> None:
    for link in (ends()[0], ends()[1], *open_ends()):
        link.receive_data(data)
        try:
            read_all(link)
        except WireError:
            assert link.state is NoiseState.CLOSED
