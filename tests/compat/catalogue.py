"""The programs of the matrix: what each file under ``programs`` says of itself, read without running it.

Constants that a program may have, all of them literals:

``SERVICES``
    names of files under ``services`` whose details its ``main`` is given.
``LIBRARY``
    the distribution's name, where the file's name is not it.
``DEBIAN``
    the Debian package's name, for a program that is not Python.
``EXPECT = "refused"``
    it must fail; ``REFUSAL`` is a pattern of what it says, by default that of a ``LeakBlocked``.
``NEEDS_FORWARD``
    how it works all the same: ``service`` and ``port`` (the key of the port among the service's details) say where
    ``smolmix_sync.forward`` leads, ``path`` names an AF_UNIX socket in place of a port, ``allow`` is for ``patch_all``,
    ``blocks`` says that it holds its thread in C (with gevent it is called in gevent's pool of threads).
    The program finds the forwarder as ``services[service]["forwarded"]``: ``{"address": ..., "port": ...}``.
``NO_GEVENT``
    why gevent itself cannot run it; the matrix checks that it fails with gevent alone.
``NOTE``
    a sentence for the page.
"""

from __future__ import annotations

import ast
import importlib.metadata
import platform
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.servers import is_installed

__all__ = ["ORDERS", "Program", "programs"]

HERE = Path(__file__).parent
#: How a service asks for a program that is not Python.
_PROGRAM = re.compile(r'find_program\("([\w-]+)"\)')

#: gevent or not; the library imported before ``patch_all()`` or after it.
ORDERS = ("after", "before", "gevent-after", "gevent-before")

#: The port of 127.0.0.1 on which ``forward`` listens, by order: these frames of the loopback interface are not leaks.
FORWARD_PORTS = {order: 15432 + number for number, order in enumerate(ORDERS)}


@dataclass(frozen=True)
class Program:
    """One file under ``programs``."""

    name: str
    path: Path
    services: tuple[str, ...] = ()
    library: str = ""
    debian: str = ""
    refused: bool = False
    refusal: str = "LeakBlocked"
    forward: dict[str, Any] = field(default_factory=dict)
    no_gevent: str = ""
    note: str = ""

    @property
    def ways(self) -> tuple[str, ...]:
        """``direct``, and ``forward`` where there is such a way."""
        return ("direct", "forward") if self.forward else ("direct",)

    def missing(self) -> list[str]:
        """Return the programs that this machine lacks: those its services run, and its own."""
        needed = {self.debian} - {""}
        for service in self.services:
            needed.update(_PROGRAM.findall((HERE / "services" / f"{service}.py").read_text()))
        return sorted(name for name in needed if not is_installed(name))

    def version(self) -> str:
        """Return the version that is installed."""
        if self.debian:
            command = ["dpkg-query", "-W", "-f", "${Version}", self.debian]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        try:
            return importlib.metadata.version(self.library)
        except importlib.metadata.PackageNotFoundError:
            return f"of CPython {platform.python_version()}"


def read(path: Path) -> Program:
    """Return what the file says of itself."""
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper():
                try:
                    found[name] = ast.literal_eval(node.value)
                except ValueError:
                    continue
    return Program(
        path.stem, path, tuple(found.get("SERVICES", ())), found.get("LIBRARY", path.stem),
        found.get("DEBIAN", ""), found.get("EXPECT") == "refused", found.get("REFUSAL", "LeakBlocked"),
        found.get("NEEDS_FORWARD", {}), found.get("NO_GEVENT", ""), found.get("NOTE", ""),
    )  # fmt: skip


def programs() -> dict[str, Program]:
    """Return every program by name."""
    return {path.stem: read(path) for path in sorted((HERE / "programs").glob("*.py"))}
