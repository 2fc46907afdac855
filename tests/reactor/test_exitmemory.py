"""Bad exits are remembered, longer with every failure, and forgotten when they work or after a week."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig
from smolmix_sync.reactor.exitmemory import FIRST, LONGEST, ExitMemory, exit_memory_path

ONE = Recipient(bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32)
OTHER = Recipient(bytes([4]) * 32, bytes([5]) * 32, bytes([6]) * 32)


def test_every_failure_in_a_row_doubles_the_quarantine_up_to_a_day(tmp_path: Path) -> None:
    memory = ExitMemory(tmp_path / "bad.json")
    now, length = 1000.0, FIRST
    for _ in range(4):
        memory.failed(ONE, "silent", now)
        assert memory.quarantined(now + length - 1) == {ONE}
        assert memory.quarantined(now + length) == set()
        now, length = now + length, length * 2
    for _ in range(30):
        memory.failed(ONE, "silent", now)
    assert memory.known(now)[str(ONE)].until == now + LONGEST


def test_another_process_reads_what_one_wrote_and_success_forgets(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "bad.json"
    ExitMemory(path).failed(ONE, "it said nothing", 50.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    later = ExitMemory(path)
    assert later.quarantined(60.0) == {ONE}
    assert later.known(60.0)[str(ONE)].reason == "it said nothing"
    later.worked(ONE, 60.0)
    assert ExitMemory(path).known(60.0) == {}


def test_failures_are_forgotten_a_week_after_the_quarantine(tmp_path: Path) -> None:
    memory = ExitMemory(tmp_path / "bad.json")
    memory.failed(ONE, "dead", 0.0)
    memory.failed(OTHER, "dead", 500_000.0)
    assert set(memory.known(FIRST + 7 * 86400.0)) == {str(OTHER)}


@pytest.mark.parametrize(
    "content",
    ["", "nonsense", "[]", '{"not an address": {}}', json.dumps({str(ONE): {"until": "x"}}), '{"a": 1}'],
)
def test_file_that_does_not_read_is_an_empty_memory(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    memory = ExitMemory(path)
    assert memory.known(0.0) == {}
    memory.failed(ONE, "dead", 0.0)
    assert ExitMemory(path).quarantined(1.0) == {ONE}


def test_memory_is_bounded(tmp_path: Path) -> None:
    memory = ExitMemory(None)
    for number in range(600):
        memory.failed(Recipient(number.to_bytes(32, "big"), bytes(32), bytes(32)), "dead", float(number))
    assert len(memory.known(600.0)) == 500


def test_no_file_for_a_nym_api_on_loopback_or_where_a_device_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert exit_memory_path(TunnelConfig(nym_api=("http://127.0.0.1:8000/",))) is None
    path = exit_memory_path(TunnelConfig())
    assert path is not None
    assert path.parent == tmp_path / "smolmix_sync"
    device = tmp_path / "fifo"
    os.mkfifo(device)
    assert exit_memory_path(TunnelConfig(exit_memory=device)) == device


def test_device_in_place_of_the_file_is_left_alone() -> None:
    memory = ExitMemory(Path("/dev/null"))
    memory.failed(ONE, "dead", 0.0)
    assert Path("/dev/null").is_char_device()
    assert memory.known(1.0).keys() == {str(ONE)}
