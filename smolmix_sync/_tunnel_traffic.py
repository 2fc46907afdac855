"""What a tunnel carries: connections, datagrams, names and echoes, all made by the drop-in modules.

Source: design.md section 6.
"""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from smolmix_sync._tunnel_icmp import IcmpSocket
    from smolmix_sync.config import TunnelConfig
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import ReactorLoop
    from smolmix_sync.reactor.signals import Signal
    from smolmix_sync.reactor.tap import PcapCapture, PcapWriter
    from smolmix_sync.socket import MixSocket

__all__ = ["Address", "TunnelTraffic", "parse_address"]

_T = TypeVar("_T")

Address = tuple[str, int] | str


def parse_address(address: Address) -> tuple[str, int]:
    """Return host and port of ``(host, port)``, ``"host:port"`` or ``"[v6]:port"``.

    Raises:
        ValueError: there is no port, or no host.
    """
    if isinstance(address, str):
        host, colon, port = address.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"an IPv6 address goes in brackets: {address!r}")
        if not colon or not host or not port.isdigit():
            raise ValueError(f"not host:port: {address!r}")
        number = int(port)
    else:
        host, number = address[0], int(address[1])
    if not 0 < number < 65536:
        raise ValueError(f"not a port: {number}")
    return host, number


def _sockets() -> Any:
    # The drop-in stands on this module; it is loaded when a tunnel is asked for a socket.
    return importlib.import_module("smolmix_sync.socket")


class TunnelTraffic:
    """The traffic methods of :class:`smolmix_sync.tunnel.Tunnel`."""

    _config: TunnelConfig
    _loop: ReactorLoop
    _changed: Signal
    _captures: list[PcapWriter]

    @property
    def device(self) -> Device:
        """The network device its sockets are bound to."""
        raise NotImplementedError

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None:
        """Block until READY."""
        raise NotImplementedError

    def _check_process(self) -> None:
        raise NotImplementedError

    def _call(self, fn: Callable[..., _T], *args: Any) -> _T:
        raise NotImplementedError

    def tcp_connect(self, address: Address, timeout: float | None = None) -> MixSocket:
        """Connect to ``(host, port)``, ``"host:port"`` or ``"[v6]:port"``; names resolve in the tunnel.

        Args:
            address: where to.
            timeout: seconds for the name and each of its addresses, and the socket's timeout afterwards;
                None: ``connect_timeout``, and a socket that blocks.
        """
        return self.create_connection(address, timeout)

    def create_connection(
        self,
        address: Address,
        timeout: float | None = None,
        source_address: tuple[str, int] | None = None,
    ) -> MixSocket:
        """Connect as ``socket.create_connection`` does, over this tunnel."""
        host, port = parse_address(address)
        failure: OSError = OSError(errno.EHOSTUNREACH, f"{host} has no address")
        sockets = _sockets()
        for family, kind, proto, _, sockaddr in self.getaddrinfo(host, port, 0, sockets.SOCK_STREAM):
            sock = sockets.MixSocket(family, kind, proto, tunnel=self)
            try:
                sock.settimeout(self._config.connect_timeout if timeout is None else timeout)
                if source_address is not None:
                    sock.bind(source_address)
                sock.connect(sockaddr)
                sock.settimeout(timeout)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock  # type: ignore[no-any-return]
        raise failure

    def udp_socket(self) -> MixSocket:
        """Return an unbound UDP socket (IPv4)."""
        sockets = _sockets()
        return sockets.MixSocket(sockets.AF_INET, sockets.SOCK_DGRAM, tunnel=self)  # type: ignore[no-any-return]

    def udp_socket_on(self, port: int) -> MixSocket:
        """Return a UDP socket bound to *port* of our address in the tunnel."""
        sock = self.udp_socket()
        try:
            sock.bind(("0.0.0.0", port))
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, port: int, backlog: int = 128) -> MixSocket:
        """Return a TCP socket listening on *port* of our address in the tunnel."""
        sockets = _sockets()
        sock = sockets.MixSocket(sockets.AF_INET, sockets.SOCK_STREAM, tunnel=self)
        try:
            sock.bind(("0.0.0.0", port))
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock  # type: ignore[no-any-return]

    def resolve(self, host: str, family: int = 0, timeout: float | None = None) -> list[str]:
        """Return the addresses of *host*, asked through the tunnel.

        Args:
            host: a name or an IP literal.
            family: ``AF_INET``, ``AF_INET6``, or 0 for both, A before AAAA.
            timeout: seconds for all attempts; None as configured.

        Raises:
            socket.gaierror: no such name, or no answer.
        """
        self._check_process()
        return self.device.resolver.lookup(host, family, timeout)

    def getaddrinfo(
        self,
        host: str | None,
        port: int | str | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Return what ``socket.getaddrinfo`` would, asked through this tunnel."""
        self._check_process()
        lookup = importlib.import_module("smolmix_sync.dns").getaddrinfo
        result: list[Any] = lookup(host, port, family, type, proto, flags, tunnel=self)
        return result

    def fetch(self, url: str, method: str = "GET", **options: Any) -> Any:
        """Fetch *url* through this tunnel; see :func:`smolmix_sync.fetch` for the options and the response."""
        # Above this module as the sockets are, and loaded the same way.
        return importlib.import_module("smolmix_sync.http").fetch(url, method, tunnel=self, **options)

    def websocket(self, url: str, **options: Any) -> Any:
        """Open a websocket through this tunnel; see :func:`smolmix_sync.websocket`."""
        return importlib.import_module("smolmix_sync.http").websocket(url, tunnel=self, **options)

    def pcap(self, path: str | os.PathLike[str]) -> PcapCapture:
        """Write the IP packets inside the tunnel to *path* from now on, in a format that Wireshark opens.

        The file is replaced, readable by its owner alone, and has what connections carried.

        Returns:
            A context manager; its ``close`` ends the capture. Otherwise it ends with the tunnel.
        """
        self._check_process()
        tap = importlib.import_module("smolmix_sync.reactor.tap")
        capture: PcapCapture = tap.PcapCapture(self._loop, self._captures, path)
        return capture

    def icmp_socket(self) -> IcmpSocket:
        """Return a socket for ICMP echo requests through the exit; waits until READY."""
        self._check_process()
        self.wait_ready()
        socket_class = importlib.import_module("smolmix_sync._tunnel_icmp").IcmpSocket
        result: IcmpSocket = socket_class(self.device)
        return result

    def ping(self, host: str, timeout: float | None = 10.0) -> float:
        """Send one ICMP echo request through the exit; return the round trip in seconds.

        Raises:
            TimeoutError: no answer within *timeout* seconds.
            OSError: an ICMP error came instead.
        """
        limit = self._config.connect_timeout if timeout is None else timeout
        self.wait_ready(limit)
        until = self._loop.now() + limit
        with self.icmp_socket() as sock:
            try:
                number = sock.send(self.resolve(host, 0, limit)[0], os.urandom(16))
                while (
                    echo := sock.recv(max(0.0, until - self._loop.now()))
                ).seq != number or echo.rtt is None:
                    pass
            except TimeoutError:
                raise TimeoutError(errno.ETIMEDOUT, f"no echo from {host} in {limit:g} s") from None
        return echo.rtt
