"""Nothing of a patched program leaves by any other way than the tunnel, counted on every interface."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.namespaces import Namespaces, client_environment, counting, needs_namespaces

SCRIPT = Path(__file__).parents[2] / "examples" / "legacy_script.py"

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_namespaces]


def test_patched_script_sends_nothing_outside_the_tunnel(
    namespaces: Namespaces, network: dict[str, object]
) -> None:
    seen: dict[str, object] = {}
    with counting(namespaces, network, seen):
        done = namespaces.popen(
            namespaces.a, sys.executable, "-m", "smolmix_sync", "run", str(SCRIPT),
            env=client_environment(network), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = done.communicate(timeout=90)
    assert done.returncode == 0, output
    assert "nightly check done" in output
    assert seen["lost"] == 0
    assert isinstance(seen["allowed"], int)
    assert seen["allowed"] > 100
    assert (seen["other"], seen["queries"]) == (0, 0), seen["examples"]


def test_same_script_unpatched_shows_up_in_the_count(
    namespaces: Namespaces, network: dict[str, object]
) -> None:
    seen: dict[str, object] = {}
    with counting(namespaces, network, seen):
        done = namespaces.popen(
            namespaces.a, sys.executable, str(SCRIPT),
            env=client_environment(network), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = done.communicate(timeout=90)
    assert done.returncode != 0, output
    assert isinstance(seen["other"], int)
    assert isinstance(seen["queries"], int)
    assert seen["other"] > 0
    assert seen["queries"] > 0
