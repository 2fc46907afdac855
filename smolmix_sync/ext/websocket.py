"""websocket-client through a tunnel: ``create_connection`` and ``WebSocketApp`` under the library's own names.

``from smolmix_sync.ext import websocket`` in place of ``import websocket`` and the code below it needs no change, as
long as it does not say how to connect.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import websocket as _client

from smolmix_sync.http.dial import Carrier
from smolmix_sync.http.ws import MixWebSocketApp, websocket

__all__ = ["MixWebSocketApp", "WebSocketApp", "create_connection", "websocket"]

WebSocketApp = MixWebSocketApp


def create_connection(
    url: str,
    timeout: float | None = None,
    *,
    header: Any = None,
    cookie: str | None = None,
    origin: str | None = None,
    subprotocols: Iterable[str] | None = None,
    tunnel: Carrier | None = None,
    ssl_context: Any = None,
) -> Any:
    """Open a websocket, as ``websocket.create_connection``.

    Args:
        url, timeout, header, cookie, origin, subprotocols: as there.
        tunnel, ssl_context: as for :func:`smolmix_sync.websocket`.
    """
    lines = [f"{name}: {value}" for name, value in header.items()] if isinstance(header, dict) else header
    headers = [*(lines or ()), *([f"Cookie: {cookie}"] if cookie else ())]
    if timeout is None:
        timeout = _client.getdefaulttimeout()
    return websocket(
        url, subprotocols, timeout, headers=headers, origin=origin, tunnel=tunnel, ssl_context=ssl_context
    )


def __getattr__(name: str) -> Any:
    return getattr(_client, name)
