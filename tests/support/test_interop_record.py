"""The table of docs/interop.rst is what was run, and older rows stay."""

from __future__ import annotations

from support import interop_record as record


def test_table_is_read_as_it_was_written() -> None:
    rows: dict[str, record.Row] = {
        "a page, fetched": ("nym-node", "1.31.0", "exit", "2026-01-02", "passed", "a page, fetched"),
        'says "no"': ("smolmix", "1.21.6", "client", "2026-01-02", "failed", 'says "no"'),
    }
    assert record.read_rows(record.page(rows)) == rows


def test_page_without_a_table_has_no_rows() -> None:
    assert record.read_rows("Interoperation\n") == {}


def test_page_in_the_repository_is_what_the_recorder_writes() -> None:
    text = record.PAGE.read_text()
    assert record.page(record.read_rows(text)) == text


def test_tests_without_a_peer_are_not_recorded() -> None:
    assert record.peer_of("tests/interop/test_fork.py::test_x") is None
