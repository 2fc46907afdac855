"""Readers for what several bodies share: keys, IP literals, socket addresses."""

from __future__ import annotations

import functools
import ipaddress
from typing import Final

from smolmix_sync.address import base58_decode
from smolmix_sync.crypto import ed25519_is_valid_point
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import NodeAddress

__all__ = [
    "MAX_IPS",
    "MAX_NODES",
    "canonical_ip",
    "identity_untrusted",
    "ip_untrusted",
    "key_untrusted",
    "socket_address_untrusted",
]

#: Ours: several times what the network has, so that a hostile directory can neither fill the memory nor keep the
#: reactor busy for long.
MAX_NODES: Final = 5_000
#: Ours: nodes announce one or two.
MAX_IPS: Final = 64

_KEY_SIZE: Final = 32
_LONGEST_KEY: Final = 44
_LONGEST_IP: Final = 45


@functools.lru_cache(maxsize=8192)
def key_untrusted(text: str) -> bytes:
    """Return the 32 octets of a base58 key.

    Raises:
        WireError: not base58, or another length.
    """
    if len(text) > _LONGEST_KEY:
        raise WireError("key is too long")
    key = base58_decode(text)
    if len(key) != _KEY_SIZE:
        raise WireError(f"key has {len(key)} octets, not 32")
    return key


def identity_untrusted(text: str) -> bytes:
    """Return the 32 octets of a base58 Ed25519 key.

    Raises:
        WireError: not base58, another length, or not a point of the curve.
    """
    return check_identity(key_untrusted(text))


def check_identity(key: bytes) -> bytes:
    """Return *key* if it is an Ed25519 public key.

    Raises:
        WireError: another length, or not a point of the curve.
    """
    if len(key) != _KEY_SIZE or not ed25519_is_valid_point(key):
        raise WireError("key is not an Ed25519 public key")
    return key


def canonical_ip(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return an address as Rust writes it, with mapped IPv4 in dotted form."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}"
    return str(address)


def ip_untrusted(text: str) -> str:
    """Return the canonical form of an IP literal.

    Raises:
        WireError: a name, a port or a scope is in it, or it is no address at all.
    """
    if len(text) > _LONGEST_IP or "%" in text or not text.isascii():
        raise WireError("not an IP address")
    try:
        return canonical_ip(ipaddress.ip_address(text))
    except ValueError as exc:
        raise WireError("not an IP address") from exc


def socket_address_untrusted(text: str) -> NodeAddress:
    """Return the address written ``ip:port`` or ``[v6]:port``.

    Raises:
        WireError: anything else, names included.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 0xFFFF:
        raise WireError("not a socket address")
    ip = ip_untrusted(host[1:-1] if bracketed else host)
    if bracketed != (":" in ip):
        raise WireError("not a socket address")
    return NodeAddress(ip, int(port))
