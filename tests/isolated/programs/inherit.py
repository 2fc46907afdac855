"""``children="patch"``: Python programs use the tunnel of the process that starts them, others have no network."""

# ruff: noqa: E402 - the order of imports is what is tested
from __future__ import annotations

import os
import subprocess
import sys

import _order

_order.PATCH.__exit__(None, None, None)
port = _order.network(connect_timeout=5)

import smolmix_sync

CHILD = """
import os, socket, subprocess, sys, urllib.request
assert sys.modules["smolmix_sync"].is_patched()
with socket.create_connection(("server.example", 80), timeout=10) as sock:
    sock.sendall(b"who")
    assert sock.recv(100) == b"WHO"
    assert sock.getpeername() == ("198.51.100.2", 80)
assert socket.gethostbyname("server.example") == "198.51.100.2"
import _socket
for captured in (_socket.socket.__mro__[1],):
    try:
        captured(socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        pass
    else:
        sys.exit(8)
if sys.argv[1] == "1":
    grandchild = [sys.executable, "-c", sys.argv[2], "0", ""]
    sys.exit(subprocess.run(grandchild, env={"PYTHONPATH": "/nonexistent"} if os.environ.get("X") else None).returncode)
"""

UNPATCHED = """
import socket, sys
try: socket.create_connection(("198.51.100.2", 80), 5)
except PermissionError: sys.exit(7)
"""


def main() -> None:
    import socket
    import threading

    strict: bool | str = True if len(sys.argv) > 1 and sys.argv[1] == "strict" else "auto"
    with_patch = smolmix_sync.patch_all(children="patch", strict=strict)  # type: ignore[arg-type]
    listener = socket.socket()
    listener.bind((_order.V4, 80))
    listener.listen()

    def serve() -> None:
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(sock.recv(100).upper())

    threading.Thread(target=serve, daemon=True).start()
    for environment in (None, {**os.environ, "PYTHONPATH": "/nonexistent"}, {"PATH": "/bin"}):
        done = subprocess.run([sys.executable, "-c", CHILD, "1", CHILD], env=environment, check=False)
        assert done.returncode == 0, (environment, done.returncode)
    # An interpreter that does not look for sitecustomize, and a program that is not Python.
    assert subprocess.run([sys.executable, "-S", "-c", UNPATCHED], check=False).returncode == 7
    assert os.system("exec 3<>/dev/null") == 0
    if strict == "auto":
        with_patch.__exit__(None, None, None)
        assert "SMOLMIX_INHERIT" not in os.environ
        assert "_inherit" not in os.environ.get("PYTHONPATH", "")
    _order.done()


if __name__ == "__main__":
    main()
