"""Congestion controls, driven without a connection."""

from __future__ import annotations

import pytest

from smolmix_sync.netstack.congestion import NAMES, CongestionControl, Unlimited, make
from smolmix_sync.netstack.cubic import Cubic
from smolmix_sync.netstack.mixcontrol import Mix

MSS = 1000
RTT = 0.2


class Flow:
    """A sender that keeps its window full over a link of *rate* octets per second, one ack per round."""

    def __init__(self, control: CongestionControl, rate: float = float("inf")) -> None:
        self.control = control
        self.rate = rate
        self.now = 0.0
        self.una = 1
        control.on_connected(MSS, 0.0)
        control.on_restart(0.0)

    def round(self, *, lost: int = 0, limited: bool = False, segments: int | None = None) -> None:
        """Send a window, lose *lost* octets of it, acknowledge the rest in ten pieces."""
        control = self.control
        window = control.cwnd if segments is None else segments * MSS
        elapsed = max(RTT, window / self.rate)
        if lost:
            control.on_loss(lost, window, True, self.now)
        end = self.una + window
        for piece in range(10):
            self.now += elapsed / 10
            share = window // 10 if piece < 9 else window - 9 * (window // 10)
            self.una += share
            nxt = end + (window if not limited else 0)
            delivered = share * (window - lost) // window
            control.on_acked(share, delivered, window - share, self.una, nxt, RTT, self.now, limited)


def test_every_name_makes_a_control_and_others_are_refused() -> None:
    for name in NAMES:
        control = make(name, 10, 1 << 20)
        control.on_connected(MSS, 0.0)
        assert control.cwnd >= 10 * MSS
    with pytest.raises(ValueError, match="reno"):
        make("reno", 10, 1)


# -- mix


def test_mix_doubles_until_the_rate_stops_growing_and_then_keeps_two_round_trips_of_it() -> None:
    control = Mix(10, 1 << 20)
    flow = Flow(control, rate=100_000)
    flow.round()
    assert control.cwnd == 20 * MSS
    for _ in range(12):
        flow.round()
    assert control.rate == pytest.approx(100_000, rel=0.05)
    assert control.cwnd == pytest.approx(2 * 100_000 * RTT, rel=0.1)


def test_mix_never_passes_the_send_buffer_and_follows_it_when_it_grows() -> None:
    control = Mix(10, 64 * MSS)
    flow = Flow(control)
    for _ in range(8):
        flow.round()
    assert control.cwnd == 64 * MSS
    control.set_ceiling(200 * MSS)
    for _ in range(12):
        flow.round()
    assert control.cwnd == 200 * MSS


