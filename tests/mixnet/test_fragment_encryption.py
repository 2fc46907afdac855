from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync.crypto import blake3_digest, hkdf_blake3, x25519, x25519_base
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.fragment_encryption import (
    decrypt_fragment_untrusted,
    decrypt_reply_fragment,
    encrypt_fragment,
    encrypt_reply_fragment,
)


def pattern(length: int, seed: int) -> bytes:
    return bytes((((i * i * 13 + i * 7 + seed) % 251) ^ ((i >> 8) & 0xFF)) & 0xFF for i in range(length))


def test_fragment_encryption_agrees_with_the_recorded_vectors() -> None:
    def regular(case: dict[str, Any]) -> None:
        ephemeral, private, public, plain, wire = vectors.unhex(
            case, "ephemeral_private", "recipient_private", "recipient_public", "plaintext", "wire"
        )
        assert x25519_base(private) == public
        assert x25519(private, x25519_base(ephemeral)).hex() == case["dh"]
        assert encrypt_fragment(plain, public, lambda size: ephemeral[:size]) == wire
        assert decrypt_fragment_untrusted(wire, private) == plain
        assert wire.hex() == case["ephemeral_public"] + case["ciphertext"]

    def reply(case: dict[str, Any]) -> None:
        key, plain, wire = vectors.unhex(case, "surb_encryption_key", "plaintext", "wire")
        assert encrypt_reply_fragment(plain, key) == wire
        assert decrypt_reply_fragment(wire, key) == plain
        assert wire.hex() == case["key_digest"] + case["ciphertext"]

    def hkdf(case: dict[str, Any]) -> None:
        salt, ikm, info = vectors.unhex(case, "salt", "ikm", "info")
        assert hkdf_blake3(None, ikm, b"", case["len"]).hex() == case["okm_nosalt_noinfo"]
        assert hkdf_blake3(salt, ikm, info, case["len"]).hex() == case["okm_salt_info"]

    def blake3(case: dict[str, Any]) -> None:
        assert blake3_digest(pattern(case["len"], case["pattern_seed"])).hex() == case["digest"]

    checks = {"regular": regular, "reply": reply, "hkdf_hmac_blake3": hkdf, "blake3": blake3}
    vectors.run("message_fragment_encryption.json", checks)


@given(st.binary(max_size=200), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_the_recipient_reads_what_was_encrypted_to_it(
    fragment: bytes, private: bytes, ephemeral: bytes
) -> None:
    wire = encrypt_fragment(fragment, x25519_base(private), lambda _: ephemeral)
    assert decrypt_fragment_untrusted(wire, private) == fragment
    assert len(wire) == 32 + len(fragment)


@given(st.binary(max_size=100))
def test_garbage_raises_only_wire_error(data: bytes) -> None:
    try:
        decrypt_fragment_untrusted(data, bytes(range(32)))
    except WireError:
        pass


@pytest.mark.parametrize("data", [bytes(31), bytes(1643), b"\1" + bytes(1642)])
def test_short_payloads_and_keys_of_low_order_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decrypt_fragment_untrusted(data, bytes(range(32)))
