"""The README's blocks do what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.rst").read_text()

PYTHON_BLOCKS = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README)
SHELL_LINES = [
    line.strip() for block in re.findall(r"::\n\n((?:    .*\n|\n)+)", README) for line in block.splitlines()
]


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=range(len(PYTHON_BLOCKS)))
def test_python_block_runs_as_printed(block: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(block)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_commands_of_the_readme_exist() -> None:
    from smolmix_sync.cli import _COMMANDS

    named = set(re.findall(r"smolmix-sync ([a-z]+)", README))
    assert named == set(_COMMANDS)


def test_test_command_of_the_readme_is_what_ci_runs() -> None:
    command = next(line for line in SHELL_LINES if line.endswith("pytest"))
    steps = [shlex.split(step) for step in command.split("&&")]
    assert steps == [
        ["python3", "-m", "venv", ".venv"],
        [".venv/bin/pip", "install", ".[test]"],
        [".venv/bin/pytest"],
    ]
    script = (ROOT / ".ci" / "run").read_text()
    assert "-m venv" in script
    assert "[test,lint]" in script
    assert "bin/pytest" in script


def test_legacy_script_in_the_package_is_the_example() -> None:
    shipped = (ROOT / "smolmix_sync" / "cli" / "legacy_script.py").read_text()
    assert shipped == (ROOT / "examples" / "legacy_script.py").read_text()
    assert "smolmix" not in shipped
