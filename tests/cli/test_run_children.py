"""``smolmix-sync run --children``: what a script starts uses the script's tunnel, or has no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

SCRIPT = """
import subprocess, sys
fetch = "import urllib.request; print(len(urllib.request.urlopen('http://www.localnet/bytes/321', timeout=30).read()))"
print(subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True))
print(subprocess.run([sys.executable, "-S", "-c", fetch], capture_output=True).returncode)
kernel = "import ctypes; print(ctypes.CDLL(None).socket(2, 1, 0))"
print(subprocess.run([sys.executable, "-c", kernel], capture_output=True, text=True).stdout.strip())
"""


def test_python_children_share_the_tunnel_and_nothing_else_has_a_network(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    with LocalNet(set_default=False) as net:
        done = subprocess.run(
            [sys.executable, "-m", "smolmix_sync", "run", "--children", str(script)],
            env={**clean, **net.environment()}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shared, unpatched, kernel = done.stdout.splitlines()
    assert "returncode=0, stdout='321\\n'" in shared, done.stdout + done.stderr
    assert (unpatched, kernel) == ("1", "-1")
