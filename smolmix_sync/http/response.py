"""The answer to a request, its body read at once or as it comes."""

from __future__ import annotations

import json
import ssl
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import h11

from smolmix_sync.http.dial import Deadline
from smolmix_sync.http.errors import BadResponse, BodyTruncated, HTTPStatusError
from smolmix_sync.http.headers import Headers
from smolmix_sync.http.pool import Connection

__all__ = ["Body", "Response"]

#: Ours: what one step of decompression may give, so that a small message cannot fill the memory of a reader
#: who takes it piece by piece.
_STEP = 1 << 18


class _Inflate:
    """Decodes gzip (of several members) or deflate, zlib-wrapped or raw."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding in ("gzip", "x-gzip")
        self._machine = zlib.decompressobj(31 if self._gzip else 15)
        self._begun = False
        self._head = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not self._begun:
            data = self._head = self._head + data
            if len(data) < 2:  # the wrapper is recognised by two octets
                return
        while data:
            if self._machine.eof:
                if not self._gzip or not data.strip(b"\0"):
                    return  # padding after the end
                self._machine = zlib.decompressobj(31)
                self._begun = False
            try:
                out = self._machine.decompress(data, _STEP)
            except zlib.error:
                if self._begun or self._gzip:
                    raise
                self._machine = zlib.decompressobj(-15)  # some servers send deflate without its wrapper
                out = self._machine.decompress(data, _STEP)
            self._begun = True
            data = self._machine.unconsumed_tail or self._machine.unused_data
            if out:
                yield out
        while not self._machine.eof and (out := self._machine.decompress(b"", _STEP)):
            yield out

    @property
    def complete(self) -> bool:
        return self._machine.eof or not self._head


class Body:
    """The body of one response on its connection: decodes, and gives the connection back at the end."""

    def __init__(
        self,
        connection: Connection,
        deadline: Deadline,
        release: Callable[[Connection], object],
        discard: Callable[[Connection], object],
        codings: list[str],
    ) -> None:
        self._connection: Connection | None = connection
        self._deadline = deadline
        self._release = release
        self._discard = discard
        self._decoders = [_Inflate(coding) for coding in codings]

    def __iter__(self) -> Iterator[bytes]:
        try:
            while (connection := self._connection) is not None:
                event = self._next(connection)
                if isinstance(event, h11.Data):
                    yield from self._decode(bytes(event.data), 0)
                elif isinstance(event, h11.EndOfMessage):
                    self._connection = None
                    self._release(connection)
                else:
                    raise BodyTruncated("the connection ended inside the body")
            if not all(decoder.complete for decoder in self._decoders):
                raise BodyTruncated("the compressed body ends early")
        except zlib.error as error:
            raise BadResponse(f"the body is not what Content-Encoding says: {error}") from error
        finally:
            self.close()

    def _next(self, connection: Connection) -> Any:
        try:
            return connection.next_event(self._deadline)
        except ssl.SSLEOFError as error:
            # Harmless if the length was announced and is reached; h11 says so when told of the end.
            if connection.http.their_state is h11.SEND_BODY and not connection.framed:
                raise BodyTruncated("the TLS stream was cut off inside the body") from error
            try:
                connection.http.receive_data(b"")
                return connection.http.next_event()
            except h11.RemoteProtocolError:
                raise BodyTruncated("the connection ended inside the body") from error
        except h11.RemoteProtocolError as error:
            if connection.ended:
                raise BodyTruncated(f"the connection ended inside the body: {error}") from error
            raise BadResponse(str(error)) from error

    def _decode(self, data: bytes, level: int) -> Iterator[bytes]:
        if level == len(self._decoders):
            yield data
            return
        for piece in self._decoders[level].feed(data):
            yield from self._decode(piece, level + 1)

    def close(self) -> None:
        """Give the connection up if it is still held: what is left of the body is not worth reading."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._discard(connection)


class Response:
    """What a server answered.

    Attributes:
        status: the code; ``ok`` for 200 to 299.
        reason: the words beside it.
        headers: the fields, see :class:`Headers`.
        url: where it came from, after redirects.
        history: (status, url) of every redirect followed.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        url: str,
        body: Body | bytes,
        history: tuple[tuple[int, str], ...] = (),
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.url = url
        self.history = history
        self._source: Body | None = None if isinstance(body, bytes) else body
        self._reading: Body | None = None
        self._content: bytes | None = body if isinstance(body, bytes) else None

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status < 300

    @property
    def redirected(self) -> bool:
        """Whether a redirect was followed."""
        return bool(self.history)

    @property
    def body(self) -> bytes:
        """The whole body, decompressed; read now if it was not yet.

        Raises:
            BodyTruncated: the body is not complete.
            TimeoutError: the request's time is over.
            ValueError: it was streamed, or closed.
        """
        if self._content is None:
            self._content = b"".join(self.iter())
        return self._content

    def iter(self, size: int | None = None) -> Iterator[bytes]:
        """Yield the body: in pieces of *size* octets (the last may be shorter), or as they come.

        Errors are those of :attr:`body`. A body that was not kept can be iterated once.
        """
        if size is not None and size <= 0:
            raise ValueError("size must be positive")
        pieces = self._pieces()
        return pieces if size is None else _cut(pieces, size)

    def __iter__(self) -> Iterator[bytes]:
        return self.iter()

    def _pieces(self) -> Iterator[bytes]:
        if self._content is not None:
            return iter([self._content] if self._content else [])
        source, self._source = self._source, None
        if source is None:
            raise ValueError("the body was streamed already, or the response is closed")
        self._reading = source
        return iter(source)  # closes itself when it is dropped: it may outlive this object

    def text(self, encoding: str | None = None, errors: str = "replace") -> str:
        """Return the body as text: in *encoding*, else the ``charset`` of Content-Type, else UTF-8."""
        name = encoding or _charset(self.headers.get("content-type", "")) or "utf-8"
        try:
            return self.body.decode(name, errors)
        except LookupError:
            return self.body.decode("utf-8", errors)

    def json(self) -> Any:
        """Return the body parsed as JSON.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body)

    def raise_for_status(self) -> Response:
        """Return self, or raise :class:`HTTPStatusError` for a status of 400 and above."""
        if self.status >= 400:
            raise HTTPStatusError(f"{self.status} {self.reason}: {self.url}")
        return self

    def close(self) -> None:
        """Let the connection go; a body that was not read is lost."""
        for source in (self._source, self._reading):
            if source is not None:
                source.close()
        self._source = self._reading = None

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        source = getattr(self, "_source", None)
        if source is not None:
            source.close()

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def _cut(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)


def _charset(content_type: str) -> str | None:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None
