"""Unwrapping what nobody should have sent: the crate's recorded verdicts, garbage, flipped bits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync import crypto
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import (
    FinalHop,
    ForwardHop,
    Hop,
    NodeAddress,
    PacketSize,
    build_packet,
    open_untrusted,
    unwrap_untrusted,
)
from smolmix_sync.mixnet.sphinx.header import decrypt_routing, header_mac
from smolmix_sync.mixnet.sphinx.keys import BLINDING_FACTOR, MAC_KEY, STREAM_KEY, expand

KEYS = [b"a" * 32, b"b" * 32]
ROUTE = [Hop(NodeAddress("10.9.8.7", 1789 + i), crypto.x25519_base(key)) for i, key in enumerate(KEYS)]


def packet_of(version: int = 259) -> bytes:
    return build_packet(
        b"hello", ROUTE, [7, 8], b"d" * 32, size=PacketSize.ACK, urandom=lambda n: b"r" * n, version=version
    )


def tampered(offset: int, change: int, version: int = 259) -> bytes:
    """Return a packet whose first hop's plain routing information differs at *offset*, under a right MAC."""
    packet = bytearray(packet_of(version))
    packet[48 + offset] ^= change
    expanded = expand(crypto.x25519(KEYS[0], bytes(packet[:32])))
    packet[32:48] = header_mac(expanded[MAC_KEY], bytes(packet[48:348]))
    return bytes(packet)


def check_verdict(case: dict[str, Any]) -> None:
    packet, private = vectors.unhex(case, "packet", "private_key")
    result = case["result"]
    if "forward" in result:
        onward = unwrap_untrusted(packet, private)
        assert isinstance(onward, ForwardHop)
        assert onward.packet.hex() == result["forward"]
    elif "plaintext" in result:
        final = unwrap_untrusted(packet, private)
        assert isinstance(final, FinalHop)
        assert final.message.hex() == result["plaintext"]
    else:
        assert set(result) <= {"parse_error", "process_error", "plaintext_error"}
        with pytest.raises(WireError):
            unwrap_untrusted(packet, private)


def test_vector_tampered_packets_meet_the_recorded_verdict() -> None:
    vectors.run("sphinx_negative.json", {"data": check_verdict})


@given(st.binary(max_size=500), st.binary(min_size=32, max_size=32))
@example(bytes(364), KEYS[0])
@example(bytes(386), KEYS[0])
def test_garbage_raises_only_wire_error(packet: bytes, private_key: bytes) -> None:
    with pytest.raises(WireError):
        unwrap_untrusted(packet, private_key)


@given(st.integers(0, 8 * 348 - 1))
def test_every_flipped_header_bit_is_detected(bit: int) -> None:
    packet = bytearray(packet_of())
    packet[bit // 8] ^= 1 << bit % 8
    if bit == 255:  # alpha's top bit is no part of a point, nor of the MAC
        assert unwrap_untrusted(bytes(packet), KEYS[0]) == unwrap_untrusted(packet_of(), KEYS[0])
    else:
        with pytest.raises(WireError):
            open_untrusted(bytes(packet), KEYS[0])


@given(st.integers(8 * 348, 8 * 386 - 1))
def test_every_flipped_payload_bit_is_detected_at_the_end(bit: int) -> None:
    packet = bytearray(packet_of())
    packet[bit // 8] ^= 1 << bit % 8
    onward = unwrap_untrusted(bytes(packet), KEYS[0])
    assert isinstance(onward, ForwardHop)
    with pytest.raises(WireError, match="damaged"):
        unwrap_untrusted(onward.packet, KEYS[1])


@pytest.mark.parametrize(
    "alpha",
    [
        0,
        1,
        2**255 - 20,
        2**255 - 19,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
    ],
    ids=["zero", "one", "minus one", "zero again", "order 8"],
)
def test_alpha_of_low_order_is_refused(alpha: int) -> None:
    with pytest.raises(WireError, match="low order"):
        open_untrusted(alpha.to_bytes(32, "little") + packet_of()[32:], KEYS[0])


def test_replay_tag_is_known_before_the_payload_is_touched() -> None:
    good = open_untrusted(packet_of(), KEYS[0])
    damaged = open_untrusted(packet_of()[:-1] + b"?", KEYS[0])
    other = open_untrusted(packet_of(258), KEYS[0])
    assert good.replay_tag == damaged.replay_tag == other.replay_tag  # one tag per initial secret
    assert good.finish_untrusted().replay_tag == good.replay_tag
    assert open_untrusted(good.finish_untrusted().packet, KEYS[1]).replay_tag != good.replay_tag  # type: ignore[union-attr]


@pytest.mark.parametrize("flag", [0, 3, 255])
def test_unknown_routing_flag_is_refused(flag: int) -> None:
    with pytest.raises(WireError, match=f"flag {flag} "):
        unwrap_untrusted(tampered(0, 1 ^ flag), KEYS[0])


def test_next_address_of_unknown_type_is_refused() -> None:
    with pytest.raises(WireError, match="neither 4 nor 6"):
        unwrap_untrusted(tampered(4, 4 ^ 5), KEYS[0])


def test_first_version_octet_is_ignored() -> None:
    plain = unwrap_untrusted(packet_of(), KEYS[0])
    changed = unwrap_untrusted(tampered(1, 0x80), KEYS[0])
    assert isinstance(plain, ForwardHop)
    assert isinstance(changed, ForwardHop)
    assert changed.packet == plain.packet


def test_version_nobody_knows_is_processed_like_259() -> None:
    plain, changed = unwrap_untrusted(packet_of(), KEYS[0]), unwrap_untrusted(tampered(2, 0xFF), KEYS[0])
    assert isinstance(plain, ForwardHop)
    assert isinstance(changed, ForwardHop)
    assert changed.packet == plain.packet
    assert changed.version == 0xFE03


def test_legacy_blinding_factor_of_zero_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody can aim a hash at it; the sender of a packet of version 1 or 257 is not bound to a hash, though.
    opened = open_untrusted(packet_of(257), KEYS[0])
    expanded = bytearray(opened._expanded)
    expanded[BLINDING_FACTOR] = bytes(32)
    opened._expanded = bytes(expanded)
    with pytest.raises(WireError, match="alpha"):
        opened.finish_untrusted()


def test_private_key_of_wrong_size_is_the_callers_fault() -> None:
    with pytest.raises(ValueError) as caught:
        open_untrusted(packet_of(), bytes(31))
    assert not isinstance(caught.value, WireError)


def test_packet_may_be_a_bytearray() -> None:
    assert unwrap_untrusted(bytearray(packet_of()), KEYS[0]) == unwrap_untrusted(packet_of(), KEYS[0])


def test_routing_information_is_read_with_a_step_of_zeros_behind_it() -> None:
    expanded = expand(crypto.x25519(KEYS[0], packet_of()[:32]))
    plain = decrypt_routing(expanded[STREAM_KEY], packet_of()[48:348])
    assert len(plain) == 360
    assert plain[300:] == crypto.aes128_ctr_from_zero(expanded[STREAM_KEY], bytes(360))[300:]


def test_secrets_stay_out_of_reprs() -> None:
    onward = unwrap_untrusted(packet_of(), KEYS[0])
    assert isinstance(onward, ForwardHop)
    final = unwrap_untrusted(onward.packet, KEYS[1])
    assert isinstance(final, FinalHop)
    assert repr(final.message) not in repr(final)
    assert onward.replay_tag.hex() not in repr(onward)
