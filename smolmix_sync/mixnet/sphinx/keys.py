"""The keys of one hop, and the blinding that gives each hop its own shared secret.

Expanded secret of a hop, 288 octets::

    offset  size  field
    0       16    stream key: encrypts the routing information
    16      16    MAC key: authenticates it
    32      192   payload key; from version 259 on only its first 16 octets, as a seed
    224     32    blinding factor: takes alpha to the next hop
    256     32    replay tag

Source: spec/sphinx.md section 4; crate sphinx-packet 0.6.0, ``header/keys.rs``.
"""

from __future__ import annotations

from collections.abc import Sequence

from smolmix_sync.crypto import GROUP_ORDER, hkdf_sha256, x25519, x25519_base, x25519_on_curve
from smolmix_sync.mixnet.sphinx.constants import (
    EXPLICIT_KEY_VERSIONS,
    MOD_ORDER_BLINDING_VERSIONS,
    PAYLOAD_KEY_SEED_SIZE,
    PAYLOAD_KEY_SIZE,
)

__all__ = [
    "BLINDING_FACTOR",
    "MAC_KEY",
    "PAYLOAD_KEY",
    "PAYLOAD_KEY_SEED",
    "REPLAY_TAG",
    "STREAM_KEY",
    "blind",
    "derive_route_secrets",
    "expand",
    "key_material",
    "payload_key_from_seed",
]

# Where each key lies in the expanded secret.
STREAM_KEY = slice(0, 16)
MAC_KEY = slice(16, 32)
PAYLOAD_KEY = slice(32, 32 + PAYLOAD_KEY_SIZE)
PAYLOAD_KEY_SEED = slice(32, 32 + PAYLOAD_KEY_SEED_SIZE)
BLINDING_FACTOR = slice(224, 256)
REPLAY_TAG = slice(256, 288)

_EXPANDED_SIZE = 288
_EXPANSION_INFO = (
    b"Dwste mou enan moxlo arketa makru kai ena upomoxlio gia na ton topothetisw kai tha kinisw thn gh."
)
_PAYLOAD_KEY_SALT = b"sphinx-payload-key-V01-CS01-HKDF:SHA256-SALT"
_PAYLOAD_KEY_INFO = b"sphinx-payload-key-V01-CS01-HKDF:SHA256-INFO"

_CLAMP_AND = ((1 << 255) - 1) & ~7
_CLAMP_OR = 1 << 254
_EIGHTH = pow(8, -1, GROUP_ORDER)


def expand(shared_secret: bytes) -> bytes:
    """Return the 288-octet expanded secret of a hop."""
    return hkdf_sha256(None, shared_secret, _EXPANSION_INFO, _EXPANDED_SIZE)


def payload_key_from_seed(seed: bytes) -> bytes:
    """Return the 192-octet Lioness key of a 16-octet seed (versions from 259 on)."""
    return hkdf_sha256(_PAYLOAD_KEY_SALT, seed, _PAYLOAD_KEY_INFO, PAYLOAD_KEY_SIZE)


def key_material(expanded: bytes, version: int) -> bytes:
    """Return what *version* carries for a hop's payload: the seed, or the whole key."""
    return expanded[PAYLOAD_KEY if version in EXPLICIT_KEY_VERSIONS else PAYLOAD_KEY_SEED]


def _clamp(scalar: bytes) -> int:
    return int.from_bytes(scalar, "little") & _CLAMP_AND | _CLAMP_OR


def _clamped_form(product: int) -> bytes | None:
    """Return a scalar that X25519 leaves as it is and that acts like *product* up to sign.

    It is ``t = product (mod GROUP_ORDER)``, a multiple of 8, or its negative (same u-coordinate),
    whichever has bit 254 set and bit 255 clear; None in the one case of 2**125 where neither has.

    Source: spec/sphinx.md section 4.1.
    """
    scalar = 8 * (product * _EIGHTH % GROUP_ORDER)
    if scalar < _CLAMP_OR:
        scalar = 8 * GROUP_ORDER - scalar
    return scalar.to_bytes(32, "little") if scalar < 1 << 255 else None


def _multiply_mod_order(scalar: int, u: bytes | None) -> bytes:
    """Return the u-coordinate of *scalar*, not clamped, times the point *u* (None: the base point).

    Exact for points of prime order, which alphas and honest node keys are.

    Raises:
        ValueError: the result is all zero.
    """
    clamped = _clamped_form(scalar)
    if clamped is None:
        raise ValueError("scalar has no clamped form")
    return x25519_base(clamped) if u is None else x25519(clamped, u)


def blind(alpha: bytes, blinding_factor: bytes, version: int) -> bytes:
    """Return the alpha of the next hop, as a node computes it.

    Raises:
        ValueError: the result is all zero.
    """
    if version in MOD_ORDER_BLINDING_VERSIONS:
        return _multiply_mod_order(int.from_bytes(blinding_factor, "little"), alpha)
    return x25519(blinding_factor, alpha)


def derive_route_secrets(
    initial_secret: bytes, public_keys: Sequence[bytes], version: int
) -> tuple[bytes, list[bytes]]:
    """Return the first alpha and the expanded secret of every hop, as the sender computes them.

    One ladder per hop: the product of the scalars so far is kept as one integer. The chain of
    ladders that the definition asks for is walked only for a key on the twist, where the product
    of integers means something else.

    Raises:
        ValueError: a key is not 32 octets or has low order; or, for the versions that blind modulo
            the group order, is no point of the curve.

    Source: spec/sphinx.md sections 4 and 4.1.
    """
    if version in MOD_ORDER_BLINDING_VERSIONS:
        return _derive_mod_order(initial_secret, public_keys)
    scalars = [initial_secret]
    product = _clamp(initial_secret)
    secrets: list[bytes] = []
    for public_key in public_keys:
        if not secrets:
            shared = x25519(initial_secret, public_key)
        else:
            factor = secrets[-1][BLINDING_FACTOR]
            scalars.append(factor)
            product = product * _clamp(factor) % GROUP_ORDER
            combined = _clamped_form(product)
            if combined is not None and x25519_on_curve(public_key):
                shared = x25519(combined, public_key)
            else:
                shared = _chain(scalars, public_key)
        secrets.append(expand(shared))
    return x25519_base(initial_secret), secrets


def _chain(scalars: Sequence[bytes], u: bytes) -> bytes:
    for scalar in scalars:
        u = x25519(scalar, u)
    return u


def _derive_mod_order(initial_secret: bytes, public_keys: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    product = int.from_bytes(initial_secret, "little") % GROUP_ORDER
    alpha = _multiply_mod_order(product, None)
    secrets = []
    for public_key in public_keys:
        if not x25519_on_curve(public_key):
            raise ValueError("a node's key is no point of the curve")
        expanded = expand(_multiply_mod_order(product, public_key))
        secrets.append(expanded)
        product = product * int.from_bytes(expanded[BLINDING_FACTOR], "little") % GROUP_ORDER
    return alpha, secrets
