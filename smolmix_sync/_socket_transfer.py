"""Receiving and sending: the whole family of methods, on streams and datagrams.

On an established stream the cost over the C method is one dictionary look-up.

Source: spec/sockets.md sections 2, 3, 5 and 7.
"""

from __future__ import annotations

import _socket
import errno
import operator
import select
import sys
from typing import Any

from smolmix_sync import _socket_policy as policy
from smolmix_sync._socket_address import parse
from smolmix_sync._socket_connect import open_datagrams
from smolmix_sync._socket_options import pending_error
from smolmix_sync._socket_policy import Verdict, is_loopback
from smolmix_sync._socket_route import (
    INET,
    datagram_flow,
    inet_flow,
    name_resolver,
    resolver_address,
    route,
    to_kernel,
)
from smolmix_sync.errors import ExitPolicyError
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import CSocket, os_error, wait_fd
from smolmix_sync.reactor.flow import (
    BLOCK,
    UDP_MAX_PAYLOAD,
    Address,
    Flow,
    FlowState,
    by_fd,
    find,
    pack_block,
    present,
    unpack_block,
)

__all__ = [
    "recv",
    "recv_into",
    "recvfrom",
    "recvfrom_into",
    "recvmsg",
    "recvmsg_into",
    "send",
    "sendall",
    "sendmsg",
    "sendto",
]

_family = CSocket.family.__get__
_fileno = CSocket.fileno
_timeout = CSocket.gettimeout
_recv = CSocket.recv
_recv_into = CSocket.recv_into
_send = CSocket.send
_sendall = CSocket.sendall

_OOB = int(_socket.MSG_OOB)
_TRUNC = int(_socket.MSG_TRUNC)


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


def _datagram_error(flow: Flow, number: int) -> OSError:
    """Return the error of a connected UDP socket; a refusal by the exit's policy names the destination."""
    if number == errno.EACCES and flow.raddr is not None:
        return ExitPolicyError(f"the exit's policy refuses {flow.raddr[0]} port {flow.raddr[1]}")
    return os_error(number)


def _source(flow: Flow, block: bytes | bytearray) -> Address:
    """Return the address in a received block, or raise the error it carries."""
    kind, host, number = unpack_block(bytes(block))
    if not kind:
        raise _datagram_error(flow, number)
    return flow.alias.get((host, number)) or present(flow.family, host, number)


