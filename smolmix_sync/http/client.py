"""``fetch()``: one call for one resource, with the manners of a browser.

Source: research/peers.md sections 1.3 and 2.1 (what mixFetch does); RFC 9110 and 9112; the Fetch standard, 4.4, for
redirects.
"""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any

import h11

from smolmix_sync.http.dial import Carrier, Deadline, ascii_host, connect_limit
from smolmix_sync.http.errors import BadResponse, RedirectError
from smolmix_sync.http.headers import HeaderInput, Headers, merged
from smolmix_sync.http.pool import Connection, Origin, Pool, pool_of
from smolmix_sync.http.response import Body, Response
from smolmix_sync.http.tls import shared_context
from smolmix_sync.tunnel import carrier

__all__ = ["BodyInput", "fetch"]

BodyInput = bytes | bytearray | memoryview | str | IO[bytes] | Iterable[bytes] | None

#: Sent unless the caller says otherwise: what the most common private browser sends, so that a request says
#: nothing about this program. Ours; the seeds have such a floor too (research/peers.md section 2.1).
_FLOOR = (
    ("User-Agent", "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("Accept", "*/*"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate"),
)
#: RFC 9110 section 9.2.2.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Not for another origin's eyes. Source: the Fetch standard, and research/peers.md section 2.1.
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 16


@dataclass
class _Request:
    method: str
    url: urllib.parse.SplitResult
    origin: Origin
    headers: list[tuple[str, str]] = field(repr=False)
    body: BodyInput = field(repr=False)
    #: An iterator or a pipe gives its content once.
    replayable: bool = True
    #: Where the content of a file begins.
    start: int = 0

    def rewind(self) -> None:
        """Bring a file back to where it was."""
        body: Any = self.body
        if hasattr(body, "seek"):
            body.seek(self.start)

    @property
    def target(self) -> str:
        """Path and query, percent-encoded where need be."""
        path = urllib.parse.quote(self.url.path or "/", safe="/%:=&?~#+!$,;'@()*[]")
        query = urllib.parse.quote(self.url.query, safe="/%:=&?~+!$,;'@()*[]")
        return f"{path}?{query}" if query else path

    @property
    def host(self) -> str:
        """The Host field."""
        name = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        return name if self.origin.port == _PORTS[self.origin.scheme] else f"{name}:{self.origin.port}"


def fetch(
    url: str,
    method: str = "GET",
    headers: HeaderInput = None,
    body: BodyInput = None,
    timeout: float | None = None,
    max_redirects: int | None = None,
    *,
    stream: bool = False,
    tunnel: Carrier | None = None,
    ssl_context: Any = None,
) -> Response:
    """Fetch *url* through a tunnel.

    Connections are kept and shared by all calls over one tunnel. An idempotent request that meets a kept
    connection which the server has just closed is sent once more. Certificates are checked against the
    system's authorities (``SSL_CERT_FILE`` is honoured); TLS without forward secrecy and authenticated
    encryption is refused. Proxies of the environment are not used, cookies are not kept.

    Args:
        url: http or https; user and password in it become Basic authentication.
        method: any; upper-cased.
        headers: mapping or pairs (repeated names allowed), over a floor of browser-like ones; None as a value
            takes one away.
        body: octets, text (UTF-8), a binary file or an iterable of octets; the last two go out as they come,
            in chunks unless *headers* has Content-Length.
        timeout: seconds for all of it: names, connecting, redirects, and the body, also when it is streamed.
            None: no such end, but no single wait is longer than the tunnel's ``connect_timeout``.
        max_redirects: followed at most; one more raises. 0 returns the redirect itself. None: as configured (5).
        stream: return once the headers are there; the body is read by ``Response.iter()``.
        tunnel: None is the tunnel of the process, started if there is none.
        ssl_context: None is :func:`smolmix_sync.http.create_ssl_context`'s.

    Returns:
        The response, whatever its status.

    Raises:
        ValueError: *url* or *headers* make no sense.
        RedirectError: one redirect too many, from https to http, or with a body that is gone.
        BadResponse, BodyTruncated: the server does not speak HTTP/1.1, or hung up in the middle.
        TimeoutError: *timeout* is over.
        LeakBlocked: the destination is this machine.
        OSError: what the socket, the resolver (``socket.gaierror``) or TLS (``ssl.SSLError``) raised.
    """
    tunnel = tunnel if tunnel is not None else carrier()
    if max_redirects is None:
        max_redirects = int(getattr(getattr(tunnel, "config", None), "max_redirects", 5))
    limit = max_redirects
    deadline = Deadline(timeout, connect_limit(tunnel))
    pool = pool_of(tunnel)
    request = _first_request(url, method, headers, body, ssl_context)
    history: list[tuple[int, str]] = []
    while True:
        connection, answer = _exchange(tunnel, pool, request, deadline)
        response = _response(request, connection, answer, pool, deadline, history)
        location = response.headers.get_all("location")
        if response.status not in _REDIRECTS or not location or limit == 0:
            break
        if len(history) == limit:
            response.close()
            raise RedirectError(f"more than {limit} redirects")
        try:
            following = _follow(request, response.status, location[0])
            _drain(response)
        finally:
            response.close()
        history.append((response.status, response.url))
        request = following
    if not stream:
        try:
            _ = response.body
        finally:
            response.close()
    return response


def _first_request(
    url: str, method: str, headers: HeaderInput, body: BodyInput, ssl_context: Any
) -> _Request:
    parts, origin = _parse(url, ssl_context)
    headers = list(headers.items()) if isinstance(headers, Mapping) else list(headers or ())
    names = {name.lower() for name, _ in headers}
    floor = dict(_FLOOR)
    if "range" in names:
        floor["Accept-Encoding"] = "identity"  # a range of a compressed body is of no use to anybody
    fields = merged(floor.items(), headers)
    if parts.username is not None and "authorization" not in names:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        fields.append(("Authorization", "Basic " + base64.b64encode(pair.encode()).decode()))
    if isinstance(body, str):
        body = body.encode()
        if "content-type" not in names:
            fields.append(("Content-Type", "text/plain;charset=UTF-8"))
    elif isinstance(body, (bytearray, memoryview)):
        body = bytes(body)
    replayable = body is None or isinstance(body, bytes) or _is_seekable(body)
    file: Any = body
    start = file.tell() if replayable and hasattr(body, "seek") else 0
    return _Request(method.upper(), parts, origin, fields, body, replayable, start)


def _parse(url: str, ssl_context: Any) -> tuple[urllib.parse.SplitResult, Origin]:
    parts = urllib.parse.urlsplit(url.strip())
    if parts.scheme not in _PORTS:
        raise ValueError(f"not an http or https URL: {url!r}")
    host = ascii_host(parts.hostname or "")
    port = parts.port if parts.port is not None else _PORTS[parts.scheme]
    context = ssl_context if parts.scheme == "https" else None
    return parts, Origin(parts.scheme, host, port, context)


def _is_seekable(body: Any) -> bool:
    seekable = getattr(body, "seekable", None)
    return bool(seekable is not None and seekable()) or isinstance(body, (list, tuple))


# --- one exchange -----------------------------------------------------------------------------


class _Stale(Exception):
    """A kept connection was closed before anything of an answer came."""


def _exchange(
    tunnel: Carrier, pool: Pool, request: _Request, deadline: Deadline
) -> tuple[Connection, h11.Response]:
    """Send *request* and read the head of its answer."""
    connection = pool.acquire(tunnel, request.origin, deadline, shared_context)
    try:
        return connection, _attempt(connection, request, deadline)
    except _Stale as stale:
        pool.discard(connection)
        if not (connection.reused and request.method in _IDEMPOTENT and request.replayable):
            raise stale.__cause__ or stale from None
    except BaseException:
        pool.discard(connection)
        raise
    request.rewind()
    connection = pool.acquire(tunnel, request.origin, deadline, shared_context, fresh=True)
    try:
        return connection, _attempt(connection, request, deadline)
    except _Stale as stale:
        pool.discard(connection)
        raise stale.__cause__ or stale from None
    except BaseException:
        pool.discard(connection)
        raise


def _attempt(connection: Connection, request: _Request, deadline: Deadline) -> h11.Response:
    http = connection.http
    connection.received = 0
    failure: OSError | None = None
    try:
        head = http.send(h11.Request(method=request.method, target=request.target, headers=_fields(request)))
    except h11.LocalProtocolError as error:
        raise ValueError(f"the request makes no sense: {error}") from error
    try:
        if isinstance(request.body, bytes):
            connection.send((head or b"") + (http.send(h11.Data(data=request.body)) or b""), deadline)
        else:
            connection.send(head or b"", deadline)
            for piece in _pieces(request.body):
                connection.send(http.send(h11.Data(data=piece)) or b"", deadline)
        connection.send(http.send(h11.EndOfMessage()) or b"", deadline)
    except TimeoutError:
        raise
    except h11.LocalProtocolError as error:
        raise ValueError(f"the body does not fit its Content-Length: {error}") from error
    except OSError as error:
        failure = error  # a server may refuse a body half-way: its answer says why
    while True:
        try:
            event = connection.next_event(deadline)
        except TimeoutError:
            raise
        except OSError as error:  # an SSLEOFError too
            if connection.received:
                raise
            raise _Stale from (failure or error)
        except h11.RemoteProtocolError as error:
            if connection.received or not connection.ended:
                raise BadResponse(f"not HTTP/1.1: {error}") from error
            raise _Stale from (failure or _hung_up())
        if isinstance(event, h11.ConnectionClosed):
            raise _Stale from (failure or _hung_up())
        if isinstance(event, h11.Response):
            names = {bytes(name) for name, _ in event.headers}
            connection.framed = b"content-length" in names or b"transfer-encoding" in names
            return event


def _hung_up() -> OSError:
    return ConnectionResetError("the server closed the connection without an answer")


def _fields(request: _Request) -> list[tuple[str, str]]:
    names = {name.lower() for name, _ in request.headers}
    fields = [] if "host" in names else [("Host", request.host)]
    fields += request.headers
    if "content-length" not in names and "transfer-encoding" not in names:
        if isinstance(request.body, bytes):
            fields.append(("Content-Length", str(len(request.body))))
        elif request.body is not None:
            fields.append(("Transfer-Encoding", "chunked"))
        elif request.method in ("POST", "PUT", "PATCH"):
            fields.append(("Content-Length", "0"))
    return fields


def _pieces(body: Any) -> Iterator[bytes]:
    read = getattr(body, "read", None)
    if body is None:
        return
    if read is not None:
        while piece := read(_CHUNK):
            if not isinstance(piece, bytes):
                raise TypeError("a file given as a body must be opened in binary mode")
            yield piece
    else:
        for piece in body:
            yield bytes(piece) if not isinstance(piece, str) else piece.encode()


def _response(
    request: _Request,
    connection: Connection,
    answer: h11.Response,
    pool: Pool,
    deadline: Deadline,
    history: list[tuple[int, str]],
) -> Response:
    headers = Headers(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw_items()
    )
    codings = [
        word.strip().lower() for word in headers.get("content-encoding", "").split(",") if word.strip()
    ]
    if request.method == "HEAD" or not all(word in _CODINGS for word in codings):
        codings = []  # a coding we did not ask for is left as it is
    body = Body(connection, deadline, pool.release, pool.discard, codings[::-1])
    return Response(
        answer.status_code,
        bytes(answer.reason).decode("latin-1"),
        headers,
        urllib.parse.urlunsplit(request.url),
        body,
        tuple(history),
    )


# --- redirects --------------------------------------------------------------------------------


def _follow(request: _Request, status: int, location: str) -> _Request:
    """Return the request that *location* asks for."""
    # The field is octets: what is not ASCII in it is UTF-8 as a rule.
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    absolute = urllib.parse.urljoin(urllib.parse.urlunsplit(request.url), location)
    try:
        parts, origin = _parse(absolute, None)
    except ValueError as error:
        raise RedirectError(f"redirect to {location!r}: {error}") from error
    if request.origin.scheme == "https" and origin.scheme == "http":
        raise RedirectError(f"redirect from https to {absolute} refused")
    if origin.scheme == "https":
        origin = origin._replace(context=request.origin.context)
    if not parts.fragment and request.url.fragment:
        parts = parts._replace(fragment=request.url.fragment)
    following = replace(request, url=parts, origin=origin)
    dropped: set[str] = {"host"}
    if (status == 303 and request.method != "HEAD") or (status in (301, 302) and request.method == "POST"):
        following.method = "GET"
        following.body, following.replayable = None, True
        dropped |= {"content-length", "content-type", "content-encoding", "content-language",
                    "content-location", "transfer-encoding"}  # fmt: skip
    elif request.body is not None:
        if not request.replayable:
            raise RedirectError(f"redirect {status} of a request whose body is gone")
        request.rewind()
    if origin[:3] != request.origin[:3]:
        dropped |= _CREDENTIALS
    following.headers = [one for one in request.headers if one[0].lower() not in dropped]
    return following


def _drain(response: Response) -> None:
    """Read a redirect's small body, so that its connection can be used again."""
    size = 0
    try:
        for piece in response.iter():
            size += len(piece)
            if size > _CHUNK:
                return
    except (OSError, ValueError):
        pass  # the redirect itself was understood
