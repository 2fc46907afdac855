"""Which nodes a packet visits, and how long each of them keeps it.

Source: spec/message-layer.md section 10; common/topology/src/lib.rs, common/nymsphinx/routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from smolmix_sync.mixnet.sphinx import Hop
from smolmix_sync.mixnet.topology import Topology

__all__ = ["choose_route", "exponential", "exponential_delays", "total_delay"]

_NANOSECONDS = 1_000_000_000
_SAMPLE_SIZE = 7
_UNIT = 2.0**-53


def exponential(mean: float, urandom: Callable[[int], bytes]) -> float:
    """Return a sample of the exponential distribution, in the unit of *mean*; 0 gives 0."""
    if mean <= 0:
        return 0.0
    return _exponential(mean, urandom(_SAMPLE_SIZE))


def _exponential(mean: float, octets: bytes) -> float:
    # 53 random bits make a float in (0, 1]: its logarithm is finite.
    return -mean * math.log(((int.from_bytes(octets, "big") >> 3) + 1) * _UNIT)


def exponential_delays(count: int, mean: float, urandom: Callable[[int], bytes]) -> list[int]:
    """Return *count* delays in nanoseconds of *mean* seconds; the last hop of a route ignores its one."""
    if mean <= 0:
        return [0] * count
    octets = urandom(count * _SAMPLE_SIZE)
    return [
        round(_exponential(mean, octets[start : start + _SAMPLE_SIZE]) * _NANOSECONDS)
        for start in range(0, len(octets), _SAMPLE_SIZE)
    ]


def total_delay(delays_ns: list[int]) -> float:
    """Return the seconds a packet spends waiting: the last hop of its route does not wait."""
    return sum(delays_ns[:-1]) / _NANOSECONDS


def choose_route(
    topology: Topology, gateway_identity: bytes, urandom: Callable[[int], bytes], *, mix_hops: bool = True
) -> list[Hop]:
    """Return a new random route that ends at the gateway: three mix nodes and it, or it alone.

    Raises:
        TopologyError: the gateway is unknown or a mix layer is empty.
    """
    if mix_hops:
        return topology.route_to(gateway_identity, urandom)
    return [topology.egress(gateway_identity).hop]
