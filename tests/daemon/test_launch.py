"""A daemon is started once, by whichever of several processes, threads or greenlets comes first."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolmix_sync.daemon import attach
from smolmix_sync.daemon.launch import ensure_daemon
from smolmix_sync.errors import TunnelNotReady
from smolmix_sync.localnet import LocalNet

PROGRAM = """
import sys
import {kind}
from smolmix_sync.daemon import ensure_daemon

started = []

def ensure():
    started.append(ensure_daemon(sys.argv[1], timeout=40, arguments=["--exit-idle", "3"]))

{run}
print(sorted(started))
"""

RUN = {
    "gevent.monkey; gevent.monkey.patch_all()": """
import gevent
gevent.joinall([gevent.spawn(ensure) for _ in range(5)], timeout=60)
""",
    "threading": """
threads = [threading.Thread(target=ensure) for _ in range(5)]
for one in threads: one.start()
for one in threads: one.join()
""",
}


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("kind", RUN, ids=["greenlets", "threads"])
def test_one_of_those_that_want_a_daemon_starts_it_and_the_others_wait(
    net: LocalNet, tmp_path: Path, kind: str
) -> None:
    """Greenlets that waited for the lock in the kernel stopped the one that had it, for ever."""
    path = tmp_path / "daemon.sock"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(kind=kind, run=RUN[kind]), str(path)],
            env={**clean, **net.environment()}, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.stdout == "[False, False, False, False, True]\n", done.stderr
    finally:
        with contextlib.suppress(OSError):
            os.kill(attach(path).status()["pid"], signal.SIGTERM)


def test_waiting_for_another_process_that_starts_it_ends_in_time(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "daemon.sock.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    began = time.monotonic()
    try:
        with pytest.raises(TunnelNotReady, match="another process"):
            ensure_daemon(tmp_path / "daemon.sock", timeout=0.3)
    finally:
        os.close(lock)
    assert 0.3 <= time.monotonic() - began < 3
    assert not (tmp_path / "daemon.sock").exists()
