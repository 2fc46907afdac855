"""Authentication version 2: a signed, strictly growing second, and the address under the shared key.

Source: spec/gateway.md section 5.
"""

from __future__ import annotations

from collections.abc import Callable

from smolmix_sync.crypto import (
    aes_gcm_siv_encrypt,
    constant_time_equal,
    ed25519_public_from_seed,
    ed25519_sign,
    ed25519_verify,
)
from smolmix_sync.mixnet.gateway.constants import NONCE_SIZE
from smolmix_sync.mixnet.gateway.sealing import seal
from smolmix_sync.mixnet.gateway.text import AuthenticateV2

__all__ = ["address_is_sealed_with", "authenticate", "signature_is_valid", "signed_octets"]


def signed_octets(version: int, identity: bytes, ciphertext: bytes, nonce: bytes, timestamp: int) -> bytes:
    """Return what the request's signature covers, 101 octets for a well-formed one.

    Wire layout, big-endian::

        offset  size  field
        0       1     protocol version
        1       32    client identity
        33      48    sealed client identity
        81      12    nonce
        93      8     Unix seconds
    """
    return b"".join((bytes((version,)), identity, ciphertext, nonce, timestamp.to_bytes(8, "big")))


def authenticate(
    identity_seed: bytes,
    shared_key: bytes,
    timestamp: int,
    version: int,
    urandom: Callable[[int], bytes],
) -> AuthenticateV2:
    """Return the request that authenticates this client for the whole second *timestamp*."""
    identity = ed25519_public_from_seed(identity_seed)
    ciphertext, nonce = seal(shared_key, identity, urandom)
    signature = ed25519_sign(identity_seed, signed_octets(version, identity, ciphertext, nonce, timestamp))
    return AuthenticateV2(version, identity, ciphertext, nonce, timestamp, signature)


def signature_is_valid(request: AuthenticateV2) -> bool:
    """Tell whether the request was signed by the identity it names."""
    signed = signed_octets(
        request.protocol_version,
        request.client_identity,
        request.address_ciphertext,
        request.nonce,
        request.timestamp,
    )
    return ed25519_verify(request.client_identity, signed, request.signature)


def address_is_sealed_with(shared_key: bytes, request: AuthenticateV2) -> bool:
    """Tell whether the request's address ciphertext was made with *shared_key*."""
    if len(request.nonce) != NONCE_SIZE:
        return False
    expected = aes_gcm_siv_encrypt(shared_key, request.nonce, request.client_identity)
    return constant_time_equal(expected, request.address_ciphertext)
