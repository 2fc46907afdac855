"""Every kind of fault by itself, for a few virtual minutes, with traffic whose every octet is looked at."""

from __future__ import annotations

import dataclasses
import errno
import itertools
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from support.chaos import ChaosWorld, live
from support.chaos_network import API_HOST, API_PORT, ChaosNetwork, Weather

from smolmix_sync.reactor.report import TunnelState

# Seconds of CPU each; on a busy machine they may last longer than the suite's limit.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

READY, RECONNECTING, FAILED = TunnelState.READY, TunnelState.RECONNECTING, TunnelState.FAILED


def play(seed: int, body: Callable[[ChaosWorld], Any], **settings: Any) -> Any:
    """Run *body* at half the pace of the default profile: most of these minutes are spent waiting."""
    return live(seed, body, **{"sending_delay": 0.04, "cover_delay": 0.4, **settings})


def everything(world: ChaosWorld, pause: float = 2.0) -> None:
    """Start one of every kind of program."""
    traffic = world.traffic
    traffic.pause = pause
    traffic.spawn("download", lambda: traffic.download(60_000))
    traffic.spawn("upload", lambda: traffic.upload(20_000))
    traffic.spawn("echo", lambda: traffic.echo(6, 700, 1.0))
    traffic.spawn("datagrams", lambda: traffic.datagrams(3))
    traffic.spawn("lookup", traffic.lookup)


def echo_stays(world: ChaosWorld, rounds: int = 40, gap: float = 1.0) -> Any:
    """Start one conversation that has to survive; the greenlet's value is its errno."""
    return gevent.spawn(world.traffic.run, "lasting echo", lambda: world.traffic.echo(rounds, 500, gap))


def no_errors(world: ChaosWorld) -> None:
    assert not world.traffic.figures.broken, world.traffic.figures


def ended(greenlet: Any, limit: float) -> int:
    greenlet.join(limit)
    assert greenlet.ready(), "the operation still waits"
    number: int = greenlet.value
    return number


