"""The routing information of a packet: building it, and reading one hop of it.

Header, 348 octets: ``alpha (32) || gamma (16) || beta (300)``. Decrypted, beta is::

    forward hop                              final hop
    offset  size  field                      offset  size  field
    0       1     flag, 1                    0       1     flag, 2
    1       3     version, 00 and u16        1       3     version
    4       32    next hop's address         4       32    destination
    36      8     delay here, u64 ns         36      16    identifier
    44      16    gamma for the next hop     52            random padding, then filler
    60      300   beta for the next hop

Integers are big-endian. Long XORs are done on Python integers.

Source: spec/sphinx.md section 5; crate sphinx-packet 0.6.0, ``header/``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smolmix_sync.crypto import aes128_ctr_from_zero, hmac_sha256
from smolmix_sync.mixnet.sphinx.constants import (
    BETA_SIZE,
    CURRENT_VERSION,
    DESTINATION_SIZE,
    GAMMA_SIZE,
    IDENTIFIER_SIZE,
    MAX_DELAY_NS,
    MAX_HOPS,
    NODE_ADDRESS_SIZE,
    PRG_SIZE,
    STEP,
)
from smolmix_sync.mixnet.sphinx.keys import MAC_KEY, STREAM_KEY, derive_route_secrets, key_material
from smolmix_sync.mixnet.sphinx.node_address import NodeAddress

__all__ = ["FINAL_FLAG", "FORWARD_FLAG", "Hop", "build_header", "decrypt_routing", "header_mac"]

FORWARD_FLAG = 1
FINAL_FLAG = 2

_STEP_BITS = 8 * STEP
_STEP_OF_ZEROS = bytes(STEP)
_PRG_INPUT = bytes(PRG_SIZE)
_INITIAL_SECRET_SIZE = 32
_FINAL_META_SIZE = 1 + 3 + DESTINATION_SIZE + IDENTIFIER_SIZE


@dataclass(frozen=True, slots=True)
class Hop:
    """One node of a route: where it listens and its 32-octet X25519 Sphinx key."""

    address: NodeAddress
    public_key: bytes


def header_mac(mac_key: bytes, beta: bytes) -> bytes:
    """Return gamma, the MAC over the encrypted routing information."""
    return hmac_sha256(mac_key, beta)[:GAMMA_SIZE]


def decrypt_routing(stream_key: bytes, beta: bytes) -> bytes:
    """Return the 360 octets a node reads: beta with a step of zeros behind it, decrypted."""
    return aes128_ctr_from_zero(stream_key, beta + _STEP_OF_ZEROS)


def build_header(
    route: Sequence[Hop],
    delays_ns: Sequence[int],
    destination: bytes,
    *,
    urandom: Callable[[int], bytes],
    version: int = CURRENT_VERSION,
    identifier: bytes = bytes(IDENTIFIER_SIZE),
) -> tuple[bytes, list[bytes]]:
    """Return a header and, per hop, the material of its payload key (a seed, or the whole key).

    *urandom* is called twice: for the 32-octet initial secret, then for the final hop's padding.

    Raises:
        ValueError: an argument has the wrong size or is out of range, or a hop's key has low order.

    Source: spec/sphinx.md section 5.1.
    """
    hops = len(route)
    if not 1 <= hops <= MAX_HOPS:
        raise ValueError(f"a route has 1 to {MAX_HOPS} hops, not {hops}")
    if len(delays_ns) != hops:
        raise ValueError(f"{hops} hops need as many delays, not {len(delays_ns)}")
    if min(delays_ns) < 0 or max(delays_ns) > MAX_DELAY_NS:
        raise ValueError("a delay is not an unsigned 64-bit number of nanoseconds")
    if len(destination) != DESTINATION_SIZE or len(identifier) != IDENTIFIER_SIZE:
        raise ValueError("a destination has 32 octets and an identifier 16")
    if not 0 <= version <= 0xFFFF:
        raise ValueError(f"version {version} is not a 16-bit number")

    alpha, secrets = derive_route_secrets(
        urandom(_INITIAL_SECRET_SIZE), [hop.public_key for hop in route], version
    )
    masks = [
        int.from_bytes(aes128_ctr_from_zero(secret[STREAM_KEY], _PRG_INPUT), "big") for secret in secrets
    ]

    # The filler: what the zeros appended by each earlier hop will have become at the final one.
    filler = 0
    for i in range(1, hops):
        filler = (filler << _STEP_BITS) ^ (masks[i - 1] & ((1 << _STEP_BITS * i) - 1))

    filler_size = STEP * (hops - 1)
    inner_size = BETA_SIZE - filler_size
    version_octets = version.to_bytes(3, "big")
    inner = b"".join(
        (b"\x02", version_octets, destination, identifier, urandom(inner_size - _FINAL_META_SIZE))
    )
    outer = int.from_bytes(inner, "big") ^ (masks[-1] >> 8 * (PRG_SIZE - inner_size))
    beta = (outer << 8 * filler_size | filler).to_bytes(BETA_SIZE, "big")
    gamma = header_mac(secrets[-1][MAC_KEY], beta)

    forward_prefix = b"\x01" + version_octets
    for i in range(hops - 2, -1, -1):
        plain = b"".join(
            (
                forward_prefix,
                route[i + 1].address.encode_padded(NODE_ADDRESS_SIZE),
                delays_ns[i].to_bytes(8, "big"),
                gamma,
                beta[: BETA_SIZE - STEP],
            )
        )
        beta = (int.from_bytes(plain, "big") ^ (masks[i] >> _STEP_BITS)).to_bytes(BETA_SIZE, "big")
        gamma = header_mac(secrets[i][MAC_KEY], beta)

    return b"".join((alpha, gamma, beta)), [key_material(secret, version) for secret in secrets]
