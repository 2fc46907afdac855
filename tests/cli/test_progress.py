"""Progress for a person: a line a step; on a terminal a heartbeat changes its line in place; or JSON."""

from __future__ import annotations

import io
import json

import pytest

from smolmix_sync.cli import _common
from smolmix_sync.reactor.report import Progress

STEPS = [
    Progress("topology", "asking the directory", 0.0),
    Progress("exit", "connecting to the exit at X", 0.5),
    Progress("exit", "still connecting to the exit at X (5 s, nothing has come back for 5 s)", 5.5, 5.0),
    Progress("exit", "still connecting to the exit at X (10 s, nothing has come back for 10 s)", 10.5, 10.0),
    Progress("ready", "the tunnel is ready", 11.0),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, as_json: bool = False, end: int = 5
) -> str:
    monkeypatch.setattr(_common.sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "60")
    show = _common.ProgressPrinter(as_json=as_json)
    for step in STEPS[:end]:
        show(step)
    show.finish()
    return stream.getvalue()


def test_in_a_file_every_step_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(io.StringIO(), monkeypatch).splitlines()
    assert len(lines) == 5
    assert lines[1] == "    0.50 s  exit      connecting to the exit at X"
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_a_heartbeat_changes_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(Terminal(), monkeypatch)
    lines = text.split("\n")
    assert len(lines) == 4  # three steps, and what follows the last line's end
    assert lines[1].count("\r\x1b[K") == 2
    assert lines[1].rpartition("\x1b[K")[2].startswith("   10.50 s  exit      still connecting")
    assert all(len(part) < 60 for part in text.replace("\r\x1b[K", "\n").split("\n"))
    assert lines[3] == ""


def test_line_that_is_open_is_ended_before_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(Terminal(), monkeypatch, end=3).endswith("\n")


def test_as_json_every_step_is_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [json.loads(line) for line in shown(Terminal(), monkeypatch, as_json=True).splitlines()]
    assert [step["stage"] for step in told] == ["topology", "exit", "exit", "exit", "ready"]
    assert told[3]["waiting"] == 10.0
