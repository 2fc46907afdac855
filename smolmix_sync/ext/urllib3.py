"""urllib3 through a tunnel: :class:`MixPoolManager` in place of ``urllib3.PoolManager``.

Errors are urllib3's (``NameResolutionError``, ``ConnectTimeoutError``, ``NewConnectionError``); TLS settings are the
caller's, as there. Proxies are not supported: the tunnel is the way.
"""

from __future__ import annotations

import functools
import socket
from typing import Any

import urllib3
import urllib3.connection
import urllib3.connectionpool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from smolmix_sync.http.dial import Carrier, Deadline, connect_limit, dial
from smolmix_sync.tunnel import carrier

__all__ = [
    "MixHTTPConnection",
    "MixHTTPConnectionPool",
    "MixHTTPSConnection",
    "MixHTTPSConnectionPool",
    "MixPoolManager",
]


def _connect(self: Any) -> Any:
    """Stand in for ``HTTPConnection._new_conn``: name and connect through the tunnel."""
    timeout = self.timeout if isinstance(self.timeout, (int, float)) else None
    tunnel = self.mix_tunnel if self.mix_tunnel is not None else carrier()
    try:
        sock = dial(tunnel, self._dns_host, self.port, Deadline(timeout or connect_limit(tunnel)))
    except socket.gaierror as error:
        raise NameResolutionError(self.host, self, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(self, f"connect to {self.host}: {error}") from error
    except OSError as error:
        raise NewConnectionError(self, f"connect to {self.host}: {error}") from error
    sock.settimeout(timeout)
    for option in self.socket_options or ():
        sock.setsockopt(*option)
    return sock


class MixHTTPConnection(urllib3.connection.HTTPConnection):
    """An HTTP connection whose socket is made by a tunnel.

    Args:
        tunnel: None is the tunnel of the process.
        args, options: as for ``urllib3.connection.HTTPConnection``.
    """

    def __init__(self, *args: Any, tunnel: Carrier | None = None, **options: Any) -> None:
        self.mix_tunnel = tunnel
        super().__init__(*args, **options)

    def _new_conn(self) -> Any:
        return _connect(self)


class MixHTTPSConnection(urllib3.connection.HTTPSConnection):
    """An HTTPS connection whose socket is made by a tunnel; arguments likewise."""

    def __init__(self, *args: Any, tunnel: Carrier | None = None, **options: Any) -> None:
        self.mix_tunnel = tunnel
        super().__init__(*args, **options)

    def _new_conn(self) -> Any:
        return _connect(self)


class MixHTTPConnectionPool(urllib3.connectionpool.HTTPConnectionPool):
    """Connections to one host; ``tunnel=`` beside urllib3's own arguments."""

    ConnectionCls = MixHTTPConnection


class MixHTTPSConnectionPool(urllib3.connectionpool.HTTPSConnectionPool):
    """TLS connections to one host; ``tunnel=`` beside urllib3's own arguments."""

    ConnectionCls = MixHTTPSConnection


class MixPoolManager(urllib3.PoolManager):
    """``urllib3.PoolManager`` over a tunnel.

    Args:
        tunnel: None is the tunnel of the process at the time of each connect.
        args, options: as for ``urllib3.PoolManager``.
    """

    def __init__(self, *args: Any, tunnel: Carrier | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pool_classes_by_scheme = {
            "http": functools.partial(MixHTTPConnectionPool, tunnel=tunnel),  # type: ignore[dict-item]
            "https": functools.partial(MixHTTPSConnectionPool, tunnel=tunnel),  # type: ignore[dict-item]
        }
