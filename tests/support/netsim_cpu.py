"""What the stack's hot paths cost, in microseconds of CPU and in units of a calibration loop.

The figures of spec/netstack.md section 8 were taken on another machine. The unit
both share is the checksum of 1460 octets, 1.6 us there; a cost is compared as a
multiple of it, taken in the same run, the least of several rounds each.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

from support.netsim import seeded_urandom

from smolmix_sync.netstack import Conn, Stack, StackConfig, TcpSettings
from smolmix_sync.netstack.checksum import internet_checksum

A, B = "10.0.0.2", "10.0.0.1"
UNIT_US = 1.6
"""The calibration unit on the machine of spec section 8."""

# Microseconds per operation there. Source: spec/netstack.md section 8.
REFERENCE_US = {
    "send a segment": 3.5,
    "receive in order": 5.9,
    "receive reordered": 11.0,
    "acknowledgement": 8.0,
    "pull one of 100 connections": 11.0,
}
_COUNT = 600
_CONFIG = StackConfig(
    tcp=TcpSettings(sndbuf=4 << 20, rcvbuf=4 << 20, rcvbuf_max=4 << 20),
    rx_mtu=1500,
    congestion="none",
)


@dataclass(frozen=True)
class Cost:
    """One operation's cost: microseconds here, and as a multiple of the reference after calibration."""

    name: str
    microseconds: float
    ratio: float


def _exchange(a: Stack, b: Stack) -> None:
    for _ in range(3):
        b.handle_deadline(0.08)
        for packet in a.data_to_send(0.05):
            b.receive_data(packet, 0.05)
        for packet in b.data_to_send(0.1):
            a.receive_data(packet, 0.1)


def _open() -> tuple[Stack, Stack, Conn, Conn]:
    a = Stack(A, config=_CONFIG, urandom=seeded_urandom(1))
    b = Stack(B, config=_CONFIG, urandom=seeded_urandom(2))
    listener = b.listen(None, 80)
    conn = a.connect(B, 80, 0.0)
    _exchange(a, b)
    peer = listener.accept()
    assert peer is not None
    conn.send(b"x")  # its acknowledgement brings the first scaled window
    _exchange(a, b)
    assert peer.recv(1) == b"x"
    return a, b, conn, peer


def _timed(run: Callable[[], object]) -> float:
    start = time.process_time_ns()
    run()
    return (time.process_time_ns() - start) / 1000


def _calibrate() -> float:
    data = bytes(range(256)) * 5 + bytes(180)

    def run() -> None:
        for _ in range(2000):
            internet_checksum(data)

    return _timed(run) / 2000


def _bulk() -> dict[str, float]:
    """Send a megabyte at once, deliver it in order, then process its acknowledgements."""
    a, b, conn, peer = _open()
    conn.send(bytes(1448 * _COUNT))
    packets: list[bytes] = []
    result = {}
    result["send a segment"] = _timed(lambda: packets.extend(a.data_to_send(0.2)))
    assert len(packets) == _COUNT, len(packets)

    def deliver() -> None:
        for packet in packets:
            b.receive_data(packet, 0.3)

    result["receive in order"] = _timed(deliver)
    assert peer.readable() == 1448 * _COUNT
    return {name: value / _COUNT for name, value in result.items()}


def _reordered() -> dict[str, float]:
    """The same with neighbours and windows exchanged, acknowledged after every eighth."""
    a, b, conn, peer = _open()
    conn.send(bytes(1448 * _COUNT))
    packets = a.data_to_send(0.2)
    order = sorted(range(_COUNT), key=lambda index: index + (index * 7919) % 40)
    acks: list[bytes] = []
    spent = 0.0

    def deliver(start: int) -> None:
        for index in order[start : start + 8]:
            b.receive_data(packets[index], 0.3)

    for start in range(0, _COUNT, 8):
        spent += _timed(lambda start=start: deliver(start))  # type: ignore[misc]
        b.handle_deadline(0.35)
        acks += b.data_to_send(0.4)
    assert peer.readable() == 1448 * _COUNT

    def acknowledge() -> None:
        for ack in acks:
            a.receive_data(ack, 0.45)

    cost = _timed(acknowledge)
    assert conn.unacked() == 0
    return {"receive reordered": spent / _COUNT, "acknowledgement": cost / len(acks)}


def _hundred() -> dict[str, float]:
    """One segment per pull from a hundred busy connections."""
    a = Stack(A, config=_CONFIG, urandom=seeded_urandom(1))
    b = Stack(B, config=_CONFIG, urandom=seeded_urandom(2))
    b.listen(None, 80, backlog=200)
    conns = [a.connect(B, 80, 0.0) for _ in range(100)]
    _exchange(a, b)
    a.data_to_send(0.1)
    for conn in conns:
        conn.send(bytes(1448 * 6))

    def pull() -> None:
        for _ in range(_COUNT):
            assert a.data_to_send(0.2, 1502)

    return {"pull one of 100 connections": _timed(pull) / _COUNT}


def measure(rounds: int = 7) -> tuple[float, list[Cost]]:
    """Return the calibration unit in microseconds, and every operation's cost."""
    unit = float("inf")
    best: dict[str, float] = {}
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            unit = min(unit, _calibrate())
            for part in (_bulk, _reordered, _hundred):
                for name, value in part().items():
                    best[name] = min(value, best.get(name, float("inf")))
            gc.collect()
    finally:
        if enabled:
            gc.enable()
    costs = [
        Cost(name, best[name], best[name] / unit / (REFERENCE_US[name] / UNIT_US)) for name in REFERENCE_US
    ]
    return unit, costs
