"""Opening sockets: connect, bind, listen, accept, and the first datagram.

Source: spec/sockets.md sections 4, 7 and 9.
"""

from __future__ import annotations

import _socket
import errno
import select
import struct
import sys
from typing import Any

from smolmix_sync import _socket_policy as policy
from smolmix_sync._socket_address import parse
from smolmix_sync._socket_names import port_or_default
from smolmix_sync._socket_policy import Verdict, is_loopback, is_wildcard, loopback_of
from smolmix_sync._socket_route import (
    ANY,
    inet_flow,
    kernel_socket,
    name_resolver,
    resolver_address,
    route,
    to_kernel,
)
from smolmix_sync.errors import ExitPolicyError
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import CSocket, os_error, wait_fd
from smolmix_sync.reactor.flow import (
    ACCEPT_RECORD,
    AF_INET6,
    SOCK_STREAM,
    Address,
    Flow,
    FlowState,
    by_cookie,
    nursery,
    ports,
    present,
    remember_fd,
    unpack_block,
)

__all__ = ["_accept", "bind", "connect", "connect_ex", "listen", "open_datagrams"]

_family = CSocket.family.__get__
_fileno = CSocket.fileno
_timeout = CSocket.gettimeout
#: What makes a descriptor unwritable while it connects.
_FILLING = memoryview(bytes(flows.PAIR_BUFFER))


def connect(self: Any, address: Any) -> None:
    """connect(address)."""
    flow = inet_flow(self)
    if flow is None:
        CSocket.connect(self, address)
        return
    sys.audit("socket.connect", self, address)
    target = parse("connect", flow.family, address, name_resolver(flow))
    number = _connect(self, flow, target)
    if number is None:
        CSocket.connect(self, target)
    elif number == errno.EAGAIN:
        raise TimeoutError("timed out")
    elif number == errno.EACCES and flow.stream:
        raise ExitPolicyError(f"the exit's policy refuses {target[0]} port {target[1]}")
    elif number:
        raise os_error(number)


def connect_ex(self: Any, address: Any) -> int:
    """connect_ex(address) -> errno."""
    flow = inet_flow(self)
    if flow is None:
        return CSocket.connect_ex(self, address)
    sys.audit("socket.connect", self, address)
    target = parse("connect_ex", flow.family, address, name_resolver(flow))
    try:
        number = _connect(self, flow, target)
    except OSError as problem:
        return problem.errno or errno.EIO
    return CSocket.connect_ex(self, target) if number is None else number


def _connect(self: Any, flow: Flow, address: Address) -> int | None:
    """Connect; return errno, EAGAIN for a timeout, or None when the kernel is to do it (it is its socket now)."""
    if flow.stream:
        if flow.state is FlowState.CONNECTING:
            if _timeout(self) == 0.0:
                return errno.EALREADY
            return _finish_connect(self, flow)
        if flow.state in (FlowState.ESTABLISHED, FlowState.LISTEN):
            # The kernel tells success of a connect that did not block to the next call.
            told, flow.told = flow.told, True
            return errno.EISCONN if told else 0
        if flow.state is FlowState.DEAD:
            return flow.take_error() or errno.ECONNABORTED
    verdict, address = route(flow, address)
    if verdict is Verdict.DIRECT:
        if flow.used:
            return errno.EACCES  # a UDP socket that has used the tunnel stays in it
        to_kernel(self, flow)
        return None
    shown = address
    if verdict is Verdict.RESOLVER:
        address = resolver_address(flow)
    if not flow.stream:
        return _connect_datagram(self, flow, address, shown)
    device = port_or_default(flow.port).device
    device.check()
    if getattr(device, "warn_plaintext", False):
        policy.warn_plaintext(address[1])
    # The port stays reserved; a loopback twin that held it is not needed any more.
    twin, flow.twin = flow.twin, None
    if twin is not None:
        twin.close()
    flow.error = 0
    flow.raddr = shown if verdict is Verdict.RESOLVER else None
    flow.fd = _fileno(self)
    flow.state = FlowState.CONNECTING
    flow.told = _timeout(self) is None
    _fill(self, flow)
    nursery.take(flow)
    from smolmix_sync.reactor.pump import open_stream

    device.loop.post(open_stream, device, flow, address)
    if _timeout(self) == 0.0:
        return errno.EINPROGRESS
    return _finish_connect(self, flow)


