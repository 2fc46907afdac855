"""A small HTTP/1.1 server on h11, for nym-api and for the sites behind the exit."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import h11

__all__ = ["Handler", "HttpServer", "Request", "Response", "json_response"]

#: Ours: a client that says nothing for so long is gone.
_IDLE_TIMEOUT = 120.0
_CHUNK = 65536


@dataclass
class Request:
    """One request; `body` yields what is left of its body and may be read once."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: AsyncIterator[bytes]
    peer: tuple[str, int]
    tls: bool

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """The last value of every query parameter."""
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.target).query, keep_blank_values=True))

    def header(self, name: str) -> str | None:
        """Return the first header of that name, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Response:
    """One response; a body that is an iterator goes out as it comes, chunked unless a length is given."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | AsyncIterator[bytes] = b""
    length: int | None = None
    #: Drop the connection after the first so many octets of the body.
    cut_after: int | None = None
    #: With status 101: what takes the connection over, with the octets already read.
    takeover: Takeover | None = None


Handler = Callable[[Request], Awaitable[Response]]
Takeover = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


def json_response(value: Any, status: int = 200) -> Response:
    """Return *value* as compact JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(status, [("Content-Type", "application/json")], body)


class HttpServer:
    """Serves one handler on one or more listeners.

    Args:
        handler: answers a request; an exception becomes status 500.
        server_name: the ``Server`` header.
    """

    def __init__(self, handler: Handler, server_name: str = "localnet") -> None:
        self._handler = handler
        self._server_name = server_name
        self._servers: list[asyncio.Server] = []

    async def listen(self, address: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Open one listener."""
        self._servers.append(
            await asyncio.start_server(self._serve, address, port, ssl=tls, reuse_address=True, backlog=256)
        )

    def close(self) -> None:
        """Close the listeners; connections end with the loop."""
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._one_request(connection, reader, writer):
                connection.start_next_cycle()
        except (OSError, h11.LocalProtocolError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), 5)

    async def _one_request(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serve one request; return whether the connection can take another."""
        try:
            event = await _next_event(connection, reader, writer)
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                response = Response(error.error_status_hint, body=f"{error}\n".encode())
                await self._send(connection, writer, response, head_only=False)
            return False
        if not isinstance(event, h11.Request):
            return False
        request = Request(
            event.method.decode(),
            event.target.decode("latin-1"),
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()],
            _body(connection, reader, writer),
            writer.get_extra_info("peername")[:2],
            writer.get_extra_info("ssl_object") is not None,
        )
        try:
            response = await self._handler(request)
        except (h11.RemoteProtocolError, OSError):
            return False
        except Exception as error:
            response = Response(500, body=f"{type(error).__name__}: {error}\n".encode())
        if response.takeover is not None:
            switch = h11.InformationalResponse(status_code=101, headers=response.headers)
            writer.write(connection.send(switch) or b"")
            await response.takeover(reader, writer, connection.trailing_data[0])
            return False
        if not await self._send(connection, writer, response, head_only=request.method == "HEAD"):
            return False
        with contextlib.suppress(h11.RemoteProtocolError):
            async for _ in request.body:
                pass
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _send(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, response: Response, *, head_only: bool
    ) -> bool:
        date = email.utils.formatdate(usegmt=True)
        headers = [("Date", date), ("Server", self._server_name), *response.headers]
        body = response.body
        length = len(body) if isinstance(body, bytes) else response.length
        if length is not None and response.status not in (204, 304) and response.status >= 200:
            headers.append(("Content-Length", str(length)))
        writer.write(connection.send(h11.Response(status_code=response.status, headers=headers)) or b"")
        if not head_only:
            sent = 0
            async for chunk in _pieces(body):
                if response.cut_after is not None and sent + len(chunk) >= response.cut_after:
                    writer.write(connection.send(h11.Data(data=chunk[: response.cut_after - sent])) or b"")
                    await writer.drain()
                    writer.transport.abort()
                    return False
                writer.write(connection.send(h11.Data(data=chunk)) or b"")
                sent += len(chunk)
                await writer.drain()
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return True


async def _pieces(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        for start in range(0, len(body), _CHUNK):
            yield body[start : start + _CHUNK]
    else:
        async for chunk in body:
            yield chunk


async def _next_event(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Any:
    while True:
        if connection.they_are_waiting_for_100_continue:
            go = h11.InformationalResponse(status_code=100, headers=[])
            writer.write(connection.send(go) or b"")
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(await asyncio.wait_for(reader.read(_CHUNK), _IDLE_TIMEOUT))


async def _body(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncIterator[bytes]:
    while connection.their_state is h11.SEND_BODY:
        event = await _next_event(connection, reader, writer)
        if isinstance(event, h11.Data):
            yield bytes(event.data)
        else:
            return
