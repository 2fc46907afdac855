"""The primitives, against the standards' test vectors and a second way to compute them."""

from __future__ import annotations

import hmac

import blake3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smolmix_sync import crypto
from smolmix_sync.errors import WireError

unhex = bytes.fromhex


def test_x25519_gives_the_results_of_rfc_7748() -> None:
    # section 5.2, first vector; section 6.1
    assert crypto.x25519(
        unhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
        unhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"),
    ) == unhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_x25519_agrees_at_both_ends(alice: bytes, bob: bytes) -> None:
    assert crypto.x25519(alice, crypto.x25519_base(bob)) == crypto.x25519(bob, crypto.x25519_base(alice))


@pytest.mark.parametrize("u", [0, 1, 2**255 - 20, 2**255 - 19])
def test_x25519_of_a_point_of_low_order_is_refused(u: int) -> None:
    with pytest.raises(ValueError, match="all-zero"):
        crypto.x25519(b"k" * 32, u.to_bytes(32, "little"))


def test_x25519_arguments_of_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError):
        crypto.x25519(bytes(31), b"u" * 32)
    with pytest.raises(ValueError):
        crypto.x25519(bytes(32), b"u" * 33)
    with pytest.raises(ValueError):
        crypto.x25519_base(bytes(31))


@given(st.binary(min_size=32, max_size=32))
@example(bytes(32))
def test_public_keys_are_on_the_curve(private: bytes) -> None:
    assert crypto.x25519_on_curve(crypto.x25519_base(private))


def test_points_of_the_twist_are_not_on_the_curve() -> None:
    # u is on the curve or on its twist; half of all u are on either, and 9 is the base point
    assert crypto.x25519_on_curve((9).to_bytes(32, "little"))
    assert not crypto.x25519_on_curve((2).to_bytes(32, "little"))
    answers = [crypto.x25519_on_curve(u.to_bytes(32, "little")) for u in range(100)]
    assert 30 < sum(answers) < 70


def test_ed25519_gives_the_results_of_rfc_8032() -> None:
    # section 7.1, test 2
    seed = unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = crypto.ed25519_public_from_seed(seed)
    assert public == unhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = crypto.ed25519_sign(seed, b"\x72")
    assert signature == unhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert crypto.ed25519_verify(public, b"\x72", signature)
    assert not crypto.ed25519_verify(public, b"\x73", signature)
    assert not crypto.ed25519_verify(public, b"\x72", signature[:-1])
    assert not crypto.ed25519_verify(public[:-1], b"\x72", signature)


def test_ed25519_verification_never_raises_on_bad_keys() -> None:
    for key in (bytes(32), b"\xff" * 32, (2).to_bytes(32, "little")):
        assert not crypto.ed25519_verify(key, b"m", bytes(64))


@given(st.binary(min_size=32, max_size=32))
def test_ed25519_public_keys_are_valid_points(seed: bytes) -> None:
    public = crypto.ed25519_public_from_seed(seed)
    assert crypto.ed25519_is_valid_point(public)
    negated = public[:31] + bytes((public[31] ^ 0x80,))
    assert crypto.ed25519_is_valid_point(negated)


def test_points_are_judged_as_the_rust_client_judges_them() -> None:
    assert crypto.ed25519_is_valid_point((1).to_bytes(32, "little"))  # the neutral point
    assert crypto.ed25519_is_valid_point((2**255 - 19 + 1).to_bytes(32, "little"))  # y not reduced
    assert not crypto.ed25519_is_valid_point((2).to_bytes(32, "little"))
    assert not crypto.ed25519_is_valid_point(bytes(31))