def _fill(self: Any, flow: Flow) -> None:
    """Write until the descriptor is not writable; the reactor reads exactly this much back when connected."""
    fd = _fileno(self)
    # A third of the buffer fits whenever poll says writable, so that a blocking socket never blocks here.
    chunk = _FILLING[: CSocket.getsockopt(self, _socket.SOL_SOCKET, _socket.SO_SNDBUF) // 3]
    flow.junk = 0
    while wait_fd(fd, select.POLLOUT, 0) & select.POLLOUT:
        flow.junk += CSocket.send(self, chunk, _socket.MSG_NOSIGNAL)


def _finish_connect(self: Any, flow: Flow) -> int:
    timeout = _timeout(self)
    if not wait_fd(_fileno(self), select.POLLOUT, timeout):
        device = flow.device
        return errno.EAGAIN if device is None or device.up else errno.ENETDOWN
    return flow.take_error()


def _connect_datagram(self: Any, flow: Flow, address: Address, shown: Address) -> int:
    flow.used = True
    flow.raddr = shown
    if shown is not address:
        flow.alias[(address[0], address[1])] = shown
    device = open_datagrams(self, flow)
    if not device.up and _timeout(self) != 0.0:
        # getsockname() after connect() is how programs ask for their own address.
        port_or_default(flow.port).wait_ready(_timeout(self), fail_fast=True)
    device.loop.call(_apply_peer, flow, address)
    return 0


def _apply_peer(flow: Flow, address: Address) -> None:
    apply = getattr(flow.pump, "connect", None)
    if apply is not None:
        apply(address)


def open_datagrams(self: Any, flow: Flow) -> Any:
    """Have the reactor serve a UDP flow; returns the device."""
    device = flow.device if flow.pump is not None else None
    if device is not None:
        return device
    device = port_or_default(flow.port).device
    device.check()
    if flow.laddr is None:
        flow.laddr = (ANY[flow.family][0], ports.reserve(flow, 0), *ANY[flow.family][2:])
    flow.fd = _fileno(self)
    nursery.take(flow)
    from smolmix_sync.reactor.datagrams import open_datagrams as serve

    if device.up:
        device.loop.call(serve, device, flow)
    else:
        device.loop.post(serve, device, flow)
    return device


# --- bind, listen, accept ---------------------------------------------------------------------


def bind(self: Any, address: Any) -> None:
    """bind(address)."""
    flow = inet_flow(self)
    if flow is None:
        CSocket.bind(self, address)
        return
    sys.audit("socket.bind", self, address)
    target = parse("bind", flow.family, address, name_resolver(flow))
    if flow.bound or flow.pump is not None or flow.state is not FlowState.NEW:
        raise os_error(errno.EINVAL)
    nursery.sweep()  # closed sockets give their ports up first
    rules = policy.active
    host, number = target[0], target[1]
    if is_loopback(host) and rules.loopback != "mix":
        if rules.loopback == "deny" or number in policy.RESOLVER_PORTS:
            raise os_error(errno.EACCES, f"binding {host} port {number} is not allowed")
        to_kernel(self, flow)
        CSocket.bind(self, target)
        return
    if is_wildcard(host):
        if flow.stream and rules.listen == "loopback" and flow.port is None:
            number = _bind_twin(flow, target)
    elif not is_loopback(host):
        port = port_or_default(flow.port)
        if not port.device.up:
            port.wait_ready(_timeout(self) or None, fail_fast=True)
        if flows.unmapped(host) not in port.device.addresses:
            raise os_error(errno.EADDRNOTAVAIL)
    try:
        number = _reserve(flow, number)
    except OSError:
        flows.release_local(flow)
        raise
    flow.laddr = (host, number, *target[2:])
    flow.bound = True
    if not flow.stream:
        open_datagrams(self, flow)  # it may receive before it sends


def _reserve(flow: Flow, number: int) -> int:
    """Reserve a local port; a holder that was closed a moment ago gives it up first."""
    for other in ports.holders(flow.stream, number):
        if other.device is not None and not other.device.closed:
            other.device.loop.call(bool)  # closes are seen before any command runs
    return ports.reserve(flow, number)


def _bind_twin(flow: Flow, target: Address) -> int:
    """Hold the port on loopback too: a listener on the wildcard address will be a kernel listener there."""
    for _ in range(16):
        twin = kernel_socket(flow)
        try:
            twin.bind((loopback_of(flow.family), *target[1:]))
        except OSError:
            twin.close()
            if flow.family == AF_INET6 and not target[1]:
                return 0  # no IPv6 on this machine: a connect may still use the tunnel's
            raise
        number = int(twin.getsockname()[1])
        try:
            _reserve(flow, number)
        except OSError:
            twin.close()
            if target[1]:
                raise
            continue
        ports.release(flow)
        flow.twin = twin
        return number
    raise os_error(errno.EADDRINUSE)


def listen(self: Any, backlog: int = 128) -> None:
    """listen([backlog])."""
    flow = inet_flow(self)
    if flow is None:
        CSocket.listen(self, backlog)
        return
    backlog = max(0, backlog.__index__())
    if backlog > 0x7FFFFFFF:
        raise OverflowError("signed integer is greater than maximum")
    if not flow.stream:
        raise os_error(errno.EOPNOTSUPP)
    if flow.state not in (FlowState.NEW, FlowState.LISTEN):
        raise os_error(errno.EINVAL)
    if (
        flow.state is FlowState.NEW
        and flow.port is None
        and (not flow.bound or is_wildcard((flow.laddr or ("::",))[0]))
    ):
        mode = policy.active.listen
        if mode == "deny":
            raise os_error(errno.EACCES, "listening on every address is not allowed")
        if mode == "loopback":
            bound = flow.twin is not None or flow.bound
            to_kernel(self, flow)
            if not bound:
                CSocket.bind(self, (loopback_of(_family(self)), 0))
            CSocket.listen(self, backlog)
            return
    port = port_or_default(flow.port)
    if not port.device.up:
        port.wait_ready(_timeout(self) or None, fail_fast=True)
    if flow.laddr is None:
        flow.laddr = (ANY[flow.family][0], ports.reserve(flow, 0), *ANY[flow.family][2:])
    flow.fd = _fileno(self)
    nursery.take(flow)
    from smolmix_sync.reactor.listeners import listen as listen_in_stack

    port.device.loop.call(listen_in_stack, port.device, flow, backlog)


def _accept(self: Any) -> tuple[int, Any]:
    """Return (descriptor, address) of the next connection."""
    flow = inet_flow(self)
    if flow is None:
        return CSocket._accept(self)  # type: ignore[attr-defined,no-any-return]
    if flow.state is not FlowState.LISTEN:
        if flow.error:
            raise os_error(flow.take_error())
        raise os_error(errno.EINVAL if flow.stream else errno.EOPNOTSUPP)
    # Close-on-exec from the beginning: another thread may be starting a program.
    record, ancillary, _, _ = CSocket.recvmsg(
        self, ACCEPT_RECORD.size, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
    )
    if not record:
        if flow.error:
            raise os_error(flow.take_error())
        raise os_error(errno.EINVAL)
    remote, local, cookie = ACCEPT_RECORD.unpack(record)
    fd = int(struct.unpack("i", ancillary[0][2][:4])[0])
    accepted = by_cookie.get(cookie)
    if accepted is None:  # a process that inherited the listener: the reactor is elsewhere
        accepted = type(flow)(flow.family, SOCK_STREAM, flow.proto)
        accepted.cookie = cookie
        accepted.state = FlowState.ESTABLISHED
        accepted.device = flow.device
        accepted.laddr = present(flow.family, *unpack_block(local)[1:])
        accepted.raddr = present(flow.family, *unpack_block(remote)[1:])
        by_cookie[cookie] = accepted
    remember_fd(fd, accepted)
    return fd, accepted.raddr
