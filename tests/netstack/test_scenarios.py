"""The reference figures of spec/netstack.md section 9, as a bound on what a change may cost.

The quick scenarios run always; the marker ``long`` has those above a second and
the whole table. ``benchmarks/bench_stack.py`` prints it.
"""

from __future__ import annotations

from statistics import median

import pytest
from support.netsim import NetSim, seeded_urandom
from support.netsim_scenarios import REFERENCE, SCENARIOS, Outcome, simulate

from smolmix_sync.netstack import Conn, Stack, StackConfig, TcpSettings

SEEDS = (1, 2, 3)
# A change may cost this much.
TOLERANCE = 1.15
# Scenario and column whose three runs together take less than half a second of one core.
QUICK = [
    (name, hop, loss)
    for name in ("D6", "D1", "U5", "U1", "U2", "U3")
    for hop in (15, 50)
    for loss in (0, 1)
    if not (name == "D1" and loss)
]
ALL = [(name, *column) for name, columns in REFERENCE.items() for column in columns]
SLOW = [case for case in ALL if (case not in QUICK and case[2] == 0) or case[0] == "U4"]
LONG = [case for case in ALL if case not in QUICK and case not in SLOW]

# An exit's side of localnet: our own stack, which is also what retransmits downloads there.
OURS = StackConfig(tcp=TcpSettings(nodelay=True, sndbuf=1 << 20), rx_mtu=1500, tx_mtu=1420)


def within_reference(name: str, hop: int, loss: int) -> None:
    runs = [simulate(SCENARIOS[name], seed, hop=hop / 1000, loss=loss / 100) for seed in SEEDS]
    assert all(run.intact for run in runs)
    reference = median(REFERENCE[name][hop, loss])
    assert median(run.seconds for run in runs) <= TOLERANCE * reference


@pytest.mark.parametrize(("name", "hop", "loss"), QUICK)
def test_a_quick_scenario_is_not_slower_than_its_reference(name: str, hop: int, loss: int) -> None:
    within_reference(name, hop, loss)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "hop", "loss"), SLOW)
def test_a_scenario_is_not_slower_than_its_reference(name: str, hop: int, loss: int) -> None:
    within_reference(name, hop, loss)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "hop", "loss"), LONG)
def test_a_lossy_download_is_not_slower_than_its_reference(name: str, hop: int, loss: int) -> None:
    within_reference(name, hop, loss)


def runs(name: str, loss: float, *, hop: float = 0.015, resend: bool = True) -> list[Outcome]:
    return [simulate(SCENARIOS[name], seed, hop=hop, loss=loss, server=OURS, resend=resend) for seed in SEEDS]


def stays_usable(name: str, *, hop: float = 0.015, resend: bool = True) -> None:
    """Check the bound under loss: four times at 1 %, eight times at 5 %."""
    clean = median(run.seconds for run in runs(name, 0.0, hop=hop))
    for loss, factor in ((0.01, 4), (0.05, 8)):
        lossy = runs(name, loss, hop=hop, resend=resend)
        assert all(run.intact for run in lossy)
        assert max(run.seconds for run in lossy) <= factor * clean


@pytest.mark.parametrize("resend", [True, False])
@pytest.mark.parametrize("name", ["D6", "D1", "U5", "U1"])
def test_loss_costs_four_times_at_one_percent_and_eight_times_at_five_at_most(
    name: str, resend: bool
) -> None:
    # Without resend the mixnet's own acknowledgements are off: TCP alone repairs everything.
    stays_usable(name, resend=resend)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hop", [0.015, 0.050])
@pytest.mark.parametrize("name", ["D2", "D3", "D4", "U2", "U3", "U4"])
def test_loss_is_bearable_for_the_large_transfers_too(name: str, hop: float) -> None:
    stays_usable(name, hop=hop)


