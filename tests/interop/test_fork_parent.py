"""Children of a process with ``fork="parent"`` use its tunnel."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PROGRAM = """
import json, multiprocessing, os, socket, sys, urllib.request, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import smolmix_sync
smolmix_sync.patch_all()

def fetch(size):
    with urllib.request.urlopen(f"http://www.localnet/bytes/{size}", timeout=30) as answer:
        return len(answer.read()), os.getpid()

tunnel = smolmix_sync.connect(fork="parent")
with multiprocessing.get_context("fork").Pool(4) as pool:
    done = pool.map(fetch, range(3000, 3012))
print(json.dumps({
    "sizes": [size for size, _ in done], "children": len({pid for _, pid in done}), "own": fetch(10)[0],
    "reconnects": tunnel.stats().reconnects,
}))
"""


def test_children_fetch_over_the_parents_tunnel_and_one_gateway_connection() -> None:
    with LocalNet(set_default=False) as net:
        before = net.stats()["entry"]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**os.environ, **net.environment()},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["sizes"] == list(range(3000, 3012))
        assert told["children"] > 1
        assert told["own"] == 10
        assert told["reconnects"] == 0
        registered = {
            name: value - before.get(name, 0)
            for name, value in net.stats()["entry"].items()
            if "regist" in name
        }
        assert all(value <= 1 for value in registered.values()), registered
