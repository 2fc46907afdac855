"""The cryptographic primitives of the Nym protocols, each behind one small function.

This is the only module that imports nacl, cryptography and blake3, so that the choice
of library, its quirks and its errors stay in one place. Functions that are handed
bytes from the network raise :class:`~smolmix_sync.errors.WireError`; the others raise
``ValueError`` for arguments of the wrong size.

Source: spec/sphinx.md sections 3 and 21; spec/message-layer.md; spec/gateway.md.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import types
from typing import NoReturn

import blake3 as _blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import (
    crypto_pwhash_alg,
    crypto_pwhash_ALG_ARGON2ID13,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_secretbox,
    crypto_secretbox_open,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError, CryptoError

from smolmix_sync.errors import WireError

__all__ = [
    "FIELD_PRIME",
    "GROUP_ORDER",
    "Secret",
    "aes128_ctr",
    "aes128_ctr_from_zero",
    "aes_gcm_decrypt_untrusted",
    "aes_gcm_encrypt",
    "aes_gcm_siv_decrypt",
    "aes_gcm_siv_encrypt",
    "argon2id",
    "blake2b_keyed",
    "blake3_digest",
    "chacha20_xor",
    "constant_time_equal",
    "ed25519_is_valid_point",
    "ed25519_public_from_seed",
    "ed25519_sign",
    "ed25519_verify",
    "hkdf_blake3",
    "hkdf_sha256",
    "hmac_blake3",
    "hmac_sha256",
    "secretbox_open_untrusted",
    "secretbox_seal",
    "sha256",
    "x25519",
    "x25519_base",
    "x25519_is_small_order",
    "x25519_on_curve",
]

# From the specification (RFC 7748 section 4.1, RFC 8032 section 5.1).
FIELD_PRIME = 2**255 - 19
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
_MONTGOMERY_A = 486662
_EDWARDS_D = -121665 * pow(121666, -1, FIELD_PRIME) % FIELD_PRIME
_LEGENDRE = (FIELD_PRIME - 1) // 2
# From libsodium: 0, 1, the two points of order 8, and p - 1, p and p + 1.
_SMALL_ORDER = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        FIELD_PRIME - 1,
        FIELD_PRIME,
        FIELD_PRIME + 1,
    }
)
_POINT_CACHE = 4096  # ours: a whole network's keys with room to spare

_CHACHA_ZERO_NONCE = bytes(16)  # 64-bit counter and 64-bit nonce, both zero
# HKDF became native code in cryptography 45; the Python one before it is slower than chained hmac.digest.
_HKDF_IS_NATIVE = not isinstance(HKDF.derive, types.FunctionType)
_CTR_FROM_ZERO = modes.CTR(bytes(16))
_SHA256 = SHA256()
_IPAD = bytes(octet ^ 0x36 for octet in range(256))
_OPAD = bytes(octet ^ 0x5C for octet in range(256))


class Secret:
    """What holds keys: it is not pickled, not copied, and so not sent to another process by mistake."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds keys and is not pickled")


def x25519(scalar: bytes, u: bytes) -> bytes:
    """Return X25519 of *scalar* (clamped here) and the point *u*, 32 octets each.

    Raises:
        ValueError: a size is wrong, or the result is all zero (*u* has low order).

    Source: RFC 7748 section 5.
    """
    if len(scalar) != 32 or len(u) != 32:  # the binding hands bare pointers to C
        raise ValueError("X25519 takes 32 octets each")
    try:
        return crypto_scalarmult(scalar, u)
    except CryptoError as exc:
        raise ValueError("X25519 gives an all-zero result") from exc


def x25519_is_small_order(u: bytes) -> bool:
    """Tell whether every secret agreed with the point *u* would be zero, whatever the other key.

    Source: RFC 7748 section 6.1; libsodium's list of points of small order, the top bit being ignored.
    """
    return (int.from_bytes(u, "little") & ((1 << 255) - 1)) in _SMALL_ORDER


def x25519_base(scalar: bytes) -> bytes:
    """Return the X25519 public key of the 32-octet private key *scalar*.

    Source: RFC 7748 section 6.1.
    """
    if len(scalar) != 32:  # as above
        raise ValueError("an X25519 private key has 32 octets")
    return crypto_scalarmult_base(scalar)


@functools.lru_cache(maxsize=_POINT_CACHE)
def x25519_on_curve(u: bytes) -> bool:
    """Tell whether *u* is the u-coordinate of a point of curve25519, not of its twist.

    The answer is cached per key: it costs two or three ladders.

    Source: RFC 7748 section 4.1; spec/sphinx.md section 4.1.
    """
    x = (int.from_bytes(u, "little") & ((1 << 255) - 1)) % FIELD_PRIME
    square = x * (x * (x + _MONTGOMERY_A) + 1) % FIELD_PRIME
    return pow(square, _LEGENDRE, FIELD_PRIME) in (0, 1)


