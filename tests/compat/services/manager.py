"""A manager of CPython's multiprocessing: objects in another process that clients call by TCP, with a key."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.servers import free_port, listens, running

_KEY = "correct horse"

_SERVER = """
import queue
import sys
from multiprocessing.managers import BaseManager

class Manager(BaseManager):
    pass

queues = {}
Manager.register("queue_of", lambda name: queues.setdefault(name, queue.Queue()))
Manager((sys.argv[1], int(sys.argv[2])), sys.argv[3].encode()).get_server().serve_forever()
"""


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server with queues by name."""
    port = free_port(address)
    command = [sys.executable, "-c", _SERVER, address, str(port), _KEY]
    with running(command, folder, lambda: listens(address, port)):
        yield {"host": address, "port": port, "password": _KEY, "version": platform.python_version()}
