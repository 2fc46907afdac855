"""Shared configuration of the test suite.

``SMOLMIX_REQUIRE_ALL=1`` (set by ``.ci/run``) turns a skipped test into a failure unless its
reason begins with one of :data:`ACCEPTED_REASONS`: what a CI machine cannot have.
"""

from __future__ import annotations

import os
import sys

import pytest
from support import vectors

#: Beginnings of skip reasons that are accepted even where every test is required.
ACCEPTED_REASONS = (
    "vectors: ",  # another set of vectors lacks this file or section
    "python: ",  # behaviour of another interpreter version
    "realnet: ",  # real nym-nodes need a binary that no registry has (docs/interop.rst)
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in sorted(vectors.reported):
        terminalreporter.write_line(line)
    for report in _unaccepted(terminalreporter):
        terminalreporter.write_line(f"REQUIRED BUT SKIPPED: {report.nodeid}: {_reason(report)}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and _unaccepted(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave without the interpreter's finalization, with everything printed and torn down.

    One process that ran hundreds of gevent hubs in threads that are gone was once ended by a fault inside
    greenlet's own collector hook (``green_is_gc``) while the interpreter took itself apart, after every test had
    passed. How programs end is tested in processes of their own (tests/isolated), which finalize as usual.
    """
    session = getattr(config, "_smolmix_session", None)
    if session is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(session.exitstatus))


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config._smolmix_session = session  # type: ignore[attr-defined]


def _unaccepted(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    if not os.environ.get("SMOLMIX_REQUIRE_ALL"):
        return []
    skipped = reporter.stats.get("skipped", [])
    return [report for report in skipped if not _reason(report).startswith(ACCEPTED_REASONS)]


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
