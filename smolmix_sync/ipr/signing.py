"""Signatures of version 7 connect and disconnect requests.

The message is the bincode of the inner request, from its id to its timestamp, without
version, tag or option octet; the key is the identity in ``reply_to``.

Source: common/ip-packet-requests/src/sign.rs; spec/ipr.md section 4.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from smolmix_sync.crypto import ed25519_sign, ed25519_verify
from smolmix_sync.ipr.legacy import LegacyConnectRequest, LegacyDisconnectRequest, SignableRequest

__all__ = ["MAX_REQUEST_AGE", "is_acceptable", "sign", "verify"]

# From the specification: seconds by which a timestamp may lie in the past; the future is not checked.
MAX_REQUEST_AGE = 10.0

S = TypeVar("S", LegacyConnectRequest, LegacyDisconnectRequest)


def sign(request: S, identity_seed: bytes) -> S:
    """Return a copy of *request* signed with the 32-octet Ed25519 seed of the client's identity."""
    return dataclasses.replace(request, signature=ed25519_sign(identity_seed, request.signable()))


def verify(request: SignableRequest) -> bool:
    """Tell whether *request* carries its sender's signature.

    What was decoded is encoded again for this, so a request that came with a longer
    varint than needed does not verify; the real exit behaves the same way.
    """
    if request.signature is None:
        return False
    return ed25519_verify(request.reply_to.identity, request.signable(), request.signature)


def is_acceptable(request: SignableRequest, unix_now: float) -> bool:
    """Tell whether an exit would act on *request*: version 7, recent and signed."""
    if request.timestamp is None:
        return False
    age = unix_now - request.timestamp.unix_nanos / 1e9
    return age <= MAX_REQUEST_AGE and verify(request)