def recvfrom(self: Any, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
    """recvfrom(buffersize[, flags]) -> (data, address info)."""
    flow = datagram_flow(self)
    if flow is None:
        stream = by_fd.get(_fileno(self))
        if stream is not None and stream.stream:
            return recv(self, bufsize, flags), None
        return CSocket.recvfrom(self, bufsize, flags)
    if bufsize < 0:
        raise ValueError("negative buffersize in recvfrom")
    record, _, _, _ = CSocket.recvmsg(self, bufsize + BLOCK.size, 0, flags)
    if not record:
        _after_end(flow)
        return b"", None
    return record[BLOCK.size :], _source(flow, record[: BLOCK.size])


def recvfrom_into(self: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
    """recvfrom_into(buffer[, nbytes[, flags]]) -> (nbytes, address info)."""
    flow = datagram_flow(self)
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
        _after_end(flow)
        return 0, None
    return count - BLOCK.size, _source(flow, block)


def recvmsg(
    self: Any, bufsize: int, ancbufsize: int = 0, flags: int = 0
) -> tuple[bytes, list[Any], int, Any]:
    """recvmsg(bufsize[, ancbufsize[, flags]]) -> (data, ancdata, msg_flags, address)."""
    flow = inet_flow(self)
    if flow is None:
        return CSocket.recvmsg(self, bufsize, ancbufsize, flags)
    if bufsize < 0:
        raise ValueError("negative buffer size in recvmsg()")
    if ancbufsize < 0:
        raise ValueError("invalid ancillary data buffer length")
    if flow.stream:
        data = recv(self, bufsize, flags)
        return data, [], 0, None
    data, ancillary, shown, _ = CSocket.recvmsg(self, bufsize + BLOCK.size, ancbufsize, flags)
    if not data:
        _after_end(flow)
        return b"", ancillary, shown, None
    return data[BLOCK.size :], ancillary, shown & _TRUNC, _source(flow, data[: BLOCK.size])


def recvmsg_into(
    self: Any, buffers: Any, ancbufsize: int = 0, flags: int = 0
) -> tuple[int, list[Any], int, Any]:
    """recvmsg_into(buffers[, ancbufsize[, flags]]) -> (nbytes, ancdata, msg_flags, address)."""
    flow = inet_flow(self)
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
        _after_end(flow)
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
        address = resolver_address(flow)
        flow.alias[(address[0], address[1])] = shown
    views = [memoryview(one).cast("B") for one in buffers]
    if sum(len(view) for view in views) > UDP_MAX_PAYLOAD:
        raise os_error(errno.EMSGSIZE)
    if not shown[1]:
        raise os_error(errno.EINVAL)
    if flow.raddr is not None and (number := pending_error(self)):
        raise _datagram_error(flow, number)
    flow.used = True
    if flow.pump is None:
        open_datagrams(self, flow)
    block = pack_block((flows.unmapped(address[0]), address[1]))
    return CSocket.sendmsg(self, [block, *views], [], flags & ~_OOB) - BLOCK.size


def _destination(self: Any, flow: Flow, address: Any, caller: str) -> tuple[Verdict, Address]:
    """Check a datagram's destination; the first decides whether the socket is the kernel's."""
    target = parse(caller, flow.family, address, name_resolver(flow))
    verdict, target = route(flow, target)
    if verdict is Verdict.DIRECT and flow.used:
        raise os_error(errno.EACCES, "a UDP socket that has used the tunnel cannot send directly")
    return verdict, target


def _check_bytes(data: Any) -> None:
    try:
        memoryview(data).release()
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(data).__name__}'") from None


def _check_ancillary(ancdata: Any) -> None:
    """Raise what C raises for ancillary data it cannot read."""
    for item in ancdata:
        if not isinstance(item, tuple) or len(item) != 3:
            raise TypeError("[sendmsg() ancillary data items] must be a sequence of 3 items")
        operator.index(item[0])
        operator.index(item[1])
        _check_bytes(item[2])


def sendto(self: Any, data: Any, *args: Any) -> int:
    """sendto(data[, flags], address) -> count."""
    flow = datagram_flow(self)
    if flow is None:
        stream = by_fd.get(_fileno(self)) if _family(self) in INET else None
        if stream is not None and stream.stream and len(args) in (1, 2):
            return send(self, data, args[0] if len(args) == 2 else 0)
        return CSocket.sendto(self, data, *args)
    if len(args) == 1:
        flags, address = 0, args[0]
    elif len(args) == 2:
        flags, address = args
    else:
        raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(args)} given)")
    _check_bytes(data)
    if not isinstance(flags, int):
        raise TypeError(f"{type(flags).__name__!r} object cannot be interpreted as an integer")
    sys.audit("socket.sendto", self, address)
    verdict, target = _destination(self, flow, address, "sendto")
    if verdict is Verdict.DIRECT:
        to_kernel(self, flow)
        return CSocket.sendto(self, data, flags, target)
    return _send_datagram(self, flow, [data], flags, target)


def sendmsg(self: Any, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
    """sendmsg(buffers[, ancdata[, flags[, address]]]) -> count."""
    flow = inet_flow(self)
    if flow is None:
        if address is None:
            return CSocket.sendmsg(self, buffers, ancdata, flags)
        return CSocket.sendmsg(self, buffers, ancdata, flags, address)
    # Ancillary data has no meaning on TCP and UDP here, and must not reach the pair: it could pass descriptors.
    _check_ancillary(ancdata)
    if address is not None and not isinstance(address, tuple):
        raise TypeError(f"sendmsg(): address must be tuple, not {type(address).__name__}")
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
        to_kernel(self, flow)
        return CSocket.sendmsg(self, buffers, [], flags, target)
    return _send_datagram(self, flow, list(buffers), flags, target)
