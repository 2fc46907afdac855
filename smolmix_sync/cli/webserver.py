"""What ``smolmix-sync daemon --web`` serves: one page, its numbers as JSON, Prometheus metrics, and a health check.

==================  ========================================================================
``/``               the page: state, route, live rates and sockets
``/status.json``    what ``smolmix-sync status --json`` prints
``/metrics``        Prometheus text, with prometheus-client installed
``/readyz``         200 while the tunnel is READY, else 503 with the reason
==================  ========================================================================

Loopback only; a page of another site that makes the browser ask gets nothing (the Host field must be ours).
"""

from __future__ import annotations

import http.server
import importlib
import ipaddress
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["WebServer", "parse_listen"]

_PAGE = Path(__file__).with_name("status_page.html")
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of ``PORT`` or ``ADDRESS:PORT``; the address must be a loopback one.

    Raises:
        ValueError: it is not.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is no loopback address: the page has no password")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"not a port: {port!r}")
    return host, int(port)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # The base class asks the system's resolver for the name of the address: a question in clear.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Server6(_Server):
    address_family = socket.AF_INET6


class WebServer:
    """Serves in threads of its own until closed.

    Args:
        listen: address and port; port 0 chooses one.
        status: returns the daemon's status; may raise OSError.
    """

    def __init__(self, listen: tuple[str, int], status: Callable[[], Mapping[str, Any]]) -> None:
        handler = type("Handler", (_Handler,), {"status": staticmethod(status)})
        kind = _Server6 if ":" in listen[0] else _Server
        self._server = kind(listen, handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="smolmix-web", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{shown}:{port}/"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class _Handler(http.server.BaseHTTPRequestHandler):
    status: Callable[[], Mapping[str, Any]]
    server_version = "smolmix-sync"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Answer one request."""
        if not self._host_is_ours():
            self._answer(403, "text/plain", b"wrong host\n")
            return
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer(200, "text/html; charset=utf-8", _PAGE.read_bytes())
        elif path == "/status.json":
            self._status()
        elif path == "/readyz":
            self._ready()
        elif path == "/metrics":
            self._metrics()
        else:
            self._answer(404, "text/plain", b"nothing here\n")

    def _host_is_ours(self) -> bool:
        # A name that resolves to 127.0.0.1 in a browser would let any site read the page (DNS rebinding).
        name = (self.headers.get("Host") or "").rpartition(":")[0].strip("[]")
        try:
            return name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _status(self) -> None:
        try:
            body = json.dumps(self.status()).encode()
        except OSError as error:
            self._answer(503, "application/json", json.dumps({"ready": False, "reason": str(error)}).encode())
            return
        self._answer(200, "application/json", body)

    def _ready(self) -> None:
        try:
            told = self.status()
        except OSError as error:
            told = {"ready": False, "reason": str(error)}
        text = "ready" if told["ready"] else f"{told.get('state', 'down')}: {told.get('reason', '')}"
        self._answer(200 if told["ready"] else 503, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _metrics(self) -> None:
        try:
            metrics = importlib.import_module("smolmix_sync.ext.metrics")
        except ModuleNotFoundError:
            self._answer(501, "text/plain", b"pip install 'smolmix-sync[metrics]'\n")
            return
        self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics.exposition(self.status))

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the page asks every second."""
