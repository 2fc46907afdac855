"""A look inside: captures that Wireshark opens, a log that is switched at run time, and a heartbeat while waiting."""

from __future__ import annotations

import logging
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import smolmix_sync
from smolmix_sync import Tunnel
from smolmix_sync.localnet import LocalNet
from smolmix_sync.reactor import report
from smolmix_sync.reactor.report import Heartbeat, Progress
from smolmix_sync.reactor.tap import PcapWriter, describe

slow = [pytest.mark.interop, pytest.mark.slow]


def read_pcap(path: Path) -> list[tuple[float, bytes]]:
    data = path.read_bytes()
    assert struct.unpack_from("<IHHiIII", data) == (0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    offset, packets = 24, []
    while offset < len(data):
        seconds, micro, kept, length = struct.unpack_from("<IIII", data, offset)
        assert kept == length
        packets.append((seconds + micro / 1e6, data[offset + 16 : offset + 16 + kept]))
        offset += 16 + kept
    assert offset == len(data)
    return packets


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


class TestTunnel:
    pytestmark = slow

    def test_capture_has_the_packets_of_both_directions(self, net: LocalNet, tmp_path: Path) -> None:
        whole, part = tmp_path / "whole.pcap", tmp_path / "part.pcap"
        began = time.time()
        with Tunnel(**net.client_settings(), pcap=whole) as tunnel:
            with tunnel.pcap(part), tunnel.tcp_connect("echo.localnet:7", timeout=20) as sock:
                sock.sendall(b"a needle in the capture")
                assert sock.recv(100)
            length = part.stat().st_size
            tunnel.resolve("www.localnet")
            assert part.stat().st_size == length
            ours = tunnel.allocated_ips.ipv4
        assert stat.S_IMODE(whole.stat().st_mode) == 0o600
        lines = [describe(packet) for _, packet in read_pcap(part)]
        assert any(f"TCP {ours}:" in line and "> 198.51.100.10:7 [S]" in line for line in lines)
        assert any(line.startswith("TCP 198.51.100.10:7 > ") and "[SA]" in line for line in lines)
        assert sum(b"a needle in the capture" in packet for _, packet in read_pcap(part)) >= 2
        packets = read_pcap(whole)
        assert len(packets) > len(lines)
        assert any("UDP" in describe(packet) and ":53" in describe(packet) for _, packet in packets)
        assert all(began - 1 < at < time.time() + 1 for at, _ in packets)

    def test_debug_is_switched_on_and_off_under_an_open_tunnel(
        self, net: LocalNet, caplog: pytest.LogCaptureFixture
    ) -> None:
        def packets() -> int:
            return sum(record.name == "smolmix_sync.packets" for record in caplog.records)

        with Tunnel(**net.client_settings()) as tunnel:
            tunnel.resolve("www.localnet")
            assert packets() == 0
            smolmix_sync.set_debug(True)
            try:
                tunnel.resolve("echo.localnet")
                wait_until(lambda: packets() > 1)
            finally:
                smolmix_sync.set_debug(False)
            assert any("UDP" in record.getMessage() for record in caplog.records)
            tunnel.resolve("mail.localnet")
            time.sleep(0.1)
            seen = packets()
            tunnel.resolve("dns.localnet")
            time.sleep(0.1)
            assert packets() == seen

    def test_heartbeat_tells_what_is_waited_for(self, net: LocalNet, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(report, "_EVERY", 0.4)
        steps: list[Progress] = []
        net.node("exit").set(silent=True)
        try:
            with pytest.raises(smolmix_sync.SmolmixError):
                Tunnel(**net.client_settings(), connect_timeout=3.0, on_progress=steps.append)
        finally:
            net.node("exit").set(silent=False)
        beats = [step for step in steps if step.waiting]
        assert len(beats) >= 4
        assert beats[-1].stage == "exit"
        assert beats[-1].detail.startswith("still connecting to the exit at ")
        assert [step.waiting for step in beats] == sorted(step.waiting for step in beats)
        count = len(steps)
        time.sleep(1.0)
        assert len(steps) == count


def wait_until(condition: Callable[[], bool], limit: float = 10.0) -> None:
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


class FakeLoop:
    """A clock that is moved by hand, and the timer of the heartbeat."""

    def __init__(self) -> None:
        self.time = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return self.time

    def call_later(self, delay: float, fn: Callable[[], None]) -> FakeLoop:
        self.due.append((self.time + delay, fn))
        return self

    def cancel(self) -> None:
        self.due.clear()

    def run(self, until: float) -> None:
        while self.due and self.due[0][0] <= until:
            self.time, fn = self.due.pop(0)
            fn()
        self.time = until


def test_heartbeat_comes_every_five_seconds_and_tells_life_from_silence() -> None:
    loop, told, life = FakeLoop(), [], [0]
    heart = Heartbeat(loop, lambda *what: told.append(what), lambda: life[0])  # type: ignore[arg-type]
    heart.step("exit", "waiting for X")
    loop.run(4.9)
    assert told == []
    loop.run(5.0)
    life[0] = 1
    loop.run(16.0)
    heart.step("probe", "waiting for Y")
    loop.run(20.9)
    heart.stop()
    loop.run(60.0)
    assert told == [
        ("exit", "still waiting for X (5 s, nothing has come back for 5 s)", 5.0),
        ("exit", "still waiting for X (10 s, something came back within the last 5 s)", 10.0),
        ("exit", "still waiting for X (15 s, nothing has come back for 5 s)", 15.0),
    ]


def test_lines_about_packets_never_have_their_content() -> None:
    udp = (
        bytes([0x45])
        + bytes(8)
        + bytes([17, 0, 0, 10, 0, 0, 1, 1, 1, 1, 1])
        + struct.pack("!HHHH", 4000, 53, 14, 0)
    )
    assert describe(udp + b"secret") == "UDP 10.0.0.1:4000 > 1.1.1.1:53 6 octets"
    six = bytes([0x60]) + bytes(5) + bytes([58, 64]) + bytes(15) + b"\x01" + bytes(15) + b"\x02"
    assert describe(six + bytes(8)) == "ICMPv6 ::1 > ::2 8 octets"
    for packet in (udp, six):
        for length in range(len(packet)):
            assert describe(packet[:length])
    assert describe(b"") == "no IP packet, 0 octets"


def test_disk_that_is_full_ends_the_capture_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = PcapWriter(tmp_path / "capture")
    writer.close()
    writer._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with caplog.at_level(logging.WARNING):
        writer.write([b"x"], 0.0)
    writer.write([b"x"], 0.0)
    assert writer.written == 0
    assert "capture ends" in caplog.text
