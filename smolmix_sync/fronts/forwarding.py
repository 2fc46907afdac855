"""One destination behind the tunnel as a port of this machine."""

from __future__ import annotations

import os
from typing import Any

from smolmix_sync.fronts.relay import abort, relay
from smolmix_sync.fronts.server import Front, Refused
from smolmix_sync.http.dial import Carrier, ascii_host

__all__ = ["Forward", "forward"]


class Forward(Front):
    """Carries every connection to one destination; made by :func:`forward`.

    A destination that cannot be reached resets the client.
    """

    kind = "forward"

    def __init__(
        self,
        host: str,
        port: int,
        *,
        listen: int = 0,
        tunnel: Carrier | None = None,
        connect_timeout: float | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.host = ascii_host(host)
        self.target_port = port
        if not 0 < port < 65536:
            raise ValueError(f"not a port: {port}")
        super().__init__("127.0.0.1", listen, tunnel=tunnel, connect_timeout=connect_timeout, path=path)

    def serve(self, client: Any) -> None:
        """Carry one connection."""
        try:
            remote = self.connect(self.tunnel, self.host, self.target_port)
        except Refused:
            abort(client)
            return
        relay(client, remote, stopped=lambda: self.stopped)


def forward(
    host: str,
    port: int,
    *,
    listen: int = 0,
    tunnel: Carrier | None = None,
    connect_timeout: float | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Forward:
    """Make a TCP port, or an AF_UNIX socket, of this machine lead to *host*:*port* behind the tunnel.

    For programs and libraries that cannot use a MixSocket: they connect to ``(forward.address, forward.port)``, or to
    the path ``forward.address``.
    The name is resolved through the tunnel for every connection.

    Args:
        host, port: the destination.
        listen: port on 127.0.0.1; 0 chooses one.
        tunnel: None is the tunnel of the process.
        connect_timeout: seconds to reach the destination; None: the tunnel's.
        path: an AF_UNIX socket of this name instead of a port; C libraries can connect to it under the seccomp filter of
            ``patch_all(strict=True)`` too. libpq wants ``FOLDER/.s.PGSQL.5432`` and is told ``host=FOLDER``.

    Returns:
        The listener, a context manager; it serves until it is closed.
    """
    return Forward(host, port, listen=listen, tunnel=tunnel, connect_timeout=connect_timeout, path=path)
