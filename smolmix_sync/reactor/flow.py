"""Flows: what is known about a socket beside its descriptor, and how descriptors find it.

A flow is one TCP connection, listener or UDP socket of the userspace stack. The application holds one end of an
AF_UNIX pair, the reactor the other (``Flow.end``). The key is the kernel's socket cookie of the application's end:
equal for dup'ed, forked and passed descriptors, never used twice; descriptor numbers are only a cache.

No gevent here: sockets may be made, and closed, in a process that never starts a reactor.

Source: spec/sockets.md sections 0, 1, 3 and 7.
"""

from __future__ import annotations

import _socket
import enum
import errno
import fcntl
import os
import resource
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from smolmix_sync.reactor import _originals
from smolmix_sync.reactor._originals import CSocket, allocate_lock, os_error, posix_close

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.provider import TunnelPort
    from smolmix_sync.reactor.pump import Pump

__all__ = [
    "ACCEPT_RECORD",
    "BLOCK",
    "Address",
    "CloseWatch",
    "Flow",
    "FlowState",
    "create",
    "discard",
    "find",
    "forget",
    "nursery",
    "pack_block",
    "unpack_block",
]

Address: TypeAlias = "tuple[str, int] | tuple[str, int, int, int]"

AF_UNIX = _socket.AF_UNIX
AF_INET = int(_socket.AF_INET)
AF_INET6 = int(_socket.AF_INET6)
SOCK_STREAM = int(_socket.SOCK_STREAM)
SOCK_DGRAM = int(_socket.SOCK_DGRAM)

# From the kernel (include/uapi/asm-generic/socket.h).
SO_COOKIE = 57

# Ours. Bytes in the pair are bytes the peer has not seen: 212 KiB (the default) would be seconds of mixnet
# goodput that a program takes for sent. The kernel doubles the value.
PAIR_BUFFER = 65536
# select.select() needs descriptors below 1024: leave them to the application.
_HIGH_FD = 1024
UDP_MAX_PAYLOAD = 65507

BLOCK = struct.Struct("!BBH16s")
"""Address block: kind 4, 6 or 0 (error), flags 0, port or errno, address (IPv4 in the first four octets)."""

ACCEPT_RECORD = struct.Struct("!20s20s8s")
"""Remote block, local block, cookie of the new application end (native byte order)."""


class FlowState(enum.IntEnum):
    """Where a flow stands; spec/sockets.md section 3."""

    NEW = 0
    CONNECTING = 1
    ESTABLISHED = 2
    FAILED = 3
    LISTEN = 4
    DEAD = 5


class Flow:
    """One socket of the stack.

    Attributes:
        cookie: of the application's end.
        family, type, proto: as the application asked.
        state: see :class:`FlowState`; UDP stays NEW.
        fd: the application's descriptor when last seen, a hint.
        end: the reactor's end of the pair, None once closed.
        laddr, raddr: as getsockname and getpeername show them.
        error: pending errno (SO_ERROR).
        options: what setsockopt stored, by (level, option).
        junk: octets of filling that keep the application's end unwritable during a connect.
        pump: who serves it in the reactor, None before first use.
        device: the device it is bound to, None before first use.
        port: the tunnel asked for at construction, None for the default.
        alias: stack address -> address the application used (redirected resolvers).
        twin: kernel socket that holds a wildcard-bound port on loopback.
        bound: whether bind() fixed laddr.
        used: whether a UDP socket has sent through the tunnel.
        told: whether the outcome of the connect was told by connect(), or the next call still has to.
        reserved: the port reservation to give back, see ``ports``.
    """

    __slots__ = (
        "alias",
        "bound",
        "cookie",
        "device",
        "end",
        "error",
        "family",
        "fd",
        "junk",
        "laddr",
        "options",
        "port",
        "proto",
        "pump",
        "raddr",
        "reserved",
        "state",
        "stream",
        "told",
        "twin",
        "type",
        "used",
    )

    def __init__(self, family: int, type: int, proto: int) -> None:
        self.cookie = b""
        self.family = family
        self.type = type
        self.proto = proto
        self.stream = type == SOCK_STREAM
        self.state = FlowState.NEW
        self.fd = -1
        self.end: _socket.socket | None = None
        self.laddr: Address | None = None
        self.raddr: Address | None = None
        self.error = 0
        self.options: dict[tuple[int, int], int | bytes] = {}
        self.junk = 0
        self.pump: Pump | None = None
        self.device: Device | None = None
        self.port: TunnelPort | None = None
        self.alias: dict[tuple[str, int], Address] = {}
        self.twin: _socket.socket | None = None
        self.bound = False
        self.reserved: int | None = None
        self.used = False
        self.told = True

    def take_error(self) -> int:
        """Return and clear the pending errno."""
        error, self.error = self.error, 0
        return error


