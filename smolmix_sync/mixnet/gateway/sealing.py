"""Sealing with the key that client and gateway share.

Source: spec/gateway.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable

from smolmix_sync.crypto import aes_gcm_siv_decrypt, aes_gcm_siv_encrypt
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.gateway.constants import ERROR_CRYPTO, NONCE_SIZE, TAG_SIZE

__all__ = ["open_untrusted", "seal"]


def seal(key: bytes, plaintext: bytes, urandom: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """Return ciphertext with tag, and the fresh nonce."""
    nonce = urandom(NONCE_SIZE)
    return aes_gcm_siv_encrypt(key, nonce, plaintext), nonce


def open_untrusted(key: bytes, ciphertext: bytes, nonce: bytes) -> bytes:
    """Return the plaintext.

    Raises:
        WireError: the nonce has a wrong size, or the tag does not fit.
    """
    if len(nonce) != NONCE_SIZE or len(ciphertext) < TAG_SIZE:
        raise WireError(ERROR_CRYPTO)
    try:
        return aes_gcm_siv_decrypt(key, nonce, ciphertext)
    except WireError as exc:
        raise WireError(ERROR_CRYPTO) from exc
