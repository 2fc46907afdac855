"""Read the recorded test vectors, from ``$SMOLMIX_VECTORS`` or else from ``tests/vectors``.

A vector file is one JSON document. Its *sections* are the lists at its top level, or directly under
its ``data`` object; a ``data`` that is itself a list is one section called ``data``. The elements of
sections are *cases*. Everything else at these two levels (keys, topologies, notes) is context.

The API, in the order a test uses it::

    from support import vectors

    document = vectors.load("sphinx_surb.json")      # the content: what is under "data" if there is one
    vectors.run("sphinx_surb.json", {                # every case of every section, once
        "cases": check_surb,                         # called as check_surb(case)
        "from_bytes_lengths": check_length,
    })                                               # prints: vector cases sphinx_surb.json: 21

* ``load(file)`` skips the test, by name, when this set of vectors has no such file.
* ``run(file, checks)`` does too. A section that the set lacks is skipped with a line that names it; a
  section of the file that *checks* does not name fails: no case goes unread. The count printed is the
  number of cases that ran, which is then the number of cases in the file. A failing case carries a note
  with its file, section, index and name.
* ``cases(file, section)`` gives one section's list (skips the test if it is missing), ``sections(file)``
  the names, ``count(file)`` the number of cases, for tests that need another shape than ``run``.
* ``unhex(case, "a", "b")`` gives the named hex fields as bytes.

Tests iterate: they know the schema, never a case by name, so that another set with the same schema
runs through the same code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

__all__ = ["cases", "count", "folder", "load", "run", "sections", "unhex"]

Check = Callable[[Any], object]


def folder() -> Path:
    """Return the folder the vectors are read from."""
    chosen = os.environ.get("SMOLMIX_VECTORS")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[1] / "vectors"


@lru_cache(maxsize=4)
def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def load(file: str) -> Any:
    """Return a file's content: its ``data`` if it has one, else the whole document."""
    path = folder() / file
    if not path.is_file():
        pytest.skip(f"vectors: {file} is not in this set")
    document = _read(path)
    return document.get("data", document)


def sections(file: str) -> dict[str, list[Any]]:
    """Return every section of *file* with its cases."""
    content = load(file)
    if isinstance(content, list):
        return {"data": content}
    return {name: value for name, value in content.items() if isinstance(value, list)}


def cases(file: str, section: str = "data") -> list[Any]:
    """Return the cases of one section; skip the test when this set lacks it."""
    found = sections(file)
    if section not in found:
        pytest.skip(f"vectors: {file} has no section {section} in this set")
    return found[section]


def count(file: str) -> int:
    """Return the number of cases in *file*, all sections together."""
    return sum(len(found) for found in sections(file).values())


def unhex(case: Mapping[str, Any], *names: str) -> list[bytes]:
    """Return the named hex fields of *case* as bytes."""
    return [bytes.fromhex(case[name]) for name in names]


def run(file: str, checks: Mapping[str, Check]) -> int:
    """Run every case of *file* through the check of its section, print and return how many ran."""
    found = sections(file)
    unread = sorted(set(found) - set(checks))
    assert not unread, f"{file}: no check for {unread}"
    ran = 0
    for section, check in checks.items():
        if section not in found:
            _report(f"vector section {file} {section}: not in this set, skipped")
            continue
        for index, case in enumerate(found[section]):
            try:
                check(case)
            except BaseException as exc:
                name = case.get("name", "") if isinstance(case, dict) else ""
                exc.add_note(f"{file} {section}[{index}] {name}".rstrip())
                raise
            ran += 1
    assert ran == count(file)
    _report(f"vector cases {file}: {ran}")
    return ran


#: What was run and what was skipped, for the end of the test run (tests/conftest.py prints it).
reported: list[str] = []


def _report(line: str) -> None:
    print(line)
    if line not in reported:
        reported.append(line)
