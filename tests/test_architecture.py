"""The import layers: who may import whom, read from the source of every module.

The table below is the rule; ARCHITECTURE.rst explains it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "smolmix_sync"

#: Which layers of the package each layer may import.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "_version": frozenset(),
    "errors": frozenset(),
    "nodeversion": frozenset(),
    "config": frozenset({"errors", "nodeversion"}),
    "crypto": frozenset({"errors"}),
    "address": frozenset({"errors", "crypto"}),
    "netstack": frozenset({"errors"}),
    "ipr": frozenset({"errors", "crypto", "address"}),
    "mixnet": frozenset({"errors", "crypto", "address", "nodeversion"}),
    "reactor": frozenset({"_version", "errors", "config", "crypto", "address", "netstack", "ipr", "mixnet"}),
    "tunnel": frozenset({"errors", "config", "address", "reactor"}),
    "client": frozenset({"errors", "config", "address", "reactor", "tunnel"}),
    # The three drop-ins are one layer: the stdlib's socket module has the names of dns, and all wrap one class.
    "socket": frozenset({"errors", "reactor", "tunnel", "dns"}),
    "ssl": frozenset({"errors", "reactor", "tunnel", "socket"}),
    "dns": frozenset({"errors", "reactor", "tunnel", "socket"}),
    "_audit": frozenset({"errors", "reactor"}),
    "_seccomp": frozenset({"errors", "reactor"}),
    "_children": frozenset({"", "errors", "reactor", "_seccomp"}),
    "_inherit": frozenset({"_children"}),
    "_process_end": frozenset({"reactor"}),
    "monkey": frozenset(
        {"errors", "reactor", "socket", "ssl", "dns", "_audit", "_children", "_process_end", "_seccomp"}
    ),
    "http": frozenset({"", "errors", "socket", "ssl", "tunnel"}),
    "fronts": frozenset({"", "errors", "http", "socket", "tunnel"}),
    "ext": frozenset({"", "daemon", "dns", "errors", "http", "tunnel"}),
    "daemon": frozenset({"", "errors", "reactor"}),
    "localnet": frozenset(
        {"_version", "errors", "config", "crypto", "address", "netstack", "ipr", "mixnet", "reactor", ""}
    ),
    "cli": frozenset({"", "_version", "errors", "config", "daemon", "ext", "fronts", "http", "localnet", "tunnel"}),
    "__main__": frozenset({"cli"}),
    "": frozenset(
        {
            "_version", "errors", "config", "address", "reactor", "tunnel", "client", "socket", "monkey", "http",
            "fronts", "daemon",
        }
    ),
}  # fmt: skip

#: The sans-IO cores take time and randomness as arguments.
CORES = ("netstack", "ipr", "mixnet")
BANNED_IN_CORES = {
    "socket", "ssl", "select", "selectors", "time", "random", "secrets", "os", "threading",
    "gevent", "greenlet", "asyncio", "datetime", "subprocess", "signal",
}  # fmt: skip

#: Third-party cryptography is imported by one module.
CRYPTO_LIBRARIES = {"nacl", "cryptography", "blake3"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        yield ".".join(["smolmix_sync", *parts]), path


def layer_of(module: str) -> str:
    """Return the layer a dotted module name belongs to; '' is the package itself."""
    parts = module.split(".")
    if len(parts) == 1:
        return ""
    if parts[1].startswith("_") and parts[1] not in MAY_IMPORT:
        # A private helper beside a drop-in module carries that module's name: _socket_options -> socket.
        return parts[1].lstrip("_").split("_")[0]
    return parts[1]


def imported_names(module: str, path: Path) -> Iterator[str]:
    """Yield every absolute dotted name a module imports, in functions too, but not under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                skipped.update(ast.walk(child))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            if base == "smolmix_sync":
                for alias in node.names:
                    submodule = PACKAGE / f"{alias.name}.py"
                    subpackage = PACKAGE / alias.name
                    known = submodule.exists() or subpackage.is_dir()
                    yield f"smolmix_sync.{alias.name}" if known else "smolmix_sync"
            else:
                yield base


ALL_MODULES = list(modules())


@pytest.mark.parametrize(("module", "path"), ALL_MODULES, ids=[name for name, _ in ALL_MODULES])
def test_module_imports_only_the_layers_below_it(module: str, path: Path) -> None:
    layer = layer_of(module)
    assert layer in MAY_IMPORT, f"{module}: no layer {layer!r} in the table"
    for name in imported_names(module, path):
        if name.split(".")[0] != "smolmix_sync":
            continue
        target = layer_of(name)
        if target != layer:
            assert target in MAY_IMPORT[layer], (
                f"{module} imports {name}: {layer!r} may not import {target!r}"
            )


@pytest.mark.parametrize(
    ("module", "path"),
    [item for item in ALL_MODULES if layer_of(item[0]) in CORES],
    ids=lambda item: str(item),
)
def test_core_imports_neither_clock_nor_network_nor_randomness(module: str, path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_names(module, path)}
    assert not roots & BANNED_IN_CORES


@pytest.mark.parametrize(("module", "path"), ALL_MODULES, ids=[name for name, _ in ALL_MODULES])
def test_cryptography_is_imported_by_one_module(module: str, path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_names(module, path)}
    if module not in ("smolmix_sync.crypto", "smolmix_sync.localnet.ca"):
        assert not roots & CRYPTO_LIBRARIES


def test_localnet_is_reached_by_the_command_line_alone() -> None:
    for module, path in ALL_MODULES:
        if layer_of(module) in ("cli", "localnet", "__main__"):
            continue
        assert not any(name.startswith("smolmix_sync.localnet") for name in imported_names(module, path)), (
            module
        )


def test_architecture_page_names_every_module() -> None:
    page = (PACKAGE.parent / "ARCHITECTURE.rst").read_text()
    missing = [
        str(path.relative_to(PACKAGE))
        for _, path in ALL_MODULES
        if path.name != "__init__.py" and not re.search(rf"\b{re.escape(path.name)}", page)
    ]
    assert not missing, f"ARCHITECTURE.rst does not draw: {missing}"
