"""The web site behind the exit: what an HTTP client needs to be tried out.

==========================  =================================================================
``GET /``                   one line of greeting and the request's headers, as text
``GET /headers``            the request as JSON
``GET /bytes/N``            N octets of `pattern`, sha256 in ``X-Sha256``
``GET /chunked/N``          the same in chunks, without a length
``POST /upload``            ``{"length": ..., "sha256": ...}`` of the body
``POST /echo``              the body
``GET /redirect/N``         N redirects, then ``/``
``GET /redirect-to?url=U``  one redirect to U
``GET /status/N``           an answer of that status
``GET /delay/S``            the greeting after S seconds
``GET /drip/N/S``           N octets spread over S seconds
``GET /cut/N/M``            announces N octets and cuts the connection after M
``GET /gzip``               a compressed answer
``GET /cookie``             sets a cookie and shows those received
``POST /dns-query``         DNS over HTTPS
``GET /ws``                 a websocket that echoes; knows the subprotocol ``echo``
==========================  =================================================================
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gzip
import hashlib
from collections.abc import AsyncIterator, Callable

from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Message, Ping
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from smolmix_sync.localnet.httpd import Request, Response, json_response

__all__ = ["MAX_BYTES", "pattern", "site"]

#: Ours: the most that ``/bytes`` and its kin send.
MAX_BYTES = 1 << 30
_BLOCK = 65536
_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_BINARY = ("Content-Type", "application/octet-stream")


def pattern(start: int, length: int) -> bytes:
    """Return octets ``start`` to ``start + length`` of an endless sequence without repetition in 64 KiB."""
    result = bytearray()
    block, offset = divmod(start, _BLOCK)
    while len(result) < length + offset:
        result += _block(block)
        block += 1
    return bytes(result[offset : offset + length])


@functools.lru_cache(maxsize=64)
def _block(number: int) -> bytes:
    return hashlib.shake_128(b"localnet pattern %d" % number).digest(_BLOCK)


@functools.lru_cache(maxsize=32)
def _digest(length: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, length, _BLOCK):
        digest.update(pattern(start, min(_BLOCK, length - start)))
    return digest.hexdigest()


async def _stream(length: int) -> AsyncIterator[bytes]:
    for start in range(0, length, _BLOCK):
        yield pattern(start, min(_BLOCK, length - start))


async def _drip(length: int, seconds: float) -> AsyncIterator[bytes]:
    steps = max(1, min(length, int(seconds * 10)))
    for step in range(steps):
        start, end = length * step // steps, length * (step + 1) // steps
        yield pattern(start, end - start)
        if step + 1 < steps:
            await asyncio.sleep(seconds / steps)


async def _upload(request: Request) -> Response:
    digest, length = hashlib.sha256(), 0
    async for chunk in request.body:
        digest.update(chunk)
        length += len(chunk)
    return json_response({"length": length, "sha256": digest.hexdigest()})


def _greeting(request: Request) -> Response:
    lines = [f"Hello from {request.header('Host') or 'localnet'}, behind the exit.", ""]
    lines.append(f"{request.method} {request.target} {'https' if request.tls else 'http'}")
    lines += [f"{name}: {value}" for name, value in request.headers]
    return Response(200, [_TEXT], ("\n".join(lines) + "\n").encode())


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MAX_BYTES:
        raise ValueError("out of range")
    return number


def _websocket(request: Request) -> Response:
    """Accept a websocket and echo its messages. Source: RFC 6455 section 4.2.2."""
    key = request.header("Sec-WebSocket-Key")
    if key is None or (request.header("Upgrade") or "").lower() != "websocket":
        return Response(426, [_TEXT, ("Upgrade", "websocket")], b"a websocket is served here\n")
    accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept.decode())]
    offered = [name.strip() for name in (request.header("Sec-WebSocket-Protocol") or "").split(",")]
    if "echo" in offered:
        headers.append(("Sec-WebSocket-Protocol", "echo"))
    return Response(101, headers, takeover=_echo_messages)


async def _echo_messages(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    connection = Connection(ConnectionType.SERVER, trailing_data=data)
    with contextlib.suppress(RemoteProtocolError, LocalProtocolError, OSError):
        while True:
            for event in connection.events():
                if isinstance(event, Ping | CloseConnection):
                    writer.write(connection.send(event.response()))
                    if isinstance(event, CloseConnection):
                        return
                elif isinstance(event, Message):  # a piece of a message goes back as a piece of a message
                    writer.write(connection.send(event))
            await writer.drain()
            if not (data := await reader.read(_BLOCK)):
                return
            connection.receive_data(data)


async def site(request: Request, resolve: Callable[[bytes], bytes | None] | None = None) -> Response:
    """Answer one request; see the module for the paths. *resolve* answers DNS messages."""
    parts = request.path.strip("/").split("/")
    try:
        return await _route(request, parts[0], parts[1:], resolve)
    except (ValueError, IndexError) as error:
        return Response(400, [_TEXT], f"bad request: {error}\n".encode())


async def _route(
    request: Request, what: str, arguments: list[str], resolve: Callable[[bytes], bytes | None] | None
) -> Response:
    match what:
        case "":
            return _greeting(request)
        case "headers":
            shown = {"method": request.method, "target": request.target, "tls": request.tls}
            return json_response({**shown, "headers": request.headers})
        case "bytes":
            length = _number(arguments[0])
            headers = [_BINARY, ("X-Sha256", _digest(length))] if length <= 16 << 20 else [_BINARY]
            return Response(200, headers, _stream(length), length=length)
        case "chunked":
            return Response(200, [_BINARY], _stream(_number(arguments[0])))
        case "upload":
            return await _upload(request)
        case "echo":
            kind = request.header("Content-Type") or "application/octet-stream"
            return Response(200, [("Content-Type", kind)], b"".join([chunk async for chunk in request.body]))
        case "redirect":
            left = _number(arguments[0])
            location = f"/redirect/{left - 1}" if left > 1 else "/"
            return Response(302, [("Location", location)]) if left else _greeting(request)
        case "redirect-to":
            return Response(302, [("Location", request.query["url"])])
        case "status":
            return Response(max(200, min(599, _number(arguments[0]))), [_TEXT])
        case "delay":
            await asyncio.sleep(min(600.0, float(arguments[0])))
            return _greeting(request)
        case "drip":
            length, seconds = _number(arguments[0]), min(600.0, float(arguments[1]))
            return Response(200, [_BINARY], _drip(length, seconds), length=length)
        case "cut":
            length, cut = _number(arguments[0]), _number(arguments[1])
            return Response(200, [_BINARY], _stream(length), length=length, cut_after=cut)
        case "gzip":
            return Response(
                200, [_TEXT, ("Content-Encoding", "gzip")], gzip.compress(b"compressed\n" * 100, mtime=0)
            )
        case "dns-query" if resolve is not None and request.method == "POST":
            answer = resolve(b"".join([chunk async for chunk in request.body]))
            message = ("Content-Type", "application/dns-message")
            return Response(400, [_TEXT]) if answer is None else Response(200, [message], answer)
        case "ws":
            return _websocket(request)
        case "cookie":
            body = f"cookies: {request.header('Cookie') or 'none'}\n".encode()
            return Response(200, [_TEXT, ("Set-Cookie", "taste=sweet; Path=/")], body)
        case _:
            return Response(404, [_TEXT], b"nothing here\n")
