"""While the entry gateway is down nothing works, before the tunnel was ever up and after; then all works again.

Says ``down`` when it has tried everything, and goes on when a line is typed in.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

import smolmix_sync

smolmix_sync.patch_all()

from attempts import try_all  # noqa: E402

began_up = sys.argv[1] == "up"
if began_up:
    assert try_all()["web"] == "done"
    sock = socket.create_connection(("echo.localnet", 7), 20)
    sock.sendall(b"x")
    assert sock.recv(10) == b"x"
    print("up", flush=True)
    sys.stdin.readline()
ended = try_all()
assert ended["web"] != "done", ended
print("down", flush=True)
sys.stdin.readline()
# Reconnecting: threads ask while the tunnel is on its way.
results: list[str] = []


def ask() -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if try_all(few=True)["web"] == "done":
            results.append("done")
            return
        time.sleep(0.2)


threads = [threading.Thread(target=ask) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert results == ["done"] * 3, results
print("DONE", flush=True)
