"""websocket-client's own names over a tunnel."""

from __future__ import annotations

import pytest
import websocket as client

from smolmix_sync.ext import websocket
from smolmix_sync.http import create_ssl_context
from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_create_connection_as_in_the_library(net: LocalNet, tunnel: Tunnel) -> None:
    context = create_ssl_context(net.ca_path)
    ws = websocket.create_connection(
        "wss://www.localnet/ws",
        timeout=30,
        header={"X-A": "1"},
        cookie="c=1",
        tunnel=tunnel,
        ssl_context=context,
    )
    ws.send("hello")
    assert ws.recv() == "hello"
    ws.close()
    assert isinstance(ws, client.WebSocket)


def test_the_rest_is_the_librarys() -> None:
    assert websocket.WebSocketTimeoutException is client.WebSocketTimeoutException
    assert issubclass(websocket.WebSocketApp, client.WebSocketApp)
    with pytest.raises(TypeError):
        websocket.create_connection("ws://a.test/", http_proxy_host="127.0.0.1")  # type: ignore[call-arg]
