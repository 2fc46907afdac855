"""Random choices from injected randomness, without the bias of a plain remainder."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

__all__ = ["choose", "uniform", "weighted_order"]

T = TypeVar("T")


def uniform(bound: int, urandom: Callable[[int], bytes]) -> int:
    """Return a uniform integer in ``0..bound-1``; rejection sampling on 8 octets.

    Raises:
        ValueError: *bound* is not in ``1..2**64``.
    """
    if not 1 <= bound <= 1 << 64:
        raise ValueError("bound is outside 1..2**64")
    limit = (1 << 64) - (1 << 64) % bound
    while True:
        value = int.from_bytes(urandom(8), "big")
        if value < limit:
            return value % bound


def choose(items: Sequence[T], urandom: Callable[[int], bytes]) -> T:
    """Return one item, each with the same probability.

    Raises:
        ValueError: there is none.
    """
    return items[uniform(len(items), urandom)]


def weighted_order(items: Sequence[T], weights: Sequence[int], urandom: Callable[[int], bytes]) -> list[T]:
    """Return the items in the order of repeated weighted draws without replacement.

    Items of weight 0 or less are left out: they can never be drawn.
    """
    pool = [(item, weight) for item, weight in zip(items, weights, strict=True) if weight > 0]
    order: list[T] = []
    while pool:
        sums = list(accumulate(weight for _, weight in pool))
        item, _ = pool.pop(bisect_right(sums, uniform(sums[-1], urandom)))
        order.append(item)
    return order
