"""A drop-in for the stdlib's ``socket`` module: the same names, over the tunnel.

``from smolmix_sync import socket`` and the code below it needs no change. :class:`MixSocket` (here also ``socket`` and
``SocketType``) is a real file descriptor: select, selectors, ssl, asyncio, gevent, ``sendfile`` and descriptor
passing work with it. What is not defined here is the stdlib's own (constants, ``inet_pton``, ``socketpair`` ...).

Nothing starts at import; the tunnel comes up at the first call that needs it.

Source: spec/sockets.md sections 0 and 2.
"""

from __future__ import annotations

import os
import socket as _stdlib
from typing import TYPE_CHECKING, Any

from smolmix_sync._socket_core import METHODS, initialise
from smolmix_sync._socket_share import register
from smolmix_sync.dns import (
    getaddrinfo,
    getfqdn,
    gethostbyaddr,
    gethostbyname,
    gethostbyname_ex,
    getnameinfo,
)
from smolmix_sync.reactor._originals import original, os_error
from smolmix_sync.reactor.provider import TunnelPort

if TYPE_CHECKING:
    from socket import socket as _Base
else:
    # gevent may have replaced the name; its class has another layout.
    _Base = original("socket", "socket")

__all__ = [
    *(name for name in _stdlib.__all__ if name not in ("socket", "SocketType")),
    "MixSocket",
    "SocketType",
    "create_connection",
    "create_server",
    "fromfd",
    "getaddrinfo",
    "getfqdn",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "getnameinfo",
    "has_dualstack_ipv6",
    "socket",
]

_DEFAULT_TIMEOUT: Any = object()


class MixSocket(_Base):
    """A TCP or UDP socket over the tunnel; everything else as ``socket.socket``.

    Args:
        family, type, proto, fileno: as there. AF_UNIX sockets are the kernel's; raw sockets raise EPERM.
        tunnel: the tunnel to use; None is the default tunnel of the process, taken at first need.
    """

    __slots__ = ()

    def __init__(
        self,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: Any = None,
        *,
        tunnel: TunnelPort | None = None,
    ) -> None:
        initialise(self, family, type, proto, fileno, tunnel)
        self._io_refs = 0
        self._closed = False

    def accept(self) -> tuple[Any, Any]:
        """Wait for an incoming connection; return (socket, address)."""
        fd, address = self._accept()
        sock = MixSocket(self.family, self.type, self.proto, fileno=fd)
        # As the stdlib: an accepted socket blocks if the listener does, unless a default timeout says otherwise.
        if _stdlib.getdefaulttimeout() is None and self.gettimeout():
            sock.setblocking(True)
        return sock, address

    if TYPE_CHECKING:

        def _accept(self) -> tuple[int, Any]: ...


for _name, _function in METHODS.items():
    setattr(MixSocket, _name, _function)
del _name, _function

register(MixSocket)
socket = SocketType = MixSocket


def create_connection(
    address: tuple[str | None, int],
    timeout: Any = _DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
    tunnel: TunnelPort | None = None,
) -> MixSocket:
    """Connect to *address* and return the socket, as ``socket.create_connection``.

    Args:
        address, timeout, source_address, all_errors: as there.
        tunnel: the tunnel to use; None is the default one.
    """
    host, port = address
    problems: list[OSError] = []
    for family, kind, proto, _, target in getaddrinfo(host, port, 0, _stdlib.SOCK_STREAM, tunnel=tunnel):
        sock = None
        try:
            sock = MixSocket(family, kind, proto, tunnel=tunnel)
            if timeout is not _DEFAULT_TIMEOUT and timeout is not _stdlib._GLOBAL_DEFAULT_TIMEOUT:  # type: ignore[attr-defined]
                sock.settimeout(timeout)
            if source_address:
                sock.bind(source_address)
            sock.connect(target)
            return sock
        except OSError as problem:
            if not all_errors:
                problems.clear()
            problems.append(problem)
            if sock is not None:
                sock.close()
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    try:
        if not problems:
            raise OSError("getaddrinfo returns an empty list")
        if all_errors:
            raise ExceptionGroup("create_connection failed", problems)
        raise problems[0]
    finally:
        problems.clear()  # or exception, traceback, frame and list hold each other


def has_dualstack_ipv6() -> bool:
    """Return whether one socket can serve IPv4 and IPv6; a loopback listener cannot."""
    return False


def create_server(
    address: Any,
    *,
    family: int = _stdlib.AF_INET,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,
    tunnel: TunnelPort | None = None,
) -> MixSocket:
    """Return a listening socket bound to *address*, as ``socket.create_server``.

    The wildcard address means loopback, unless *tunnel* is given: then it is every address of the tunnel.
    """
    if dualstack_ipv6:
        raise ValueError("dualstack_ipv6 not supported on this platform")
    sock = MixSocket(family, _stdlib.SOCK_STREAM, tunnel=tunnel)
    try:
        sock.setsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_REUSEPORT, 1)
        if family == _stdlib.AF_INET6:
            sock.setsockopt(_stdlib.IPPROTO_IPV6, _stdlib.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as problem:
            number = problem.errno or 0
            raise os_error(
                number, f"{problem.strerror} (while attempting to bind on address {address!r})"
            ) from None
        if backlog is None:
            sock.listen()
        else:
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> MixSocket:
    """Return a socket for a duplicate of *fd*, as ``socket.fromfd``."""
    return MixSocket(family, type, proto, os.dup(fd))


def __getattr__(name: str) -> Any:
    return getattr(_stdlib, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_stdlib)})
