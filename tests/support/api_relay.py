"""A nym-api in front of another one, that can lie about the time, talk nonsense or be gone."""

from __future__ import annotations

import email.utils
import ssl
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["ApiRelay"]


class ApiRelay:
    """``with ApiRelay(net.nym_api) as relay: relay.url``.

    Attributes:
        behaviour: "relay", "nonsense" (200, but no directory), "down" (503).
        ahead: seconds by which its Date header is ahead of the truth; None leaves the header out.
        requests: Host header of every request so far.
    """

    def __init__(self, upstream: str, *, name: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self.behaviour = "relay"
        self.ahead: float | None = 0.0
        self.requests: list[str] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                relay.requests.append(self.headers["Host"])
                status, kind, body = relay.answer(self.path)
                self.send_response_only(status)
                if relay.ahead is not None:
                    self.send_header("Date", email.utils.formatdate(time.time() + relay.ahead, usegmt=True))
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> tuple[object, object]:
                sock, address = super().get_request()
                if tls is not None:
                    sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                return sock, address

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://{name}:{self._server.server_address[1]}/api/"

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if self.behaviour == "down":
            return 503, "text/plain", b"down\n"
        if self.behaviour == "nonsense":
            return 200, "application/json", b'{"there": "is nothing here"}'
        try:
            url = self.upstream.rstrip("/") + path.removeprefix("/api")
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, "text/plain", b""

    def __enter__(self) -> ApiRelay:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
