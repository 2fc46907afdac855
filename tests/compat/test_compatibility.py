"""Unmodified libraries against real servers through localnet, in four orders; and not a frame goes any other way.

The programs run in a namespace where the network's gateway and directory are all that can be reached, several at a
time, each in a process of its own, in default mode (``strict="auto"``). The whole matrix is under one count of frames.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from compat import page
from compat.catalogue import FORWARD_PORTS, ORDERS, programs
from support.namespaces import (
    ADDRESS_B,
    Namespaces,
    client_environment,
    counting,
    made_namespaces,
    needs_namespaces,
)

HERE = Path(__file__).parent
PROGRAMS = programs()
#: Programs at the same time: they mostly wait for the mixnet.
WORKERS = 4

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_namespaces]

Case = tuple[str, str, str]  # program, way, order


@dataclass
class Outcome:
    """How one run of a program ended."""

    told: dict[str, Any]
    output: str

    @property
    def errors(self) -> str:
        return "\n".join(self.told.get("error", ()))


@dataclass
class Matrix:
    """The running network, and the outcome of every case when it is there."""

    namespaces: Namespaces
    facts: dict[str, Any]
    file: Path
    seen: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[Case, Future[Outcome]] = field(default_factory=dict)
    under_count: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def run(self, case: Case, *, alone: bool = False) -> Outcome:
        """Run one program; *alone*: beside the servers, without any tunnel."""
        name, way, order = case
        options = ["--order", order, "--facts", str(self.file)]
        options += ["--forward"] * (way == "forward") + ["--alone"] * alone
        environment = client_environment(self.facts)
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            del environment[variable]  # the programs bring their servers' authorities
        environment["SMOLMIX_PROFILE"] = "no-cover"  # for the time that it takes
        process = self.namespaces.popen(
            self.namespaces.b if alone else self.namespaces.a,
            sys.executable, str(HERE / "run_program.py"), name, *options,
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with process:
            try:
                output, _ = process.communicate(timeout=200)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                return Outcome({"error": ["it does not end"]}, output)
        for line in reversed(output.splitlines()):
            if line.startswith("{"):
                return Outcome(json.loads(line), f"{output}\nexit {process.returncode}")
        return Outcome({"error": [f"exit {process.returncode}"]}, output)

    def count(self) -> dict[str, Any]:
        """End the count when all programs have ended; return what was seen."""
        wait(self.outcomes.values())
        self.under_count.close()
        return self.seen

    def record(self) -> None:
        """Write the page."""
        assert set(self.outcomes) == set(CASES), "only the whole matrix may be recorded"
        told = {case: future.result().told for case, future in self.outcomes.items()}
        page.write(page.rows(PROGRAMS, told, self.facts["services"]), PROGRAMS)


CASES = [(name, way, order) for order in ORDERS for name, program in PROGRAMS.items() for way in program.ways]


def in_every_run(case: Case) -> bool:
    """Tell whether a case is in the ordinary run: two orders of every library, in turn; the others in the full one."""
    name, _, order = case
    number = list(PROGRAMS).index(name) % 2
    return ORDERS.index(order) in ((0, 3), (1, 2))[number]


def parameter(case: Case) -> Any:
    marks = [] if in_every_run(case) else [pytest.mark.long]
    lacking = PROGRAMS[case[0]].missing()
    if lacking:
        marks.append(pytest.mark.skip(reason=f"{', '.join(lacking)}: not installed"))
    return pytest.param(case, id=" ".join(case), marks=marks)


@contextlib.contextmanager
def servers(namespaces: Namespaces, folder: Path, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Run localnet and the servers in B; yield what they say of themselves."""
    process = namespaces.popen(
        namespaces.b, sys.executable, str(HERE / "serve_all.py"), "--address", ADDRESS_B, str(folder),
        *sorted(names), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        line = process.stdout.readline()
        assert line, "the servers did not start"
        facts = json.loads(line)
        # Programs without a tunnel find the servers by name there.
        hosts = Path("/etc/netns") / namespaces.b / "hosts"
        hosts.parent.mkdir(parents=True)
        known = sorted({str(details["host"]) for details in facts["services"].values()})
        hosts.write_text(f"127.0.0.1 localhost {' '.join(known)}\n")
        try:
            yield facts
        finally:
            shutil.rmtree(hosts.parent)
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """Start network and servers, then every case that was selected."""
    chosen: list[Case] = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.function.__name__ == test_program_does_its_work_or_is_refused.__name__
        and item.get_closest_marker("skip") is None
    ]
    needed = {service for name, _, _ in chosen for service in PROGRAMS[name].services}
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        folder = Path(made)
        folder.chmod(0o755)  # servers that change their user
        namespaces = stack.enter_context(made_namespaces())
        facts = stack.enter_context(servers(namespaces, folder, needed))
        file = folder / "facts.json"
        file.write_text(json.dumps(facts))
        running = Matrix(namespaces, facts, file)
        forwarded = [f"127.0.0.1:{port}" for port in FORWARD_PORTS.values()]
        stack.enter_context(running.under_count)
        running.under_count.enter_context(counting(namespaces, facts, running.seen, *forwarded))
        pool = stack.enter_context(ThreadPoolExecutor(WORKERS))
        stack.callback(pool.shutdown, cancel_futures=True)
        for case in chosen:
            running.outcomes[case] = pool.submit(running.run, case)
        yield running
        if os.environ.get("SMOLMIX_RECORD_COMPATIBILITY") == "1":
            running.record()


@pytest.mark.parametrize("case", [parameter(case) for case in CASES])
@pytest.mark.timeout(900)  # the first waits for the servers, others for the programs before theirs
def test_program_does_its_work_or_is_refused(matrix: Matrix, case: Case) -> None:
    name, way, order = case
    program = PROGRAMS[name]
    outcome = matrix.outcomes[case].result()
    if program.refused and way == "direct":
        assert re.search(program.refusal, outcome.errors), outcome.output
    elif program.no_gevent and order.startswith("gevent"):
        assert "error" in outcome.told, "it works after all"
        assert "error" in matrix.run(case, alone=True).told, outcome.output
    else:
        assert outcome.told.get("did"), outcome.output
        if "turns" in outcome.told and way == "direct":
            # A hundred a second, were there nothing else to do on this machine.
            assert outcome.told["turns"] > 2 * outcome.told["seconds"], outcome.output


@pytest.mark.timeout(900)
def test_not_a_frame_of_the_whole_matrix_goes_past_the_tunnel(matrix: Matrix) -> None:
    seen = matrix.count()
    assert seen["lost"] == 0
    assert seen["allowed"] > 20 * len(matrix.outcomes)
    assert (seen["other"], seen["queries"]) == (0, 0), seen["examples"]