def ed25519_public_from_seed(seed: bytes) -> bytes:
    """Return the 32-octet Ed25519 public key of the 32-octet *seed*.

    Source: RFC 8032 section 5.1.5.
    """
    public, _ = crypto_sign_seed_keypair(seed)
    return public


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """Return the 64-octet Ed25519 signature over *message* under the private key *seed*.

    Source: RFC 8032 section 5.1.6.
    """
    _, secret = crypto_sign_seed_keypair(seed)
    return crypto_sign(message, secret)[:64]


def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether *signature* over *message* is valid under *public_key*; never raises on bad input.

    Source: RFC 8032 section 5.1.7.
    """
    if len(signature) != 64 or len(public_key) != 32:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


@functools.lru_cache(maxsize=_POINT_CACHE)
def ed25519_is_valid_point(public_key: bytes) -> bool:
    """Tell whether *public_key* decompresses to a point of the curve, as curve25519-dalek decides it.

    Points of low order and encodings with ``y >= p`` count as valid, which libsodium's own check
    refuses: the Rust client accepts them in an address.

    Source: RFC 8032 section 5.1.3; curve25519-dalek ``CompressedEdwardsY::decompress``.
    """
    if len(public_key) != 32:
        return False
    y = (int.from_bytes(public_key, "little") & ((1 << 255) - 1)) % FIELD_PRIME
    numerator = y * y - 1
    denominator = _EDWARDS_D * y * y + 1
    return pow(numerator * denominator % FIELD_PRIME, _LEGENDRE, FIELD_PRIME) in (0, 1)


def sha256(data: bytes) -> bytes:
    """Return SHA-256 of *data*."""
    return hashlib.sha256(data).digest()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """Return the 32-octet HMAC-SHA256 of *data*."""
    return hmac.digest(key, data, "sha256")


def constant_time_equal(left: bytes, right: bytes) -> bool:
    """Compare two tags without telling by the time taken where they differ."""
    return hmac.compare_digest(left, right)


def _hkdf_sha256_chained(salt: bytes | None, ikm: bytes, info: bytes, length: int) -> bytes:
    """Derive as :func:`hkdf_sha256` does, from the standard library alone."""
    if length > 255 * 32:
        raise ValueError("HKDF gives at most 255 blocks")
    prk = hmac.digest(salt or bytes(32), ikm, "sha256")
    block = b""
    blocks = []
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes((counter,)), "sha256")
        blocks.append(block)
    return b"".join(blocks)[:length]


def _hkdf_sha256_native(salt: bytes | None, ikm: bytes, info: bytes, length: int) -> bytes:
    """Derive as :func:`hkdf_sha256` does, in one call of the library."""
    return HKDF(_SHA256, length, salt or None, info).derive(ikm)


_hkdf_sha256 = _hkdf_sha256_native if _HKDF_IS_NATIVE else _hkdf_sha256_chained


def hkdf_sha256(salt: bytes | None, ikm: bytes, info: bytes, length: int) -> bytes:
    """Return *length* octets of HKDF-SHA256; no salt and an empty one are the same.

    Source: RFC 5869.
    """
    return _hkdf_sha256(salt, ikm, info, length)


def hmac_blake3(key: bytes, data: bytes) -> bytes:
    """Return the 32-octet HMAC of *data* with plain BLAKE3 as the hash, in blocks of 64 octets.

    Written out because ``hmac.new(key, data, blake3)`` takes twice as long.

    Source: RFC 2104; spec/message-layer.md (fragment encryption).
    """
    if len(key) > 64:
        key = _blake3.blake3(key).digest()
    padded = key.ljust(64, b"\0")
    inner = _blake3.blake3(padded.translate(_IPAD) + data).digest()
    return _blake3.blake3(padded.translate(_OPAD) + inner).digest()


def hkdf_blake3(salt: bytes | None, ikm: bytes, info: bytes, length: int) -> bytes:
    """Return *length* octets of HKDF over :func:`hmac_blake3`; no salt and an empty one are the same.

    Source: RFC 5869; spec/message-layer.md (fragment encryption).
    """
    if length > 255 * 32:
        raise ValueError("HKDF gives at most 255 blocks")
    prk = hmac_blake3(salt or b"", ikm)
    block = b""
    blocks = []
    for counter in range(1, -(-length // 32) + 1):
        block = hmac_blake3(prk, block + info + bytes((counter,)))
        blocks.append(block)
    return b"".join(blocks)[:length]


def blake3_digest(data: bytes) -> bytes:
    """Return the 32-octet BLAKE3 digest of *data*."""
    return _blake3.blake3(data).digest()


def blake2b_keyed(key: bytes, data: bytes, size: int) -> bytes:
    """Return *size* octets of BLAKE2b of *data*, keyed with 1 to 64 octets.

    Source: RFC 7693.
    """
    return hashlib.blake2b(data, key=key, digest_size=size).digest()


def aes128_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt *data* with AES-128 in counter mode, 128-bit big-endian counter from *iv*.

    Source: NIST SP 800-38A section 6.5.
    """
    return Cipher(algorithms.AES128(key), modes.CTR(iv)).encryptor().update(data)


