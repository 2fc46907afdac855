"""One destination behind the tunnel as a port of this machine."""

from __future__ import annotations

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
    ) -> None:
        self.host = ascii_host(host)
        self.target_port = port
        if not 0 < port < 65536:
            raise ValueError(f"not a port: {port}")
        super().__init__("127.0.0.1", listen, tunnel=tunnel, connect_timeout=connect_timeout)

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
) -> Forward:
    """Make a TCP port of this machine lead to *host*:*port* behind the tunnel.

    For programs and libraries that cannot use a MixSocket: they connect to ``(forward.address, forward.port)``.
    The name is resolved through the tunnel for every connection.

    Args:
        host, port: the destination.
        listen: port on 127.0.0.1; 0 chooses one.
        tunnel: None is the tunnel of the process.
        connect_timeout: seconds to reach the destination; None: the tunnel's.

    Returns:
        The listener, a context manager; it serves until it is closed.
    """
    return Forward(host, port, listen=listen, tunnel=tunnel, connect_timeout=connect_timeout)
