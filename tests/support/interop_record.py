"""A pytest plugin that writes the table of ``docs/interop.rst`` from the tests that were just run.

Does nothing unless ``SMOLMIX_RECORD_INTEROP=1``. Rows of tests that were not run stay as they are.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "interop.rst"
MARKER = ".. rows written by tests/support/interop_record.py\n\n"
TABLE = MARKER + (
    ".. csv-table::\n"
    "   :header: Peer, Version, Its role, Date, Result, Test\n"
    "   :widths: 10, 8, 18, 10, 8, 46\n\n"
)
HEAD = """Interoperation
==============

What was tried against software of others, unmodified, and how it ended. The rows below are written by the tests
themselves; nobody edits them.

The clients of others on our localnet: smolmix and nym-sdk need cargo, the browser client chromium and npm::

    tox -e interop

Our client on a network of real nym-node processes, and our nodes among real ones: root, iproute2, ``/dev/net/tun``
and a nym-node binary::

    NYM_NODE=/path/to/nym-node pytest -m long tests/interop/test_realnet.py tests/interop/test_mixed_roles.py

``REALNET_NODE_VERSION=1.37.0`` before it lets the directory promise a version whose exits speak IPR version 10.
``.ci/run full`` has the first command as its stage ``interop``, and runs the second where ``NYM_NODE`` is set.

With ``SMOLMIX_RECORD_INTEROP=1 PYTHONPATH=tests`` set and ``-p support.interop_record`` given to pytest, the same
commands write the rows below; without that they leave this page alone. What the peers sent is kept in
``tests/vectors/recorded`` and read again in every run; what was seen of them is in ``docs/protocol``. The browser
client is the npm packages mix-tunnel, mix-fetch, mix-dns and mix-websocket.

"""

Row = tuple[str, str, str, str, str, str]


@functools.cache
def crate_version(name: str) -> str:
    lock = tomllib.loads((ROOT / "tests/interop/smolmix_peer/Cargo.lock").read_text())
    return next((str(p["version"]) for p in lock["package"] if p["name"] == name), "?")


@functools.cache
def node_version() -> str:
    binary = os.environ.get("NYM_NODE", "")
    output = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    found = re.search(r"Build Version:\s*(\S+)", output)
    return found[1] if found else "?"


@functools.cache
def browser_version() -> str:
    from interop.browser import driver

    output = subprocess.run(
        ["chromium", "--version"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    return f"{driver.version('mix-tunnel')} in {' '.join(output.split()[:2])}"


def peer_of(nodeid: str) -> tuple[str, str, str] | None:
    """Return name, version and role of the peer of one test; None if it has none."""
    path, _, test = nodeid.partition("::")
    if path.endswith("/test_realnet.py"):
        return "nym-node", node_version(), "mix nodes, entry, exit"
    if path.endswith("/test_mixed_roles.py"):
        return _mixed_peer_of(test)
    if path.endswith("/test_browser_client.py"):
        return "mix-tunnel", browser_version(), "client"
    if path.endswith("/test_smolmix_peer.py"):
        if "smolmix" in test:
            return "smolmix", crate_version("nym-smol-core"), "client"
        return "nym-sdk", crate_version("nym-sdk"), "client"
    return None


def _mixed_peer_of(test: str) -> tuple[str, str, str]:
    rust = crate_version("nym-sdk")
    if "localnet" in test:
        return "nym-sdk", rust, "client"
    if "rust" in test:
        return "nym-node, nym-sdk", f"{node_version()}, {rust}", "nodes, client"
    return "nym-node", node_version(), "nodes beside ours"


def read_rows(text: str) -> dict[str, Row]:
    _, _, table = text.partition(TABLE)
    rows = csv.reader(line.strip() for line in table.splitlines() if line.strip())
    return {row[5]: (row[0], row[1], row[2], row[3], row[4], row[5]) for row in rows if len(row) == 6}


def page(rows: dict[str, Row]) -> str:
    """Return the whole page."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows(sorted(rows.values(), key=lambda row: (row[0], row[5])))
    return HEAD + TABLE + "".join(f"   {line}\n" for line in text.getvalue().splitlines())


def sentence(nodeid: str) -> str:
    test = nodeid.partition("::")[2].removeprefix("test_")
    return test.replace("_", " ")


_results: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        _results[report.nodeid] = "passed" if report.passed else "failed"
    elif report.failed:
        _results[report.nodeid] = "failed"


def pytest_sessionfinish() -> None:
    if os.environ.get("SMOLMIX_RECORD_INTEROP") != "1":
        return
    rows = read_rows(PAGE.read_text()) if PAGE.exists() else {}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for nodeid, result in _results.items():
        peer = peer_of(nodeid)
        if peer is not None:
            rows[sentence(nodeid)] = (*peer, today, result, sentence(nodeid))
    PAGE.write_text(page(rows))
