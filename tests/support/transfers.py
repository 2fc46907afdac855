"""Byte-exact transfers to the services behind localnet's exit."""

from __future__ import annotations

import hashlib
import http.client
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smolmix_sync.tunnel import Tunnel

__all__ = ["body", "download", "upload"]


class _Connection(http.client.HTTPConnection):
    """An HTTP connection whose socket is made by a tunnel; nothing is patched."""

    def __init__(self, tunnel: Tunnel, host: str, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._tunnel = tunnel

    def connect(self) -> None:
        self.sock = self._tunnel.create_connection((self.host, self.port), timeout=self.timeout)


def body(size: int, seed: int = 0) -> bytes:
    """Return *size* octets that depend on *seed* and repeat nowhere near."""
    return hashlib.shake_256(b"smolmix_sync %d" % seed).digest(size)


def download(tunnel: Tunnel, size: int, *, host: str = "www.localnet", timeout: float = 60.0) -> bytes:
    """Fetch ``/bytes/size``."""
    connection = _Connection(tunnel, host, timeout)
    try:
        connection.request("GET", f"/bytes/{size}")
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        connection.close()


def upload(
    tunnel: Tunnel, data: bytes, *, host: str = "www.localnet", timeout: float = 60.0
) -> dict[str, Any]:
    """Post *data* to ``/upload``; return the server's JSON: its length and sha256."""
    connection = _Connection(tunnel, host, timeout)
    try:
        connection.request("POST", "/upload", body=data)
        answer = connection.getresponse()
        assert answer.status == 200
        result: dict[str, Any] = json.loads(answer.read())
        return result
    finally:
        connection.close()
