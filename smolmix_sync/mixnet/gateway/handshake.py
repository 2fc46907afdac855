"""The registration handshake: the 80, 124, 92 and 1 octets that end in a shared key.

Both sides sign "own ephemeral || remote ephemeral" and send the signature sealed with the key derived
from the ephemerals, nonce behind the ciphertext.
Source: spec/gateway.md section 4.1; common/gateway-requests/src/registration/handshake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from smolmix_sync.crypto import (
    Secret,
    ed25519_is_valid_point,
    ed25519_public_from_seed,
    ed25519_sign,
    ed25519_verify,
    hkdf_blake3,
    x25519,
    x25519_base,
)
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.gateway.constants import (
    ERROR_HANDSHAKE_MALFORMED,
    ERROR_HANDSHAKE_SIGNATURE,
    NONCE_SIZE,
    SHARED_KEY_SIZE,
    TAG_SIZE,
)
from smolmix_sync.mixnet.gateway.sealing import open_untrusted, seal

__all__ = ["FINALIZATION", "ClientHandshake", "GatewayHandshake", "derive_shared_key"]

_KEY: Final = 32
_SALT: Final = 16
_SIGNATURE: Final = 64
_SEALED: Final = _SIGNATURE + TAG_SIZE + NONCE_SIZE

#: The gateway's last message: success.
FINALIZATION: Final = b"\x01"


def derive_shared_key(private_key: bytes, public_key: bytes, salt: bytes) -> bytes:
    """Return the shared key of both ephemerals.

    Raises:
        ValueError: the other side's ephemeral has low order.
    """
    return hkdf_blake3(salt, x25519(private_key, public_key), b"", SHARED_KEY_SIZE)


def _derive_untrusted(private_key: bytes, public_key: bytes, salt: bytes) -> bytes:
    try:
        return derive_shared_key(private_key, public_key, salt)
    except ValueError as exc:
        raise WireError(ERROR_HANDSHAKE_MALFORMED) from exc


def _sealed_signature(
    key: bytes, seed: bytes, ours: bytes, theirs: bytes, urandom: Callable[[int], bytes]
) -> bytes:
    ciphertext, nonce = seal(key, ed25519_sign(seed, ours + theirs), urandom)
    return ciphertext + nonce


def _check_signature(key: bytes, identity: bytes, sealed: bytes, theirs: bytes, ours: bytes) -> None:
    signature = open_untrusted(key, sealed[:-NONCE_SIZE], sealed[-NONCE_SIZE:])
    if not ed25519_verify(identity, theirs + ours, signature):
        raise WireError(ERROR_HANDSHAKE_SIGNATURE)


@dataclass(slots=True)
class ClientHandshake(Secret):
    """The client's half.

    ``init`` goes out first; ``receive_untrusted`` takes the 124 octets that come back and returns the 92 that
    go out then; a reply of :data:`FINALIZATION` ends it.
    """

    identity_seed: bytes = field(repr=False)
    gateway_identity: bytes
    urandom: Callable[[int], bytes] = field(repr=False)
    shared_key: bytes | None = field(default=None, repr=False)
    _private: bytes = field(init=False, repr=False)
    _public: bytes = field(init=False, repr=False)
    _salt: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._private = self.urandom(_KEY)
        self._public = x25519_base(self._private)
        self._salt = self.urandom(_SALT)

    def init(self) -> bytes:
        """Return the first message: identity, ephemeral, salt."""
        return ed25519_public_from_seed(self.identity_seed) + self._public + self._salt

    def receive_untrusted(self, data: bytes) -> bytes:
        """Take the gateway's material and return ours; ``shared_key`` is set from here on.

        Raises:
            WireError: wrong length, unusable ephemeral, or a signature that is not of the expected gateway.
        """
        if len(data) != _KEY + _SEALED:
            raise WireError(ERROR_HANDSHAKE_MALFORMED)
        theirs = data[:_KEY]
        key = _derive_untrusted(self._private, theirs, self._salt)
        _check_signature(key, self.gateway_identity, data[_KEY:], theirs, self._public)
        self.shared_key = key
        return _sealed_signature(key, self.identity_seed, self._public, theirs, self.urandom)


@dataclass(slots=True)
class GatewayHandshake(Secret):
    """The gateway's half: ``respond_untrusted`` to the first message, ``finish_untrusted`` with the third."""

    identity_seed: bytes = field(repr=False)
    urandom: Callable[[int], bytes] = field(repr=False)
    client_identity: bytes = b""
    shared_key: bytes | None = field(default=None, repr=False)
    _public: bytes = field(default=b"", init=False, repr=False)
    _theirs: bytes = field(default=b"", init=False, repr=False)

    def respond_untrusted(self, data: bytes) -> bytes:
        """Take the client's first message and return the gateway's material.

        Raises:
            WireError: wrong length, an identity that is no point, or an unusable ephemeral.
        """
        if len(data) != 2 * _KEY + _SALT or not ed25519_is_valid_point(data[:_KEY]):
            raise WireError(ERROR_HANDSHAKE_MALFORMED)
        self.client_identity = data[:_KEY]
        self._theirs = data[_KEY : 2 * _KEY]
        private = self.urandom(_KEY)
        self._public = x25519_base(private)
        self.shared_key = _derive_untrusted(private, self._theirs, data[2 * _KEY :])
        return self._public + _sealed_signature(
            self.shared_key, self.identity_seed, self._public, self._theirs, self.urandom
        )

    def finish_untrusted(self, data: bytes) -> None:
        """Take the client's material; the shared key may be used once this returns.

        Raises:
            WireError: wrong length, or a signature that is not of the client's identity.
        """
        assert self.shared_key is not None
        if len(data) != _SEALED:
            raise WireError(ERROR_HANDSHAKE_MALFORMED)
        _check_signature(self.shared_key, self.client_identity, data, self._theirs, self._public)