def aes128_ctr_from_zero(key: bytes, data: bytes) -> bytes:
    """XOR *data* with the AES-128 keystream in counter mode from zero: Sphinx's stream cipher.

    It is :func:`aes128_ctr` with a zero *iv*, sooner: the mode object is shared.
    """
    return Cipher(algorithms.AES128(key), _CTR_FROM_ZERO).encryptor().update(data)


def chacha20_xor(key: bytes, data: bytes) -> bytes:
    """XOR *data* with the ChaCha20 keystream of the 32-octet *key*, nonce and counter from zero."""
    return Cipher(algorithms.ChaCha20(key, _CHACHA_ZERO_NONCE), None).encryptor().update(data)


def aes_gcm_siv_encrypt(key: bytes, nonce: bytes, data: bytes, aad: bytes | None = None) -> bytes:
    """Return AES-GCM-SIV of *data*: ciphertext and 16-octet tag; *key* 16 or 32 octets, *nonce* 12.

    Source: RFC 8452.
    """
    return AESGCMSIV(key).encrypt(nonce, data, aad)


def aes_gcm_siv_decrypt(key: bytes, nonce: bytes, data: bytes, aad: bytes | None = None) -> bytes:
    """Return the plaintext of AES-GCM-SIV *data*, which ends in its 16-octet tag.

    Raises:
        WireError: *data* is too short or its tag is wrong.

    Source: RFC 8452.
    """
    try:
        return AESGCMSIV(key).decrypt(nonce, data, aad)
    except InvalidTag as exc:
        raise WireError("AES-GCM-SIV tag is wrong") from exc


def aes_gcm_encrypt(key: bytes, nonce: bytes, data: bytes, aad: bytes) -> bytes:
    """Return AES-GCM of *data*: ciphertext and 16-octet tag.

    Source: NIST SP 800-38D.
    """
    return AESGCM(key).encrypt(nonce, data, aad)


def aes_gcm_decrypt_untrusted(key: bytes, nonce: bytes, data: bytes, aad: bytes) -> bytes:
    """Return the plaintext of AES-GCM *data*, which ends in its 16-octet tag.

    Raises:
        WireError: *data* is too short or its tag is wrong.

    Source: NIST SP 800-38D.
    """
    try:
        return AESGCM(key).decrypt(nonce, data, aad)
    except InvalidTag as exc:
        raise WireError("AES-GCM tag is wrong") from exc


def argon2id(password: bytes, salt: bytes, *, operations: int, memory: int) -> bytes:
    """Return a 32-octet key for *password* and a 16-octet *salt*; takes *memory* octets and a while.

    Raises:
        ValueError: the salt's size, *operations* or *memory* is nothing Argon2id takes.

    Source: RFC 9106, version 0x13, one lane.
    """
    try:
        return crypto_pwhash_alg(32, password, salt, operations, memory, crypto_pwhash_ALG_ARGON2ID13)
    except CryptoError as exc:
        raise ValueError(f"Argon2id: {exc}") from exc


def secretbox_seal(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """Return XSalsa20-Poly1305 of *data*: 16-octet tag and ciphertext; *key* 32 octets, *nonce* 24.

    Source: libsodium ``crypto_secretbox_easy``.
    """
    return crypto_secretbox(data, nonce, key)


def secretbox_open_untrusted(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """Return the plaintext of XSalsa20-Poly1305 *data*, which begins with its 16-octet tag.

    Raises:
        WireError: *data* or *nonce* is too short, or the tag is wrong.

    Source: libsodium ``crypto_secretbox_open_easy``.
    """
    try:
        return crypto_secretbox_open(data, nonce, key)
    except (CryptoError, ValueError) as exc:
        raise WireError("secretbox tag is wrong") from exc
