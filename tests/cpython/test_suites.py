"""The interpreter's own socket tests, from its installation, with both ends of every connection over the stack.

``expected_failures.txt`` lists what fails and why; a listed test that passes is an error. ``.ci/run`` installs the
interpreter's test package where it is missing.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.isolated,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_socket") is None,
        reason="the interpreter's test package is not installed",
    ),
]

HERE = Path(__file__).parent
EXPECTED = HERE / "expected_failures.txt"

#: Classes of reasons, from spec/sockets.md section 19.
CLASSES = frozenset({"protocol", "ancillary", "timing", "buffers", "oob"})

#: Of the multiprocessing tests those with connections within one process, and of processes over AF_UNIX. Two processes
#: that meet on 127.0.0.1 would need one stack; tests/isolated/programs/sharing.py passes sockets between processes.
CONNECTIONS = tuple(
    word for name in (
        "*WithThreadsTest*Connection*", "*WithThreadsTest*Listener*", "*WithThreadsTest*Poll*", "*TestListener.*",
        "*WithProcessesTestConnection*",
    ) for word in ("--only", name)
)  # fmt: skip

#: Seconds a file may take, several times what it needs.
LIMIT = 170


@dataclass(frozen=True)
class Suite:
    module: str
    #: Its tests use the network.
    packets: bool = True
    #: Takes more than some seconds: only in the long run.
    long: bool = False
    #: Also with a round trip of 100 ms.
    delayed: bool = False
    options: tuple[str, ...] = ()
    limit: int = LIMIT

    @property
    def name(self) -> str:
        return self.module if self.module.startswith("gevent.") else f"test.{self.module}"


#: gevent's tests that send nothing to anybody but themselves through a pair, or only look.
QUIET = frozenset(
    {"close_backend_fd", "greenness", "iwait", "monkey_select", "refcount", "select", "selectors", "socket_ex", "socketpair"}
)  # fmt: skip

SUITES = (
    # Without vsock in the kernel its classes hang, patched or not.
    Suite("test_socket", options=("--skip", "*VSOCK*")),
    Suite("test_ssl"),
    Suite("test_select", packets=False),
    Suite("test_selectors", packets=False, long=True),
    Suite("test_poll", packets=False, long=True),
    Suite("test_epoll"),
    Suite("test_asyncio", long=True, limit=900),
    Suite("test_httplib", delayed=True),
    Suite("test_urllib2_localnet", delayed=True),
    Suite("test_smtplib", delayed=True),
    Suite("test_ftplib", delayed=True, limit=600),
    Suite("test_imaplib", long=True, delayed=True, limit=600),
    Suite("test_poplib", delayed=True, limit=600),
    Suite("test_telnetlib"),
    Suite("test_socketserver", delayed=True, options=("--network",)),
    Suite("test_xmlrpc", long=True, delayed=True, limit=600),
    Suite("test_httpservers"),
    Suite("test_logging", long=True),
    Suite("_test_multiprocessing:fork", packets=False, options=CONNECTIONS),
    *(
        Suite(
            f"gevent.tests.test__{name}",
            packets=name not in QUIET,
        )
        for name in (
            "backdoor",
            "close_backend_fd",
            "greenio",
            "greenness",
            "iwait",
            "makefile_ref",
            "monkey_select",
            "pywsgi",
            "refcount",
            "select",
            "selectors",
            "server",
            "socket",
            "socket_close",
            "socket_errors",
            "socket_ex",
            "socket_send_memoryview",
            "socket_timeout",
            "socketpair",
            "ssl",
        )
    ),
)


@dataclass
class Expected:
    """A line of the list: a pattern of test ids, whether it always fails, the class of the reason, the reason."""

    pattern: str
    always: bool
    kind: str
    reason: str
    seen: list[str] = field(default_factory=list)


def read_expected() -> list[Expected]:
    lines = []
    for line in EXPECTED.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, how, kind, reason = line.split(None, 3)
            assert how in ("always", "sometimes"), line
            assert kind in CLASSES, line
            lines.append(Expected(pattern, how == "always", kind, reason))
    return lines


def run(suite: Suite, folder: Path, *more: str, ids: tuple[str, ...] = ()) -> dict[str, Any]:
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "runner.py"), str(result), suite.name,
         *suite.options, *more, *ids],
        env=environment, capture_output=True, text=True, timeout=suite.limit, check=False,
    )  # fmt: skip
    assert result.exists(), f"{suite.module} ended before its end, {done.returncode}\n{done.stderr[-4000:]}"
    found: dict[str, Any] = json.loads(result.read_text())
    assert not found["load_errors"], found["load_errors"]
    return found


def check(suite: Suite, folder: Path, *more: str) -> None:
    found = run(suite, folder, *more)
    outcomes: dict[str, str] = found["outcomes"]
    assert "ok" in outcomes.values(), outcomes
    assert found["packets"] > 0 or not suite.packets, "the kernel did the work"
    expected = read_expected()
    failed = {name for name, outcome in outcomes.items() if outcome in ("fail", "error")}
    fixed = []
    for name, outcome in outcomes.items():
        line = next((one for one in expected if fnmatch.fnmatchcase(name, one.pattern)), None)
        if line is not None and outcome == "ok" and line.always:
            fixed.append(name)
        if line is not None:
            failed.discard(name)
    assert not fixed, f"these pass now: take them out of {EXPECTED.name}: {fixed}"
    texts = dict(found["texts"])
    for _ in range(2):
        if not failed:
            return
        # Many of these tests have deadlines of their own: on a loaded machine one may fail that passes by itself.
        again = run(suite, folder, *more, ids=tuple(sorted(failed)))
        print(f"run again: {sorted(failed)}")
        failed = {name for name in failed if again["outcomes"].get(name) in ("fail", "error")}
        texts.update(again["texts"])
    if failed:
        # A test the machine fails without us as well says nothing about us.
        plain = run(suite, folder, "--plain", ids=tuple(sorted(failed)))["outcomes"]
        ours = sorted(name for name in failed if plain.get(name) not in ("fail", "error"))
        report = "\n\n".join(f"{name}\n{texts.get(name, '')[-1500:]}" for name in ours)
        assert not ours, f"{len(ours)} tests fail over the stack and not over the kernel:\n{report}"


def _cases(suites: tuple[Suite, ...]) -> list[Any]:
    return [
        pytest.param(
            suite, id=suite.module,
            marks=[pytest.mark.timeout(suite.limit * 2), *([pytest.mark.long] if suite.long else [])],
        )
        for suite in suites
    ]  # fmt: skip


@pytest.mark.parametrize("suite", _cases(SUITES))
def test_the_interpreters_tests_fail_only_where_it_is_listed(suite: Suite, tmp_path: Path) -> None:
    check(suite, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("suite", _cases(tuple(one for one in SUITES if one.delayed)))
def test_the_protocol_tests_pass_with_a_round_trip_of_100_ms(suite: Suite, tmp_path: Path) -> None:
    check(suite, tmp_path, "--delay", "0.05")


def test_every_expected_failure_has_a_class_and_a_reason() -> None:
    lines = read_expected()
    assert len({line.pattern for line in lines}) == len(lines)
    assert all(len(line.reason) > 10 for line in lines)
