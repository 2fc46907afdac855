"""The relay on kernel sockets: ends, back-pressure and resets pass through."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from smolmix_sync.fronts.relay import abort, relay


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    one.settimeout(10)
    return one, two


class Line:
    """A client and a server with a relay between them."""

    def __init__(self, **options: Any) -> None:
        self.client, one = tcp_pair()
        self.server, two = tcp_pair()
        self.server.settimeout(10)
        self.carried: tuple[int, int] | None = None

        def run() -> None:
            self.carried = relay(one, two, **options)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def end(self) -> tuple[int, int]:
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.carried is not None
        return self.carried


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.client.close()
    line.server.close()
    line.thread.join(10)


def test_a_half_close_passes_and_the_other_direction_goes_on(line: Line) -> None:
    line.client.sendall(b"question")
    line.client.shutdown(socket.SHUT_WR)
    assert line.server.recv(100) == b"question"
    assert line.server.recv(100) == b""
    line.server.sendall(b"answer")
    assert line.client.recv(100) == b"answer"
    line.server.close()
    assert line.client.recv(100) == b""
    assert line.end() == (8, 6)


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_reset_passes(line: Line, half_closed: bool) -> None:
    line.client.sendall(b"x")
    assert line.server.recv(1) == b"x"
    if half_closed:
        line.client.shutdown(socket.SHUT_WR)
        assert line.server.recv(1) == b""
        abort(line.client)
        line.end()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            line.server.sendall(b"to nobody")
    else:
        abort(line.server)
        with pytest.raises(ConnectionResetError):
            line.client.recv(1)
    line.end()


def test_a_reader_that_stalls_stalls_the_writer(line: Line) -> None:
    line.server.setblocking(False)
    sent = 0
    line.server.settimeout(1)
    with pytest.raises(TimeoutError):
        while True:
            sent += line.server.send(b"x" * 65536)
            assert sent < 64 << 20
    line.server.shutdown(socket.SHUT_WR)
    received = 0
    while data := line.client.recv(1 << 20):
        received += len(data)
    assert received == sent


def test_large_transfers_both_ways_at_once(line: Line) -> None:
    blob = bytes(range(256)) * 8192

    def talk(sock: socket.socket, result: list[bytes]) -> None:
        writer = threading.Thread(
            target=lambda: (sock.sendall(blob), sock.shutdown(socket.SHUT_WR)), daemon=True
        )
        writer.start()
        pieces = []
        while data := sock.recv(1 << 16):
            pieces.append(data)
        writer.join(10)
        result.append(b"".join(pieces))

    results: list[bytes] = []
    threads = [
        threading.Thread(target=talk, args=(sock, results), daemon=True)
        for sock in (line.client, line.server)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [blob, blob]
    assert line.end() == (len(blob), len(blob))


def test_idle_and_stopped_relays_reset_both() -> None:
    for options in ({"idle": 0.01}, {"stopped": lambda: True}):
        line = Line(**options)
        if "stopped" in options:
            line.client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            line.server.recv(1)
        line.end()
        line.client.close()
        line.server.close()
