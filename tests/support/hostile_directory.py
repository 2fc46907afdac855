"""A nym-api that means harm: its JSON twisted before it is read, and raw answers on the wire."""

from __future__ import annotations

import copy
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from smolmix_sync.mixnet.topology.fetch import Directory, DirectoryFetch

__all__ = ["Bodies", "RawServer", "honest_bodies", "trickle"]

Bodies = dict[str, Any]


def honest_bodies(url: str) -> Bodies:
    """Return what a nym-api says to every question of a client, as JSON values by path without the query."""
    bodies: Bodies = {}
    fetch = DirectoryFetch()
    for path in fetch.pending():
        with urllib.request.urlopen(f"{url.rstrip('/')}/{path}", timeout=10) as answer:
            bodies[path.partition("?")[0]] = json.load(answer)
    return bodies


def read(bodies: Bodies, *, rounds: int = 50) -> Directory:
    """Have a client's machine read *bodies*, every page the same."""
    fetch = DirectoryFetch()
    for _ in range(rounds):
        pending = fetch.pending()
        if not pending:
            return fetch.result()
        for path in pending:
            body = bodies[path.partition("?")[0]]
            octets = body if isinstance(body, bytes) else json.dumps(body).encode()
            fetch.receive_untrusted(path, octets, "application/json")
    raise AssertionError("the questions do not end")


def twisted(bodies: Bodies, twist: Callable[[Bodies], object]) -> Bodies:
    """Return a copy of *bodies*, changed."""
    changed = copy.deepcopy(bodies)
    twist(changed)
    return changed


def trickle(sock: socket.socket, data: bytes, pause: float, seconds: float) -> None:
    """Send octet by octet."""
    until = time.monotonic() + seconds
    for octet in data:
        if time.monotonic() > until:
            return
        sock.sendall(bytes((octet,)))
        time.sleep(pause)


class RawServer:
    """An HTTP server whose answers are octets: ``with RawServer(answer) as one: one.url``.

    Args:
        answer: called in a thread of its own with (socket, request line) once the request's headers are there.

    Attributes:
        requests: the requests so far, headers included.
    """

    def __init__(self, answer: Callable[[socket.socket, str], object]) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api/"
        self._stop = False
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RawServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(5)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _run(self) -> None:
        while not self._stop:
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(3)
        with sock:
            try:
                request = b""
                while b"\r\n\r\n" not in request:
                    data = sock.recv(65536)
                    if not data:
                        return
                    request += data
                self.requests.append(request)
                self._answer(sock, request.split(b"\r\n")[0].decode())
            except OSError:
                pass
