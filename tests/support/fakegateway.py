"""An entry gateway in a thread: the real server session over wsproto, and ways to misbehave."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    Request,
    TextMessage,
)

from smolmix_sync.crypto import ed25519_public_from_seed
from smolmix_sync.mixnet.gateway.clients import ClientTable
from smolmix_sync.mixnet.gateway.events import ForwardPacket, PingWanted, SessionClosed
from smolmix_sync.mixnet.gateway.server import GatewayServerSession, ServerSettings, ServerState


@dataclass
class FakeGateway:
    """Listens on loopback; ``with FakeGateway() as gateway: gateway.port``.

    Attributes:
        settings: habits of the sessions.
        tls: a server context for wss.
        packets: every forwarded packet with its time of arrival.
        pongs: payloads of the pongs received.
    """

    settings: ServerSettings = field(default_factory=ServerSettings)
    tls: ssl.SSLContext | None = None
    seed: bytes = field(default_factory=lambda: os.urandom(32))
    packets: list[tuple[float, object]] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    connections: int = 0
    receive_buffer: int | None = None
    answer_pings: bool = True

    def __post_init__(self) -> None:
        self.identity = ed25519_public_from_seed(self.seed)
        self.clients = ClientTable()
        self.paused = False
        self._live: list[_Connection] = []
        self._stop = False
        self._open_socket()

    def _open_socket(self, port: int = 0) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        if self.receive_buffer is not None:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self.port = self.listener.getsockname()[1]

    def __enter__(self) -> FakeGateway:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(5)
        self.listener.close()
        for connection in self._live:
            connection.sock.close()

    def drop_all(self) -> None:
        """Cut every connection."""
        for connection in list(self._live):
            connection.kill = True

    def ping_all(self, payload: bytes) -> None:
        """Send a websocket ping on every connection."""
        for connection in list(self._live):
            connection.wanted_pings.append(payload)

    def _run(self) -> None:
        while not self._stop:
            # While paused nothing is read (the receive window closes), but pings still go out.
            reading = [c.sock for c in self._live] if not self.paused else []
            ready, _, _ = select.select([self.listener, *reading], [], [], 0.01)
            if self.listener in ready:
                self._accept()
            now = time.monotonic()
            for connection in list(self._live):
                connection.turn(connection.sock in ready, now)
                if connection.kill:
                    connection.end(now)
                    self._live.remove(connection)

    def _accept(self) -> None:
        sock, _ = self.listener.accept()
        if self.tls is not None:
            try:
                sock = self.tls.wrap_socket(sock, server_side=True)
            except OSError:
                sock.close()
                return
        self.connections += 1
        self._live.append(_Connection(self, sock))


class _Connection:
    def __init__(self, gateway: FakeGateway, sock: socket.socket) -> None:
        self.gateway = gateway
        self.sock = sock
        self.websocket = WSConnection(ConnectionType.SERVER)
        self.session = GatewayServerSession(
            gateway.seed, gateway.clients, urandom=os.urandom, settings=gateway.settings
        )
        self.kill = False
        self.wanted_pings: list[bytes] = []
        self.text = ""
        self.binary = b""

    def turn(self, readable: bool, now: float) -> None:
        try:
            if readable:
                # SSL may hold more than one record; small reads are enough for tests.
                data = self.sock.recv(65536)
                self.websocket.receive_data(data or None)
                self.take(now)
            deadline = self.session.next_deadline()
            if deadline is not None and deadline <= now:
                self.session.handle_deadline(now)
            while self.wanted_pings:
                self.sock.sendall(self.websocket.send(Ping(payload=self.wanted_pings.pop())))
            self.flush(now)
        except OSError:
            self.kill = True

    def take(self, now: float) -> None:
        for event in self.websocket.events():
            if isinstance(event, Request):
                self.sock.sendall(self.websocket.send(AcceptConnection()))
                self.session.start(now, time.time())
            elif isinstance(event, TextMessage):
                self.text += event.data
                if event.message_finished:
                    self.session.receive_data(self.text, now)
                    self.text = ""
            elif isinstance(event, BytesMessage):
                self.binary += event.data
                if event.message_finished:
                    self.session.receive_data(self.binary, now)
                    self.binary = b""
            elif isinstance(event, Ping):
                self.session.receive_ping(bytes(event.payload), now)
                if self.session.state is ServerState.READY and self.gateway.answer_pings:
                    self.sock.sendall(self.websocket.send(event.response()))
            elif isinstance(event, Pong):
                self.gateway.pongs.append(bytes(event.payload))
                self.session.receive_pong(bytes(event.payload), now)
            elif isinstance(event, CloseConnection):
                self.kill = True
        while (event := self.session.next_event()) is not None:
            if isinstance(event, ForwardPacket):
                self.gateway.packets.append((now, event.packet))
            elif isinstance(event, PingWanted):
                self.wanted_pings.append(event.payload)
            elif isinstance(event, SessionClosed):
                self.kill = True

    def flush(self, now: float) -> None:
        for message in self.session.data_to_send(now):
            event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
            self.sock.sendall(self.websocket.send(event))

    def end(self, now: float) -> None:
        try:
            self.flush(now)
        except OSError:
            pass
        self.session.connection_lost(now)
        self.sock.close()