_discarded = memoryview(bytearray(65536))


def discard(end: _socket.socket, count: int) -> None:
    """Read *count* octets of filling from *end* and forget them; fewer when there are no more."""
    while count:
        try:
            got = end.recv_into(_discarded, min(len(_discarded), count))
        except OSError:
            return
        if not got:  # closed meanwhile
            return
        count -= got


by_cookie: dict[bytes, Flow] = {}
by_fd: dict[int, Flow] = {}


def cookie_of(sock: _socket.socket) -> bytes:
    """Return the kernel's cookie of *sock*; raises OSError on a closed one."""
    return CSocket.getsockopt(sock, _socket.SOL_SOCKET, SO_COOKIE, 8)


def find(sock: _socket.socket) -> Flow | None:
    """Return the flow of *sock* by its cookie, and remember its descriptor; None for a kernel socket.

    Raises:
        OSError: EBADF when it is closed.
    """
    flow = by_cookie.get(cookie_of(sock))
    if flow is not None:
        by_fd[CSocket.fileno(sock)] = flow
    return flow


def remember_fd(fd: int, flow: Flow | None) -> None:
    """Note which flow *fd* belongs to now (None: none), and let go of a dead flow that had the number before."""
    old = by_fd.get(fd)
    if old is not None and old is not flow and old.end is None and not _elsewhere(old, fd):
        by_cookie.pop(old.cookie, None)  # its end is closed: nobody will tell us that the application's was
    if flow is None:
        by_fd.pop(fd, None)
    else:
        by_fd[fd] = flow
        flow.fd = fd


def _elsewhere(flow: Flow, fd: int) -> bool:
    """Tell whether another descriptor than *fd* was seen with *flow*: a duplicate outlives the number."""
    return any(other is flow and number != fd for number, other in list(by_fd.items()))


_high_fds = True


def _move_up(end: _socket.socket) -> _socket.socket:
    """Return *end* under a descriptor number that select() users do not need."""
    global _high_fds
    if _high_fds:
        try:
            fd = _high_copy(end)
        except OSError as problem:
            # EMFILE: exhausted for now. EINVAL: the hard limit is as low, there is no such descriptor.
            _high_fds = problem.errno != errno.EINVAL
        else:
            family, type_, proto = end.family, end.type, end.proto
            posix_close(end.detach())
            return CSocket(family, type_, proto, fd)
    return end


def _high_copy(end: _socket.socket) -> int:
    try:
        return fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    except OSError:
        # A soft limit of 1024 is there for the sake of select(), which our ends do not use: the application keeps its
        # 1024, and we take what the hard limit allows.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft > _HIGH_FD or soft == hard:
            raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)


def create(family: int, type: int, proto: int, port: TunnelPort | None = None) -> tuple[int, Flow]:
    """Make a pair and its flow; return the application's descriptor (close-on-exec, blocking).

    Raises:
        OSError: EMFILE and friends.
    """
    _originals.require_linux()
    _originals.settle_fork()
    nursery.sweep()
    stream = type == SOCK_STREAM
    # SEQPACKET, not DGRAM: only that one reports the peer's close.
    app, end = _originals.socketpair(AF_UNIX, _socket.SOCK_STREAM if stream else _socket.SOCK_SEQPACKET)
    try:
        for one in (app, end):
            one.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, PAIR_BUFFER)
        end.setblocking(False)
        end = _move_up(end)
        flow = Flow(family, type, proto or (_socket.IPPROTO_TCP if stream else _socket.IPPROTO_UDP))
        flow.cookie = cookie_of(app)
        flow.end = end
        flow.port = port
    except BaseException:
        app.close()
        end.close()
        raise
    fd = app.detach()
    by_cookie[flow.cookie] = flow
    remember_fd(fd, flow)
    return fd, flow


