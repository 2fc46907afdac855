"""``docs/compatibility.rst``, written by the matrix when ``SMOLMIX_RECORD_COMPATIBILITY=1``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compat.catalogue import ORDERS, Program

from smolmix_sync._audit import C_LIBRARIES

__all__ = ["PAGE", "names", "rows", "title", "write"]

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.rst"

HEAD = """Compatibility
=============

Unmodified programs against real servers behind localnet's exit, each in a process of its own after
``smolmix_sync.patch_all()`` as it is by default. The table is written by the run itself; nobody edits it.

The four columns are the orders: with gevent's patch or without, and the library imported after ``patch_all()`` or
before it. With gevent, other greenlets had their turns meanwhile. While the matrix ran, in a network namespace where
the entry gateway and the directory are all that can be reached, every frame on every interface was counted: those to
anybody else, queries for names included, were none. The tunnels had the profile ``no-cover``, for the time that it takes.

::

    pytest tests/compat                                                     # two orders of each
    SMOLMIX_RECORD_COMPATIBILITY=1 pytest -m "long or not long" tests/compat  # all, and this page

"""

TABLE = """.. csv-table::
   :header: Library, Version, Server, "after", "before", "gevent, after", "gevent, before", What was done
   :widths: 14, 9, 16, 7, 7, 7, 7, 33

"""

MIDDLE = """
Notes
-----

"""

REFUSED = """
Refused
-------

C libraries with sockets of their own raise ``LeakBlocked``: at their import after ``patch_all()``, or in
``patch_all()`` if they were imported before (of uvloop, aiodns and pycares the use is refused then). What there is in
their place:

.. csv-table::
   :header: Module, In its place
   :widths: 30, 70

"""

END = """
``smolmix_sync.forward()`` carries the others: the rows "through forward" above are the same programs with one line
more, and ``patch_all(allow=("the module",))``. :doc:`fail-closed` has it in full.

Programs that are started (``subprocess``, ``os.system``) get no internet sockets; ``curl`` above stands for them. With
``children="patch"`` Python programs among them are patched as well.
"""

Row = tuple[str, ...]

#: What a server is called whose service says nothing of it.
SERVERS = {
    "dovecot": "Dovecot", "ftp": "vsftpd", "ldap": "OpenLDAP", "mariadb": "MariaDB", "postgresql": "PostgreSQL",
    "redis": "Redis", "smtp": "aiosmtpd", "ssh": "OpenSSH", "manager": "multiprocessing of CPython",
}  # fmt: skip


def title(program: Program, way: str) -> str:
    """Return what the page calls one row."""
    return program.library if way == "direct" else f"{program.library} through forward"


def names(programs: Mapping[str, Program]) -> list[str]:
    """Return the titles of all rows, in their order."""
    return [title(program, way) for program in in_order(programs) for way in program.ways]


def in_order(programs: Mapping[str, Program]) -> list[Program]:
    return sorted(programs.values(), key=lambda program: program.library.lower())


def rows(
    programs: Mapping[str, Program],
    told: Mapping[tuple[str, str, str], Mapping[str, Any]],
    services: Mapping[str, Mapping[str, Any]],
) -> list[Row]:
    """Return the table: one row for every program and way that was run."""
    found = []
    for program in in_order(programs):
        for way in program.ways:
            cells = [told.get((program.name, way, order)) for order in ORDERS]
            if not any(cells):
                continue
            did = {str(cell["did"]) for cell in cells if cell is not None and "did" in cell}
            server = ", ".join(describe(name, services[name]) for name in program.services)
            words = [_cell(program, way, order, cell) for order, cell in zip(ORDERS, cells, strict=True)]
            text = "; ".join(sorted(did)) or "refused"
            found.append((title(program, way), program.version(), server, *words, text))
    return found


def describe(name: str, service: Mapping[str, Any]) -> str:
    """Return a server's name and version."""
    return f"{service.get('server', SERVERS.get(name, name))} {service.get('version', '')}".strip()


def _cell(program: Program, way: str, order: str, told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "not run"
    if "did" in told:
        return "yes"
    if program.refused and way == "direct":
        return "refused"
    if program.no_gevent and order.startswith("gevent"):
        return "no: gevent"
    return "NO"


def _csv(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return "".join(f"   {line}\n" for line in text.getvalue().splitlines())


def write(found: Iterable[Row], programs: Mapping[str, Program]) -> None:
    """Write the page."""
    notes = [
        f"* **{program.library}**: {' '.join(filter(None, (program.no_gevent, program.note)))}\n"
        for program in in_order(programs)
        if program.no_gevent or program.note
    ]
    text = HEAD + TABLE + _csv(found)
    if notes:
        text += MIDDLE + "".join(notes)
    text += REFUSED + _csv((f"``{name}``", instead) for name, instead in sorted(C_LIBRARIES.items())) + END
    PAGE.write_text(text)


def titles_on_the_page() -> list[str]:
    """Return the first column of the page's first table."""
    _, _, table = PAGE.read_text().partition(TABLE)
    table = re.split(r"\n\n", table)[0]
    return [row[0] for row in csv.reader(line.strip() for line in table.splitlines())]
