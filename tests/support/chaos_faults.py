"""A day of faults: what happens, for how long, and which operations it may end.

A fault is *mild* when everything has to survive it, and *hard* when design.md 8a lets flows end: only while a hard
one is under way (until the tunnel is READY again) may an operation end in an error.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any

from support.chaos import ChaosFailure, ChaosWorld
from support.chaos_network import API_HOST, API_PORT, ChaosExit, ChaosGateway, Weather

from smolmix_sync.reactor.report import TunnelState

__all__ = ["HARD", "MILD", "ChaosDay"]

READY = TunnelState.READY
#: Seconds after the end of a fault within which the tunnel has to be READY.
RECOVERY = 150.0
#: Objects counted at the end of every hour; a number that follows the hours is a leak.
COUNTED = (
    "Conn", "Udp", "Ping", "Flow", "StreamPump", "DatagramPump", "Greenlet", "Outgoing", "Surb", "ReplySurb",
    "MixPacket", "_FragmentSet", "Bridge", "Stack", "MixnetCore", "GatewayLink", "GatewayClient", "Timer",
    "Watcher", "Topology", "ExitProbe", "SessionProbes", "ReceivedSurb", "_Sender", "_Running",
)  # fmt: skip


class ChaosDay:
    """Faults and traffic on one world.

    Attributes:
        happened: how often each fault was.
        hours: figures at the end of every virtual hour.
    """

    def __init__(self, world: ChaosWorld) -> None:
        self.world = world
        self.net = world.net
        self.random = world.random
        self.happened: Counter[str] = Counter()
        self.excused: list[list[float]] = []
        self.hours: list[dict[str, Any]] = []
        self.recoveries: list[float] = []

    # --- what is at hand ---

    @property
    def entry(self) -> ChaosGateway:
        return self.net.gateway_of(self.world.session.mix.node.identity)  # type: ignore[union-attr]

    @property
    def exit(self) -> ChaosExit:
        return self.net.exit_of(self.world.session.exit)

    def sleep(self, seconds: float) -> None:
        self.world.sleep(seconds)

    def between(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def wait_ready(self, what: str) -> None:
        """Wait for READY, for as long as may be."""
        spent = self.world.wait(
            lambda: self.world.session.state is READY and self.world.session.device.up,
            RECOVERY,
            f"READY after {what}",
        )
        self.recoveries.append(spent)

    def do(self, fault: Callable[[ChaosDay], None]) -> None:
        """Let one fault happen, from its beginning to its end."""
        name = fault.__name__
        self.happened[name] += 1
        hard = fault in HARD
        if hard:
            self.excused.append([self.world.reactor.now(), math.inf])
        fault(self)
        self.wait_ready(name)
        if hard:
            self.excused[-1][1] = self.world.reactor.now() + 1.0
        self.check()

    def check(self) -> None:
        """Fail if an operation ended in an error that nothing excuses."""
        self.world.check()
        for kind, began, ended, number in self.world.traffic.figures.waits:
            if not any(start <= ended <= end for start, end in self.excused):
                raise ChaosFailure(f"{kind} begun at {began:.1f} ended at {ended:.1f} with errno {number}")
        self.world.traffic.figures.waits.clear()
        self.net_asked()

    def net_asked(self) -> None:
        """Fail if anything was asked outside the tunnel but what every start needs."""
        known = {(API_HOST, API_PORT), *(gateway.where for gateway in self.net.gateways)}
        for at, host, port, _ in self.net.wire.dials:
            if (host, port) not in known:
                raise ChaosFailure(f"{host}:{port} was dialled at {at:.1f}")
        for target in self.net.api.requests:
            if not target.startswith(("GET /v1/", "GET /v2/")):
                raise ChaosFailure(f"nym-api was asked {target}")

    # --- the programs ---

    def start_traffic(self) -> None:
        """Start the programs of the day."""
        traffic, rng = self.world.traffic, self.random
        traffic.spawn("download", lambda: traffic.download(rng.choice((500, 20_000, 150_000))))
        traffic.spawn("upload", lambda: traffic.upload(rng.choice((300, 10_000, 60_000))))
        traffic.spawn("echo", lambda: traffic.echo(8, rng.randrange(1, 3000), 2.0))
        traffic.spawn("hold", lambda: traffic.hold(rng.uniform(10, 900)), 1000.0)
        traffic.spawn("datagrams", lambda: traffic.datagrams(3))
        traffic.spawn("lookup", traffic.lookup)

    # --- the hours ---

    def hour(self, number: int, busy: float, *, slow: float = 10.0) -> None:
        """Let one hour pass: *busy* seconds of faults one after the other, then rest with a slower shaper."""
        world = self.world
        began, figures = world.reactor.now(), world.traffic.figures
        before = (sum(figures.finished.values()), sum(figures.broken.values()), Counter(self.happened))
        packets = self.net.counts["from clients"]
        world.pace(1.0)
        world.traffic.pause = 4.0
        while world.reactor.now() < began + busy:
            self.sleep(self.between(5, 40))
            kind = HARD if self.random.random() < 0.2 else MILD
            self.do(self.random.choice(kind))
        if world.reactor.now() < began + 3600.0:
            world.pace(slow)
            world.traffic.pause = 120.0
            while (left := began + 3600.0 - world.reactor.now()) > 0:
                self.sleep(min(left, 60.0))
                self.check()
        self.net.next_epoch()
        faults = Counter(self.happened)
        faults.subtract(before[2])
        gc.collect()
        objects = Counter(type(one).__name__ for one in gc.get_objects())
        self.hours.append(
            {
                "hour": number,
                "faults": sum(faults.values()),
                "operations": sum(figures.finished.values()) - before[0],
                "broken": sum(figures.broken.values()) - before[1],
                "packets": self.net.counts["from clients"] - packets,
                "objects": {name: objects[name] for name in COUNTED if objects[name]},
                "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
        print(
            f"hour {number:2}: {self.hours[-1]['faults']} faults, {self.hours[-1]['operations']} operations, "
            f"{self.hours[-1]['broken']} broken, {self.hours[-1]['packets']} packets, "
            f"{self.hours[-1]['rss_mib']} MiB",
            flush=True,
        )

    def check_growth(self) -> None:
        """Fail if a kind of object became more from the first third of the day to the last."""
        if len(self.hours) < 6:
            return
        third = len(self.hours) // 3
        for name in COUNTED:
            early = max(hour["objects"].get(name, 0) for hour in self.hours[1 : third + 1])
            late = min(hour["objects"].get(name, 0) for hour in self.hours[-third:])
            if late > 2 * early + 100:
                raise ChaosFailure(f"{name}: {early} objects in the first hours, {late} in the last")

    def figures(self) -> dict[str, Any]:
        """Return everything that was counted."""
        world, figures = self.world, self.world.traffic.figures
        return {
            "virtual_seconds": round(world.reactor.now() - 1000.0),
            "steps": world.loop.steps,
            "faults": dict(sorted(self.happened.items())),
            "network": dict(sorted(self.net.counts.items())),
            "operations": dict(sorted(figures.finished.items())),
            "broken": dict(sorted(figures.broken.items())),
            "errors": dict(sorted(figures.errors.items())),
            "octets": dict(sorted(figures.octets.items())),
            "longest_seconds": {name: round(value, 1) for name, value in sorted(figures.longest.items())},
            "ready_again_seconds": {
                "times": len(self.recoveries),
                "longest": round(max(self.recoveries, default=0.0), 1),
            },
            "reconnects": world.session.mix.reconnects if world.session.mix is not None else 0,
            "most": dict(sorted(world.marks.most.items())),
            "slots": [
                {
                    "mean_ms": trace.mean * 1000,
                    "gaps": trace.gaps,
                    "measured_ms": round(trace.total / max(1, trace.gaps) * 1000, 3),
                    "off_exponential": round(trace.off, 5),
                }
                for trace in world.traces.values()
            ],
            "asked_of_nym_api": sum(self.net.api.requests.values()),
            "dialled": self.net.wire.dialled,
            "hours": self.hours,
        }


# --- mild: nothing may end because of it ---


def _weather(day: ChaosDay, weather: Weather, low: float, high: float) -> None:
    before, day.net.weather = day.net.weather, weather
    day.sleep(day.between(low, high))
    day.net.weather = before


def loss(day: ChaosDay) -> None:
    _weather(day, Weather(loss=day.between(0.005, 0.04)), 20, 60)


def duplicates(day: ChaosDay) -> None:
    _weather(day, Weather(duplicates=day.between(0.05, 0.4)), 20, 60)


def reordering(day: ChaosDay) -> None:
    _weather(day, Weather(jitter=day.between(0.1, 0.8)), 20, 60)


def lateness(day: ChaosDay) -> None:
    _weather(day, Weather(link=day.between(0.02, 0.3), late=0.03, lateness=day.between(1, 8)), 20, 60)


def broken_packets(day: ChaosDay) -> None:
    _weather(day, Weather(truncated=0.01, corrupted=0.02), 20, 60)


def everything_at_once(day: ChaosDay) -> None:
    weather = Weather(0.01, 0.1, 0.005, 0.005, 0.05, 0.2, 0.01, 3.0)
    _weather(day, weather, 20, 60)


def gateway_restart(day: ChaosDay) -> None:
    away = day.between(0.1, 20)
    day.entry.restart(away)
    day.sleep(away + 0.5)


def websocket_cut(day: ChaosDay) -> None:
    day.entry.cut()
    day.sleep(0.5)


def websocket_silent(day: ChaosDay) -> None:
    link = day.world.session.mix.link  # type: ignore[union-attr]
    day.entry.go_silent()
    day.world.wait(lambda: day.world.session.mix.link is not link, 60, "another websocket")  # type: ignore[union-attr]


def gateway_stall(day: ChaosDay) -> None:
    seconds = day.between(0.5, 9)
    day.entry.stall(seconds)
    day.sleep(seconds)


def gateway_forgets(day: ChaosDay) -> None:
    day.entry.forget_clients()
    day.entry.cut()
    day.sleep(0.5)


def bandwidth(day: ChaosDay) -> None:
    for _ in range(day.random.randrange(1, 4)):
        day.entry.empty_balances()
        day.sleep(day.between(1, 10))


def mix_restart(day: ChaosDay) -> None:
    name = day.random.choice([one.name for one in day.net.plans if one.kind == "mixnode"])
    away = day.between(0.1, 15)
    day.net.nodes[name].restart(away)
    day.sleep(away + 5)


def topology(day: ChaosDay) -> None:
    day.net.hidden = {f"mix{layer}{day.random.choice(('', 'b'))}" for layer in (1, 2, 3)}
    day.net.hidden &= {one.name for one in day.net.plans}
    day.net.next_epoch()
    day.sleep(day.between(1, 60))
    day.net.hidden = set()
    day.net.next_epoch()


def clock_jump(day: ChaosDay) -> None:
    day.world.clock.skew = day.random.choice((-1, 1)) * day.random.choice(
        (30.0, 115.0, 200.0, 7200.0, 90_000.0)
    )
    day.sleep(day.between(1, 30))
    day.entry.cut()
    day.sleep(1)
    day.wait_ready("a jump of the clock")
    day.world.clock.skew = 0.0
    day.sleep(day.between(1, 10))
    day.entry.cut()
    day.sleep(1)


def nym_api(day: ChaosDay) -> None:
    day.net.api.mode = day.random.choice(("down", "mute", "garbage"))
    day.sleep(day.between(30, 400))
    day.net.api.mode = "up"


def surbs_lost(day: ChaosDay) -> None:
    for _ in range(day.random.randrange(1, 4)):
        day.exit.lose_surbs()
        day.sleep(day.between(3, 12))


def surb_flood(day: ChaosDay) -> None:
    for _ in range(30):
        day.exit.ask_for_surbs(5, 500)
        day.sleep(1)


def behind_the_exit(day: ChaosDay) -> None:
    day.exit.ip_loss = day.between(0.01, 0.05)
    exit_ = day.exit
    day.sleep(day.between(20, 60))
    exit_.ip_loss = 0.0


def rotation(day: ChaosDay) -> None:
    if day.world.reactor.now() < day.net.rotated_at + 2 * day.net.epoch_seconds and day.net.rotation_id > 1:
        day.happened["rotation"] -= 1
        return
    day.net.rotate()
    day.sleep(30)


# --- hard: flows may end, and the tunnel comes back by itself ---


def gateway_away(day: ChaosDay) -> None:
    entry, away = day.entry, day.between(46, 90)
    entry.stop()
    day.sleep(away)
    entry.start()
    day.sleep(0.5)


def exit_restart(day: ChaosDay) -> None:
    bridge = day.world.session._bridge
    day.exit.restart(day.between(0.1, 30))
    day.world.wait(lambda: day.world.session._bridge is not bridge, 110, "the loss of a restarted exit")


def exit_mute(day: ChaosDay) -> None:
    exit_, bridge = day.exit, day.world.session._bridge
    exit_.mute = True
    day.world.wait(lambda: day.world.session._bridge is not bridge, 75, "the loss of a silent exit")
    day.wait_ready("a silent exit")
    exit_.mute = False
    exit_.wake()


def storm(day: ChaosDay) -> None:
    _weather(day, Weather(loss=day.between(0.2, 0.6), duplicates=0.1, jitter=1.0), 20, 60)


def tickets(day: ChaosDay) -> None:
    gateway = day.entry
    gateway.settings = dataclasses.replace(gateway.settings, enforce_tickets=True)
    gateway.empty_balances()
    gateway.cut()
    day.sleep(day.between(1, 30))
    gateway.settings = dataclasses.replace(gateway.settings, enforce_tickets=False)


MILD: tuple[Callable[[ChaosDay], None], ...] = (
    loss, duplicates, reordering, lateness, broken_packets, everything_at_once, gateway_restart, websocket_cut,
    websocket_silent, gateway_stall, gateway_forgets, bandwidth, mix_restart, topology, clock_jump, nym_api,
    surbs_lost, surb_flood, behind_the_exit, rotation,
)  # fmt: skip
HARD: tuple[Callable[[ChaosDay], None], ...] = (gateway_away, exit_restart, exit_mute, storm, tickets)