def test_mix_ignores_isolated_loss_and_lowers_the_rate_for_a_round_that_lost_more_than_fifteen_percent() -> (
    None
):
    control = Mix(10, 1 << 20)
    flow = Flow(control, rate=400_000)
    for _ in range(30):
        flow.round()
    before = control.cwnd
    flow.round(lost=before // 10)
    for _ in range(3):
        flow.round()
    assert control.cwnd == pytest.approx(before, rel=0.1)
    rate = control.rate
    flow.rate = 100_000  # the path became slower; without loss it would be remembered for eight rounds
    flow.round(lost=before // 3)
    flow.round()
    assert control.rate == pytest.approx(rate * 0.7, rel=0.1)
    control.on_undo()
    assert control.rate == pytest.approx(rate, rel=0.05)


def test_a_lossy_round_ends_the_start_up_of_mix_but_a_few_segments_do_not() -> None:
    control = Mix(10, 1 << 20)
    flow = Flow(control)
    flow.round(lost=3 * MSS)
    flow.round()
    flow.round()
    grown = control.cwnd
    assert grown > 30 * MSS
    flow.round(lost=grown // 4)
    flow.round(limited=True)
    assert control._startup is False


def test_rounds_limited_by_the_application_only_raise_the_rate_of_mix() -> None:
    control = Mix(10, 1 << 20)
    flow = Flow(control, rate=200_000)
    for _ in range(12):
        flow.round()
    rate = control.rate
    for _ in range(20):
        flow.round(limited=True, segments=1)
    assert control.rate == rate


def test_a_timeout_makes_mix_send_one_segment_and_climb_back_and_three_forget_the_path() -> None:
    control = Mix(10, 1 << 20)
    flow = Flow(control, rate=200_000)
    for _ in range(12):
        flow.round()
    before = control.cwnd
    control.on_timeout(before, 1, flow.now)
    assert control.cwnd == MSS
    flow.round()
    assert control.cwnd == 2 * MSS
    for _ in range(8):
        flow.round()
    assert control.cwnd == pytest.approx(before, rel=0.2)
    for count in (1, 2, 3):
        control.on_timeout(before, count, flow.now)
    assert (control.cwnd, control.rate) == (MSS, 0.0)
    for _ in range(4):
        flow.round()
    assert control.cwnd > 8 * MSS


def test_the_climb_back_of_mix_has_its_goal_from_before_a_larger_send_buffer() -> None:
    control = Mix(10, 100 * MSS)
    Flow(control)
    control.set_ceiling(200 * MSS)
    assert control.ssthresh == 200 * MSS
    control.on_timeout(0, 1, 1.0)
    control.set_ceiling(400 * MSS)
    assert control.ssthresh == 10 * MSS


def test_an_undone_timeout_gives_mix_its_window_back_at_once() -> None:
    control = Mix(10, 1 << 20)
    flow = Flow(control, rate=200_000)
    for _ in range(12):
        flow.round()
    before = control.cwnd
    control.on_undo()
    control.on_timeout(before, 1, flow.now)
    control.on_undo()
    assert control.cwnd == before


# -- cubic


def test_cubic_starts_slowly_reduces_once_per_round_trip_and_grows_back_by_a_cubic() -> None:
    control = Cubic(10, 1 << 20)
    flow = Flow(control)
    flow.round()
    assert control.cwnd == 20 * MSS
    for _ in range(3):
        flow.round()
    top = control.cwnd
    control.on_loss(MSS, top, True, flow.now)
    control.on_loss(MSS, top, False, flow.now)
    assert control.cwnd == control.ssthresh == int(top * 0.7)
    sizes = []
    for _ in range(60):
        flow.round()
        sizes.append(control.cwnd)
    assert sizes == sorted(sizes)
    # After K = cbrt(0.3 * W / C) seconds, about 5 here, the old window is reached and probed from.
    reached = next(index for index, size in enumerate(sizes) if size >= top) * RTT
    assert 2 < reached < 7
    control.on_loss(MSS, control.cwnd, True, flow.now)
    assert control.cwnd < sizes[-1]
    control.on_undo()
    assert control.cwnd == sizes[-1]
    control.on_undo()


def test_cubic_after_a_timeout_is_in_slow_start_up_to_the_reduced_window() -> None:
    control = Cubic(10, 100 * MSS)
    flow = Flow(control)
    for _ in range(6):
        flow.round()
    assert control.cwnd == 100 * MSS
    control.on_timeout(control.cwnd, 1, flow.now)
    control.on_timeout(control.cwnd, 2, flow.now)
    assert (control.cwnd, control.ssthresh) == (MSS, 70 * MSS)
    flow.round()
    assert control.cwnd == 2 * MSS
    control.on_restart(flow.now)
    control.set_mss(500)
    control.set_ceiling(1 << 20)
    control.on_acked(100, 100, 0, 1, 2, RTT, flow.now, True)  # the window is not in use
    assert control.cwnd == 2 * MSS


def test_fast_convergence_lets_cubic_aim_lower_after_losing_below_its_last_maximum() -> None:
    control = Cubic(100, 1 << 20)
    control.on_connected(MSS, 0.0)
    control.on_loss(MSS, 0, True, 0.0)
    assert control._maximum == 100
    control.on_loss(MSS, 0, True, 1.0)
    assert control._maximum == pytest.approx(70 * 0.85)


def test_cubic_above_its_last_maximum_probes_from_where_it_is() -> None:
    control = Cubic(10, 1 << 20)
    flow = Flow(control)
    control.set_ceiling(1 << 21)
    assert control.ssthresh == 1 << 21
    control.on_loss(MSS, 0, True, 0.0)
    for _ in range(80):
        flow.round()
    grown = control.cwnd
    assert grown > 20 * MSS
    control.on_restart(flow.now)
    flow.round()
    assert grown <= control.cwnd < 1.2 * grown


# -- none


def test_none_keeps_the_send_buffer_open_whatever_happens() -> None:
    control = Unlimited(10, 64 * MSS)
    flow = Flow(control)
    flow.round(lost=30 * MSS)
    control.on_timeout(0, 3, 0.0)
    control.on_undo()
    assert control.cwnd == 64 * MSS
    control.set_ceiling(5 * MSS)
    assert control.cwnd == 10 * MSS
