"""A websocket server that echoes, plain and over TLS; prints its two ports.

usage: websocket_echo.py ADDRESS CERTIFICATE
"""

from __future__ import annotations

import json
import socketserver
import ssl
import sys
import threading

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage


class Echo(socketserver.BaseRequestHandler):
    """One connection."""

    def setup(self) -> None:
        context = self.server.context  # type: ignore[attr-defined]
        if context is not None:
            self.request = context.wrap_socket(self.request, server_side=True)

    def handle(self) -> None:
        websocket = WSConnection(ConnectionType.SERVER)
        while data := self.request.recv(65536):
            websocket.receive_data(data)
            for event in websocket.events():
                if isinstance(event, Request):
                    chosen = "echo" if "echo" in event.subprotocols else None
                    self.request.sendall(websocket.send(AcceptConnection(subprotocol=chosen)))
                elif isinstance(event, (BytesMessage, TextMessage)):
                    answer = type(event)(event.data, message_finished=event.message_finished)  # type: ignore[arg-type]
                    self.request.sendall(websocket.send(answer))
                elif isinstance(event, Ping):
                    self.request.sendall(websocket.send(event.response()))
                elif isinstance(event, CloseConnection):
                    self.request.sendall(websocket.send(event.response()))
                    return


class Server(socketserver.ThreadingTCPServer):
    """A listener; the handshake of TLS is in the connection's own thread."""

    daemon_threads = True
    context: ssl.SSLContext | None = None


def main() -> None:
    address, pem = sys.argv[1:]
    plain, secure = Server((address, 0), Echo), Server((address, 0), Echo)
    secure.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secure.context.load_cert_chain(pem)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    print(json.dumps([plain.server_address[1], secure.server_address[1]]), flush=True)
    secure.serve_forever()


if __name__ == "__main__":
    main()
