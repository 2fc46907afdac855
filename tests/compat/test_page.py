"""The page of the matrix and the programs there are."""

from __future__ import annotations

import ast

import pytest
from compat import page
from compat.catalogue import Program, programs
from compat.serve_all import SERVICES


def test_page_has_a_row_for_every_program_and_no_other() -> None:
    assert page.titles_on_the_page() == page.names(programs())


def test_page_names_no_failure() -> None:
    assert '"NO"' not in page.PAGE.read_text()
    assert "not run" not in page.PAGE.read_text()


@pytest.mark.parametrize("program", programs().values(), ids=lambda program: program.name)
def test_program_is_unmodified(program: Program) -> None:
    text = program.path.read_text()
    assert "smolmix" not in text
    imported = {
        name
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not any(name.startswith("gevent") for name in imported)


def test_every_service_has_a_program() -> None:
    used = {service for program in programs().values() for service in program.services}
    assert used == {path.stem for path in SERVICES.glob("*.py")}
