"""The methods that make a Python socket class a mix socket; :class:`MixSocket` and the patched classes share them.

Each function has the name, the parameters and the errors of the C method it stands for. On an established stream the
cost over the C method is one dictionary look-up: everything that tells the application about the network is
readiness of its own descriptor, so threads, gevent, asyncio and plain select loops need no case of their own.

No function binds an exception before raising it: a frame that holds its exception is a cycle that keeps the
socket alive.

Source: spec/sockets.md sections 2 to 7.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import struct
import sys
from collections.abc import Callable
from typing import Any

from smolmix_sync import _socket_policy as policy
from smolmix_sync._socket_address import parse
from smolmix_sync._socket_names import addresses_of, port_or_default
from smolmix_sync._socket_options import getsockopt, setsockopt
from smolmix_sync._socket_policy import Verdict, is_loopback, is_wildcard, loopback_of
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor import provider
from smolmix_sync.reactor._originals import CSocket, os_error, posix_close, wait_fd
from smolmix_sync.reactor.flow import (
    ACCEPT_RECORD,
    AF_INET,
    AF_INET6,
    BLOCK,
    SOCK_DGRAM,
    SOCK_STREAM,
    UDP_MAX_PAYLOAD,
    Address,
    Flow,
    FlowState,
    by_cookie,
    by_fd,
    find,
    nursery,
    pack_block,
    ports,
    present,
    remember_fd,
    unpack_block,
)
from smolmix_sync.reactor.provider import TunnelPort

__all__ = ["METHODS", "initialise"]

_INET = (AF_INET, AF_INET6)
#: AF_UNIX, AF_NETLINK, AF_ALG: local to the machine.
_LOCAL_FAMILIES = (int(_socket.AF_UNIX), 16, 38)
_family = CSocket.family.__get__
_type = CSocket.type.__get__
_fileno = CSocket.fileno
_timeout = CSocket.gettimeout
_recv = CSocket.recv
_recv_into = CSocket.recv_into
_send = CSocket.send
_sendall = CSocket.sendall

_OOB = int(_socket.MSG_OOB)
_TRUNC = int(_socket.MSG_TRUNC)
_ANY: dict[int, Address] = {AF_INET: ("0.0.0.0", 0), AF_INET6: ("::", 0, 0, 0)}

# --- construction -----------------------------------------------------------------------------


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
    if family in _INET:
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
    if detected == _socket.AF_UNIX or detected in _INET:
        flow = by_cookie.get(flows.cookie_of(self))
    if flow is not None and detected == _socket.AF_UNIX:
        CSocket.__init__(
            self, flow.family, flow.type if type == -1 else type, flow.proto if proto == -1 else proto, fileno
        )
    remember_fd(_fileno(self), flow)


# --- helpers ----------------------------------------------------------------------------------


def _inet_flow(self: Any) -> Flow | None:
    """Return the flow by its cookie (the cold paths), None for a kernel socket."""
    return find(self) if _family(self) in _INET else None


def _datagram_flow(self: Any) -> Flow | None:
    if _family(self) in _INET and _type(self) == SOCK_DGRAM:
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


def _resolver(flow: Flow) -> Callable[[str, int], str]:
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


def _kernel_socket(flow: Flow) -> _socket.socket:
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


def _to_kernel(self: Any, flow: Flow) -> None:
    """Put a kernel socket under the descriptor; from here on everything is native."""
    twin, flow.twin = flow.twin, None
    kernel = twin or _kernel_socket(flow)
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


def _route(flow: Flow, address: Address) -> tuple[Verdict, Address]:
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


def _resolver_address(flow: Flow) -> Address:
    """Return the resolver inside the tunnel, where port 53 of loopback is redirected to."""
    host = port_or_default(flow.port).device.resolver.config.primary
    if (":" in host) != (flow.family == AF_INET6) and flow.family == AF_INET:
        raise os_error(errno.EACCES, "the tunnel's resolver has no address of this family")
    return present(flow.family, host, 53)


# --- connect ----------------------------------------------------------------------------------


def connect(self: Any, address: Any) -> None:
    """connect(address)."""
    flow = _inet_flow(self)
    if flow is None:
        CSocket.connect(self, address)
        return
    sys.audit("socket.connect", self, address)
    target = parse("connect", flow.family, address, _resolver(flow))
    number = _connect(self, flow, target)
    if number is None:
        CSocket.connect(self, target)
    elif number == errno.EAGAIN:
        raise TimeoutError("timed out")
    elif number:
        raise os_error(number)


def connect_ex(self: Any, address: Any) -> int:
    """connect_ex(address) -> errno."""
    flow = _inet_flow(self)
    if flow is None:
        return CSocket.connect_ex(self, address)
    sys.audit("socket.connect", self, address)
    target = parse("connect_ex", flow.family, address, _resolver(flow))
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
            return errno.EISCONN
        if flow.state is FlowState.DEAD:
            return flow.take_error() or errno.ECONNABORTED
    verdict, address = _route(flow, address)
    if verdict is Verdict.DIRECT:
        if flow.used:
            return errno.EACCES  # a UDP socket that has used the tunnel stays in it
        _to_kernel(self, flow)
        return None
    shown = address
    if verdict is Verdict.RESOLVER:
        address = _resolver_address(flow)
    if not flow.stream:
        return _connect_datagram(self, flow, address, shown)
    device = port_or_default(flow.port).device
    device.check()
    # The port stays reserved; a loopback twin that held it is not needed any more.
    twin, flow.twin = flow.twin, None
    if twin is not None:
        twin.close()
    flow.error = 0
    flow.raddr = shown if verdict is Verdict.RESOLVER else None
    flow.fd = _fileno(self)
    flow.state = FlowState.CONNECTING
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
    chunk = bytes(int(CSocket.getsockopt(self, _socket.SOL_SOCKET, _socket.SO_SNDBUF)) // 3)
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
    device = _open_datagrams(self, flow)
    if not device.up and _timeout(self) != 0.0:
        # getsockname() after connect() is how programs ask for their own address.
        port_or_default(flow.port).wait_ready(_timeout(self), fail_fast=True)
    device.loop.call(_apply_peer, flow, address)
    return 0


def _apply_peer(flow: Flow, address: Address) -> None:
    apply = getattr(flow.pump, "connect", None)
    if apply is not None:
        apply(address)


def _open_datagrams(self: Any, flow: Flow) -> Any:
    """Have the reactor serve a UDP flow; returns the device."""
    device = flow.device if flow.pump is not None else None
    if device is not None:
        return device
    device = port_or_default(flow.port).device
    device.check()
    if flow.laddr is None:
        flow.laddr = (_ANY[flow.family][0], ports.reserve(flow, 0), *_ANY[flow.family][2:])
    flow.fd = _fileno(self)
    nursery.take(flow)
    from smolmix_sync.reactor.datagrams import open_datagrams

    if device.up:
        device.loop.call(open_datagrams, device, flow)
    else:
        device.loop.post(open_datagrams, device, flow)
    return device


# --- bind, listen, accept ---------------------------------------------------------------------


def bind(self: Any, address: Any) -> None:
    """bind(address)."""
    flow = _inet_flow(self)
    if flow is None:
        CSocket.bind(self, address)
        return
    sys.audit("socket.bind", self, address)
    target = parse("bind", flow.family, address, _resolver(flow))
    if flow.bound or flow.pump is not None or flow.state is not FlowState.NEW:
        raise os_error(errno.EINVAL)
    rules = policy.active
    host, number = target[0], target[1]
    if is_loopback(host) and rules.loopback != "mix":
        if rules.loopback == "deny" or number in policy.RESOLVER_PORTS:
            raise os_error(errno.EACCES, f"binding {host} port {number} is not allowed")
        _to_kernel(self, flow)
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
        _open_datagrams(self, flow)  # it may receive before it sends


def _reserve(flow: Flow, number: int) -> int:
    """Reserve a local port; a holder that was closed a moment ago gives it up first."""
    for other in ports.holders(flow.stream, number):
        if other.device is not None and not other.device.closed:
            other.device.loop.call(bool)  # closes are seen before any command runs
    return ports.reserve(flow, number)


def _bind_twin(flow: Flow, target: Address) -> int:
    """Hold the port on loopback too: a listener on the wildcard address will be a kernel listener there."""
    for _ in range(16):
        twin = _kernel_socket(flow)
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
    flow = _inet_flow(self)
    if flow is None:
        CSocket.listen(self, backlog)
        return
    backlog = max(0, backlog.__index__())
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
            _to_kernel(self, flow)
            if not bound:
                CSocket.bind(self, (loopback_of(_family(self)), 0))
            CSocket.listen(self, backlog)
            return
    port = port_or_default(flow.port)
    if not port.device.up:
        port.wait_ready(_timeout(self) or None, fail_fast=True)
    if flow.laddr is None:
        flow.laddr = (_ANY[flow.family][0], ports.reserve(flow, 0), *_ANY[flow.family][2:])
    flow.fd = _fileno(self)
    nursery.take(flow)
    from smolmix_sync.reactor.listeners import listen as listen_in_stack

    port.device.loop.call(listen_in_stack, port.device, flow, backlog)


def _accept(self: Any) -> tuple[int, Any]:
    """Return (descriptor, address) of the next connection."""
    flow = _inet_flow(self)
    if flow is None:
        return CSocket._accept(self)  # type: ignore[attr-defined,no-any-return]
    if flow.state is not FlowState.LISTEN:
        if flow.error:
            raise os_error(flow.take_error())
        raise os_error(errno.EINVAL if flow.stream else errno.EOPNOTSUPP)
    record, ancillary, _, _ = CSocket.recvmsg(self, ACCEPT_RECORD.size, _socket.CMSG_SPACE(4))
    if not record:
        if flow.error:
            raise os_error(flow.take_error())
        raise os_error(errno.EINVAL)
    remote, local, cookie = ACCEPT_RECORD.unpack(record)
    fd = int(struct.unpack("i", ancillary[0][2][:4])[0])
    os.set_inheritable(fd, False)
    accepted = by_cookie.get(cookie)
    if accepted is None:  # a process that inherited the listener: the reactor is elsewhere
        accepted = Flow(flow.family, SOCK_STREAM, flow.proto)
        accepted.cookie = cookie
        accepted.state = FlowState.ESTABLISHED
        accepted.device = flow.device
        accepted.laddr = present(flow.family, *unpack_block(local)[1:])
        accepted.raddr = present(flow.family, *unpack_block(remote)[1:])
        by_cookie[cookie] = accepted
    remember_fd(fd, accepted)
    return fd, accepted.raddr


# --- names and shutdown -----------------------------------------------------------------------


def getsockname(self: Any) -> Any:
    """getsockname() -> address."""
    flow = _inet_flow(self)
    if flow is None:
        return CSocket.getsockname(self)
    return flow.laddr or _ANY[flow.family]


def getpeername(self: Any) -> Any:
    """getpeername() -> address."""
    flow = _inet_flow(self)
    if flow is None:
        return CSocket.getpeername(self)
    if flow.raddr is None or (flow.stream and flow.state is not FlowState.ESTABLISHED):
        raise os_error(errno.ENOTCONN)
    if flow.stream and getattr(flow.pump, "over", False):
        raise os_error(errno.ENOTCONN)
    return flow.raddr


def shutdown(self: Any, how: int) -> None:
    """shutdown(how)."""
    flow = _inet_flow(self)
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


# --- receiving --------------------------------------------------------------------------------

_READABLE = (FlowState.ESTABLISHED, FlowState.CONNECTING, FlowState.DEAD)


def _check_readable(self: Any, flow: Flow) -> bool:
    """Raise what recv() on a stream that is not connected raises; False: the descriptor is not this flow's."""
    if flow.state in _READABLE:
        return True
    if find(self) is not flow:
        return False
    if flow.error:
        raise os_error(flow.take_error())
    raise os_error(errno.ENOTCONN)


