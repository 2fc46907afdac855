"""The clock of the traffic shaper: slots with exponential gaps.

Source: spec/message-layer.md sections 11.3 and 11.4; common/client-core/src/client/real_messages_control.
"""

from __future__ import annotations

from collections.abc import Callable

from smolmix_sync.mixnet.routing import exponential

__all__ = ["PoissonSlots"]


class PoissonSlots:
    """A chain of slot times: each is the previous slot's *time* plus a sample, not the time it was served.

    So the mean rate holds even when the owner is late, and late slots follow each other at once. After a stall
    (a suspended machine) only the slots of the last *max_behind* seconds are made up for.

    Attributes:
        mean: seconds between slots; may be changed, for the gaps that follow.
    """

    __slots__ = ("_deadline", "_max_behind", "_urandom", "mean")

    def __init__(self, mean: float, urandom: Callable[[int], bytes], *, max_behind: float = 1.0) -> None:
        if mean <= 0:
            raise ValueError("the mean gap between slots must be positive")
        self.mean = mean
        self._urandom = urandom
        self._max_behind = max_behind
        self._deadline: float | None = None

    def start(self, now: float) -> None:
        """Begin (again) with a first slot one sample from *now*."""
        self._deadline = now + exponential(self.mean, self._urandom)

    def stop(self) -> None:
        """Have no slots until the next start."""
        self._deadline = None

    def next_deadline(self) -> float | None:
        """Return the time of the next slot; None when stopped."""
        return self._deadline

    def take(self, now: float) -> bool:
        """Consume the next slot if its time has come."""
        deadline = self._deadline
        if deadline is None or now < deadline:
            return False
        self._deadline = max(deadline, now - self._max_behind) + exponential(self.mean, self._urandom)
        return True
