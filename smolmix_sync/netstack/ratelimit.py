"""A token bucket. Source: RFC 4443 section 2.4 (f) for ICMP errors."""

from __future__ import annotations

__all__ = ["RateLimit"]


class RateLimit:
    """Allows *rate* events per second, *rate* at once."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = rate
        self._at = 0.0

    def allow(self, now: float) -> bool:
        """Take a token; False when none is left."""
        self._tokens = min(self._rate, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
