"""Which socket a call is about, and where it may go: the tunnel, the kernel, or nowhere.

Source: spec/sockets.md sections 2 and 9.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from smolmix_sync import _socket_policy as policy
from smolmix_sync._socket_names import addresses_of, port_or_default
from smolmix_sync._socket_policy import Verdict, is_wildcard, loopback_of
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor import provider
from smolmix_sync.reactor._originals import CSocket, os_error
from smolmix_sync.reactor.flow import (
    AF_INET,
    AF_INET6,
    SOCK_DGRAM,
    Address,
    Flow,
    by_fd,
    find,
    nursery,
    present,
)

__all__ = [
    "ANY",
    "INET",
    "datagram_flow",
    "inet_flow",
    "kernel_socket",
    "name_resolver",
    "resolver_address",
    "route",
    "to_kernel",
]

INET = (AF_INET, AF_INET6)
ANY: dict[int, Address] = {AF_INET: ("0.0.0.0", 0), AF_INET6: ("::", 0, 0, 0)}

_family = CSocket.family.__get__
_type = CSocket.type.__get__
_fileno = CSocket.fileno


def inet_flow(self: Any) -> Flow | None:
    """Return the flow by its cookie (the cold paths), None for a kernel socket."""
    return find(self) if _family(self) in INET else None


def datagram_flow(self: Any) -> Flow | None:
    if _family(self) in INET and _type(self) == SOCK_DGRAM:
        return find(self)
    return None


def _own_addresses(flow: Flow) -> tuple[str, ...]:
    """Return our addresses in the tunnel as far as known; starts nothing."""
    device = flow.device
    if device is None:
        port = flow.port
        if port is None:
            port = provider.peek()
        if port is None and "smolmix_sync.tunnel" in sys.modules:
            port = sys.modules["smolmix_sync.tunnel"].get_tunnel()
        device = None if port is None else port.device
    return () if device is None else device.addresses


def name_resolver(flow: Flow) -> Callable[[str, int], str]:
    return lambda name, family: addresses_of(name, family, flow.port)[0]


def _let_go(flow: Flow) -> None:
    """Give the pair up in favour of a kernel socket under the same descriptor."""
    by_fd.pop(flow.fd, None)
    device = flow.device
    if device is None:
        nursery.take(flow)
        flows.forget(flow)
    elif not device.closed:
        device.loop.call(_give_up, device, flow)


def _give_up(device: Any, flow: Flow) -> None:
    release = getattr(flow.pump, "release", None)
    if release is not None:
        release()
    elif flow.end is not None:
        device.loop.closes.remove(flow.end.fileno())
        flows.forget(flow)


def kernel_socket(flow: Flow) -> _socket.socket:
    """Make a kernel socket with the flow's options; by the reactor thread when only that one may."""

    def make() -> _socket.socket:
        made = CSocket(flow.family, flow.type, 0)
        for (level, option), value in flow.options.items():
            try:
                made.setsockopt(level, option, value)
            except OSError:
                pass
        return made

    if policy.active.strict:
        from smolmix_sync.reactor.loop import shared_loop

        return shared_loop().call(make)
    return make()


def to_kernel(self: Any, flow: Flow) -> None:
    """Put a kernel socket under the descriptor; from here on everything is native."""
    twin, flow.twin = flow.twin, None
    kernel = twin or kernel_socket(flow)
    fd = _fileno(self)
    try:
        if twin is None and flow.bound and flow.laddr is not None:
            host = loopback_of(flow.family) if is_wildcard(flow.laddr[0]) else flow.laddr[0]
            kernel.bind((host, *flow.laddr[1:]))
        blocking, inheritable = os.get_blocking(fd), os.get_inheritable(fd)
        flow.fd = fd
        _let_go(flow)
        os.dup2(kernel.fileno(), fd, inheritable)
        os.set_blocking(fd, blocking)
    finally:
        kernel.close()


def route(flow: Flow, address: Address) -> tuple[Verdict, Address]:
    """Decide on a destination; return the verdict and the address to use for it.

    Raises:
        PermissionError: it may go nowhere.
    """
    if is_wildcard(address[0]):
        address = (loopback_of(flow.family), *address[1:])
    host, number = address[0], address[1]
    verdict = policy.active.destination(host, number, _own_addresses(flow))
    if verdict is Verdict.DENY:
        raise os_error(errno.EACCES, f"{host} port {number} is neither in the tunnel nor allowed directly")
    if verdict is Verdict.DIRECT and policy.active.direct:
        policy.active.log_direct(host, number)
    return verdict, address


def resolver_address(flow: Flow) -> Address:
    """Return the resolver inside the tunnel, where port 53 of loopback is redirected to."""
    host = port_or_default(flow.port).device.resolver.config.primary
    if (":" in host) != (flow.family == AF_INET6) and flow.family == AF_INET:
        raise os_error(errno.EACCES, "the tunnel's resolver has no address of this family")
    return present(flow.family, host, 53)
