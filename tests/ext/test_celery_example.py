"""examples/celery runs by the line its README gives."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.celery_project import needs_redis

pytest.importorskip("celery")

EXAMPLE = Path(__file__).parents[2] / "examples" / "celery"

pytestmark = [pytest.mark.interop, pytest.mark.slow, needs_redis]


def test_the_example_runs_by_the_line_of_its_readme() -> None:
    assert "./run.sh" in (EXAMPLE / "README.rst").read_text()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    # A session of its own, so that nothing it starts outlives the test.
    with subprocess.Popen(
        ["./run.sh"], cwd=EXAMPLE, env={**clean, "PYTHON": sys.executable, "REDIS_PORT": str(port)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, output
    assert str(list(range(1000, 11000, 1000))) in output
    assert "ready" in output