@pytest.mark.long
@pytest.mark.parametrize("hop", [0.015, 0.050])
def test_none_of_a_hundred_connections_starves(hop: float) -> None:
    for seed in SEEDS:
        outcome = simulate(SCENARIOS["D4"], seed, hop=hop)
        assert outcome.times[-1] <= 2 * median(outcome.times)


def test_the_slowest_of_a_hundred_downloads_takes_at_most_twice_the_median() -> None:
    outcome = simulate(SCENARIOS["D4"], 1)
    assert outcome.intact
    assert outcome.times[-1] <= 2 * median(outcome.times)
    assert outcome.seconds <= TOLERANCE * median(REFERENCE["D4"][15, 0])


def test_a_loss_free_upload_is_hardly_ever_sent_twice() -> None:
    for run in runs("U1", 0.0):
        assert run.retransmissions <= 2


def test_a_quick_upload_share_is_fair() -> None:
    outcome = simulate(SCENARIOS["U3"], 1)
    assert outcome.times[-1] <= 2 * median(outcome.times)


@pytest.mark.long
def test_mix_outruns_cubic_where_loss_is_not_congestion() -> None:
    # Spec section 4: 2 MiB up, unpaced, 1 % loss: 127 KiB/s with CUBIC, 529 with mix, 821 without.
    times = {
        name: median(
            simulate(
                SCENARIOS["U4"],
                seed,
                loss=0.01,
                client=StackConfig(tcp=TcpSettings(sndbuf=1 << 20), congestion=name),
            ).seconds
            for seed in SEEDS
        )
        for name in ("mix", "cubic", "none")
    }
    assert times["none"] <= 1.05 * times["mix"] <= 0.7 * times["cubic"]


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(40, id="short"),
        pytest.param(2000, id="half-an-hour", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_short_connections_leave_nothing_behind(seconds: int) -> None:
    # Spec section 10.5: no port leaks, and timers and tables stay as large as what is alive.
    rate = 10 if seconds < 100 else 100
    net = NetSim(1)
    config = StackConfig(max_connections=1 << 14)
    a = Stack("10.0.0.2", config=config, urandom=seeded_urandom(1))
    b = Stack("10.0.0.1", config=config, urandom=seeded_urandom(2))
    net.link(a, b, latency=0.05, jitter=0.01, loss=0.01)
    listener = b.listen(None, 80, backlog=1000)
    finished = failed = most = 0

    def serve() -> None:
        nonlocal finished, failed
        while (peer := listener.accept()) is not None:
            peer.send(b"answer")
            peer.shutdown_write()
        for end, _ in list(a.events()):
            if isinstance(end, Conn) and not end.close_called:
                end.recv(100)
                if end.error:
                    failed += 1
                    end.close()
                elif end.eof():
                    finished += 1
                    end.close()
        for end, _ in list(b.events()):
            if isinstance(end, Conn) and end.eof() and not end.close_called:
                end.close()

    net.application(serve)
    for second in range(seconds):
        for step in range(rate):
            net.run(until=second + step / rate)
            a.connect("10.0.0.1", 80, net.now)
            net.kick(a)
        most = max(most, len(a._scheduler._heap), len(b._scheduler._heap))
        # A connection lives for its round trips, and ten seconds of TIME-WAIT.
        assert len(a.connections) <= rate * 15 + 100
        assert most <= 6 * (rate * 15 + 100)
    net.run(until=seconds + 150.0, limit=200.0)
    assert finished + failed >= 0.999 * rate * seconds
    assert failed <= 0.001 * rate * seconds
    assert not a.connections
    assert not b.connections
    for stack in (a, b):
        assert not stack._scheduler._heap
        assert len(stack._scheduler._lazy) <= 2 * rate * 15 + 200
        assert stack.next_deadline() is None
        assert stack.next_event() is None
    # Every ephemeral port is free again.
    ports = {a.connect("10.0.0.1", 80, net.now).local[1] for _ in range(config.max_connections)}
    assert len(ports) == config.max_connections == a.config.port_max - a.config.port_min + 1
