"""``smolmix-sync nc``, ``ping`` and ``ws`` as a person types them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    with LocalNet(set_default=False) as net:
        yield {**clean, **net.environment()}


def smolmix(
    environment: dict[str, str], *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "smolmix_sync", *words],
        env=environment, input=stdin, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_nc_joins_stdin_and_stdout(environment: dict[str, str]) -> None:
    blob = bytes(range(256)) * 100
    done = smolmix(environment, "nc", "echo.localnet", "7", stdin=blob)
    assert (done.returncode, done.stdout) == (0, blob), done.stderr
    done = smolmix(environment, "nc", "-u", "-w", "3", "echo.localnet", "7", stdin=b"datagram")
    assert (done.returncode, done.stdout) == (0, b"datagram"), done.stderr


def test_nc_tells_whether_a_port_is_open(environment: dict[str, str]) -> None:
    assert smolmix(environment, "nc", "-z", "www.localnet", "80").returncode == 0
    done = smolmix(environment, "nc", "-z", "closed.localnet", "80")
    assert done.returncode == 1
    assert b"Connection refused" in done.stderr
    assert smolmix(environment, "nc", "127.0.0.1", "22").returncode == 1
    assert smolmix(environment, "nc", "www.localnet", "0").returncode == 2
