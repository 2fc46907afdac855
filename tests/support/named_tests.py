"""Tests that a page of the manual names, as ``tests/path.py::test_name`` between double backquotes."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def named_in(text: str) -> list[tuple[str, str]]:
    """Return path and name of every test that *text* names."""
    return re.findall(r"``(tests/[\w/]+\.py)::(\w+)``", text)


@lru_cache
def functions(path: str) -> frozenset[str]:
    """Return the names of the functions in a file of the tree."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def missing(text: str) -> list[tuple[str, str]]:
    """Return the tests that *text* names and that do not exist."""
    return [
        (path, name)
        for path, name in named_in(text)
        if not name.startswith("test_") or not (ROOT / path).exists() or name not in functions(path)
    ]
