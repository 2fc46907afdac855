"""requests through a tunnel: mount :class:`MixAdapter`, or take a :func:`session`.

Errors are requests' own (``ConnectionError``, ``ConnectTimeout`` ...); cookies, redirects, retries and certificates
stay with requests. Proxies, of the environment or given, have no effect on what an adapter carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
import requests.adapters

from smolmix_sync.ext.urllib3 import MixPoolManager
from smolmix_sync.tunnel import Tunnel, current

if TYPE_CHECKING:
    from smolmix_sync.config import TunnelConfig

__all__ = ["MixAdapter", "MixSession", "session"]


class MixAdapter(requests.adapters.HTTPAdapter):
    """A transport adapter over a tunnel: ``session.mount("https://", MixAdapter())``.

    Args:
        tunnel: None is the tunnel of the process.
        options: as for ``HTTPAdapter``.
    """

    def __init__(self, tunnel: Tunnel | None = None, **options: Any) -> None:
        self._mix_tunnel = tunnel
        super().__init__(**options)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Make the pool manager over the tunnel."""
        self._pool_connections = connections
        self._pool_maxsize = maxsize
        self._pool_block = block
        # After unpickling there is no tunnel to go back to but the process's.
        tunnel = getattr(self, "_mix_tunnel", None)
        self.poolmanager = MixPoolManager(
            num_pools=connections, maxsize=maxsize, block=block, tunnel=tunnel, **pool_kwargs
        )

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Refuse: a proxy is not reached through this adapter."""
        raise ValueError("smolmix_sync: the tunnel is the way, it goes to no proxy")

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """Send as ``HTTPAdapter.send`` does, without any proxy."""
        options["proxies"] = None
        return super().send(request, *args[:4], **options)


class MixSession(requests.Session):
    """A session whose every http and https request goes through one tunnel; made by :func:`session`."""

    def __init__(self, tunnel: Tunnel | None = None, *, owns: bool = False, **options: Any) -> None:
        super().__init__()
        self.tunnel = tunnel
        self._owns = owns
        self.mount("http://", MixAdapter(tunnel, **options))
        self.mount("https://", MixAdapter(tunnel, **options))

    def close(self) -> None:
        """Close the connections, and the tunnel if it is the session's own."""
        super().close()
        if self._owns and self.tunnel is not None:
            self.tunnel.shutdown()


def session(
    tunnel: Tunnel | None = None,
    *,
    isolate: bool = False,
    config: TunnelConfig | None = None,
    **options: Any,
) -> MixSession:
    """Return a ``requests.Session`` over a tunnel.

    Args:
        tunnel: None is the tunnel of the process.
        isolate: give the session a tunnel of its own, with its own identity, entry session and exit session,
            so that it cannot be linked to others by them; closed with the session. Takes the time of a set-up.
        config: settings of that tunnel; None: those of *tunnel*, else of the process's.
        options: as for ``requests.adapters.HTTPAdapter``.
    """
    if not isolate:
        return MixSession(tunnel, **options)
    if config is None:
        config = (tunnel if tunnel is not None else current()).config
    return MixSession(Tunnel(config), owns=True, **options)
