"""Padding, Lioness and the recovery of messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx.keys import payload_key_from_seed
from smolmix_sync.mixnet.sphinx.payload import (
    encapsulate,
    lioness_decrypt_untrusted,
    lioness_encrypt,
    pad,
    recover_untrusted,
)

KEYS = st.binary(min_size=192, max_size=192)


def check_layers(case: dict[str, Any]) -> None:
    keys = [bytes.fromhex(key) for key in case["keys"]]
    message, padded = vectors.unhex(case, "message", "padded")
    assert pad(message, case["payload_size"]) == padded
    payload = padded
    for stage in case["stages"]:
        index = stage["after_adding_layer"]
        inner, payload = payload, lioness_encrypt([keys[index]], payload)
        assert payload.hex() == stage["payload"]
        assert lioness_decrypt_untrusted(keys[index], payload) == inner
    assert encapsulate(message, case["payload_size"], keys) == payload
    for key in keys:
        payload = lioness_decrypt_untrusted(key, payload)
    assert payload == padded
    assert recover_untrusted(payload).hex() == case["recovered"]


def check_refusal(case: dict[str, Any]) -> None:
    assert case["error"]
    with pytest.raises(ValueError) as caught:
        encapsulate(bytes(case["message_len"]), case["payload_size"], [bytes(192)])
    assert not isinstance(caught.value, WireError)


def check_recovery(case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["payload"])
    if "error" in case:
        with pytest.raises(WireError):
            recover_untrusted(payload)
    else:
        assert recover_untrusted(payload).hex() == case["plaintext"]


def check_seed(case: dict[str, Any]) -> None:
    assert payload_key_from_seed(bytes.fromhex(case["seed"])).hex() == case["payload_key"]


def test_vector_payloads_are_encrypted_and_recovered() -> None:
    vectors.run(
        "sphinx_payload.json",
        {
            "cases": check_layers,
            "encapsulate_errors": check_refusal,
            "recover": check_recovery,
            "seeds": check_seed,
        },
    )


@given(st.binary(max_size=100), st.integers(33, 117))
def test_padding_is_undone_by_recovery(message: bytes, payload_size: int) -> None:
    if len(message) + 17 > payload_size:
        with pytest.raises(ValueError, match="does not fit"):
            pad(message, payload_size)
    else:
        padded = pad(message, payload_size)
        assert len(padded) == payload_size
        assert recover_untrusted(padded) == message


@given(st.lists(KEYS, min_size=1, max_size=5), st.binary(min_size=33, max_size=200))
def test_layers_come_off_in_route_order(keys: list[bytes], block: bytes) -> None:
    payload = lioness_encrypt(keys, block)
    for key in keys:
        payload = lioness_decrypt_untrusted(key, payload)
    assert payload == block


@given(KEYS, st.binary(max_size=21), st.data())
def test_a_flipped_bit_destroys_the_zeros_in_front(key: bytes, message: bytes, data: st.DataObject) -> None:
    payload = bytearray(encapsulate(message, 38, [key]))
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="zeros"):
        recover_untrusted(lioness_decrypt_untrusted(key, bytes(payload)))


@given(st.binary(max_size=80))
@example(bytes(16))
@example(bytes(17))
@example(bytes(16) + b"\x01")
def test_garbage_payload_raises_only_wire_error(payload: bytes) -> None:
    try:
        message = recover_untrusted(payload)
    except WireError:
        return
    assert payload[16:].startswith(message + b"\x01")


def test_block_of_32_octets_is_too_short() -> None:
    with pytest.raises(ValueError, match="32"):
        lioness_encrypt([bytes(192)], bytes(32))
    with pytest.raises(WireError, match="too short"):
        lioness_decrypt_untrusted(bytes(192), bytes(32))


def test_key_of_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="192"):
        lioness_encrypt([bytes(191)], bytes(33))