@pytest.mark.parametrize(
    ("name", "weather"),
    [
        ("loss", Weather(loss=0.05)),
        ("duplicates", Weather(duplicates=0.3)),
        ("reordering", Weather(jitter=0.8)),
        ("delay", Weather(link=0.3, late=0.05, lateness=8.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weather_costs_time_and_no_octet(name: str, weather: Weather) -> None:
    def body(world: ChaosWorld) -> None:
        world.net.weather = weather
        everything(world)
        world.sleep(90)
        no_errors(world)
        assert world.session.state is READY
        assert [state for _, state, _ in world.states if state != "READY"] == []
        assert world.traffic.figures.finished["download"] > 2

    play(11, body)


def test_broken_packets_are_dropped_and_replaced() -> None:
    def body(world: ChaosWorld) -> None:
        world.net.weather = Weather(truncated=0.02, corrupted=0.04)
        everything(world, 0.5)
        world.sleep(25)
        no_errors(world)
        assert world.net.counts["bad packets"] > 30

    play(12, body, real_sphinx=True)


def test_gateway_restart_is_survived_by_connections() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        ips = world.session.ips
        conversation = echo_stays(world)
        everything(world)
        for _ in range(3):
            world.sleep(15)
            gateway.restart(2.5)
            world.sleep(0.5)
            assert world.session.state is RECONNECTING
            world.wait_state(READY, 10)
        assert ended(conversation, 120) == 0
        assert world.session.ips == ips
        world.sleep(20)
        no_errors(world)

    play(13, body)


def test_lost_gateway_is_dialled_after_1_2_4_and_5_seconds() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        world.sleep(5)
        dials = len(world.net.wire.dials)
        lost = world.reactor.now()
        gateway.stop()
        world.sleep(30)
        gateway.start()
        world.wait_state(READY, 10)
        tries = [at for at, _, port, _ in list(world.net.wire.dials)[dials:] if port == gateway.where[1]]
        gaps = [round(later - at, 1) for at, later in itertools.pairwise(tries)]
        assert tries[0] - lost < 0.1
        assert gaps[:3] == [1.0, 2.0, 4.0]
        assert set(gaps[3:]) == {5.0}

    play(14, body)


def test_connections_wait_through_twenty_five_seconds_without_a_gateway() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        conversation = echo_stays(world, 50)
        world.sleep(10)
        gateway.restart(25)
        world.sleep(1)
        late = gevent.spawn(world.traffic.run, "late connect", lambda: world.traffic.echo(1, 100, 0))
        assert ended(late, 60) == 0
        assert ended(conversation, 200) == 0
        no_errors(world)

    play(15, body)


def test_flows_get_enetdown_when_the_grace_is_over() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        blocked = [
            gevent.spawn(world.traffic.run, "hold", lambda: world.traffic.hold(10_000)) for _ in range(3)
        ]
        talking = echo_stays(world, 1000)
        world.sleep(20)
        gateway.stop()
        lost = world.reactor.now()
        for one in blocked:
            assert ended(one, 60) in (errno.ENETDOWN, errno.ECONNRESET)
        assert 44.9 < world.reactor.now() - lost < 45.5
        assert ended(talking, 1) in (errno.ENETDOWN, errno.ECONNRESET)
        assert world.session.state is RECONNECTING
        for _ in range(3):
            began = world.reactor.now()
            new = gevent.spawn(world.traffic.run, "connect while down", lambda: world.traffic.hold(1))
            assert ended(new, 1) == errno.ENETDOWN
            assert world.reactor.now() - began < 0.1
        world.sleep(5)
        gateway.start()
        world.wait_state(READY, 30)
        assert world.traffic.run("after", lambda: world.traffic.download(10_000)) == 0

    play(16, body)


def test_another_gateway_is_no_cure_while_flows_may_survive() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.nodes["entry"]
        # Ten rounds of dialling are over after 37 seconds, the patience of this client after 100.
        conversation = echo_stays(world, 60)
        world.sleep(5)
        gateway.restart(50.0)
        world.sleep(1)
        waited = world.wait_state(READY, 60)
        assert waited < 53
        assert ended(conversation, 300) == 0
        no_errors(world)

    def only_one_at_first(net: ChaosNetwork) -> None:
        for exit_ in net.exits:
            net.wire.down.add(exit_.where)
            net.loop.at(net.loop.time + 4, net.wire.down.discard, exit_.where)

    play(36, body, pinned=False, before=only_one_at_first, reconnect_grace=100.0)


def test_websocket_that_leads_nowhere_is_noticed_by_its_pings() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        conversation = echo_stays(world, 40)
        for _ in range(2):
            world.sleep(7)
            gateway.go_silent()
            waited = world.wait_state(RECONNECTING, 41)
            assert waited <= 40.1
            world.wait_state(READY, 10)
        assert ended(conversation, 200) == 0
        no_errors(world)

    play(17, body)


def test_gateway_that_reads_nothing_for_a_while_loses_nothing() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        everything(world)
        for seconds in (1.0, 5.0, 8.0):
            world.sleep(12)
            gateway.stall(seconds)
            world.sleep(seconds)
        world.sleep(20)
        no_errors(world)
        assert [state for _, state, _ in world.states if state != "READY"] == []

    play(18, body)


def test_mix_nodes_come_and_go() -> None:
    def body(world: ChaosWorld) -> None:
        everything(world, 1.0)
        for name in [node.name for node in world.net.plans if node.kind == "mixnode"][::2]:
            world.sleep(5)
            world.net.nodes[name].restart(10)
            world.sleep(20)
        assert world.session.state is READY
        world.sleep(10)
        no_errors(world)

    play(19, body)


def test_restarted_exit_has_forgotten_us_and_flows_are_told() -> None:
    def body(world: ChaosWorld) -> None:
        first = world.session.exit
        blocked = gevent.spawn(world.traffic.run, "hold", lambda: world.traffic.hold(10_000))
        world.sleep(12)
        world.net.exit_of(first).restart(1.0)
        restarted = world.reactor.now()
        number = ended(blocked, 120)
        assert number in (errno.ENETDOWN, errno.ECONNRESET)
        # The next packet of ours is due in 25 s at most; from then on three probes, ten seconds each.
        assert world.reactor.now() - restarted < 25 + 10 + 30 + 2
        world.wait_state(READY, 45)
        assert world.traffic.run("after", lambda: world.traffic.download(10_000)) == 0

    play(20, body)


def test_silent_exit_is_left_after_three_probes_for_another() -> None:
    def body(world: ChaosWorld) -> None:
        first = world.session.exit
        talking = echo_stays(world, 1000, 0.3)
        world.sleep(10)
        world.net.exit_of(first).mute = True
        silent = world.reactor.now()
        assert ended(talking, 60) in (errno.ENETDOWN, errno.ECONNRESET)
        # Ten seconds of silence, then 30 of probes.
        assert 38 < world.reactor.now() - silent < 45
        world.wait_state(READY, 45)
        assert world.session.exit != first
        assert world.traffic.run("after", lambda: world.traffic.download(10_000)) == 0

    play(21, body)


def test_pinned_exit_is_waited_for_however_long_it_takes() -> None:
    def body(world: ChaosWorld) -> None:
        world.sleep(3)
        exit_ = world.net.exit_of(world.session.exit)
        pinned = str(world.session.exit)
        world.session.config = dataclasses.replace(world.session.config, ipr_address=pinned)
        exit_.stop()
        world.wait(lambda: not world.session.device.up, 120, "the loss of the exit")
        world.sleep(90)
        assert world.session.state is RECONNECTING
        exit_.start()
        world.wait_state(READY, 120)
        assert str(world.session.exit) == pinned
        assert world.traffic.run("after", lambda: world.traffic.download(10_000)) == 0

    play(22, body)


def test_exhausted_bandwidth_is_claimed_again_and_nothing_is_lost() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        everything(world)
        for _ in range(4):
            world.sleep(8)
            gateway.empty_balances()
            world.sleep(4)
            balance = next(iter(gateway.clients.records.values())).balance
            assert balance > 1 << 30
        world.sleep(5)
        no_errors(world)
        assert [state for _, state, _ in world.states if state != "READY"] == []

    play(23, body)


def test_bandwidth_is_claimed_anew_when_the_day_changes() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        everything(world)
        world.sleep(5)
        midnight = (world.clock.true_time() // 86400 + 1) * 86400
        world.clock.base += midnight - world.clock.true_time() - 20
        world.sleep(50)
        record = next(iter(gateway.clients.records.values()))
        assert record.expires_day == world.clock.true_time() // 86400
        assert record.balance > 1 << 30
        no_errors(world)
        assert [state for _, state, _ in world.states if state != "READY"] == []

    play(24, body)


def test_gateway_that_begins_to_ask_for_tickets_is_left() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        gateway.settings = dataclasses.replace(gateway.settings, enforce_tickets=True)
        world.sleep(3)
        gateway.empty_balances()
        gateway.cut()
        world.wait_state(RECONNECTING, 10)
        world.wait_state(READY, 200)
        assert world.net.gateway_of(world.session.mix.node.identity) is not gateway
        assert world.traffic.run("after", lambda: world.traffic.download(10_000)) == 0

    play(25, body, pinned=False)


def test_key_rotation_drops_no_packet_in_flight() -> None:
    def body(world: ChaosWorld) -> None:
        everything(world)
        conversation = echo_stays(world, 200, 1.0)
        for _ in range(2):
            world.sleep(20)
            world.net.rotate()
            world.sleep(130)
        assert world.net.counts["expired key"] == 0
        assert world.net.counts["bad packets"] == 0
        world.sleep(20)
        assert ended(conversation, 200) == 0
        no_errors(world)
        assert world.session.state is READY

    play(26, body, topology_refresh=30.0, epoch_seconds=120.0)


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0, 200.0, -200.0])
def test_wall_clock_may_jump(jump: float) -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        everything(world)
        conversation = echo_stays(world, 50)
        world.sleep(10)
        world.clock.skew = jump
        world.sleep(15)
        assert [state for _, state, _ in world.states if state != "READY"] == []
        gateway.restart(1.0)
        world.sleep(1)
        world.wait_state(READY, 15)
        world.sleep(15)
        world.clock.skew = 0.0
        gateway.cut()
        world.sleep(0.5)
        world.wait_state(READY, 15)
        assert ended(conversation, 200) == 0
        no_errors(world)

    play(27, body)


def test_nym_api_may_be_gone_for_hours_and_its_return_is_noticed() -> None:
    def body(world: ChaosWorld) -> None:
        everything(world, 20.0)
        for mode in ("down", "mute", "garbage"):
            world.net.api.mode = mode
            world.sleep(45)
            assert world.session.mix.core.topology is not None
            world.net.api.mode = "up"
            world.sleep(25)
        no_errors(world)
        world.net.wire.down.add((API_HOST, API_PORT))
        world.wait(lambda: world.session.mix.core.topology is None, 400, "the end of the old topology")
        assert world.net.wire.dialled > 0
        world.net.wire.down.discard((API_HOST, API_PORT))
        world.wait(lambda: world.session.mix.core.topology is not None, 40, "a new topology")
        world.wait_state(READY, 60)
        world.sleep(20)
        assert world.traffic.run("after", lambda: world.traffic.download(10_000)) == 0

    play(28, body, topology_refresh=10.0)


def test_topology_may_change_under_a_connection() -> None:
    def body(world: ChaosWorld) -> None:
        net = world.net
        conversation = echo_stays(world, 80)
        everything(world)
        for number in range(4):
            world.sleep(12)
            gone = {f"mix{layer}" + ("" if number % 2 else "b") for layer in (1, 2, 3)}
            net.hidden = {one.name for one in net.plans if one.name in gone}
            net.next_epoch()
            world.sleep(14)
            for name in net.hidden:
                net.nodes[name].restart(5)
        net.hidden = set()
        net.next_epoch()
        assert ended(conversation, 200) == 0
        world.sleep(10)
        no_errors(world)

    play(29, body, topology_refresh=10.0)


def hide_our_gateway(world: ChaosWorld) -> None:
    identity = world.session.mix.node.identity
    world.net.hidden = {one.name for one in world.net.plans if one.identity == identity}
    world.net.next_epoch()


def test_gateway_missing_in_the_directory_serves_on() -> None:
    def body(world: ChaosWorld) -> None:
        conversation = echo_stays(world, 60)
        everything(world)
        world.sleep(5)
        hide_our_gateway(world)
        world.sleep(60)
        assert ended(conversation, 100) == 0
        no_errors(world)
        assert [state for _, state, _ in world.states if state != "READY"] == []

    play(37, body, topology_refresh=10.0)


@pytest.mark.parametrize("rotated", [False, True])
def test_gateway_that_left_the_network_is_left_and_no_exit_is_blamed(rotated: bool) -> None:
    def body(world: ChaosWorld) -> None:
        first = world.session.mix.node.identity
        conversation = echo_stays(world, 1000)
        world.sleep(5)
        world.net.strict = True
        hide_our_gateway(world)
        if rotated:
            world.net.rotate()
        hidden = world.reactor.now()
        assert ended(conversation, 60) in (errno.ENETDOWN, errno.ECONNRESET)
        assert world.reactor.now() - hidden < (12 if rotated else 45)
        world.wait_state(READY, 30)
        assert world.session.mix.node.identity != first
        assert world.session._memory.known() == {}
        assert world.traffic.run("after", lambda: world.traffic.download(10_000)) == 0

    play(38, body, topology_refresh=10.0, pinned=False)


def test_topology_that_returns_wakes_a_client_that_nothing_paces() -> None:
    def body(world: ChaosWorld) -> None:
        traffic, net = world.traffic, world.net
        net.wire.down.add((API_HOST, API_PORT))
        world.wait(lambda: world.session.mix.core.topology is None, 400, "the end of the old topology")
        world.sleep(5)
        connecting = gevent.spawn(traffic.run, "connect", lambda: traffic.echo(1, 100, 0.0))
        net.wire.down.discard((API_HOST, API_PORT))
        world.wait(lambda: world.session.mix.core.topology is not None, 10.5, "a new topology")
        assert ended(connecting, 1.0) == 0

    live(39, body, profile="no-cover", topology_refresh=30.0, keepalive_interval=500.0)


def test_exit_without_surbs_is_given_new_ones() -> None:
    def body(world: ChaosWorld) -> None:
        everything(world)
        exit_ = world.net.exit_of(world.session.exit)
        for _ in range(5):
            world.sleep(12)
            exit_.lose_surbs()
        world.sleep(20)
        no_errors(world)
        assert [state for _, state, _ in world.states if state != "READY"] == []

    play(30, body)


def test_flood_of_surb_requests_starves_nobody() -> None:
    def body(world: ChaosWorld) -> None:
        everything(world)
        exit_ = world.net.exit_of(world.session.exit)
        world.sleep(5)
        before = world.traffic.figures.finished["download"]
        for _ in range(60):
            exit_.ask_for_surbs(5, 500)
            world.sleep(1)
        assert world.traffic.figures.finished["download"] - before > 5
        world.sleep(20)
        no_errors(world)

    play(31, body)


def test_gateway_that_lost_its_clients_gets_us_back() -> None:
    def body(world: ChaosWorld) -> None:
        gateway = world.net.gateway_of(world.session.mix.node.identity)
        conversation = echo_stays(world, 40)
        world.sleep(10)
        gateway.forget_clients()
        gateway.restart(2.0)
        world.sleep(1)
        world.wait_state(READY, 20)
        assert ended(conversation, 200) == 0
        no_errors(world)

    play(32, body)


@pytest.mark.parametrize("what", ["nym-api", "gateways", "exits", "exits answer nothing"])
def test_set_up_ends_within_its_budget(what: str) -> None:
    def body(world: ChaosWorld) -> None:
        net = world.net
        if what == "nym-api":
            net.wire.dark.add((API_HOST, API_PORT))
        for gateway in net.gateways:
            if what == "gateways":
                net.wire.dark.add(gateway.where)
        for exit_ in net.exits:
            exit_.mute = what == "exits"
            exit_.ip_loss = 1.0 if what == "exits answer nothing" else 0.0
        began = world.reactor.now()
        world.session.start()
        world._watching = gevent.spawn(world._watch)
        blocked = gevent.spawn(world.traffic.run, "connect", lambda: world.traffic.hold(1000))
        world.wait_state(FAILED, 60.5)
        spent = world.reactor.now() - began
        limits = {"nym-api": 30.5, "gateways": 30.5, "exits": 42, "exits answer nothing": 42}
        assert spent < limits[what], spent
        assert ended(blocked, 1) == errno.ENETDOWN

    play(33, body, started=False)


def test_same_seed_is_the_same_run() -> None:
    def body(world: ChaosWorld) -> Any:
        world.net.weather = Weather(loss=0.05, jitter=0.1)
        everything(world)
        world.sleep(15)
        return dict(world.net.counts), world.traffic.figures.longest

    assert play(34, body) == play(34, body)
