"""Our stack against the kernel's, over a TUN device in a network namespace of its own.

One process runs every case (kernel_script.py); needs root or user namespaces,
/dev/net/tun and iproute2, and is skipped without them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kernel_script.py")

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def case_names() -> list[str]:
    spec = importlib.util.spec_from_file_location("kernel_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.CASES)


@lru_cache(maxsize=1)
def results() -> dict[str, str] | str:
    """Return what went wrong per case, or why nothing can run here."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        return "no unshare or ip"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is not accessible"
    if subprocess.run([unshare, "-n", "-r", "true"], capture_output=True, timeout=20, check=False).returncode:
        return "no network namespaces"
    done = subprocess.run(
        [unshare, "-n", "-r", sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    lines = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    if not lines:
        return f"no TUN device: {done.stderr[-300:]}"
    return lines


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", case_names())
def test_the_kernel_agrees(name: str) -> None:
    outcome = results()
    if isinstance(outcome, str):
        pytest.skip(outcome)
    assert outcome.get(name, "did not run") == ""