def test_hkdf_sha256_gives_the_results_of_rfc_5869() -> None:
    # appendix A.1 and A.3
    okm = crypto.hkdf_sha256(bytes(range(13)), b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42)
    assert okm == unhex(
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    okm = crypto.hkdf_sha256(None, b"\x0b" * 22, b"", 42)
    assert okm == unhex(
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


@given(
    st.none() | st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80), st.integers(1, 300)
)
def test_both_ways_to_hkdf_agree(salt: bytes | None, ikm: bytes, info: bytes, length: int) -> None:
    expected = crypto._hkdf_sha256_chained(salt, ikm, info, length)
    assert crypto._hkdf_sha256_native(salt, ikm, info, length) == expected
    assert len(expected) == length


def test_hkdf_has_a_longest_output() -> None:
    for derive in (crypto.hkdf_sha256, crypto._hkdf_sha256_chained, crypto.hkdf_blake3):
        assert len(derive(None, b"k", b"", 255 * 32)) == 255 * 32
        with pytest.raises(ValueError):
            derive(None, b"k", b"", 255 * 32 + 1)


@given(st.binary(max_size=130), st.binary(max_size=200))
@example(b"k" * 64, b"")
@example(b"k" * 65, b"")
def test_hmac_blake3_is_hmac_over_blake3(key: bytes, data: bytes) -> None:
    assert crypto.hmac_blake3(key, data) == hmac.new(key, data, blake3.blake3).digest()  # type: ignore[arg-type]


@given(
    st.none() | st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80), st.integers(1, 100)
)
def test_hkdf_blake3_is_extract_then_expand(salt: bytes | None, ikm: bytes, info: bytes, length: int) -> None:
    key = crypto.hmac_blake3(salt or b"", ikm)
    first = crypto.hmac_blake3(key, info + b"\x01")
    second = crypto.hmac_blake3(key, first + info + b"\x02")
    assert crypto.hkdf_blake3(salt, ikm, info, length)[:64] == (first + second)[:length]
    assert len(crypto.hkdf_blake3(salt, ikm, info, length)) == length


def test_hashes_give_the_published_results() -> None:
    assert crypto.sha256(b"abc").hex().startswith("ba7816bf8f01cfea414140de5dae2223")
    assert crypto.blake3_digest(b"").hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
    assert (
        crypto.blake2b_keyed(bytes(range(64)), b"", 64).hex().startswith("10ebb67700b1868efb4417987acf4690")
    )
    # RFC 4231 section 4.3
    assert crypto.hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex().startswith("5bdcc146bf60754e")
    assert crypto.constant_time_equal(b"ab", b"ab")
    assert not crypto.constant_time_equal(b"ab", b"ac")


def test_aes_128_in_counter_mode_gives_the_results_of_sp_800_38a() -> None:
    # appendix F.5.1, first block
    key = unhex("2b7e151628aed2a6abf7158809cf4f3c")
    counter = unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = unhex("6bc1bee22e409f96e93d7e117393172a")
    cipher = unhex("874d6191b620e3261bef6864990db6ce")
    assert crypto.aes128_ctr(key, counter, plain) == cipher
    assert crypto.aes128_ctr(key, counter, cipher) == plain
    assert crypto.aes128_ctr_from_zero(key, plain) == crypto.aes128_ctr(key, bytes(16), plain)
    with pytest.raises(ValueError):
        crypto.aes128_ctr(bytes(32), counter, plain)


def test_chacha20_gives_the_published_keystream() -> None:
    # RFC 8439 appendix A.1, test vector 1: key, nonce and counter zero
    assert crypto.chacha20_xor(bytes(32), bytes(64)).hex().startswith("76b8e0ada0f13d90405d6ae55386bd28")


def test_aes_gcm_siv_gives_the_results_of_rfc_8452_and_detects_changes() -> None:
    # appendix C.2, second vector
    key, nonce = b"\x01".ljust(32, b"\0"), b"\x03".ljust(12, b"\0")
    sealed = crypto.aes_gcm_siv_encrypt(key, nonce, unhex("0100000000000000"))
    assert sealed == unhex("c2ef328e5c71c83b843122130f7364b761e0b97427e3df28")
    assert crypto.aes_gcm_siv_decrypt(key, nonce, sealed) == unhex("0100000000000000")
    for bad in (b"", sealed[:15], sealed[:-1], b"\0" + sealed[1:]):
        with pytest.raises(WireError):
            crypto.aes_gcm_siv_decrypt(key, nonce, bad)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_sealed_data_opens_under_the_same_associated_data_only(data: bytes, aad: bytes) -> None:
    key, nonce = b"k" * 32, b"n" * 12
    sealed = crypto.aes_gcm_encrypt(key, nonce, data, aad)
    assert crypto.aes_gcm_decrypt_untrusted(key, nonce, sealed, aad) == data
    with pytest.raises(WireError):
        crypto.aes_gcm_decrypt_untrusted(key, nonce, sealed, aad + b"!")
    siv = crypto.aes_gcm_siv_encrypt(key, nonce, data, aad)
    assert crypto.aes_gcm_siv_decrypt(key, nonce, siv, aad) == data
    with pytest.raises(WireError):
        crypto.aes_gcm_siv_decrypt(key, nonce, siv, aad + b"!")
