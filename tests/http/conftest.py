"""A server that does what a test tells it, and a tunnel that leads there without a mixnet."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from smolmix_sync.http import close_idle
from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel


class DirectTunnel:
    """The face that fetch needs, over kernel sockets to one port of this machine."""

    def __init__(self, port: int) -> None:
        self.config = SimpleNamespace(connect_timeout=5.0, max_redirects=5)
        self.port = port
        self.addresses = ["198.51.100.1"]
        self.dialled: list[tuple[str, int]] = []
        self.asked: list[str] = []
        self.callbacks: list[Callable[..., object]] = []

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None: ...

    def on_state(self, callback: Callable[..., object]) -> None:
        self.callbacks.append(callback)

    def resolve(self, host: str, family: int = 0, timeout: float | None = None) -> list[str]:
        self.asked.append(host)
        return [host] if ":" in host or host[0].isdigit() else self.addresses

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> socket.socket:
        self.dialled.append(address)
        return socket.create_connection(("127.0.0.1", self.port), timeout)


class Server:
    """Gives its n-th connection to its n-th handler; the last one serves all that follow."""

    def __init__(self, *handlers: Callable[[socket.socket], object]) -> None:
        self._handlers = list(handlers)
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            handler = self._handlers[min(self.connections, len(self._handlers) - 1)]
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(handler, sock), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, handler: Callable[[socket.socket], object], sock: socket.socket) -> None:
        sock.settimeout(10)
        with contextlib.suppress(OSError), contextlib.closing(sock):
            handler(sock)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._threads):
            thread.join(10)

    def request(self, sock: Any) -> bytes:
        """Read one request, body included; remember and return it."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            if not piece:
                raise OSError("client left")
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"content-length" in fields:
            while len(body) < int(fields[b"content-length"]):
                body += sock.recv(65536)
        elif b"transfer-encoding" in fields:
            while not body.endswith(b"0\r\n\r\n"):
                body += sock.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return self.requests[-1]

    def answers(self, *answers: bytes, then_wait: bool = True) -> Callable[[Any], None]:
        """Return a handler that answers so many requests and then waits for the client to leave."""

        def handler(sock: Any) -> None:
            for answer in answers:
                self.request(sock)
                sock.sendall(answer)
            if then_wait:
                sock.recv(1)

        return handler


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Server, Any]]]:
    servers: list[Server] = []
    tunnels: list[Any] = []

    def start(*handlers: Callable[[Server], Callable[[Any], object]]) -> tuple[Server, Any]:
        server = Server()
        server._handlers = [make(server) for make in handlers]
        tunnel = DirectTunnel(server.port)
        servers.append(server)
        tunnels.append(tunnel)
        return server, tunnel

    yield start
    for tunnel in tunnels:
        close_idle(tunnel)
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.fixture(scope="session")
def tunnel(net: LocalNet) -> Iterator[Tunnel]:
    with Tunnel(**net.client_settings()) as tunnel:
        yield tunnel
