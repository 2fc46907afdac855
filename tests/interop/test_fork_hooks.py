"""Hooks of the program around a fork, and what it does at its end, have a network: the parent's, and the child's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PROGRAM = """
import atexit, os, socket, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
first = os.getpid()

def look(name):
    try:
        with socket.create_connection(("echo.localnet", 7), timeout=30) as sock:
            sock.sendall(b"heard")
            told = sock.recv(5).decode()
    except OSError as error:
        told = repr(error)
    os.write(1, f"{'parent' if os.getpid() == first else 'child'}: {name}: {told}\\n".encode())

def hooks(name):
    os.register_at_fork(
        before=lambda: look(f"{name} before"),
        after_in_parent=lambda: look(f"{name} after"),
        after_in_child=lambda: look(f"{name} after"),
    )

hooks("first")
atexit.register(look, "first at the end")
import smolmix_sync
smolmix_sync.patch_all()
atexit.register(look, "second at the end")
hooks("second")
look("here")
child = os.fork()
if child == 0:
    sys.exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_hooks_of_a_fork_and_of_the_end_use_the_tunnel_of_their_process() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    with LocalNet(set_default=False) as net:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**clean, **net.environment()},
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
    told: dict[str, list[str]] = {"parent": [], "child": []}
    for line in done.stdout.splitlines():
        who, what, how = line.split(": ")
        told[who].append(what)
        assert how == "heard", done.stdout
    ends = ["second at the end", "first at the end"]
    assert told == {
        "parent": ["here", "second before", "first before", "first after", "second after", *ends],
        "child": ["first after", "second after", *ends],
    }
    assert (done.returncode, done.stderr) == (7, "")
