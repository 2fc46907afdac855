"""Hours of everything, in virtual time: faults one after the other, and traffic whose every octet is looked at.

The long run writes its figures as JSON, to ``SMOLMIX_CHAOS_JSON`` if that names a file.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.chaos import ChaosWorld, live
from support.chaos_faults import HARD, MILD, ChaosDay

from smolmix_sync.reactor.report import TunnelState

# Seconds of CPU each; on a busy machine they may last longer than the suite's limit.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_client_becomes_ready_and_moves_its_octets() -> None:
    def body(world: ChaosWorld) -> None:
        assert world.session.state is TunnelState.READY
        assert world.traffic.run("download", lambda: world.traffic.download(100_000)) == 0
        assert world.traffic.run("upload", lambda: world.traffic.upload(100_000)) == 0

    live(1, body, real_sphinx=True)


@pytest.mark.parametrize(
    ("seed", "settings"),
    [(2, {"sending_delay": 0.04, "cover_delay": 0.4}), (3, {"profile": "no-cover", "pinned": False})],
    ids=["paced", "unpaced"],
)
def test_minutes_of_everything(seed: int, settings: dict[str, Any]) -> None:
    def body(world: ChaosWorld) -> None:
        day = ChaosDay(world)
        day.start_traffic()
        until = world.reactor.now() + 180
        while world.reactor.now() < until:
            day.sleep(day.between(2, 10))
            day.do(world.random.choice(MILD))
        day.do(world.random.choice(HARD))
        day.sleep(10)
        day.check()

    live(seed, body, **settings)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_day_of_everything() -> None:
    seed = int(os.environ.get("SMOLMIX_CHAOS_SEED", "2026"))
    hours = int(os.environ.get("SMOLMIX_CHAOS_HOURS", "24"))
    began = time.process_time()

    def body(world: ChaosWorld) -> dict[str, Any]:
        day = ChaosDay(world)
        day.start_traffic()
        for number in range(1, hours + 1):
            day.hour(number, 1200.0)
        day.check_growth()
        world.pace(1.0)
        return day.figures()

    # Half the pace of the default profile, and a twentieth while it rests: 4 million packets are too many for one test.
    figures = live(seed, body, sending_delay=0.04, cover_delay=0.4)
    figures = {"seed": seed, "cpu_seconds": round(time.process_time() - began), **figures}
    text = json.dumps(figures, indent=1)
    print(text)
    if target := os.environ.get("SMOLMIX_CHAOS_JSON"):
        Path(target).write_text(text + "\n")
