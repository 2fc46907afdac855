"""Every row of docs/reliability.rst names tests, and every test that it names exists."""

from __future__ import annotations

import re

import pytest
from support.named_tests import ROOT, missing, named_in

TEXT = (ROOT / "docs" / "reliability.rst").read_text()
ROWS = [re.sub(r"\s+", " ", row) for row in re.split(r"^   \* - ", TEXT, flags=re.M)[1:]]


@pytest.mark.parametrize("row", [row for row in ROWS if not row.startswith("what breaks")])
def test_row_has_tests_and_they_exist(row: str) -> None:
    assert row.count(" - ") >= 4
    assert named_in(row), "nothing shows it"
    assert missing(row) == []


def test_no_test_is_named_outside_the_tables() -> None:
    assert sum(len(named_in(row)) for row in ROWS) == len(named_in(TEXT)) > 30
