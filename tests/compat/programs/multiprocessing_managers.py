"""multiprocessing.managers: objects of a remote process, on descriptors that were taken out of their sockets."""

from __future__ import annotations

import threading
import uuid
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from multiprocessing.managers import BaseManager
from typing import Any

LIBRARY = "multiprocessing"
SERVICES = ("manager",)
NO_GEVENT = (
    "it reads descriptors without asking first whether it may, and those of gevent's sockets do not block"
)


class Manager(BaseManager):
    """Knows what the server has."""


Manager.register("queue_of")


def main(services: dict[str, dict[str, Any]]) -> str:
    """Call methods of remote objects, from two threads."""
    server = services["manager"]
    where = (server["host"], server["port"])
    refused = False
    try:
        Client(where, authkey=b"wrong")
    except AuthenticationError:
        refused = True
    assert refused

    manager = Manager(where, server["password"].encode())
    manager.connect()
    queue = manager.queue_of(str(uuid.uuid4()))
    found: list[Any] = []
    # Every thread has a connection of its own.
    thread = threading.Thread(target=lambda: found.append(queue.get(timeout=20)))
    thread.start()
    queue.put({"content": bytes(range(256)) * 40})
    thread.join(20)
    assert found == [{"content": bytes(range(256)) * 40}]
    return "a queue in another process, 10 kB there and back between threads, a wrong key refused"
