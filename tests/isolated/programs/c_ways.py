"""Under the filter libcurl reaches nothing by itself, and a server in the tunnel through ``forward(path=...)``."""

# ruff: noqa: E402, PT017 - the order of imports is what is tested
from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
import threading
from typing import Any

import _order

_order.PATCH.__exit__(None, None, None)
port = _order.network(connect_timeout=5)

import smolmix_sync
import smolmix_sync.socket

STRICT: bool | str = True if sys.argv[1] == "strict" else "auto"
try:
    with smolmix_sync.patch_all():
        import pycurl
except smolmix_sync.LeakBlocked as problem:
    assert "pycurl" in str(problem)
else:
    raise AssertionError("libcurl was let in without being named")
smolmix_sync.patch_all(strict=STRICT, allow=("pycurl",))  # type: ignore[arg-type]
import http.server

import pycurl


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.headers['Host']}{self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


server = http.server.ThreadingHTTPServer((_order.V4, 80), Web)
threading.Thread(target=server.serve_forever, daemon=True).start()


class Carrier:
    """The face of a tunnel as far as ``forward`` needs it."""

    wait_ready = port.wait_ready

    def resolve(self, host: str, family: int = 0, timeout: float | None = None) -> list[str]:
        return smolmix_sync.socket.gethostbyname_ex(host)[2]

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> Any:
        return smolmix_sync.socket.create_connection(address, timeout)


carrier = Carrier()


def fetch(url: str, *options: tuple[int, object]) -> bytes:
    body = io.BytesIO()
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.WRITEDATA, body)
    curl.setopt(pycurl.CONNECTTIMEOUT, 5)
    curl.setopt(pycurl.PROXY, "")
    for option in options:
        curl.setopt(*option)
    try:
        curl.perform()
    finally:
        curl.close()
    return body.getvalue()


if STRICT is True:
    try:
        fetch(f"http://{_order.V4}/")
    except pycurl.error as problem:
        assert problem.args[0] == pycurl.E_COULDNT_CONNECT, problem
    else:
        raise AssertionError("libcurl has a socket of its own")

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "web.sock")
    with smolmix_sync.forward("server.example", 80, path=path, tunnel=carrier) as front:
        assert (front.address, front.port) == (path, 0)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert path in repr(front)
        for _ in range(2):
            got = fetch("http://server.example/page", (pycurl.UNIX_SOCKET_PATH, path))
            assert got == b"server.example/page", got
    assert not os.path.exists(path)
if STRICT == "auto":  # its own sockets may still reach a forwarded port of this machine
    with smolmix_sync.forward("server.example", 80, tunnel=carrier) as front:
        way = f"server.example:80:{front.address}:{front.port}"
        assert fetch("http://server.example/p", (pycurl.CONNECT_TO, [way])) == b"server.example/p"
server.shutdown()
server.server_close()
_order.done()
