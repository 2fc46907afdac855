from __future__ import annotations

import random
from collections import Counter

import pytest
from support.mixnet_world import World

from smolmix_sync.errors import TopologyError
from smolmix_sync.mixnet.routing import choose_route, exponential, exponential_delays, total_delay


def test_delays_are_exponential_with_the_configured_mean_in_nanoseconds() -> None:
    urandom = random.Random(3).randbytes
    delays = exponential_delays(40_000, 0.015, urandom)
    mean = sum(delays) / len(delays)
    assert abs(mean - 15e6) < 0.03 * 15e6
    spread = (sum((delay - mean) ** 2 for delay in delays) / len(delays)) ** 0.5
    assert abs(spread - 15e6) < 0.05 * 15e6  # mean and deviation of an exponential distribution are equal
    assert abs(sum(delay > 15e6 for delay in delays) / len(delays) - 0.3679) < 0.02


def test_a_mean_of_zero_gives_no_delay_and_takes_no_randomness() -> None:
    def none(size: int) -> bytes:
        raise AssertionError

    assert exponential_delays(4, 0.0, none) == [0, 0, 0, 0]
    assert exponential(0.0, none) == 0.0


def test_samples_are_finite_at_both_ends_of_the_randomness() -> None:
    assert exponential(1.0, lambda size: b"\xff" * size) == 0.0
    assert 36 < exponential(1.0, bytes) < 37


def test_the_last_hop_does_not_wait() -> None:
    assert total_delay([1_000_000_000, 2, 0, 5_000_000_000]) == pytest.approx(1.000000002)


def test_routes_visit_each_layer_once_uniformly_and_end_at_the_gateway() -> None:
    world = World()
    gateway = world.nodes[7]
    routes = [choose_route(world.topology, gateway.identity, world.urandom) for _ in range(800)]
    layers = [{world.nodes[a].address, world.nodes[a + 1].address} for a in (0, 2, 4)]
    for index, layer in enumerate(layers):
        counts = Counter(route[index].address for route in routes)
        assert set(counts) == layer
        assert min(counts.values()) > 320
    assert {route[3].address for route in routes} == {gateway.address}
    assert choose_route(world.topology, gateway.identity, world.urandom, mix_hops=False) == [routes[0][3]]


@pytest.mark.parametrize("mix_hops", [True, False])
def test_an_unknown_gateway_has_no_route(mix_hops: bool) -> None:
    world = World()
    with pytest.raises(TopologyError):
        choose_route(world.topology, bytes(32), world.urandom, mix_hops=mix_hops)
