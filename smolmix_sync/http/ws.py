"""Websockets over a tunnel: ``websocket()`` and :class:`MixWebSocketApp`, on websocket-client.

websocket-client is handed a connected socket, TLS included, so it neither resolves nor dials by itself. It would
do both for a redirect of the handshake: such an answer is refused here, as browsers do.

Source: research/peers.md row 49; RFC 6455.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from http.cookies import SimpleCookie
from typing import Any

import websocket as _client

from smolmix_sync.http.dial import Carrier, Deadline, ascii_host, connect_limit, dial, start_tls
from smolmix_sync.http.errors import RedirectError
from smolmix_sync.http.tls import create_ssl_context
from smolmix_sync.tunnel import carrier

__all__ = ["MixWebSocketApp", "mix_websocket", "websocket"]

_PORTS = {"ws": 80, "wss": 443}
#: Ours: the most of an answer that is looked at for its status.
_STATUS_LINE = 13


class _Handshake:
    """The connected socket, with an eye on the answer to the handshake and on the time.

    Everything is the socket's own; ``recv`` alone refuses a redirect and keeps the deadline until
    :meth:`finished`.
    """

    def __init__(self, sock: Any, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline: Deadline | None = deadline
        self._line = b""

    def recv(self, size: int) -> bytes:
        if self._deadline is not None:
            self._sock.settimeout(self._deadline.left())
        data: bytes = self._sock.recv(size)
        if len(self._line) < _STATUS_LINE:
            self._line = (self._line + data)[:_STATUS_LINE]
            if self._line.startswith(b"HTTP/1.") and self._line[9:10] == b"3":
                raise RedirectError("the websocket's server answers with a redirect")
        return data

    def finished(self, timeout: float | None) -> None:
        """End the handshake's rules; *timeout* is the socket's from now on."""
        self._deadline = None
        self._sock.settimeout(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _forget_cookies(headers: Mapping[str, str] | None) -> None:
    """Take out of websocket-client's jar what an answer put there.

    The jar is one for the whole process: a server would know us by it on another tunnel, with another identity.
    """
    jar: dict[str, Any] = getattr(getattr(_client._handshake, "CookieJar", None), "jar", {})
    for morsel in SimpleCookie((headers or {}).get("set-cookie", "")).values():
        jar.pop("." + morsel["domain"].lower().removeprefix("."), None)


def _open(url: str, tunnel: Carrier | None, deadline_of: float | None, ssl_context: Any) -> _Handshake:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError(f"not a ws or wss URL: {url!r}")
    host = ascii_host(parts.hostname or "")
    tunnel = tunnel if tunnel is not None else carrier()
    deadline = Deadline(connect_limit(tunnel) if deadline_of is None else deadline_of)
    sock: Any = dial(tunnel, host, parts.port or _PORTS[parts.scheme], deadline)
    if parts.scheme == "wss":
        sock = start_tls(sock, ssl_context or create_ssl_context(), host, deadline)
    sock.settimeout(deadline.left())
    return _Handshake(sock, deadline)


def websocket(
    url: str,
    subprotocols: Iterable[str] | None = None,
    timeout: float | None = None,
    *,
    headers: Mapping[str, str] | list[str] | None = None,
    origin: str | None = None,
    tunnel: Carrier | None = None,
    ssl_context: Any = None,
) -> Any:
    """Open a websocket through a tunnel.

    Args:
        url: ws or wss.
        subprotocols: offered; ``subprotocol`` of the result is the one chosen.
        timeout: seconds until it is open, and afterwards for each call on it; None: ``connect_timeout``, and
            calls that block.
        headers: further fields of the handshake.
        origin: the Origin field; None sends the server's own, as websocket-client does.
        tunnel: None is the tunnel of the process.
        ssl_context: for wss; None is :func:`smolmix_sync.http.create_ssl_context`'s.

    Returns:
        A ``websocket.WebSocket`` of websocket-client: ``send``, ``send_bytes``, ``recv``, ``ping``, ``close``.

    Raises:
        ValueError: *url* makes no sense.
        RedirectError: the server wants to send us elsewhere.
        websocket.WebSocketException: the handshake failed; ``WebSocketBadStatusException`` has the status.
        OSError: the connection failed; see ``fetch``.
    """
    sock = _open(url, tunnel, timeout, ssl_context)
    result: Any = _client.WebSocket(enable_multithread=True)
    try:
        result.connect(
            url,
            socket=sock,
            subprotocols=list(subprotocols) if subprotocols is not None else None,
            header=headers,
            origin=origin,
            redirect_limit=0,
        )
        _forget_cookies(result.getheaders())
        sock.finished(timeout)
        result.sock_opt.timeout = timeout
    except BaseException:
        sock.close()
        raise
    return result


#: The seeds' name.
mix_websocket = websocket


class MixWebSocketApp(_client.WebSocketApp):
    """``websocket.WebSocketApp`` over a tunnel: the same callbacks and ``run_forever``.

    Every connection, those of ``run_forever(reconnect=...)`` too, is dialled through the tunnel. Options of
    ``run_forever`` that say how to connect (proxies, ``sslopt``, ``sockopt``) have no effect.

    Args:
        url: ws or wss.
        connect_timeout: seconds to connect and to shake hands; None: the tunnel's.
        tunnel, ssl_context: as for :func:`websocket`.
        options: further arguments of ``WebSocketApp``: ``on_open``, ``on_message``, ``subprotocols`` ...
    """

    def __init__(
        self,
        url: str,
        header: Any = None,
        on_open: Callable[[Any], None] | None = None,
        *,
        connect_timeout: float | None = None,
        tunnel: Carrier | None = None,
        ssl_context: Any = None,
        **options: Any,
    ) -> None:
        if "socket" in options:
            raise TypeError("the socket is made in the tunnel")
        self._mix_options = (tunnel, connect_timeout, ssl_context)
        self._mix_socket: _Handshake | None = None  # its handshake is under way
        self._mix_handle: _Handshake | None = None
        user_open = on_open
        super().__init__(url, header=header, on_open=user_open, **options)

    @property
    def prepared_socket(self) -> Any:
        """A new connected socket for every attempt; read by ``run_forever``."""
        self._mix_close()
        self._mix_socket = self._mix_handle = _open(self.url, *self._mix_options)
        return self._mix_socket

    @prepared_socket.setter
    def prepared_socket(self, value: object) -> None:
        pass  # the base class stores its argument, which is None

    def run_forever(self, *args: Any, **options: Any) -> bool:
        """Connect and call back until the connection ends; as ``WebSocketApp.run_forever``."""
        try:
            return bool(super().run_forever(*args, **options))
        finally:
            self._mix_close()

    def _mix_close(self) -> None:
        # The library forgets a socket whose server closed first.
        handle, self._mix_handle = self._mix_handle, None
        if handle is not None:
            handle.close()

    def _callback(self, callback: Any, *args: Any) -> None:
        # The first callback of a connection comes right after its handshake, or its failure.
        sock, self._mix_socket = self._mix_socket, None
        current: Any = self.sock
        if sock is not None and current is not None and current.sock is sock:
            _forget_cookies(current.getheaders())
            sock.finished(_client.getdefaulttimeout())
        super()._callback(callback, *args)
