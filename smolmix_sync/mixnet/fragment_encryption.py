"""End-to-end encryption of fragments: to a client's X25519 key, or under the key that came with a SURB.

There is no MAC here: integrity rests on Sphinx, and a wrong key yields garbage that fails to parse.

Source: spec/message-layer.md section 8; common/nymsphinx/src/{preparer/payload,receiver}.rs, common/crypto.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from smolmix_sync.crypto import aes128_ctr, blake3_digest, hkdf_blake3, x25519, x25519_base
from smolmix_sync.errors import WireError

__all__ = [
    "PREFIX_SIZE",
    "decrypt_fragment_untrusted",
    "decrypt_reply_fragment",
    "encrypt_fragment",
    "encrypt_reply_fragment",
]

# From the specification.
#: An ephemeral public key, or the digest of a SURB's key.
PREFIX_SIZE: Final = 32
_KEY_SIZE = 16
_ZERO_IV = bytes(16)


def _fragment_key(shared_secret: bytes) -> bytes:
    return hkdf_blake3(None, shared_secret, b"", _KEY_SIZE)


def encrypt_fragment(fragment: bytes, recipient_key: bytes, urandom: Callable[[int], bytes]) -> bytes:
    """Return ``ephemeral public key || ciphertext`` for the owner of the X25519 key *recipient_key*.

    Raises:
        ValueError: the recipient's key has low order.
    """
    ephemeral = urandom(32)
    key = _fragment_key(x25519(ephemeral, recipient_key))
    return x25519_base(ephemeral) + aes128_ctr(key, _ZERO_IV, fragment)


def decrypt_fragment_untrusted(data: bytes, private_key: bytes) -> bytes:
    """Return the fragment in ``ephemeral public key || ciphertext``.

    Raises:
        WireError: *data* is too short for a key, or that key has low order (the Rust client would go on).
    """
    if len(data) < PREFIX_SIZE:
        raise WireError("payload is too short for an ephemeral key")
    try:
        shared_secret = x25519(private_key, data[:PREFIX_SIZE])
    except ValueError:
        raise WireError("the ephemeral key has low order") from None
    return aes128_ctr(_fragment_key(shared_secret), _ZERO_IV, data[PREFIX_SIZE:])


def encrypt_reply_fragment(fragment: bytes, surb_key: bytes) -> bytes:
    """Return ``digest of the key || ciphertext`` under the AES-128 key of a reply SURB."""
    return blake3_digest(surb_key) + aes128_ctr(surb_key, _ZERO_IV, fragment)


def decrypt_reply_fragment(data: bytes, surb_key: bytes) -> bytes:
    """Return the fragment of a reply whose digest led to *surb_key*."""
    return aes128_ctr(surb_key, _ZERO_IV, data[PREFIX_SIZE:])
