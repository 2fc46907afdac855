"""What a program does last: unsent data, atexit functions, finalizers, threads that are still at work.

Argument: ``return``, ``SystemExit``, ``SIGTERM``, ``_exit`` or ``error``.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time

import smolmix_sync

smolmix_sync.patch_all()

from attempts import try_all, ways  # noqa: E402


class Last:
    """Asks when it is finalized."""

    def __del__(self) -> None:
        for name, way in ways():
            if name.startswith(("getaddrinfo", "datagram")):
                try:
                    way()
                except Exception:
                    pass


def work() -> None:
    while True:
        try_all()


assert try_all()["web"] == "done"
atexit.register(try_all)
last = Last()
threading.Thread(target=work, daemon=True).start()
sock = socket.create_connection(("198.51.100.10", 9), 20)
sock.sendall(b"x" * 50_000)
sock.close()
print("DONE", flush=True)
way = sys.argv[1]
if way == "SystemExit":
    sys.exit(0)
elif way == "SIGTERM":
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
elif way == "_exit":
    os._exit(0)
elif way == "error":
    raise RuntimeError("the last words")
