"""Use a daemon from any process: ``patch_all(tunnel=attach(PATH))``, or ``SMOLMIX_DAEMON=PATH``.

Nothing is started and nothing is kept open: an attached tunnel survives fork, and works again when the daemon
comes back. Neither gevent nor cryptography is loaded.

Source: design.md decisions 15a and 16.
"""

from __future__ import annotations

import importlib
import os
import select
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from smolmix_sync.daemon.remote import RemoteDevice
from smolmix_sync.errors import TunnelNotReady
from smolmix_sync.reactor import _originals

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.socket import MixSocket

__all__ = ["AttachedTunnel", "attach", "default_path"]

#: Ours: isolation keys remembered; what is forgotten is only made anew.
_KEYS = 64


def default_path() -> Path:
    """Return where the daemon listens by default: ``SMOLMIX_DAEMON``, the runtime directory, or ``~/.smolmix``."""
    configured = os.environ.get("SMOLMIX_DAEMON")
    if configured:
        return Path(configured).absolute()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime, "smolmix.sock") if runtime else Path.home() / ".smolmix" / "daemon.sock"


class AttachedTunnel:
    """A daemon's tunnel, with the face of :class:`smolmix_sync.Tunnel` as far as sockets and names go.

    Args:
        path: of the daemon's socket.
        isolate: isolation key; sockets of different keys use different tunnels and identities.
    """

    def __init__(self, path: str | os.PathLike[str], *, isolate: str = "") -> None:
        self.path = Path(path).absolute()
        self._device = RemoteDevice(str(self.path), isolate)
        self._isolated: OrderedDict[str, AttachedTunnel] = OrderedDict()

    @property
    def device(self) -> Device:
        """What sockets are bound to."""
        return cast("Device", self._device)

    @property
    def isolation_key(self) -> str:
        """The key given at construction."""
        return self._device.isolate

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None:
        """Block until the daemon answers and its tunnel is READY.

        Args:
            timeout: seconds; None is 60; 0 only looks.
            fail_fast: do not wait for a daemon that does not answer.

        Raises:
            TunnelNotReady: the time is over.
        """
        limit = self._device.connect_timeout if timeout is None else timeout
        until = _originals.monotonic() + limit
        while True:
            left = max(0.05, until - _originals.monotonic())
            try:
                if self._device.status(left, wait=limit > 0)["ready"]:
                    return
                problem = "the daemon's tunnel is not ready"
            except OSError as failure:
                problem = failure.strerror or str(failure)
                if fail_fast:
                    raise TunnelNotReady(problem) from None
            if _originals.monotonic() >= until:
                raise TunnelNotReady(problem)
            select.poll().poll(50)  # gevent's, if it has patched it

    def status(self, timeout: float = 5.0) -> dict[str, Any]:
        """Return what the daemon tells about itself and its tunnel.

        Raises:
            OSError: ENETDOWN when no daemon answers.
        """
        return self._device.status(timeout)

    def resolve(self, host: str, family: int = 0, timeout: float | None = None) -> list[str]:
        """Return the addresses of *host*, asked through the daemon's tunnel."""
        return self._device.resolver.lookup(host, family, timeout)

    def getaddrinfo(
        self,
        host: str | None,
        port: int | str | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Return what ``socket.getaddrinfo`` would, asked through the daemon's tunnel."""
        lookup = importlib.import_module("smolmix_sync.dns").getaddrinfo
        result: list[Any] = lookup(host, port, family, type, proto, flags, tunnel=self)
        return result

    def create_connection(
        self,
        address: tuple[str, int],
        timeout: float | None = None,
        source_address: tuple[str, int] | None = None,
    ) -> MixSocket:
        """Connect as ``socket.create_connection`` does."""
        sockets = importlib.import_module("smolmix_sync.socket")
        return cast("MixSocket", sockets.create_connection(address, timeout, source_address, tunnel=self))

    tcp_connect = create_connection

    def udp_socket(self) -> MixSocket:
        """Return an unbound UDP socket (IPv4)."""
        sockets = importlib.import_module("smolmix_sync.socket")
        return cast("MixSocket", sockets.MixSocket(sockets.AF_INET, sockets.SOCK_DGRAM, tunnel=self))

    def listen(self, port: int, backlog: int = 128) -> MixSocket:
        """Return a TCP socket listening on *port* of our address in the tunnel."""
        sockets = importlib.import_module("smolmix_sync.socket")
        sock = sockets.MixSocket(sockets.AF_INET, sockets.SOCK_STREAM, tunnel=self)
        try:
            sock.bind(("0.0.0.0", port))
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return cast("MixSocket", sock)

    def isolate(self, key: str) -> AttachedTunnel:
        """Return the same daemon with another identity behind it, the same one for the same *key*."""
        found = self._isolated.pop(key, None) or AttachedTunnel(self.path, isolate=key)
        self._isolated[key] = found  # the one used last comes last
        while len(self._isolated) > _KEYS:
            self._isolated.popitem(last=False)
        return found

    def __repr__(self) -> str:
        return f"<AttachedTunnel {self.path}>"


def attach(path: str | os.PathLike[str] | None = None, *, isolate: str = "") -> AttachedTunnel:
    """Return the tunnel of the daemon at *path*, for ``patch_all(tunnel=...)`` and ``MixSocket(tunnel=...)``.

    Connects to nothing yet: the daemon may be started later.

    Args:
        path: of its socket; None is :func:`default_path`.
        isolate: isolation key.
    """
    return AttachedTunnel(default_path() if path is None else path, isolate=isolate)
