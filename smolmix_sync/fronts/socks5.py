"""A SOCKS5 server into the tunnel: CONNECT and UDP ASSOCIATE, names resolved behind the exit.

Source: RFC 1928 (the protocol), RFC 1929 (user name and password); reply codes beyond the RFC's own reading are
Tor's habit: 6, "TTL expired", for a time-out.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import struct
from typing import Any

from smolmix_sync.fronts.relay import relay
from smolmix_sync.fronts.server import Front, Refused
from smolmix_sync.fronts.socks5_udp import Association, pack_address
from smolmix_sync.http.dial import ascii_host

__all__ = ["SocksServer"]

_LOG = logging.getLogger("smolmix_sync.fronts")

_VERSION = 5
_NO_AUTH, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_CONNECT, _BIND, _ASSOCIATE = 1, 2, 3
_OK = 0
_UNSUPPORTED_COMMAND, _UNSUPPORTED_ADDRESS = 7, 8
#: RFC 1928 section 6.
_REPLIES = {
    "failure": 1,
    "denied": 2,
    "network": 3,
    "name": 4,
    "host": 4,
    "refused": 5,
    "timeout": 6,
}


class _Rejected(Exception):
    """The client gets a reply and is closed."""


class SocksServer(Front):
    """SOCKS5 on this machine; arguments as for :class:`Front`.

    Without *password* no authentication is asked for. A client that names a user anyway asks for isolation (as Tor's
    clients do): it gets a tunnel of that name's own where tunnels can do that, and is refused where they cannot.
    With *password*, *username* is the plain user; any other name asks for isolation likewise. BIND is not offered.
    """

    kind = "socks5"

    def serve(self, client: Any) -> None:
        """Serve one client: greeting, authentication, one command."""
        try:
            user = self._greet(client)
            tunnel = self._tunnel_for(user)
            version, command, _, kind = _exactly(client, 4)
            if version != _VERSION:
                return
            host, port = _read_address(client, kind)
            if command == _CONNECT:
                self._connect(client, tunnel, host, port)
            elif command == _ASSOCIATE:
                client.settimeout(None)
                Association(client, tunnel, host, port).run(lambda: self.stopped)
            else:
                _reply(client, _UNSUPPORTED_COMMAND)
        except _Rejected as reason:
            _LOG.warning("socks5: client refused: %s", reason)

    # --- greeting ---

    def _greet(self, client: Any) -> str | None:
        """Agree on a method and authenticate; return the user name that asks for isolation, or None."""
        version, count = _exactly(client, 2)
        if version != _VERSION:
            raise _Rejected(
                f"it speaks SOCKS version {version}" if version == 4 else "it does not speak SOCKS"
            )
        methods = set(_exactly(client, count))
        if _PASSWORD in methods:  # preferred: a name that is not heard would be isolation silently not given
            client.sendall(bytes((_VERSION, _PASSWORD)))
            return self._authenticate(client)
        if _NO_AUTH in methods and not self._password:
            client.sendall(bytes((_VERSION, _NO_AUTH)))
            return None
        client.sendall(bytes((_VERSION, _NO_METHOD)))
        raise _Rejected("no password given" if self._password else "it offers no method we know")

    def _authenticate(self, client: Any) -> str | None:
        version, length = _exactly(client, 2)
        name = _exactly(client, length) if length else b""
        (length,) = _exactly(client, 1)
        password = _exactly(client, length) if length else b""
        if version != 1:
            raise _Rejected("malformed authentication")
        if self._password and not hmac.compare_digest(password, self._password.encode()):
            client.sendall(b"\x01\x01")
            raise _Rejected("wrong password")
        user = name.decode("utf-8", "replace")
        if user in ("", self._username):
            client.sendall(b"\x01\x00")
            return None
        if not hasattr(self.tunnel, "isolate"):
            client.sendall(b"\x01\x01")
            raise _Rejected(
                "a user name asks for isolation, which this tunnel does not have: connect without one"
            )
        client.sendall(b"\x01\x00")
        return user

    def _tunnel_for(self, user: str | None) -> Any:
        tunnel: Any = self.tunnel
        return tunnel if user is None else tunnel.isolate(user)

    # --- CONNECT ---

    def _connect(self, client: Any, tunnel: Any, host: str, port: int) -> None:
        try:
            remote = self.connect(tunnel, host, port)
        except Refused as refusal:
            _reply(client, _REPLIES[refusal.kind])
            return
        try:
            _reply(client, _OK, remote.getsockname())
        except OSError:
            remote.close()
            raise
        relay(client, remote, stopped=lambda: self.stopped)


def _exactly(client: Any, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise _Rejected("it left during the greeting")
        data += piece
    return bytes(data)


def _read_address(client: Any, kind: int) -> tuple[str, int]:
    if kind == 1:
        host = str(ipaddress.IPv4Address(_exactly(client, 4)))
    elif kind == 4:
        host = str(ipaddress.IPv6Address(_exactly(client, 16)))
    elif kind == 3:
        name = _exactly(client, _exactly(client, 1)[0])
        try:
            host = ascii_host(name.decode("utf-8"))
        except ValueError:
            _exactly(client, 2)
            _reply(client, _UNSUPPORTED_ADDRESS)
            raise _Rejected("not a host name") from None
    else:
        _reply(client, _UNSUPPORTED_ADDRESS)
        raise _Rejected(f"address type {kind}")
    (port,) = struct.unpack("!H", _exactly(client, 2))
    return host, port


def _reply(client: Any, code: int, bound: Any = ("0.0.0.0", 0)) -> None:
    client.sendall(bytes((_VERSION, code, 0)) + pack_address(bound[0], bound[1]))
    if code != _OK:
        # The reply must not be lost to a reset over what the client may have sent ahead.
        client.shutdown(socket.SHUT_WR)
