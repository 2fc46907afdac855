from __future__ import annotations

import subprocess
import sys

import pytest

from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PROGRAM = """
import smolmix_sync
smolmix_sync.patch_all(loopback="mix", listen="mix")
import socket, threading
with socket.create_server(("127.0.0.1", 0)) as server:
    def serve():
        sock, _ = server.accept()
        sock.sendall(sock.recv(100))
        sock.close()
    threading.Thread(target=serve).start()
    with socket.create_connection(server.getsockname(), 20) as sock:
        sock.sendall(b"to myself")
        print(sock.recv(100).decode(), sock.recv(1), type(sock._sock if hasattr(sock, "_sock") else sock).__name__)
with socket.create_connection(("echo.localnet", 7), 30) as sock:
    sock.sendall(b"to another")
    print(sock.recv(100).decode())
"""


def test_loopback_inside_the_tunnels_stack_stands_beside_the_network(net: LocalNet) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"PATH": "/usr/bin:/bin", **net.environment()},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["to myself b'' socket", "to another"]
