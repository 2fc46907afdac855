"""The scenarios and reference figures of spec/netstack.md section 9, and one way to run them.

A scenario is some connections over the mixnet model, all started at once, each
carrying the same number of octets one way. ``run`` returns what it took;
``REFERENCE`` has the figures a change must not make worse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from support.netsim import MixnetModel, NetSim, Transfer, seeded_urandom

from smolmix_sync.netstack import Conn, Stack, StackConfig, TcpSettings

CLIENT_ADDRESS, SERVER_ADDRESS = "10.0.0.2", "10.0.0.1"

LINUX = StackConfig(
    tcp=TcpSettings(sndbuf=4 << 20, rcvbuf=4 << 20),
    rx_mtu=1500,
    congestion="cubic",
    reo_adaptive=True,
    ack_every=2,
    ack_delay=0.040,
    ooo_ack_delay=0.0,
    rto_min=0.2,
)
"""A server that behaves like Linux: CUBIC, the reordering window of RFC 8985, 4 MiB, quick acknowledgements."""


@dataclass(frozen=True)
class Scenario:
    """*count* connections of *size* octets each; up or down, paced or not."""

    name: str
    title: str
    count: int
    size: int
    up: bool
    paced: bool = True

    def client_config(self) -> StackConfig:
        """Return the settings of our end: the defaults, and the send buffer its mode wants."""
        return StackConfig() if self.paced else StackConfig(tcp=TcpSettings(sndbuf=1 << 20))


KIB, MIB = 1 << 10, 1 << 20
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("D6", "10 KiB down", 1, 10 * KIB, False),
        Scenario("D1", "1 MiB down", 1, MIB, False),
        Scenario("D2", "10 MiB down", 1, 10 * MIB, False),
        Scenario("D3", "10 x 1 MiB down", 10, MIB, False),
        Scenario("D4", "100 x 64 KiB down", 100, 64 * KIB, False),
        Scenario("D5", "10 MiB down, unpaced", 1, 10 * MIB, False, False),
        Scenario("U5", "10 KiB up", 1, 10 * KIB, True),
        Scenario("U1", "1 MiB up", 1, MIB, True),
        Scenario("U2", "10 x 128 KiB up", 10, 128 * KIB, True),
        Scenario("U3", "100 x 8 KiB up", 100, 8 * KIB, True),
        Scenario("U4", "10 MiB up, unpaced", 1, 10 * MIB, True, False),
    )
}

# (hop in milliseconds, loss in per cent) -> seconds for seeds 1, 2, 3. Source: spec/netstack.md section 9.
REFERENCE: dict[str, dict[tuple[int, int], tuple[float, float, float]]] = {
    "D6": {
        (15, 0): (0.52, 0.6, 0.54), (50, 0): (1.11, 1.2, 1.15),
        (15, 1): (1.36, 0.6, 0.54), (50, 1): (2.49, 1.2, 1.15),
    },
    "D1": {
        (15, 0): (2.21, 2.35, 2.22), (50, 0): (4.34, 10.6, 4.29),
        (15, 1): (9.5, 3.2, 8.5), (50, 1): (21, 26, 15),
    },
    "D2": {
        (15, 0): (9.19, 9.3, 9.18), (50, 0): (12.0, 25.3, 11.7),
        (15, 1): (118, 100, 115), (50, 1): (138, 153, 135),
    },
    "D3": {
        (15, 0): (8.4, 8.5, 8.5), (50, 0): (9.6, 9.5, 9.6),
        (15, 1): (19, 18, 16), (50, 1): (25, 21, 16),
    },
    "D4": {
        (15, 0): (5.7, 5.5, 5.4), (50, 0): (6.5, 6.0, 6.1),
        (15, 1): (6.9, 5.9, 7.3), (50, 1): (7.4, 7.0, 8.2),
    },
    "D5": {
        (15, 0): (9.05, 9.07, 8.99), (50, 0): (11.1, 12.0, 11.7),
        (15, 1): (88, 93, 120), (50, 1): (138, 97, 121),
    },
    "U5": {
        (15, 0): (0.57, 0.73, 0.64), (50, 0): (1.29, 1.26, 1.22),
        (15, 1): (1.1, 0.73, 0.64), (50, 1): (2.3, 1.3, 1.2),
    },
    "U1": {
        (15, 0): (15.2, 15.6, 16.4), (50, 0): (16.8, 16.7, 16.1),
        (15, 1): (16.4, 16.6, 15.8), (50, 1): (17.5, 17.7, 16.1),
    },
    "U2": {
        (15, 0): (20.0, 19.2, 19.7), (50, 0): (19.4, 19.7, 19.8),
        (15, 1): (20.3, 19.9, 19.9), (50, 1): (21.0, 21.3, 20.7),
    },
    "U3": {
        (15, 0): (12.4, 12.3, 12.9), (50, 0): (12.7, 12.2, 13.0),
        (15, 1): (13.4, 14.0, 12.9), (50, 1): (14.1, 13.0, 13.2),
    },
    "U4": {
        (15, 0): (8.96, 8.96, 8.97), (50, 0): (11.0, 11.6, 11.1),
        (15, 1): (9.7, 9.5, 10.0), (50, 1): (17.4, 15.1, 18.9),
    },
}  # fmt: skip


@dataclass
class Outcome:
    """What one run took."""

    seconds: float
    times: list[float] = field(default_factory=list)
    """When each connection was done."""
    first_octet: float = 0.0
    up_packets: int = 0
    """Sphinx packets the client sent."""
    down_packets: int = 0
    retransmissions: int = 0
    """Segments our end sent again."""
    server_retransmissions: int = 0
    segments: int = 0
    timeouts: int = 0
    intact: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, without the single times."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "times"}


def simulate(
    scenario: Scenario,
    seed: int,
    *,
    hop: float = 0.015,
    loss: float = 0.0,
    client: StackConfig | None = None,
    server: StackConfig = LINUX,
    resend: bool = True,
    limit: float = 1500.0,
) -> Outcome:
    """Run *scenario* once."""
    net = NetSim(seed)
    a = Stack(CLIENT_ADDRESS, config=client or scenario.client_config(), urandom=seeded_urandom(seed))
    b = Stack(SERVER_ADDRESS, config=server, urandom=seeded_urandom(seed + 1000))
    model: MixnetModel = net.mixnet(
        a, b, hop=hop, loss=loss, slot=0.020 if scenario.paced else 0.0, resend=int(resend)
    )
    flows = Flows(net, a, b, scenario)
    net.run(until=lambda: not flows.left, limit=limit, max_events=20_000_000)
    return flows.outcome(model)


class Flows:
    """The applications of a scenario; only connections something happened to are looked at."""

    def __init__(self, net: NetSim, client: Stack, server: Stack, scenario: Scenario) -> None:
        self.net = net
        self.client, self.server = client, server
        self.scenario = scenario
        self.listener = server.listen(None, 80, backlog=scenario.count + 1)
        self.conns = [client.connect(SERVER_ADDRESS, 80, net.now) for _ in range(scenario.count)]
        self.peers: list[Conn] = []
        self.left = scenario.count
        self.sent: dict[Conn, int] = {}
        self.got: dict[Conn, int] = {}
        self.done: dict[Conn, float] = {}
        self.first = -1.0
        self.intact = True
        net.application(self.step)

    def step(self) -> None:
        for conn, _ in list(self.client.events()):
            self._serve(conn, sending=self.scenario.up)
        events = list(self.server.events())
        while (peer := self.listener.accept()) is not None:
            self.peers.append(peer)
            self._serve(peer, sending=not self.scenario.up)
        for conn, _ in events:
            if conn is not self.listener:
                self._serve(conn, sending=not self.scenario.up)

    def _serve(self, conn: Any, *, sending: bool) -> None:
        if conn.error:
            raise AssertionError(f"{conn!r} failed with errno {conn.error}")
        size = self.scenario.size
        if sending:
            if not conn.open or conn.snd.fin_queued:
                return
            sent = Transfer._write(conn, self.sent.get(conn, 0), size)
            self.sent[conn] = sent
            if sent == size:
                conn.shutdown_write()
            return
        got = self.got.get(conn, 0)
        while data := conn.recv(1 << 20):
            if data != Transfer.pattern(got, len(data)):
                self.intact = False
            got += len(data)
            if self.first < 0:
                self.first = self.net.now
        self.got[conn] = got
        if conn.eof() and conn not in self.done:
            self.intact = self.intact and got == size
            self.done[conn] = self.net.now
            self.left -= 1
            conn.close()

    def outcome(self, model: MixnetModel) -> Outcome:
        return Outcome(
            seconds=max(self.done.values()),
            times=sorted(self.done.values()),
            first_octet=self.first,
            up_packets=model.up.sphinx_packets,
            down_packets=model.down.sphinx_packets,
            retransmissions=sum(conn.retransmissions for conn in self.conns),
            server_retransmissions=sum(conn.retransmissions for conn in self.peers),
            segments=sum(conn.segments_out for conn in (*self.conns, *self.peers)),
            timeouts=sum(conn.timeouts for conn in (*self.conns, *self.peers)),
            intact=self.intact,
        )
