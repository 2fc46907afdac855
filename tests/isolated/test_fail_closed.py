"""What the audit hook and the seccomp filter refuse, each in a process of its own: neither can be taken back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from smolmix_sync import LeakBlocked, _seccomp

pytestmark = pytest.mark.isolated

FILTER = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this machine"
)

PROGRAMS = Path(__file__).parent / "programs"


def run(program: str, order: str = "plain", *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    result = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(PROGRAMS / program), *arguments],
        env={**environment, "ORDER": order}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    output = f"{program} {order}: exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert result.returncode == 0, output
    assert "DONE" in result.stdout, output


@pytest.mark.parametrize("order", ["plain", "gevent-first", "smolmix-first"])
def test_the_audit_hook_refuses_what_was_captured_before_the_patch(order: str) -> None:
    run("audited.py", order)


@FILTER
def test_strict_mode_leaves_the_network_to_the_reactor_alone() -> None:
    run("sealed.py")


@FILTER
@pytest.mark.parametrize("order", ["plain", "gevent-first", "smolmix-first"])
def test_programs_that_are_started_have_no_network_by_default(order: str) -> None:
    run("children.py", order)


@FILTER
def test_programs_that_are_started_have_the_callers_signal_mask() -> None:
    run("signal_mask.py", "plain")


@FILTER
@pytest.mark.parametrize("arguments", [(), ("strict",)], ids=["auto", "strict"])
def test_python_programs_that_are_started_use_the_tunnel_where_asked(arguments: tuple[str, ...]) -> None:
    run("inherit.py", "plain", *arguments)


@FILTER
@pytest.mark.parametrize("strict", ["auto", "strict"])
def test_a_c_library_reaches_the_tunnel_through_forward_only(strict: str) -> None:
    run("c_ways.py", "plain", strict)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_lands_inside_it(machine: str) -> None:
    steps = _seccomp.program(machine)
    for place, (code, yes, no, _) in enumerate(steps):
        if code & 7 == 5:
            assert place + 1 + max(yes, no) < len(steps)
    assert steps[-1][0] == 6
    assert steps[-1][3] & 0xFFFF == 13, "the end is EACCES"


def test_a_machine_without_a_filter_is_refused() -> None:
    with pytest.raises(LeakBlocked, match="riscv64"):
        _seccomp.program("riscv64")
