"""A gateway that means harm: its half of a session as a machine that can be told to lie, and a real one meddled with.

:class:`Meeting` joins a client core with an honest server core in virtual time, up to the step at which the lie is told.
:class:`Meddler` stands between a tunnel and a localnet's gateway, reads websocket frames and adds its own.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from support.api_relay import ApiRelay

from smolmix_sync.crypto import ed25519_public_from_seed
from smolmix_sync.mixnet.gateway import (
    ClientSettings,
    ClientState,
    ClientTable,
    GatewayClient,
    GatewayServerSession,
)

__all__ = ["CLIENT_SEED", "NOON", "Connection", "Meddler", "Meeting", "RelayOfMeddler", "frame", "texts_of"]

NOON = 1_763_726_400.0
CLIENT_SEED = bytes(range(100, 132))
GATEWAY_SEED = bytes(range(32))
#: More than any message of the protocol; a client that collects this much was made to.
LARGE = 1 << 17


class Meeting:
    """A client and a gateway at one step of a session; the test is the gateway from there on."""

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        self.urandom = random.Random(seed).randbytes
        self.now = 10.0
        self.table = ClientTable()
        self.server = GatewayServerSession(GATEWAY_SEED, self.table, urandom=self.urandom)
        self.client = GatewayClient(
            CLIENT_SEED,
            ed25519_public_from_seed(GATEWAY_SEED),
            urandom=self.urandom,
            settings=ClientSettings(max_events=1000, **settings),
        )
        self.events: list[Any] = []
        self.sent: list[str | bytes] = []
        self.server.start(self.now, NOON)
        self.client.start(self.now, NOON)

    def until(self, state: ClientState, after: int = 0) -> Meeting:
        """Let both be honest until the client is in *state* and has sent *after* messages in it."""
        count = 0
        for _ in range(100):
            if self.client.state is state and count >= after:
                return self
            count += self.client.state is state
            for data in self.take():
                self.server.receive_data(data, self.now)
            while self.server.next_event() is not None:
                pass
            for message in self.server.data_to_send(self.now):
                self.client.receive_data(message, self.now)
                self.drain()
                if self.client.state is state and count >= after:
                    return self
        raise AssertionError(f"the client did not come to {state}: {self.client.state}")

    def take(self) -> list[str | bytes]:
        """Return what the client sends now."""
        out = self.client.data_to_send(self.now)
        self.sent += out
        return out

    def drain(self) -> None:
        """Take the client's events."""
        while (event := self.client.next_event()) is not None:
            self.events.append(event)

    def tell(self, *messages: Any, drain: bool = True) -> None:
        """Say something; what is no str or bytes goes as JSON."""
        for message in messages:
            data = message if isinstance(message, str | bytes) else json.dumps(message)
            self.client.receive_data(data, self.now)
            if drain:
                self.drain()
                self.take()

    def advance(self, seconds: float) -> None:
        """Let time pass; no deadline may stay in the past."""
        end = self.now + seconds
        while (due := self.client.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.client.handle_deadline(self.now)
            left = self.client.next_deadline()
            assert left is None or left > self.now
            self.drain()
            self.take()
        self.now = end


# --- the wire ---


def frame(opcode: int, payload: bytes, *, fin: bool = True, length: int | None = None) -> bytes:
    """Return a websocket frame of a server, with a length that need not be true."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        return head + bytes([size]) + payload
    if size < 65536:
        return head + b"\x7e" + size.to_bytes(2, "big") + payload
    return head + b"\x7f" + size.to_bytes(8, "big") + payload


def texts_of(payloads: list[tuple[int, bytes]]) -> list[str]:
    """Return the text messages of what a client sent."""
    return [payload.decode() for opcode, payload in payloads if opcode == 1]


class Connection:
    """One connection of a client, seen by the meddler."""

    def __init__(self, meddler: Meddler, client: socket.socket, upstream: socket.socket | None) -> None:
        self.meddler = meddler
        self.client = client
        self.upstream = upstream
        self.request = b""
        self.answered = False
        self.frames = 0
        self.pushed: list[bytes] = []
        self.state: dict[str, Any] = {}
        self._down = b""
        self.open = True

    def say(self, data: bytes) -> None:
        """Send raw octets to the client; False attacks end with its patience."""
        try:
            self.client.sendall(data)
        except OSError:
            self.close()

    def close(self) -> None:
        self.open = False

    def turn(self, ready: list[Any]) -> None:
        try:
            if self.client in ready:
                self._from_client(self.client.recv(65536))
            if self.open and self.upstream is not None and self.upstream in ready:
                self._from_gateway(self.upstream.recv(65536))
        except OSError:
            self.close()

    def _from_client(self, data: bytes) -> None:
        if not data:
            self.close()
            return
        if b"\r\n\r\n" not in self.request:
            self.request += data
            if b"\r\n\r\n" in self.request and self.meddler.on_request is not None:
                self.meddler.on_request(self)
        if self.upstream is not None and self.open:
            self.upstream.sendall(data)

    def _from_gateway(self, data: bytes) -> None:
        if not data:
            self.close()
            return
        self._down += data
        if not self.answered:
            head, found, rest = self._down.partition(b"\r\n\r\n")
            if not found:
                return
            self.answered = True
            self.say(head + found)
            self._down = rest
        for whole, opcode, payload in self._frames():
            self.frames += 1
            if opcode == 2:
                self.pushed.append(whole)
                del self.pushed[:-64]
            behaviour = self.meddler.on_frame
            out = [whole] if behaviour is None else behaviour(self, whole, opcode, payload)
            if out and self.open:
                self.say(b"".join(out))

    def _frames(self) -> Iterator[tuple[bytes, int, bytes]]:
        while len(self._down) >= 2:
            size, at = self._down[1] & 127, 2
            if size == 126:
                size, at = int.from_bytes(self._down[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(self._down[2:10], "big"), 10
            if len(self._down) < at + size:
                return
            whole = self._down[: at + size]
            self._down = self._down[at + size :]
            yield whole, whole[0] & 15, whole[at:]


class Meddler:
    """Stands in front of a gateway: ``with Meddler(host, port) as one: one.port``.

    Attributes:
        on_request: called with the connection when its upgrade request is complete; with *upstream* None it answers.
        on_frame: called with (connection, frame, opcode, payload) of the gateway; returns the frames to pass on.
    """

    def __init__(self, upstream: tuple[str, int] | None) -> None:
        self.upstream = upstream
        self.on_request: Callable[[Connection], object] | None = None
        self.on_frame: Callable[[Connection, bytes, int, bytes], list[bytes]] | None = None
        self.connections: list[Connection] = []
        self._jobs: list[Callable[[], object]] = []
        self._stop = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Meddler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(10)
        self._listener.close()
        for one in self.connections:
            self._end(one)

    @property
    def live(self) -> list[Connection]:
        return [one for one in self.connections if one.open]

    def say(self, data: bytes) -> None:
        """Send raw octets on every live connection, in the meddler's own time."""
        self._jobs.append(lambda: [one.say(data) for one in self.live])

    def _run(self) -> None:
        while not self._stop:
            while self._jobs:
                self._jobs.pop(0)()
            sockets: list[Any] = [self._listener]
            for one in self.live:
                sockets += [one.client] + ([one.upstream] if one.upstream is not None else [])
            ready, _, _ = select.select(sockets, [], [], 0.01)
            if self._listener in ready:
                client, _ = self._listener.accept()
                client.settimeout(1.0)
                above = None if self.upstream is None else socket.create_connection(self.upstream, 5)
                self.connections.append(Connection(self, client, above))
            for one in self.live:
                one.turn(ready)
                if not one.open:
                    self._end(one)

    @staticmethod
    def _end(one: Connection) -> None:
        one.open = False
        one.client.close()
        if one.upstream is not None:
            one.upstream.close()


class RelayOfMeddler(ApiRelay):
    """A nym-api that names a meddler's port as the entry gateway's."""

    def __init__(self, upstream: str, port: int, identity: str) -> None:
        super().__init__(upstream)
        self.port = port
        self.identity = identity

    def answer(self, path: str) -> tuple[int, str, bytes]:
        status, kind, body = super().answer(path)
        if "skimmed" in path and kind == "application/json":
            page = json.loads(body)
            for node in page["nodes"]["data"]:
                if node["entry"] is not None and node["ed25519_identity_pubkey"] == self.identity:
                    node["entry"]["ws_port"] = self.port
            body = json.dumps(page).encode()
        return status, kind, body


def garbage(size: int) -> bytes:
    """Return octets that nobody made with a key."""
    return os.urandom(size)


def seconds_of(action: Callable[[], object]) -> float:
    """Return how long *action* takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began
