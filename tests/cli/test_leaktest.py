"""``smolmix-sync leaktest``: counts what goes past the tunnel, and shows first that it can count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smolmix_sync.cli import main
from smolmix_sync.cli.leakmeter import describe
from smolmix_sync.localnet import LocalNet

SCRIPT = Path(__file__).parents[2] / "examples" / "legacy_script.py"
needs_namespaces = pytest.mark.skipif(
    shutil.which("ip") is None
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "--user", "--map-root-user", "--net", "true"], check=False).returncode != 0,
    reason="needs network namespaces and the ip command",
)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    with LocalNet(set_default=False) as net:
        yield {**clean, **net.environment()}


def leaktest(environment: dict[str, str], *words: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    done = subprocess.run(
        [sys.executable, "-m", "smolmix_sync", "leaktest", "--json", *words],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    text = done.stdout[done.stdout.index("{\n") :]
    return done.returncode, json.loads(text), done.stderr


@pytest.mark.netns
@pytest.mark.slow
@needs_namespaces
def test_legacy_script_is_proven_tight_and_its_control_is_not(environment: dict[str, str]) -> None:
    code, found, told = leaktest(environment, "--control", str(SCRIPT))
    assert code == 0, told
    assert (found["tunnel"]["leaks"], found["tunnel"]["lost"], found["tunnel"]["code"]) == (0, 0, 0)
    assert found["control"]["leaks"] > 0
    assert "no leak" in told


_LEAKY = """
import ctypes, os, socket, struct
libc = ctypes.CDLL(None)
number = libc.socket(2, 2, 0)  # past Python: AF_INET, SOCK_DGRAM
address = struct.pack("=H", 2) + struct.pack("!H", 4321) + socket.inet_aton("203.0.113.9") + bytes(8)
libc.sendto(number, b"leak", 4, 0, address, len(address))
with socket.create_connection(("www.localnet", 80), 30) as sock:
    print(sock.getpeername())
"""


@pytest.mark.netns
@pytest.mark.slow
@needs_namespaces
def test_leak_through_c_code_is_counted_and_the_filter_stops_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "leaky.py"
    script.write_text(_LEAKY)
    code, found, told = leaktest(environment, "--no-strict", str(script))
    assert code == 1
    assert found["tunnel"]["leaks"] == 1
    assert found["tunnel"]["examples"] == ["UDP to 203.0.113.9 port 4321"]
    assert "LEAK" in told
    code, found, told = leaktest(environment, str(script))
    assert (code, found["tunnel"]["leaks"]) == (0, 0), told


def test_what_the_kernel_says_by_itself_is_no_leak_and_the_rest_is_named() -> None:
    v6 = bytes([0x60]) + bytes(5)
    source, target = bytes(16), bytes(15) + b"\x01"
    solicitation = v6 + bytes([58, 255]) + source + target + bytes([133, 0, 0, 0])
    listener = v6 + bytes([0, 1]) + source + target + bytes([58, 0, 5, 2])
    assert describe(solicitation) is None
    assert describe(listener) is None
    echo = v6 + bytes([58, 64]) + source + target + bytes([128, 0, 0, 0])
    assert describe(echo) == ("ICMPv6 to ::1", 0)
    udp = (
        bytes([0x45])
        + bytes(8)
        + bytes([17])
        + bytes(6)
        + bytes([9, 9, 9, 9])
        + bytes([0, 7, 0, 53, 0, 8, 0, 0])
    )
    assert describe(udp) == ("UDP to 9.9.9.9 port 53", 53)
    for length in range(len(udp)):
        assert describe(udp[:length]) is not None
    assert describe(bytes([0x45]) + bytes(8) + bytes([47]) + bytes(6) + bytes([1, 2, 3, 4])) == (
        "protocol 47 to 1.2.3.4",
        0,
    )


def test_script_that_is_not_there() -> None:
    assert main(["leaktest", "/no/such/script.py"]) == 2
