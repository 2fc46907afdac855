"""HTTP and websockets over a tunnel: ``fetch()``, its keep-alive pool, and ``websocket()``.

Nothing is patched and no proxy of the environment is asked. ``fetch`` behaves as mixFetch does; the websocket
half (:mod:`smolmix_sync.http.ws`) is loaded on first use.

Source: design.md section 6; research/peers.md sections 1.3 and 2.1.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from smolmix_sync.http.client import fetch
from smolmix_sync.http.errors import BadResponse, BodyTruncated, FetchError, HTTPStatusError, RedirectError
from smolmix_sync.http.headers import Headers
from smolmix_sync.http.pool import close_idle
from smolmix_sync.http.response import Response
from smolmix_sync.http.tls import create_ssl_context

#: The seeds' name.
mix_fetch = fetch

if TYPE_CHECKING:
    from smolmix_sync.http.ws import MixWebSocketApp, websocket

__all__ = [
    "BadResponse",
    "BodyTruncated",
    "FetchError",
    "HTTPStatusError",
    "Headers",
    "MixWebSocketApp",
    "RedirectError",
    "Response",
    "close_idle",
    "create_ssl_context",
    "fetch",
    "mix_fetch",
    "websocket",
]


def __getattr__(name: str) -> object:
    if name in ("MixWebSocketApp", "websocket"):
        return getattr(importlib.import_module(f"{__name__}.ws"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
