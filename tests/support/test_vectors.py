"""The vector loader itself: counting, skipping by name, and refusing unread sections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import vectors


@pytest.fixture
def other_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMOLMIX_VECTORS", str(tmp_path))
    monkeypatch.setattr(vectors, "reported", [])
    (tmp_path / "a.json").write_text(json.dumps({"about": "x", "one": [1, 2], "two": [{"name": "n"}]}))
    (tmp_path / "b.json").write_text(json.dumps({"generator": "g", "data": [1, 2, 3]}))
    return tmp_path


def test_every_case_of_a_file_is_run_and_counted(other_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[object] = []
    assert vectors.run("a.json", {"one": seen.append, "two": seen.append}) == 3
    assert seen == [1, 2, {"name": "n"}]
    assert "vector cases a.json: 3\n" in capsys.readouterr().out
    assert vectors.run("b.json", {"data": seen.append}) == vectors.count("b.json") == 3


def test_a_section_without_a_check_fails(other_set: Path) -> None:
    with pytest.raises(AssertionError, match="two"):
        vectors.run("a.json", {"one": lambda case: None})


def test_a_missing_section_is_skipped_by_name(other_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {name: (lambda case: None) for name in ("one", "two", "three")}
    assert vectors.run("a.json", nothing) == 3
    assert "a.json three" in capsys.readouterr().out
    with pytest.raises(pytest.skip.Exception, match="three"):
        vectors.cases("a.json", "three")


def test_a_missing_file_is_skipped_by_name(other_set: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"c\.json"):
        vectors.load("c.json")


def test_a_failing_case_is_named(other_set: Path) -> None:
    def fail(case: object) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        vectors.run("a.json", {"two": fail, "one": fail})
    assert caught.value.__notes__ == ["a.json two[0] n"]


def test_the_default_folder_is_the_one_beside_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMOLMIX_VECTORS", raising=False)
    assert vectors.folder() == Path(vectors.__file__).resolve().parents[1] / "vectors"
    assert vectors.unhex({"a": "00ff"}, "a") == [b"\x00\xff"]
