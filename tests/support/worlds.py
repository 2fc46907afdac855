"""One program over two kinds of sockets: the kernel's on loopback, and ours over a stack that is its own network."""

from __future__ import annotations

import socket as stdlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.loopnet import V4, V6

from smolmix_sync.socket import MixSocket

#: No call of a test may take longer.
LIMIT = 10.0


class World:
    """One kind of socket and the address it lives on."""

    def __init__(self, name: str, cls: Any, host: str, host6: str) -> None:
        self.name = name
        self.socket = cls
        self.host = host
        self.host6 = host6
        self.opened: list[Any] = []

    def tcp(self, family: int = stdlib.AF_INET) -> Any:
        return self._keep(self.socket(family, stdlib.SOCK_STREAM))

    def udp(self, family: int = stdlib.AF_INET) -> Any:
        return self._keep(self.socket(family, stdlib.SOCK_DGRAM))

    def _keep(self, sock: Any) -> Any:
        sock.settimeout(LIMIT)
        self.opened.append(sock)
        return sock

    def listener(self, backlog: int = 16) -> Any:
        sock = self.tcp()
        sock.bind((self.host, 0))
        sock.listen(backlog)
        return sock

    def pair(self) -> tuple[Any, Any]:
        """Return a connected client and server."""
        listener = self.listener()
        client = self.tcp()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        listener.close()
        self._keep(server)
        return client, server

    def udp_pair(self) -> tuple[Any, Any]:
        one, two = self.udp(), self.udp()
        one.bind((self.host, 0))
        two.bind((self.host, 0))
        return one, two

    def closed_port(self) -> int:
        sock = self.listener()
        port: int = sock.getsockname()[1]
        sock.close()
        return port


def make_world(name: str) -> World:
    """Return the kernel's world, or ours ("mix"), which needs a ``loopnet``."""
    if name == "kernel":
        return World("kernel", stdlib.socket, "127.0.0.1", "::1")
    return World("mix", MixSocket, V4, V6)


def read_all(sock: Any) -> bytes:
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def errno_of(action: Callable[[], Any]) -> int:
    with pytest.raises(OSError) as caught:
        action()
    assert caught.value.errno is not None
    return caught.value.errno


def wait_for(condition: Callable[[], Any], limit: float = LIMIT) -> None:
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, "condition did not come true in time"
        time.sleep(0.005)
