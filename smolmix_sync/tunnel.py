"""The tunnel a program holds: start, connect, state, stats, shutdown; and the one of the process.

Source: design.md sections 6 and 8a; spec/sockets.md section 14 for fork.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig
from smolmix_sync.reactor.session import Progress, TunnelState, TunnelStats

if TYPE_CHECKING:
    import os

    from smolmix_sync.client import IpMixStream, MixnetClient
    from smolmix_sync.ipr import IpPair
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import ReactorLoop
    from smolmix_sync.socket import MixSocket

__all__ = [
    "IpPair",
    "Progress",
    "Tunnel",
    "TunnelBuilder",
    "TunnelState",
    "TunnelStats",
    "connect",
    "current",
    "disconnect",
    "get_tunnel",
    "get_tunnel_state",
    "mix_dns",
    "mix_resolve",
    "resolve",
    "set_debug",
    "setup_mix_tunnel",
]

Address = tuple[str, int] | str


class Tunnel:
    """A tunnel through the mixnet to one exit; a context manager.

    Args:
        config: complete settings; None merges :meth:`TunnelConfig.load` with *options*.
        wait: block until READY, at most ``connect_timeout``; False returns at once.
        on_progress: called with every :class:`Progress`, in a thread of its own.
        options: single settings, by field name.

    Raises:
        SetupTimeout, TopologyError, GatewayError, IprError: (with *wait*) the stage that failed.
    """

    def __init__(
        self,
        config: TunnelConfig | None = None,
        *,
        wait: bool = True,
        on_progress: Callable[[Progress], object] | None = None,
        **options: object,
    ) -> None:
        raise NotImplementedError

    # --- making one ---
    @classmethod
    def new(cls, **options: object) -> Tunnel:
        """Return a READY tunnel with default settings (the seeds' name for the constructor)."""
        raise NotImplementedError

    @classmethod
    def new_with_ipr(cls, ipr_address: Recipient | str, **options: object) -> Tunnel: ...  # type: ignore[empty-body]
    @classmethod
    def builder(cls) -> TunnelBuilder: ...  # type: ignore[empty-body]
    @classmethod
    def from_env(cls, **kw: Any) -> Tunnel: ...  # type: ignore[empty-body]
    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **kw: Any) -> Tunnel: ...  # type: ignore[empty-body]
    @classmethod
    def from_dict(cls, options: Mapping[str, object], **kw: Any) -> Tunnel: ...  # type: ignore[empty-body]
    @classmethod
    def from_client(cls, client: MixnetClient, **kw: Any) -> Tunnel: ...  # type: ignore[empty-body]
    @classmethod
    def from_stream(cls, stream: IpMixStream, **kw: Any) -> Tunnel: ...  # type: ignore[empty-body]

    # --- what the socket layer uses ---
    @property
    def config(self) -> TunnelConfig: ...  # type: ignore[empty-body]
    @property
    def loop(self) -> ReactorLoop: ...  # type: ignore[empty-body]
    @property
    def device(self) -> Device: ...  # type: ignore[empty-body]
    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None:
        """Block until READY (cooperatively under gevent: it polls a file descriptor).

        Args:
            timeout: seconds; None is ``connect_timeout``; 0 only looks.
            fail_fast: raise at once while the tunnel is down beyond its grace period (what a connect wants)
                instead of waiting for it to come back.

        Raises:
            TunnelNotReady: the time is over. TunnelClosed: it was shut down. TunnelFailed and the
            set-up errors: it failed.
        """
        raise NotImplementedError

    # --- state ---
    @property
    def state(self) -> TunnelState: ...  # type: ignore[empty-body]
    @property
    def reason(self) -> str: ...  # type: ignore[empty-body]
    def on_state(self, callback: Callable[[TunnelState, str], object]) -> None: ...
    def on_progress(self, callback: Callable[[Progress], object]) -> None: ...
    def stats(self) -> TunnelStats: ...  # type: ignore[empty-body]
    @property
    def allocated_ips(self) -> IpPair: ...  # type: ignore[empty-body]
    @property
    def nym_address(self) -> Recipient: ...  # type: ignore[empty-body]
    @property
    def exit(self) -> Recipient: ...  # type: ignore[empty-body]
    @property
    def gateway(self) -> str: ...  # type: ignore[empty-body]
    @property
    def mtu(self) -> int: ...  # type: ignore[empty-body]

    # --- traffic ---
    def tcp_connect(self, address: Address, timeout: float | None = None) -> MixSocket: ...  # type: ignore[empty-body]
    def create_connection(self, address: Address, timeout: float | None = None, source_address: tuple[str, int] | None = None) -> MixSocket: ...  # type: ignore[empty-body]
    def udp_socket(self) -> MixSocket: ...  # type: ignore[empty-body]
    def udp_socket_on(self, port: int) -> MixSocket: ...  # type: ignore[empty-body]
    def listen(self, port: int, backlog: int = 128) -> MixSocket: ...  # type: ignore[empty-body]
    def resolve(self, host: str, family: int = 0, timeout: float | None = None) -> list[str]: ...  # type: ignore[empty-body]
    def getaddrinfo(self, host: str | None, port: int | str | None, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]: ...  # type: ignore[empty-body]
    def ping(self, host: str, timeout: float | None = 10.0) -> float: ...  # type: ignore[empty-body]

    # --- life ---
    def reconnect(self) -> None: ...
    def new_identity(self, timeout: float | None = None) -> None: ...
    def shutdown(self, timeout: float = 10.0) -> None: ...
    def __enter__(self) -> Tunnel: ...  # type: ignore[empty-body]
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class TunnelBuilder:
    """Collects settings by chained calls; ``build()`` makes the tunnel."""


def current() -> Tunnel:
    """Return the tunnel of this process for a socket operation, starting one in the background if there is none.

    It may not be READY: the caller waits with ``wait_ready(timeout, fail_fast=True)``.
    """
    raise NotImplementedError


def connect(**options: object) -> Tunnel:
    """Make the process default tunnel and wait until it is READY; return it, or the one there already is."""
    raise NotImplementedError


setup_mix_tunnel = connect


def get_tunnel() -> Tunnel | None: ...
def get_tunnel_state() -> TunnelState | None: ...
def disconnect(timeout: float = 10.0) -> None: ...
def set_debug(on: bool = True) -> None: ...
def resolve(host: str, family: int = 0) -> list[str]: ...  # type: ignore[empty-body]


mix_resolve = mix_dns = resolve