def forget(flow: Flow) -> None:
    """Close the reactor's end and drop the flow from the tables. The caller has stopped every watcher."""
    end, flow.end = flow.end, None
    by_cookie.pop(flow.cookie, None)
    if by_fd.get(flow.fd) is flow:
        del by_fd[flow.fd]
    release_local(flow)
    if end is not None:
        end.close()


def release_local(flow: Flow) -> None:
    """Give back the reserved port and the loopback twin."""
    twin, flow.twin = flow.twin, None
    if twin is not None:
        twin.close()
    ports.release(flow)


# --- closes of idle sockets -------------------------------------------------------------------


class CloseWatch:
    """Notices that the application closed a socket nobody reads from.

    An epoll without events still reports HUP. A report removes the entry.
    """

    def __init__(self) -> None:
        self._epoll = _originals.epoll()
        self._entries: dict[int, Callable[[], object]] = {}

    def fileno(self) -> int:
        """Return the epoll's descriptor; it is readable when ``sweep`` has something to do."""
        return int(self._epoll.fileno())

    def add(self, fd: int, callback: Callable[[], object]) -> None:
        """Call *callback* from a later ``sweep`` once the other end of *fd* is closed."""
        if fd not in self._entries:
            self._epoll.register(fd, 0)
        self._entries[fd] = callback

    def remove(self, fd: int) -> bool:
        """Forget *fd*, before it is closed; tell whether it was there."""
        if self._entries.pop(fd, None) is None:
            return False
        self._epoll.unregister(fd)
        return True

    def ready(self) -> list[Callable[[], object]]:
        """Remove what is closed and return its callbacks."""
        callbacks = []
        for fd, _ in self._epoll.poll(0):
            callback = self._entries.pop(fd, None)
            self._epoll.unregister(fd)
            if callback is not None:
                callbacks.append(callback)
        return callbacks

    def sweep(self) -> None:
        """Run the callback of every close reported so far."""
        while callbacks := self.ready():
            for callback in callbacks:
                callback()

    def close(self) -> None:
        """Release the epoll."""
        self._epoll.close()
        self._entries.clear()


class _Nursery:
    """Flows that were not used yet: they belong to no reactor, there may be none.

    Swept whenever a socket is made, and by every reactor that runs.
    """

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._watch: CloseWatch | None = None
        self._flows: dict[int, Flow] = {}

    def add(self, flow: Flow) -> None:
        """Watch a new flow for its close."""
        assert flow.end is not None
        with self._lock:
            if self._watch is None:
                self._watch = CloseWatch()
            fd = flow.end.fileno()
            self._flows[fd] = flow
            self._watch.add(fd, lambda: self._flows.pop(fd))

    def take(self, flow: Flow) -> bool:
        """Stop watching: the caller serves the flow from now on. False when it is not here."""
        if flow.end is None:
            return False
        with self._lock:
            fd = flow.end.fileno()
            if self._flows.get(fd) is not flow or self._watch is None:
                return False
            del self._flows[fd]
            return self._watch.remove(fd)

    def sweep(self) -> None:
        """Forget the flows whose sockets are closed."""
        if not self._flows:
            return
        with self._lock:
            closed = [] if self._watch is None else [callback() for callback in self._watch.ready()]
        for flow in closed:
            if isinstance(flow, Flow):
                forget(flow)

    def after_fork(self) -> None:
        """Rebuild in the child: epoll sets are shared with the parent, locks may be held."""
        flows = list(self._flows.values())
        self._lock = allocate_lock()
        self._flows = {}
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        for flow in flows:
            if flow.end is not None:
                self.add(flow)


nursery = _Nursery()


# --- local ports ------------------------------------------------------------------------------


