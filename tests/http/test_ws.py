"""websocket() and MixWebSocketApp: the handshake's rules on a server of the test's own, the rest over the mixnet."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import websocket as client

from smolmix_sync.http import MixWebSocketApp, RedirectError, create_ssl_context, websocket
from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel

Serve = Callable[..., tuple[Any, Any]]


def accept(server: Any, sock: Any, fields: bytes = b"") -> bytes:
    head: bytes = server.request(sock)
    key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
    token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        + fields + b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n"
    )  # fmt: skip
    return head


def closing(code: int, reason: bytes) -> Callable[[Any], Callable[[Any], None]]:
    def make(server: Any) -> Callable[[Any], None]:
        def handler(sock: Any) -> None:
            accept(server, sock)
            payload = code.to_bytes(2, "big") + reason
            sock.sendall(b"\x81\x02hi" + bytes((0x88, len(payload))) + payload)
            sock.recv(100)

        return handler

    return make


def test_a_redirected_handshake_dials_nobody(serve: Serve) -> None:
    server, tunnel = serve(
        lambda server: server.answers(
            b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
        )
    )
    with pytest.raises(RedirectError):
        websocket("ws://a.test/", tunnel=tunnel)
    errors: list[Exception] = []
    app = MixWebSocketApp("ws://a.test/", tunnel=tunnel, on_error=lambda _, error: errors.append(error))
    app.run_forever()
    assert [type(error) for error in errors] == [RedirectError]
    assert server.connections == 2


def test_a_handshake_that_drips_ends_in_time(serve: Serve) -> None:
    def drip(server: Any) -> Callable[[Any], None]:
        def handler(sock: Any) -> None:
            server.request(sock)
            for octet in b"HTTP/1.1 101 Switching Protocols\r\n" * 9:
                sock.sendall(bytes((octet,)))
                time.sleep(0.05)

        return handler

    _, tunnel = serve(drip)
    began = time.monotonic()
    with pytest.raises((TimeoutError, client.WebSocketTimeoutException)):
        websocket("ws://a.test/", timeout=0.5, tunnel=tunnel)
    assert time.monotonic() - began < 3


def test_other_answers_and_addresses(serve: Serve) -> None:
    _, tunnel = serve(lambda server: server.answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(client.WebSocketBadStatusException) as caught:
        websocket("ws://a.test/", tunnel=tunnel)
    assert caught.value.status_code == 403
    with pytest.raises(ValueError):
        websocket("http://a.test/", tunnel=tunnel)
    with pytest.raises(OSError, match="this machine"):
        websocket("ws://127.0.0.1:80/", tunnel=tunnel)


def test_a_cookie_is_told_to_the_application_and_to_no_later_connection(serve: Serve) -> None:
    heads: list[bytes] = []

    def make(server: Any) -> Callable[[Any], None]:
        def handler(sock: Any) -> None:
            heads.append(accept(server, sock, b"Set-Cookie: who=you; Domain=.A.test\r\n"))
            sock.sendall(b"\x88\x02\x03\xe8")
            sock.recv(100)

        return handler

    _, tunnel = serve(make)
    opened = websocket("ws://a.test/", tunnel=tunnel)
    assert opened.getheaders()["set-cookie"].startswith("who=you")
    opened.close()
    MixWebSocketApp("ws://a.test/", tunnel=tunnel).run_forever()
    websocket("ws://a.test/", tunnel=tunnel).close()
    assert len(heads) == 3
    assert not any(b"cookie" in head.lower() for head in heads)


def test_close_codes_reach_the_application(serve: Serve) -> None:
    _, tunnel = serve(closing(4001, b"enough"))
    log: list[Any] = []
    app = MixWebSocketApp(
        "ws://a.test/",
        tunnel=tunnel,
        on_message=lambda _, message: log.append(message),
        on_close=lambda _, code, reason: log.append((code, reason)),
    )
    app.run_forever()
    assert log == ["hi", (4001, "enough")]


def test_every_reconnection_is_dialled_in_the_tunnel(serve: Serve) -> None:
    server, tunnel = serve(closing(1001, b""))
    log: list[str] = []
    app = MixWebSocketApp("ws://a.test/", tunnel=tunnel)

    def on_message(_: Any, message: str) -> None:
        log.append(message)
        if len(log) == 2:
            threading.Thread(target=app.close, daemon=True).start()

    app.on_message = on_message
    thread = threading.Thread(target=app.run_forever, kwargs={"reconnect": 1}, daemon=True)
    thread.start()
    thread.join(15)
    assert not thread.is_alive()
    assert len(log) >= 2
    assert len(tunnel.dialled) == server.connections >= 2


@pytest.mark.interop
@pytest.mark.slow
def test_echo_over_the_mixnet(net: LocalNet, tunnel: Tunnel) -> None:
    context = create_ssl_context(net.ca_path)
    for url in ("ws://www.localnet/ws", "wss://www.localnet/ws"):
        ws = websocket(url, ["other", "echo"], 20, tunnel=tunnel, ssl_context=context)
        assert ws.subprotocol == "echo"
        ws.send("words")
        assert ws.recv() == "words"
        ws.send_binary(bytes(range(256)) * 200)
        assert ws.recv() == bytes(range(256)) * 200
        ws.ping("are you there")
        opcode, frame = ws.recv_data_frame(control_frame=True)
        assert (opcode, frame.data) == (client.ABNF.OPCODE_PONG, b"are you there")
        ws.settimeout(0.3)
        with pytest.raises(client.WebSocketTimeoutException):
            ws.recv()
        ws.close(timeout=10)


@pytest.mark.interop
@pytest.mark.slow
def test_app_over_tls_and_the_mixnet(net: LocalNet, tunnel: Tunnel) -> None:
    log: list[Any] = []

    def on_message(app: Any, message: str) -> None:
        log.append(message)
        app.send("again") if len(log) == 1 else app.close()

    app = MixWebSocketApp(
        "wss://www.localnet/ws",
        tunnel=tunnel,
        ssl_context=create_ssl_context(net.ca_path),
        on_open=lambda app: app.send("first"),
        on_message=on_message,
        on_close=lambda _, code, __: log.append(code),
    )
    app.run_forever(ping_interval=5, ping_timeout=4)
    assert log == ["first", "again", 1000]
