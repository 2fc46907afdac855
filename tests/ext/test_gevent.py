"""gevent's look-ups go through the tunnel by the resolver that its variable names; the hub goes on meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PROGRAM = """
import gevent, gevent.monkey
gevent.monkey.patch_all()
import socket, time
ticks, done = [], []

def tick():
    while not done:
        ticks.append(time.monotonic())
        gevent.sleep(0.01)

ticker = gevent.spawn(tick)
gevent.sleep(0)
jobs = [gevent.spawn(socket.gethostbyname, name) for name in ("www.localnet", "echo.localnet")]
gevent.joinall(jobs, timeout=40)
print([job.value for job in jobs])
print(sorted({one[4][0] for one in socket.getaddrinfo("v4.localnet", 80)}), socket.gethostbyaddr("198.51.100.11")[0])
try:
    socket.gethostbyname("no-such.localnet")
except socket.gaierror as error:
    print(error.errno == socket.EAI_NONAME)
done.append(True)
ticker.join()
gaps = [later - sooner for sooner, later in zip(ticks, ticks[1:])]
print(len(ticks) > 20, max(gaps[5:]) < 0.5)
"""


def test_look_ups_of_gevent_go_through_the_tunnel(net: LocalNet) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**clean, **net.environment(), "GEVENT_RESOLVER": "smolmix_sync.ext.gevent.Resolver"},
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "['198.51.100.11', '198.51.100.10']",
        "['198.51.100.11'] www.localnet",
        "True",
        "True True",
    ], done.stderr
    assert done.returncode == 0