class _Ports:
    """Ports given to bind() before the stack is asked, unique in the process.

    The stack chooses its own from 49152 up; these come from below, so the two do not meet.
    """

    LOW, HIGH = 32768, 49151
    _SO_REUSE = ((_socket.SOL_SOCKET, _socket.SO_REUSEADDR), (_socket.SOL_SOCKET, _socket.SO_REUSEPORT))

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._holders: dict[tuple[bool, int], list[Flow]] = {}

    def reserve(self, flow: Flow, port: int) -> int:
        """Give *flow* local *port* (0: any free one, unpredictable); return it.

        Raises:
            OSError: EADDRINUSE.
        """
        with self._lock:
            if port:
                if not self._free(flow, port):
                    raise os_error(errno.EADDRINUSE)
            else:
                port = self._choose(flow)
            self._holders.setdefault((flow.stream, port), []).append(flow)
            flow.reserved = port
        return port

    def _free(self, flow: Flow, port: int) -> bool:
        for other in self._holders.get((flow.stream, port), ()):
            if flow.family != other.family and _v6only(flow) | _v6only(other):
                continue
            addr, port_option = self._SO_REUSE
            if flow.options.get(port_option) and other.options.get(port_option):
                continue
            if (
                flow.options.get(addr)
                and other.options.get(addr)
                and (not flow.stream or other.state is not FlowState.LISTEN)
            ):
                continue
            return False
        return True

    def _choose(self, flow: Flow) -> int:
        span = self.HIGH - self.LOW + 1
        start = int.from_bytes(os.urandom(4), "big") % span
        for offset in range(span):
            port = self.LOW + (start + offset) % span
            if (flow.stream, port) not in self._holders:
                return port
        raise os_error(errno.EADDRINUSE)

    def holders(self, stream: bool, port: int) -> list[Flow]:
        """Return who has *port*."""
        with self._lock:
            return list(self._holders.get((stream, port), ()))

    def release(self, flow: Flow) -> None:
        """Give the port back."""
        if flow.reserved is None:
            return
        with self._lock:
            key = (flow.stream, flow.reserved)
            flow.reserved = None
            holders = self._holders.get(key, [])
            if flow in holders:
                holders.remove(flow)
            if not holders:
                self._holders.pop(key, None)

    def after_fork(self) -> None:
        """Replace the lock, which another thread may have held."""
        self._lock = allocate_lock()


def _v6only(flow: Flow) -> bool:
    return flow.family == AF_INET6 and bool(flow.options.get((_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY)))


ports = _Ports()


# --- fork -------------------------------------------------------------------------------------


def _after_fork_in_child() -> None:
    nursery.after_fork()
    ports.after_fork()
    # The parent serves these. Our copies of its ends would hide its closes and resets from the peer.
    for flow in list(by_cookie.values()):
        if flow.device is not None and flow.end is not None:
            end, flow.end = flow.end, None
            try:
                posix_close(end.detach())
            except OSError:
                pass


_originals.run_in_child(_after_fork_in_child)


# --- records ----------------------------------------------------------------------------------


def pack_block(address: tuple[Any, ...]) -> bytes:
    """Encode an address (IPv4 or IPv6 text, port) as the 20 octets in front of a datagram."""
    host = address[0]
    if ":" in host:
        return BLOCK.pack(6, 0, address[1], _socket.inet_pton(AF_INET6, host.partition("%")[0]))
    return BLOCK.pack(4, 0, address[1], _socket.inet_pton(AF_INET, host))


def pack_error(number: int) -> bytes:
    """Encode an errno as the block of an error datagram."""
    return BLOCK.pack(0, 0, number, b"")


def unpack_block(block: bytes) -> tuple[int, str, int]:
    """Decode a block: kind (4, 6; 0 error), address text (empty for an error), port or errno.

    Raises:
        ValueError: wrong length or unknown kind.
    """
    if len(block) != BLOCK.size:
        raise ValueError("short address block")
    kind, _, port, packed = BLOCK.unpack(block)
    if kind == 4:
        return kind, _socket.inet_ntop(AF_INET, packed[:4]), port
    if kind == 6:
        return kind, _socket.inet_ntop(AF_INET6, packed), port
    if kind == 0:
        return kind, "", port
    raise ValueError("unknown kind of address block")


def present(family: int, host: str, port: int) -> Address:
    """Return an address the way a socket of *family* shows it (IPv4 peers of AF_INET6 sockets are mapped)."""
    if family == AF_INET:
        return (host, port)
    return (host if ":" in host else f"::ffff:{host}", port, 0, 0)


def unmapped(host: str) -> str:
    """Return the IPv4 text inside an IPv4-mapped IPv6 address, any other address as it is."""
    if ":" in host:
        packed = _socket.inet_pton(AF_INET6, host.partition("%")[0])
        if packed[:12] == b"\0" * 10 + b"\xff\xff":
            return _socket.inet_ntop(AF_INET, packed[12:])
    return host


def cookie_from_native(cookie: bytes) -> int:
    """Return a cookie as a number, for logs and the daemon's protocol."""
    return int.from_bytes(cookie, sys.byteorder)
