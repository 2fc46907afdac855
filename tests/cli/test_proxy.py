"""``smolmix-sync proxy``: serves until it is told to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from smolmix_sync.cli import main
from smolmix_sync.localnet import LocalNet

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    with LocalNet(set_default=False) as net:
        yield {**clean, **net.environment()}


@pytest.mark.slow
def test_fronts_are_announced_work_and_end_with_a_signal(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "smolmix_sync", "proxy", "--socks", "0", "--http", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--forward", "0:echo.localnet:7"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        fronts = dict(process.stdout.readline().split() for _ in range(3))
        assert sorted(fronts) == ["forward", "http-proxy", "socks5"]
        address, _, port = fronts["forward"].partition(":")
        with socket.create_connection((address, int(port)), 30) as client:
            client.sendall(b"there and back")
            assert client.recv(100) == b"there and back"
        address, _, port = fronts["http-proxy"].partition(":")
        with socket.create_connection((address, int(port)), 30) as client:
            client.sendall(b"GET http://www.localnet/ HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_command_lines_that_make_no_sense() -> None:
    for words in (
        ["--socks", "x"],
        ["--http", "70000"],
        ["--forward", "80:80"],
        ["--password-file", "/no/such"],
    ):
        assert main(["proxy", *words]) == 2