def _after_end(flow: Flow) -> None:
    """Tell the error that ended the stream, once, instead of a plain end of file."""
    if flow.error and flow.state is FlowState.DEAD:
        raise os_error(flow.take_error())


def recv(self: Any, bufsize: int, flags: int = 0) -> bytes:
    """recv(buffersize[, flags]) -> data."""
    flow = by_fd.get(_fileno(self))
    if flow is None:
        return _recv(self, bufsize, flags)
    if not flow.stream:
        return recvfrom(self, bufsize, flags)[0]
    if flow.state is not FlowState.ESTABLISHED and not _check_readable(self, flow):
        return _recv(self, bufsize, flags)
    if flags & _OOB:
        raise os_error(errno.EINVAL)
    try:
        data = _recv(self, bufsize, flags)
    except ConnectionResetError:
        _after_end(flow)
        raise
    if not data and flow.error and bufsize:
        _after_end(flow)
    return data


def recv_into(self: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
    """recv_into(buffer, [nbytes[, flags]]) -> nbytes_read."""
    flow = by_fd.get(_fileno(self))
    if flow is None:
        return _recv_into(self, buffer, nbytes, flags)
    if not flow.stream:
        return recvfrom_into(self, buffer, nbytes, flags)[0]
    if flow.state is not FlowState.ESTABLISHED and not _check_readable(self, flow):
        return _recv_into(self, buffer, nbytes, flags)
    if flags & _OOB:
        raise os_error(errno.EINVAL)
    try:
        count = _recv_into(self, buffer, nbytes, flags)
    except ConnectionResetError:
        _after_end(flow)
        raise
    if not count and flow.error:
        _after_end(flow)
    return count


def _source(flow: Flow, block: bytes | bytearray) -> Address:
    """Return the address in a received block, or raise the error it carries."""
    kind, host, number = unpack_block(bytes(block))
    if not kind:
        raise os_error(number)
    return flow.alias.get((host, number)) or present(flow.family, host, number)


def recvfrom(self: Any, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
    """recvfrom(buffersize[, flags]) -> (data, address info)."""
    flow = _datagram_flow(self)
    if flow is None:
        stream = by_fd.get(_fileno(self))
        if stream is not None and stream.stream:
            return recv(self, bufsize, flags), None
        return CSocket.recvfrom(self, bufsize, flags)
    if bufsize < 0:
        raise ValueError("negative buffersize in recvfrom")
    record, _, _, _ = CSocket.recvmsg(self, bufsize + BLOCK.size, 0, flags)
    if not record:
        return b"", None
    return record[BLOCK.size :], _source(flow, record[: BLOCK.size])


def recvfrom_into(self: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
    """recvfrom_into(buffer[, nbytes[, flags]]) -> (nbytes, address info)."""
    flow = _datagram_flow(self)
    if flow is None:
        stream = by_fd.get(_fileno(self))
        if stream is not None and stream.stream:
            return recv_into(self, buffer, nbytes, flags), None
        return CSocket.recvfrom_into(self, buffer, nbytes, flags)
    view = memoryview(buffer).cast("B")
    if nbytes < 0:
        raise ValueError("negative buffersize in recvfrom_into")
    if nbytes > len(view):
        raise ValueError("nbytes is greater than the length of the buffer")
    block = bytearray(BLOCK.size)
    count, _, _, _ = CSocket.recvmsg_into(self, [block, view[:nbytes] if nbytes else view], 0, flags)
    if not count:
        return 0, None
    return count - BLOCK.size, _source(flow, block)


def recvmsg(
    self: Any, bufsize: int, ancbufsize: int = 0, flags: int = 0
) -> tuple[bytes, list[Any], int, Any]:
    """recvmsg(bufsize[, ancbufsize[, flags]]) -> (data, ancdata, msg_flags, address)."""
    flow = _inet_flow(self)
    if flow is None:
        return CSocket.recvmsg(self, bufsize, ancbufsize, flags)
    if bufsize < 0:
        raise ValueError("negative buffer size in recvmsg()")
    if flow.stream:
        data = recv(self, bufsize, flags)
        return data, [], 0, None
    data, ancillary, shown, _ = CSocket.recvmsg(self, bufsize + BLOCK.size, ancbufsize, flags)
    if not data:
        return b"", ancillary, shown, None
    return data[BLOCK.size :], ancillary, shown & _TRUNC, _source(flow, data[: BLOCK.size])


def recvmsg_into(
    self: Any, buffers: Any, ancbufsize: int = 0, flags: int = 0
) -> tuple[int, list[Any], int, Any]:
    """recvmsg_into(buffers[, ancbufsize[, flags]]) -> (nbytes, ancdata, msg_flags, address)."""
    flow = _inet_flow(self)
    if flow is None:
        return CSocket.recvmsg_into(self, buffers, ancbufsize, flags)
    if flow.stream:
        _check_readable(self, flow)
        if flags & _OOB:
            raise os_error(errno.EINVAL)
        try:
            count, ancillary, shown, _ = CSocket.recvmsg_into(self, buffers, ancbufsize, flags)
        except ConnectionResetError:
            _after_end(flow)
            raise
        if not count and flow.error:
            _after_end(flow)
        return count, ancillary, shown, None
    block = bytearray(BLOCK.size)
    count, ancillary, shown, _ = CSocket.recvmsg_into(self, [block, *buffers], ancbufsize, flags)
    if not count:
        return 0, ancillary, shown, None
    return count - BLOCK.size, ancillary, shown & _TRUNC, _source(flow, block)


# --- sending ----------------------------------------------------------------------------------


def _check_writable(self: Any, flow: Flow) -> None:
    """Wait for a connect in progress; raise what send() on a stream that is not connected raises."""
    if find(self) is not flow:
        return
    if flow.state is FlowState.CONNECTING:
        # The pair may have room behind the filling: poll decides, not send.
        timeout = _timeout(self)
        if timeout == 0.0:
            raise os_error(errno.EAGAIN)
        if not wait_fd(_fileno(self), select.POLLOUT, timeout):
            raise TimeoutError("timed out")
    if flow.error:
        raise os_error(flow.take_error())
    if flow.state in (FlowState.NEW, FlowState.FAILED, FlowState.LISTEN):
        raise os_error(errno.EPIPE)


def send(self: Any, data: Any, flags: int = 0) -> int:
    """send(data[, flags]) -> count."""
    flow = by_fd.get(_fileno(self))
    if flow is None:
        return _send(self, data, flags)
    if flow.stream:
        if flow.state is not FlowState.ESTABLISHED:
            _check_writable(self, flow)
        return _send(self, data, flags & ~_OOB)
    if find(self) is not flow:
        return _send(self, data, flags)
    if flow.raddr is None:
        raise os_error(errno.EDESTADDRREQ)
    return _send_datagram(self, flow, [data], flags, flow.raddr)


def sendall(self: Any, data: Any, flags: int = 0) -> None:
    """sendall(data[, flags])."""
    flow = by_fd.get(_fileno(self))
    if flow is None:
        _sendall(self, data, flags)
    elif flow.stream:
        if flow.state is not FlowState.ESTABLISHED:
            _check_writable(self, flow)
        _sendall(self, data, flags & ~_OOB)
    else:
        send(self, data, flags)


def _send_datagram(self: Any, flow: Flow, buffers: list[Any], flags: int, shown: Address) -> int:
    """Write one record to the pair; *shown* is a checked destination as the application knows it."""
    address = shown
    if is_loopback(shown[0]) and policy.active.loopback != "mix" and shown[1] == 53:
        address = _resolver_address(flow)
        flow.alias[(address[0], address[1])] = shown
    views = [memoryview(one).cast("B") for one in buffers]
    if sum(len(view) for view in views) > UDP_MAX_PAYLOAD:
        raise os_error(errno.EMSGSIZE)
    flow.used = True
    if flow.pump is None:
        _open_datagrams(self, flow)
    block = pack_block((flows.unmapped(address[0]), address[1]))
    return CSocket.sendmsg(self, [block, *views], [], flags & ~_OOB) - BLOCK.size


def _destination(self: Any, flow: Flow, address: Any, caller: str) -> tuple[Verdict, Address]:
    """Check a datagram's destination; the first decides whether the socket is the kernel's."""
    target = parse(caller, flow.family, address, _resolver(flow))
    verdict, target = _route(flow, target)
    if verdict is Verdict.DIRECT and flow.used:
        raise os_error(errno.EACCES, "a UDP socket that has used the tunnel cannot send directly")
    return verdict, target


def sendto(self: Any, data: Any, *args: Any) -> int:
    """sendto(data[, flags], address) -> count."""
    flow = _datagram_flow(self)
    if flow is None:
        stream = by_fd.get(_fileno(self)) if _family(self) in _INET else None
        if stream is not None and stream.stream and len(args) in (1, 2):
            return send(self, data, args[0] if len(args) == 2 else 0)
        return CSocket.sendto(self, data, *args)
    if len(args) == 1:
        flags, address = 0, args[0]
    elif len(args) == 2:
        flags, address = args
    else:
        raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(args)} given)")
    if isinstance(data, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    memoryview(data).release()
    if not isinstance(flags, int):
        raise TypeError(f"{type(flags).__name__!r} object cannot be interpreted as an integer")
    sys.audit("socket.sendto", self, address)
    verdict, target = _destination(self, flow, address, "sendto")
    if verdict is Verdict.DIRECT:
        _to_kernel(self, flow)
        return CSocket.sendto(self, data, flags, target)
    return _send_datagram(self, flow, [data], flags, target)


def sendmsg(self: Any, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
    """sendmsg(buffers[, ancdata[, flags[, address]]]) -> count."""
    flow = _inet_flow(self)
    if flow is None:
        if address is None:
            return CSocket.sendmsg(self, buffers, ancdata, flags)
        return CSocket.sendmsg(self, buffers, ancdata, flags, address)
    # Ancillary data has no meaning on TCP and UDP here, and must not reach the pair: it could pass descriptors.
    if flow.stream:
        if flow.state is not FlowState.ESTABLISHED:
            _check_writable(self, flow)
        return CSocket.sendmsg(self, buffers, [], flags & ~_OOB)
    if address is None:
        if flow.raddr is None:
            raise os_error(errno.EDESTADDRREQ)
        return _send_datagram(self, flow, list(buffers), flags, flow.raddr)
    sys.audit("socket.sendmsg", self, address)
    verdict, target = _destination(self, flow, address, "sendmsg")
    if verdict is Verdict.DIRECT:
        _to_kernel(self, flow)
        return CSocket.sendmsg(self, buffers, [], flags, target)
    return _send_datagram(self, flow, list(buffers), flags, target)


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
