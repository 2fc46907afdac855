"""The methods that make a Python socket class a mix socket; :class:`MixSocket` and the patched classes share them.

Each function has the name, the parameters and the errors of the C method it stands for. Everything that tells the
application about the network is readiness of its own descriptor, so threads, gevent, asyncio and plain select
loops need no case of their own.

No function binds an exception before raising it: a frame that holds its exception is a cycle that keeps the
socket alive.

Source: spec/sockets.md sections 2 to 7.
"""

from __future__ import annotations

import _socket
import errno
import os
from collections.abc import Callable
from typing import Any

from smolmix_sync._socket_connect import _accept, bind, connect, connect_ex, listen
from smolmix_sync._socket_options import getsockopt, setsockopt
from smolmix_sync._socket_route import ANY, INET, inet_flow
from smolmix_sync._socket_transfer import (
    recv,
    recv_into,
    recvfrom,
    recvfrom_into,
    recvmsg,
    recvmsg_into,
    send,
    sendall,
    sendmsg,
    sendto,
)
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import CSocket, os_error, posix_close
from smolmix_sync.reactor.flow import (
    AF_INET,
    SOCK_DGRAM,
    SOCK_STREAM,
    FlowState,
    by_cookie,
    nursery,
    remember_fd,
)
from smolmix_sync.reactor.provider import TunnelPort

__all__ = ["METHODS", "initialise"]

#: AF_UNIX, AF_NETLINK, AF_ALG: local to the machine.
_LOCAL_FAMILIES = (int(_socket.AF_UNIX), 16, 38)
_family = CSocket.family.__get__
_fileno = CSocket.fileno


def initialise(
    self: Any,
    family: int = -1,
    type: int = -1,
    proto: int = -1,
    fileno: Any = None,
    tunnel: TunnelPort | None = None,
) -> None:
    """Stand in for the C type's ``__init__``.

    Raises:
        OSError: EPROTONOSUPPORT for UDPLITE, SCTP, MPTCP; EPERM for raw, packet and other families.
    """
    if fileno is not None:
        _adopt(self, family, type, proto, fileno)
        return
    family = AF_INET if family == -1 else int(family)
    type = SOCK_STREAM if type == -1 else int(type)
    proto = 0 if proto == -1 else int(proto)
    if family in INET:
        kind = type & 0xF
        if kind not in (SOCK_STREAM, SOCK_DGRAM):
            raise os_error(errno.EPERM, "raw sockets do not exist in the tunnel")
        if proto not in (0, _socket.IPPROTO_TCP if kind == SOCK_STREAM else _socket.IPPROTO_UDP):
            raise os_error(errno.EPROTONOSUPPORT)
        fd, flow = flows.create(family, kind, proto, tunnel)
        try:
            if type & _socket.SOCK_NONBLOCK:
                os.set_blocking(fd, False)
            CSocket.__init__(self, family, type, proto, fd)
        except BaseException:
            posix_close(fd)
            flows.forget(flow)
            raise
        nursery.add(flow)
    elif family in _LOCAL_FAMILIES:
        CSocket.__init__(self, family, type, proto)
        remember_fd(_fileno(self), None)
    else:
        raise os_error(errno.EPERM, "address family is not available in the tunnel")


def _adopt(self: Any, family: int, type: int, proto: int, fileno: Any) -> None:
    """Wrap a descriptor: of a flow of ours (dup, fromfd, accept, SSLSocket), or of a kernel socket."""
    CSocket.__init__(self, family, type, proto, fileno)
    detected = _family(self)
    flow = None
    if detected == _socket.AF_UNIX or detected in INET:
        flow = by_cookie.get(flows.cookie_of(self))
    if flow is not None and detected == _socket.AF_UNIX:
        CSocket.__init__(
            self, flow.family, flow.type if type == -1 else type, flow.proto if proto == -1 else proto, fileno
        )
    remember_fd(_fileno(self), flow)


def getsockname(self: Any) -> Any:
    """getsockname() -> address."""
    flow = inet_flow(self)
    if flow is None:
        return CSocket.getsockname(self)
    return flow.laddr or ANY[flow.family]


def getpeername(self: Any) -> Any:
    """getpeername() -> address."""
    flow = inet_flow(self)
    if flow is None:
        return CSocket.getpeername(self)
    if flow.raddr is None or (flow.stream and flow.state is not FlowState.ESTABLISHED):
        raise os_error(errno.ENOTCONN)
    if flow.stream and getattr(flow.pump, "over", False):
        raise os_error(errno.ENOTCONN)
    return flow.raddr


def shutdown(self: Any, how: int) -> None:
    """shutdown(how)."""
    flow = inet_flow(self)
    if flow is None:
        CSocket.shutdown(self, how)
        return
    if flow.stream:
        if flow.state is FlowState.LISTEN:
            if how in (_socket.SHUT_RD, _socket.SHUT_RDWR):
                device, stop = flow.device, getattr(flow.pump, "stop", None)
                if device is not None and stop is not None:
                    device.loop.post(stop)
            CSocket.shutdown(self, how)
            return
        if flow.state is not FlowState.ESTABLISHED:
            raise os_error(errno.ENOTCONN)
    elif flow.raddr is None:
        raise os_error(errno.ENOTCONN)
    CSocket.shutdown(self, how)


METHODS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        _accept,
        bind,
        connect,
        connect_ex,
        getpeername,
        getsockname,
        getsockopt,
        listen,
        recv,
        recv_into,
        recvfrom,
        recvfrom_into,
        recvmsg,
        recvmsg_into,
        send,
        sendall,
        sendmsg,
        sendto,
        setsockopt,
        shutdown,
    )
}
"""What is installed on a socket class besides ``__init__``."""
