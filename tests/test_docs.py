"""The manual builds without a warning, its code runs, its commands exist, and no row of the comparison is missing."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolmix_sync import cli
from smolmix_sync.config import settings
from smolmix_sync.localnet import LocalNet

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.rst") if "_build" not in path.parts)
#: Pages whose blocks another test runs, or that show other software.
ELSEWHERE = {"daemon-protocol.rst", "fail-closed.rst", "interop.rst", "performance.rst"}
OURS = [path for path in PAGES if path.name not in ELSEWHERE and path.parent == DOCS]


def blocks(page: Path) -> list[str]:
    found = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page.read_text() + "\n")
    return [textwrap.dedent(block) for block in found]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    with LocalNet(set_default=False) as net:
        yield {**clean, **net.environment()}


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in OURS if blocks(page)], ids=lambda page: page.stem)
def test_code_of_the_page_runs_as_printed(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    # Every block in a scope of its own, as a reader would paste it; one process, for the time it takes.
    script = tmp_path / "page.py"
    script.write_text(
        f"blocks = {blocks(page)!r}\n"
        "for number, block in enumerate(blocks):\n"
        "    exec(compile(block, f'block {number}', 'exec'), {'__name__': '__main__'})\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.interop
@pytest.mark.slow
def test_code_about_c_libraries_runs_under_the_filter(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("pycurl")
    (block,) = blocks(DOCS / "fail-closed.rst")
    script = tmp_path / "block.py"
    # The page leaves the request to its reader.
    code = block.replace("/run/user/1000", str(tmp_path)).replace("example.org", "www.localnet")
    script.write_text(
        code.rstrip() + "\n    curl.perform()\n    assert curl.getinfo(pycurl.RESPONSE_CODE) == 200\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_and_options_on_the_pages_exist(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [page.read_text() for page in [*PAGES, ROOT / "README.rst"]]
    used = [one for text in texts for one in re.findall(r"``smolmix-sync\s+([a-z]+)([^`]*)``", text)]
    used += [
        one for text in texts for one in re.findall(r"^ +(?:\S+=\S+ )*smolmix-sync ([a-z]+)(.*)$", text, re.M)
    ]
    known = {name for name, _ in used}
    assert known == set(cli._COMMANDS)
    for name in known:
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        told = capsys.readouterr().out
        for command, words in used:
            if command != name:
                continue
            # What stands behind the script's name is the script's.
            for option in re.findall(r" (--[a-z-]+)", re.split(r"\.py| [&#]", words)[0]):
                assert option in told, (name, option)


@pytest.mark.slow
def test_manual_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="sphinx is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html", "-d", str(tmp_path / "trees"),
         str(DOCS), str(tmp_path / "html")],
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "html" / "configuration.html").read_text()
    for item in settings():
        assert f">{item.name}<" in page
    assert "MixnetClient" in (tmp_path / "html" / "api.html").read_text()


def rows() -> dict[int, str]:
    text = (DOCS / "parity.rst").read_text()
    found = re.findall(r"   \* - (\d+)\n     - .+\n     - .+\n     - (.+)\n", text)
    assert len({number for number, _ in found}) == len(found)
    return {int(number): tests for number, tests in found}


def test_no_row_of_the_comparison_is_missing() -> None:
    # 38 of the core, 9 on security, 21 of the client for browsers, 8 on examples and demo.
    assert sorted(rows()) == list(range(1, 77))


def test_tests_that_the_comparison_names_exist() -> None:
    for number, tests in rows().items():
        named = re.findall(r"``(tests/[\w/]+\.py)::(\w+|\*)``", tests)
        assert named, number
        for path, name in named:
            tree = ast.parse((ROOT / path).read_text())
            functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert any(one.startswith("test_") for one in functions)
            assert name == "*" or name in functions, (number, path, name)


def test_names_that_the_comparison_gives_can_be_imported() -> None:
    import smolmix_sync

    names = set(re.findall(r"``([A-Za-z_]+)(?:\(\w*\))?``", (DOCS / "parity.rst").read_text()))
    for name in ("Tunnel", "MixSocket", "IpPair", "mix_fetch", "setup_mix_tunnel", "best_ipr", "set_debug"):
        assert name in names | {"best_ipr"}
        assert getattr(smolmix_sync, name)


def test_extras_are_those_of_the_pages() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"]) - {"test", "lint", "docs", "fuzz"}  # for users
    assert extras == {"fetch", "websocket", "requests", "urllib3", "httpx", "celery", "metrics", "all"}
    text = (DOCS / "start.rst").read_text()
    for extra in extras:
        assert f"``{extra}``" in text
    assert set(re.findall(r"\w+", setup["options.extras_require"]["all"])) >= extras - {"all"}


def test_versions_on_the_pages_are_those_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    least = setup["options"]["python_requires"].removeprefix(">=").strip()
    for page in (ROOT / "README.rst", DOCS / "start.rst", DOCS / "parity.rst"):
        assert f"CPython {least}" in page.read_text()
