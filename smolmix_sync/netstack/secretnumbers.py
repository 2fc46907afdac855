"""Numbers that must be unpredictable to others: ISNs, timestamp, port and flow label offsets.

Source: RFC 6528 (ISN), RFC 7323 section 5.4 (timestamp offset), RFC 6056 section 3.3.3 (ports),
RFC 6437 section 3 (flow label).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from smolmix_sync.netstack.seqnum import MASK

__all__ = ["SecretNumbers"]

# From the specification: the ISN clock ticks every 4 microseconds.
_ISN_TICKS_PER_SECOND = 250_000


class SecretNumbers:
    """Keyed hashes over connection identifiers; the key lives as long as the stack."""

    __slots__ = ("_secret", "_urandom")

    def __init__(self, urandom: Callable[[int], bytes]) -> None:
        self._urandom = urandom
        self._secret = urandom(32)

    def _hash(self, purpose: bytes, key: bytes) -> int:
        return int.from_bytes(hmac.digest(self._secret, purpose + key, "sha256")[:4], "big")

    def isn(self, key: bytes, now: float) -> int:
        """Return the initial sequence number of the connection *key*."""
        return (self._hash(b"isn", key) + int(now * _ISN_TICKS_PER_SECOND)) & MASK

    def timestamp_offset(self, addresses: bytes) -> int:
        """Return what to add to the millisecond clock towards one pair of addresses."""
        return self._hash(b"ts", addresses)

    def port_offset(self, key: bytes) -> int:
        """Return where the port search for one destination starts."""
        return self._hash(b"port", key)

    def flow_label(self, key: bytes) -> int:
        """Return the IPv6 flow label of the connection *key*: 20 bits that only we can link."""
        return self._hash(b"flow", key) & 0xFFFFF

    def random16(self) -> int:
        """Return 16 random bits."""
        return int.from_bytes(self._urandom(2), "big")

    def random32(self) -> int:
        """Return 32 random bits."""
        return int.from_bytes(self._urandom(4), "big")
