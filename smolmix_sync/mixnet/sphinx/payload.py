"""The payload of a packet: padding, and one Lioness layer per hop.

Lioness is a wide-block cipher: a change anywhere in the ciphertext scrambles the whole plaintext, so
the 16 zero octets in front of the message serve as the integrity check of the payload.

Source: spec/sphinx.md sections 3 and 6; crates sphinx-packet 0.6.0 (``payload/``) and lioness.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from smolmix_sync.crypto import chacha20_xor
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx.constants import (
    MIN_PAYLOAD_SIZE,
    PAYLOAD_KEY_SEED_SIZE,
    PAYLOAD_KEY_SIZE,
    PAYLOAD_OVERHEAD,
)
from smolmix_sync.mixnet.sphinx.keys import payload_key_from_seed

__all__ = [
    "encapsulate",
    "lioness_decrypt_untrusted",
    "lioness_encrypt",
    "pad",
    "recover_untrusted",
]

_LEFT = 32
_LEADING_ZEROS = bytes(16)
_END = b"\x01"


def lioness_encrypt(keys: Sequence[bytes], block: bytes) -> bytes:
    """Return *block*, more than 32 octets, encrypted with each 192-octet key, the last one first.

    Raises:
        ValueError: a size is wrong.

    Source: spec/sphinx.md section 3.
    """
    if len(block) < MIN_PAYLOAD_SIZE:
        raise ValueError("a Lioness block has more than 32 octets")
    left = int.from_bytes(block[:_LEFT], "big")
    right = block[_LEFT:]
    for key in reversed(keys):
        if len(key) != PAYLOAD_KEY_SIZE:
            raise ValueError(f"a payload key has {PAYLOAD_KEY_SIZE} octets")
        right = chacha20_xor((left ^ int.from_bytes(key[:32], "big")).to_bytes(32, "big"), right)
        left ^= int.from_bytes(blake2b(right, key=key[32:96], digest_size=32).digest(), "big")
        right = chacha20_xor((left ^ int.from_bytes(key[96:128], "big")).to_bytes(32, "big"), right)
        left ^= int.from_bytes(blake2b(right, key=key[128:], digest_size=32).digest(), "big")
    return left.to_bytes(_LEFT, "big") + right


def lioness_decrypt_untrusted(key: bytes, block: bytes) -> bytes:
    """Return *block* with one layer, of the 192-octet *key*, taken off.

    Raises:
        WireError: *block* has 32 octets or fewer.

    Source: spec/sphinx.md section 3.
    """
    if len(block) < MIN_PAYLOAD_SIZE:
        raise WireError("payload is too short for its cipher")
    left = int.from_bytes(block[:_LEFT], "big")
    right = block[_LEFT:]
    left ^= int.from_bytes(blake2b(right, key=key[128:], digest_size=32).digest(), "big")
    right = chacha20_xor((left ^ int.from_bytes(key[96:128], "big")).to_bytes(32, "big"), right)
    left ^= int.from_bytes(blake2b(right, key=key[32:96], digest_size=32).digest(), "big")
    right = chacha20_xor((left ^ int.from_bytes(key[:32], "big")).to_bytes(32, "big"), right)
    return left.to_bytes(_LEFT, "big") + right


def pad(message: bytes, payload_size: int) -> bytes:
    """Return ``0^16 || message || 01 || zeros``, *payload_size* octets.

    Raises:
        ValueError: *message* does not fit.
    """
    if len(message) > payload_size - PAYLOAD_OVERHEAD:
        raise ValueError(f"a message of {len(message)} octets does not fit {payload_size - PAYLOAD_OVERHEAD}")
    return b"".join((_LEADING_ZEROS, message, _END)).ljust(payload_size, b"\0")


def encapsulate(message: bytes, payload_size: int, material: Sequence[bytes]) -> bytes:
    """Return *message* padded and encrypted for every hop; *material* has a seed or key per hop.

    Raises:
        ValueError: a size is wrong.

    Source: spec/sphinx.md section 6.
    """
    keys = [payload_key_from_seed(m) if len(m) == PAYLOAD_KEY_SEED_SIZE else m for m in material]
    return lioness_encrypt(keys, pad(message, payload_size))


def recover_untrusted(payload: bytes) -> bytes:
    """Return the message in a decrypted *payload*.

    Raises:
        WireError: the zeros in front are missing (the payload was damaged on its way), or the end mark is.

    Source: spec/sphinx.md section 6.
    """
    if len(payload) < PAYLOAD_OVERHEAD:
        raise WireError("payload is too short")
    if not payload.startswith(_LEADING_ZEROS):
        raise WireError("payload was damaged: no zeros in front of the message")
    end = payload.rfind(_END, len(_LEADING_ZEROS))
    if end < 0:
        raise WireError("payload was damaged: no end of the message")
    return payload[len(_LEADING_ZEROS) : end]
