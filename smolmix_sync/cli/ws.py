"""``smolmix-sync ws URL``: a websocket through the tunnel, one line a message."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from typing import Any

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser)
    parser.add_argument(
        "-s", "--subprotocol", action="append", metavar="NAME", help="subprotocol to offer (repeatable)"
    )
    parser.add_argument(
        "-H", "--header", action="append", default=[], metavar="NAME:VALUE", help="field of the handshake"
    )
    parser.add_argument(
        "-m",
        "--message",
        action="append",
        metavar="TEXT",
        help="send this instead of stdin's lines (repeatable)",
    )
    parser.add_argument("-b", "--binary", action="store_true", help="send binary messages")
    parser.add_argument(
        "--ping", type=float, metavar="S", help="seconds between two pings that keep the connection open"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S",
        help="seconds to connect, and for the close at the end (default 60)",
    )  # fmt: skip
    parser.add_argument("url", help="ws or wss URL")


def run(arguments: argparse.Namespace) -> int:
    """Send lines and print messages until either side closes; the exit code is 0 for a normal close (1000, 1001)."""
    import smolmix_sync

    if not arguments.url.startswith(("ws://", "wss://")) or arguments.timeout <= 0:
        say("smolmix-sync ws: ws and wss URLs only, and a timeout above zero")
        return 2
    with network(arguments):
        tunnel = open_tunnel(arguments)
        if tunnel is None:
            return 1
        import websocket

        try:
            return _talk(arguments, tunnel)
        except (OSError, ValueError, websocket.WebSocketException) as error:
            say(f"smolmix-sync ws: {error}")
            return 1
        finally:
            smolmix_sync.disconnect()


def _talk(arguments: argparse.Namespace, tunnel: Any) -> int:
    from websocket import ABNF, WebSocketException, WebSocketTimeoutException

    from smolmix_sync.http.ws import websocket

    ws = websocket(
        arguments.url, arguments.subprotocol, arguments.timeout, headers=arguments.header, tunnel=tunnel
    )
    chosen = f", subprotocol {ws.subprotocol}" if ws.subprotocol else ""
    say(f"connected{chosen}; end with end of file")
    state = _State()
    threading.Thread(target=_send_all, args=(ws, arguments, state), daemon=True).start()
    ws.settimeout(1.0)
    next_ping = time.monotonic() + arguments.ping if arguments.ping else float("inf")
    code: int | None = None
    try:
        while True:
            if state.closing_since and time.monotonic() - state.closing_since > arguments.timeout:
                raise TimeoutError("the server does not answer the close")
            if time.monotonic() >= next_ping:
                next_ping = time.monotonic() + arguments.ping
                ws.ping()
            try:
                opcode, frame = ws.recv_data_frame(control_frame=True)
            except WebSocketTimeoutException:
                continue
            if opcode == ABNF.OPCODE_CLOSE:
                code = int.from_bytes(frame.data[:2], "big") if len(frame.data) >= 2 else 1005
                break
            if opcode in (ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY):
                sys.stdout.buffer.write(frame.data + (b"\n" if opcode == ABNF.OPCODE_TEXT else b""))
                sys.stdout.buffer.flush()
    except WebSocketException as error:
        say(f"smolmix-sync ws: {error}")
        return 1
    finally:
        with contextlib.suppress(OSError):
            ws.shutdown()
    if code not in (1000, 1001, 1005):
        say(f"closed by the server with code {code}")
        return 1
    return 0


class _State:
    closing_since = 0.0


def _send_all(ws: Any, arguments: argparse.Namespace, state: _State) -> None:
    """Send what there is, then begin to close: what was answered by then still arrives before the server's close."""
    from websocket import ABNF, WebSocketException

    opcode = ABNF.OPCODE_BINARY if arguments.binary else ABNF.OPCODE_TEXT
    try:
        if arguments.message is not None:
            for text in arguments.message:
                ws.send(text.encode(), opcode)
        else:
            for line in sys.stdin.buffer:
                ws.send(line.rstrip(b"\r\n"), opcode)
        state.closing_since = time.monotonic()
        ws.send((1000).to_bytes(2, "big"), ABNF.OPCODE_CLOSE)
    except (OSError, WebSocketException) as error:
        state.closing_since = time.monotonic()
        say(f"smolmix-sync ws: {error}")
