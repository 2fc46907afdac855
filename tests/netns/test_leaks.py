"""Nothing of a patched program leaves by any other way than the tunnel, counted on every interface."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.namespaces import Namespaces, client_environment, counting, needs_namespaces

from smolmix_sync.localnet.control import ControlClient

SCRIPT = Path(__file__).parents[2] / "examples" / "legacy_script.py"
PROGRAMS = Path(__file__).parent / "programs"

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


@contextlib.contextmanager
def nothing_goes_direct(namespaces: Namespaces, network: dict[str, object]) -> Iterator[None]:
    """Count while the block runs: nothing but the entry gateway and the directory is spoken to, and nobody asked."""
    seen: dict[str, object] = {}
    with counting(namespaces, network, seen):
        yield
    assert seen["lost"] == 0
    assert (seen["other"], seen["queries"]) == (0, 0), seen["examples"]


def program(
    namespaces: Namespaces, network: dict[str, object], name: str, *arguments: str
) -> subprocess.Popen[str]:
    """Start a program in default mode (``strict="auto"``) where only the network can be reached."""
    environment = {**client_environment(network), "SMOLMIX_CONNECT_TIMEOUT": "10"}
    return namespaces.popen(
        namespaces.a, sys.executable, str(PROGRAMS / name), *arguments, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], limit: float = 120) -> str:
    """Return what a program said until its end."""
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # its children may hold the pipe
            process.communicate(timeout=5)
        raise AssertionError("it does not end") from None
    return output


def expect(process: subprocess.Popen[str], word: str) -> None:
    """Read until the program says *word*."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.strip() == word:
            return
    raise AssertionError("".join(seen))


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("began", ["up", "down"])
def test_nothing_goes_direct_while_the_tunnel_is_down_nor_while_it_comes_back(
    namespaces: Namespaces, network: dict[str, object], began: str
) -> None:
    control = ControlClient(str(network["control"]))
    with nothing_goes_direct(namespaces, network):
        if began == "down":
            control.request("kill", node="entry")
        try:
            with program(namespaces, network, "down.py", began) as process:
                if began == "up":
                    expect(process, "up")
                    control.request("kill", node="entry")
                    go_on(process)
                expect(process, "down")
                control.request("start", node="entry")
                go_on(process)
                output = ended(process)
        finally:
            if control.request("nodes")["entry"]["pid"] is None:
                control.request("start", node="entry")
    assert process.returncode == 0, output
    assert "DONE" in output


@pytest.mark.parametrize("way", ["return", "SystemExit", "SIGTERM", "_exit", "error"])
def test_nothing_goes_direct_at_the_end_of_a_program(
    namespaces: Namespaces, network: dict[str, object], way: str
) -> None:
    with nothing_goes_direct(namespaces, network):
        process = program(namespaces, network, "exits.py", way)
        output = ended(process)
    # How such a program ends is not the question here (tests/isolated asks): a thread of its own is still at work.
    assert "DONE" in output


@pytest.mark.timeout(300)
def test_nothing_goes_direct_from_children_and_programs_that_are_started(
    namespaces: Namespaces, network: dict[str, object]
) -> None:
    with nothing_goes_direct(namespaces, network):
        process = program(namespaces, network, "children.py")
        output = ended(process, 250)
    assert process.returncode == 0, output
    assert "DONE" in output


@pytest.mark.parametrize(
    "arguments",
    [("after",), ("before", "pycurl"), ("before", "psycopg"), ("before", "grpc"), ("forward",)],
    ids=" ".join,
)
def test_nothing_goes_direct_from_c_libraries(
    namespaces: Namespaces, network: dict[str, object], arguments: tuple[str, ...]
) -> None:
    with nothing_goes_direct(namespaces, network):
        process = program(namespaces, network, "c_libraries.py", *arguments)
        output = ended(process)
    assert process.returncode == 0, output
    assert "DONE" in output
