"""An HTTP proxy into the tunnel: CONNECT, and http URLs in absolute form.

It adds nothing that tells of itself (no Via, no X-Forwarded-For) and drops the hop-by-hop fields.

Source: RFC 9110 sections 7.6.1, 9.3.6 and 11.7; RFC 9112 section 3.2.2.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import urllib.parse
from typing import Any

import h11

from smolmix_sync.fronts.relay import abort, relay
from smolmix_sync.fronts.server import HANDSHAKE_TIMEOUT, Front, Refused
from smolmix_sync.http.dial import ascii_host
from smolmix_sync.tunnel import parse_address

__all__ = ["HttpProxy"]

_LOG = logging.getLogger("smolmix_sync.fronts")

_STATUS = {
    "denied": 403,
    "name": 502,
    "refused": 502,
    "network": 502,
    "host": 502,
    "failure": 502,
    "timeout": 504,
}
_REASON = {
    400: b"Bad Request",
    403: b"Forbidden",
    407: b"Proxy Authentication Required",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    504: b"Gateway Timeout",
}
#: RFC 9110 section 7.6.1; what Connection names goes too.
_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization",
        b"te", b"trailer", b"upgrade",
    }
)  # fmt: skip
#: Ours: seconds a server may take for the next octets of an answer, and a client between two requests.
_ANSWER_TIMEOUT = 300.0
_IDLE_TIMEOUT = 120.0
_CHUNK = 65536


class _UploadFailed(Exception):
    """The server does not take the rest of a request."""


class _Upstream:
    """The connection to the origin of the last request; the next one to the same origin uses it too."""

    def __init__(self, origin: tuple[str, int], sock: Any) -> None:
        self.origin = origin
        self.sock = sock
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_CHUNK * 2)
        sock.settimeout(_ANSWER_TIMEOUT)

    def send(self, event: Any) -> None:
        try:
            self.sock.sendall(self.http.send(event) or b"")
        except OSError as error:
            raise _UploadFailed(str(error)) from error

    def next_event(self) -> Any:
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(self.sock.recv(_CHUNK))


class HttpProxy(Front):
    """HTTP proxy on this machine; arguments as for :class:`Front`.

    With *password*, clients authenticate as *username* by the Basic scheme.
    """

    kind = "http-proxy"

    def serve(self, client: Any) -> None:
        """Serve the requests of one client's connection."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_CHUNK * 2)
        upstream: _Upstream | None = None
        try:
            while True:
                try:
                    request = _next(http, client)
                except h11.RemoteProtocolError as error:
                    _refuse(http, client, 400, str(error))
                    return
                if not isinstance(request, h11.Request):
                    return
                if not self._allowed(request):
                    _refuse(http, client, 407, "this proxy wants a user name and a password")
                    return
                if request.method == b"CONNECT":
                    self._tunnel_bytes(http, client, request)
                    return
                upstream = self._forward(http, client, request, upstream)
                if upstream is None or http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                    return
                http.start_next_cycle()
                client.settimeout(_IDLE_TIMEOUT)
        except OSError:
            abort(client)  # an answer that is cut off must not look complete
            raise
        finally:
            if upstream is not None:
                upstream.sock.close()

    def _allowed(self, request: h11.Request) -> bool:
        if not self._password:
            return True
        for name, value in request.headers:
            scheme, _, credentials = bytes(value).partition(b" ")
            if name == b"proxy-authorization" and scheme.lower() == b"basic":
                try:
                    given = base64.b64decode(credentials.strip(), validate=True)
                except binascii.Error:
                    return False
                return hmac.compare_digest(given, f"{self._username}:{self._password}".encode())
        return False

    # --- CONNECT ---

    def _tunnel_bytes(self, http: h11.Connection, client: Any, request: h11.Request) -> None:
        try:
            host, port = parse_address(request.target.decode("ascii"))
            remote = self.connect(self.tunnel, ascii_host(host), port)
        except (ValueError, UnicodeError) as error:
            _refuse(http, client, 400, str(error))
            return
        except Refused as refusal:
            _refuse(http, client, _STATUS[refusal.kind], str(refusal.error))
            return
        try:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            http.next_event()  # the end of the request; what follows it is for the server
            ahead = http.trailing_data[0]
            if ahead:
                remote.sendall(ahead)
        except OSError:
            remote.close()
            raise
        relay(client, remote, stopped=lambda: self.stopped)

    # --- absolute form ---

    def _forward(
        self, http: h11.Connection, client: Any, request: h11.Request, upstream: _Upstream | None
    ) -> _Upstream | None:
        """Carry one request and its answer; return the upstream connection if it can take another."""
        try:
            url = urllib.parse.urlsplit(request.target.decode("latin-1"))
            host, port = ascii_host(url.hostname or ""), url.port or 80
        except ValueError:
            _refuse(http, client, 400, "this is a proxy: it wants an absolute http URL, or CONNECT")
            return upstream
        if url.scheme != "http":
            _refuse(http, client, 501, f"{url.scheme} goes by CONNECT")
            return upstream
        if upstream is not None and (upstream.origin != (host, port) or _has_ended(upstream)):
            upstream.sock.close()
            upstream = None
        if upstream is None:
            try:
                upstream = _Upstream((host, port), self.connect(self.tunnel, host, port))
            except Refused as refusal:
                _refuse(http, client, _STATUS[refusal.kind], str(refusal.error))
                return None
        try:
            answered = self._exchange(http, client, request, url, upstream)
        except BaseException:
            upstream.sock.close()
            raise
        if answered and upstream.http.our_state is h11.DONE and upstream.http.their_state is h11.DONE:
            upstream.http.start_next_cycle()
            return upstream
        upstream.sock.close()
        return None

    def _exchange(
        self, http: h11.Connection, client: Any, request: h11.Request, url: Any, upstream: _Upstream
    ) -> bool:
        target = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        headers = _end_to_end(request.headers)
        # The origin comes from the URL alone. Source: RFC 9112 section 3.2.2.
        host = url.netloc.rpartition("@")[2]
        headers = [(b"Host", host.encode("ascii")), *((n, v) for n, v in headers if n.lower() != b"host")]
        client.settimeout(_ANSWER_TIMEOUT)
        try:
            head = h11.Request(method=request.method, target=target.encode("latin-1"), headers=headers)
            upstream.send(head)
            if http.they_are_waiting_for_100_continue:
                client.sendall(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            while True:
                event = _next(http, client)
                if isinstance(event, h11.Data):
                    upstream.send(h11.Data(data=event.data))
                elif isinstance(event, h11.EndOfMessage):
                    upstream.send(h11.EndOfMessage())
                    break
                else:
                    return False
        except h11.RemoteProtocolError:
            return False  # the client broke off
        except _UploadFailed as error:
            # The server may have answered early and left; its answer is worth a look.
            _LOG.debug("http-proxy: upload: %s", error)
        try:
            event = upstream.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = upstream.next_event()
        except TimeoutError as error:
            _refuse(http, client, 504, str(error))
            return False
        except (OSError, h11.RemoteProtocolError) as error:
            _refuse(http, client, 502, f"the server's answer: {error}")
            return False
        if not isinstance(event, h11.Response):
            _refuse(http, client, 502, "the server closed the connection without an answer")
            return False
        answer = h11.Response(
            status_code=event.status_code, reason=event.reason, headers=_end_to_end(event.headers)
        )
        client.sendall(http.send(answer) or b"")
        while True:
            try:
                event = upstream.next_event()
            except h11.RemoteProtocolError:
                raise ConnectionResetError("the server's answer ended early") from None
            if isinstance(event, h11.Data):
                client.sendall(http.send(h11.Data(data=event.data)) or b"")
            elif isinstance(event, h11.EndOfMessage):
                client.sendall(http.send(h11.EndOfMessage()) or b"")
                return True
            else:
                raise ConnectionResetError("the server's answer ended early")


def _next(http: h11.Connection, client: Any) -> Any:
    while True:
        event = http.next_event()
        if event is not h11.NEED_DATA:
            return event
        http.receive_data(client.recv(_CHUNK))


def _has_ended(upstream: _Upstream) -> bool:
    """Tell whether the server has closed a connection that is between two requests."""
    try:
        upstream.sock.settimeout(0)
        upstream.sock.recv(1)
    except BlockingIOError:
        upstream.sock.settimeout(_ANSWER_TIMEOUT)
        return False
    except OSError:
        pass
    return True


def _end_to_end(headers: Any) -> list[tuple[bytes, bytes]]:
    named = {
        word.strip().lower()
        for name, value in headers
        if name == b"connection"
        for word in bytes(value).split(b",")
    }
    return [
        (bytes(raw), bytes(value))
        for raw, value in headers.raw_items()
        if bytes(raw).lower() not in _HOP_BY_HOP and bytes(raw).lower() not in named
    ]


def _refuse(http: h11.Connection, client: Any, status: int, why: str) -> None:
    """Answer with an error of the proxy's own and let the connection end."""
    if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = f"smolmix-sync: {why}\n".encode("utf-8", "replace")
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    if status == 407:
        headers.append(("Proxy-Authenticate", 'Basic realm="smolmix-sync"'))
    client.settimeout(HANDSHAKE_TIMEOUT)
    client.sendall(
        (http.send(h11.Response(status_code=status, reason=_REASON[status], headers=headers)) or b"")
        + (http.send(h11.Data(data=body)) or b"")
        + (http.send(h11.EndOfMessage()) or b"")
    )
