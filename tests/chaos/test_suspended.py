"""A process that is stopped in the middle (a laptop's lid, a frozen container) and goes on later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PROGRAM = """
import errno, hashlib, sys, time
from http.client import HTTPConnection
import smolmix_sync
from smolmix_sync.tunnel import Tunnel

smolmix_sync.patch_all()
tunnel = smolmix_sync.connect()

def download(size):
    connection = HTTPConnection("www.localnet", timeout=60)
    connection.request("GET", f"/bytes/{size}")
    answer = connection.getresponse()
    begin = answer.read(1000)
    print("STARTED", flush=True)
    body = begin + answer.read()
    assert hashlib.sha256(body).hexdigest() == answer.headers["X-Sha256"], len(body)
    connection.close()

def held():
    connection = HTTPConnection("www.localnet", timeout=None)
    connection.connect()
    print("STARTED", flush=True)
    began = time.time()
    try:
        connection.sock.recv(1)
    except OSError as problem:
        assert problem.errno in (errno.ENETDOWN, errno.ECONNRESET), problem
    else:
        raise AssertionError("the end of a stream that did not end")

if sys.argv[1] == "transfer":
    download(600_000)
else:
    held()
    tunnel.wait_ready(60)
    download(50_000)
print("DONE", flush=True)
"""


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


def suspended(net: LocalNet, what: str, seconds: float, limit: float) -> None:
    """Run the program, stop it after it began, let it go on; it must end well within *limit*."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what], env={**clean, **net.environment()},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == "STARTED\n", process.communicate(timeout=10)
            time.sleep(0.5)
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)
            output, errors = process.communicate(timeout=limit)
        except BaseException:
            process.kill()
            raise
    assert output.endswith("DONE\n"), errors


def test_transfer_goes_on_after_a_pause_of_the_process(net: LocalNet) -> None:
    suspended(net, "transfer", 8, 60)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_minutes_of_sleep_are_told_and_over(net: LocalNet) -> None:
    suspended(net, "held", 120, 150)
