"""The recipe of docs/fail-closed.rst: the program in a namespace without a route, its tunnel in a daemon outside."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smolmix_sync.localnet import LocalNet

ENTER = ("unshare", "--user", "--map-current-user", "--net")


def _may_enter() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ENTER, "true"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.skipif(not _may_enter(), reason="needs user namespaces and the unshare command"),
]

SCRIPT = """
import ctypes, errno, os, struct, subprocess, sys, urllib.request
print(len(urllib.request.urlopen("http://www.localnet/bytes/999", timeout=30).read()))
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.socket(2, 1, 0)  # past every layer that is Python's
address = struct.pack("=HH4s8x", 2, int(sys.argv[1]).to_bytes(2, "big")[0] | int(sys.argv[1]).to_bytes(2, "big")[1] << 8,
                      bytes([127, 0, 0, 1]))
print(fd >= 0, libc.connect(fd, address, 16), errno.errorcode[ctypes.get_errno()])
"""


def test_only_the_daemon_is_reachable_from_a_namespace_without_a_route(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = tmp_path / "daemon.sock"
    with LocalNet(set_default=False) as net, socket.create_server(("127.0.0.1", 0)) as reachable:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
        environment = {**clean, **net.environment()}
        command = [sys.executable, "-m", "smolmix_sync"]
        daemon = subprocess.Popen([*command, "daemon", "--socket", str(path)], env=environment)
        try:
            until = time.monotonic() + 30
            while not path.exists():
                assert daemon.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            done = subprocess.run(
                [*ENTER, *command, "run", "--no-strict", str(script), str(reachable.getsockname()[1])],
                env={**clean, "SMOLMIX_DAEMON": str(path)},
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.stdout.split("\n")[:2] == ["999", "True -1 ENETUNREACH"], done.stdout + done.stderr
        finally:
            daemon.terminate()
            daemon.wait(20)
