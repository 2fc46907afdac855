"""The daemon: listens on an AF_UNIX path and serves the sockets of other processes over one tunnel.

It lives in the reactor of the process that has the tunnel; no thread of its own. A client that dies leaves nothing
behind: its descriptors close, and the pumps see that as they do in one process.

Source: spec/sockets.md section 12; design.md decision 16.
"""

from __future__ import annotations

import _socket
import errno
import ipaddress
import json
import logging
import os
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent.threadpool

from smolmix_sync.daemon.protocol import (
    MAX_REQUEST,
    NO_BLOCK,
    NO_COOKIE,
    Op,
    Reply,
    ReplyFlag,
    Request,
    RequestFlag,
    encode_addresses,
)
from smolmix_sync.daemon.served import Endings, ServedFlow, adopt_descriptor, make_pair
from smolmix_sync.errors import SmolmixError, WireError
from smolmix_sync.reactor import _originals
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import CSocket, os_error, posix_close
from smolmix_sync.reactor.flow import (
    AF_INET,
    AF_INET6,
    SOCK_DGRAM,
    SOCK_STREAM,
    FlowState,
    pack_block,
    present,
)
from smolmix_sync.reactor.provider import TunnelPort

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import Timer, Watcher

__all__ = ["DaemonServer", "Limits"]

_LOG = logging.getLogger("smolmix_sync.daemon")

# Ours: names asked for at once; each holds a native thread for as long as it takes.
_RESOLVING = 16
# Ours: seconds between two looks for streams nobody asked about.
_COLLECT = 5.0
# Ours: seconds that accept() pauses when there are no descriptors left.
_PAUSE = 0.1
_ANY = {AF_INET: "0.0.0.0", AF_INET6: "::"}


@dataclass(frozen=True)
class Limits:
    """What clients may hold.

    Attributes:
        connections: control connections of one process.
        flows: sockets of one process.
        requests: requests of one connection that wait for their replies.
        tunnels: tunnels besides the main one, one for each isolation key.
    """

    connections: int = 256
    flows: int = 4096
    requests: int = 64
    tunnels: int = 8


class DaemonServer:
    """Serves one tunnel on one path; a context manager.

    Args:
        path: where to listen; the file is created with *mode*. A file that no daemon answers on is replaced.
        tunnel: the tunnel (or bare device) to serve.
        mode: permissions of the file. Whatever they are, only processes of our own user (and root) are served.
        limits: bounds for clients.
        isolated: makes the tunnel of an isolation key without waiting for it; None refuses keys.

    Raises:
        OSError: EADDRINUSE when another daemon answers on *path*.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tunnel: TunnelPort,
        *,
        mode: int = 0o600,
        limits: Limits | None = None,
        isolated: Callable[[str], TunnelPort] | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self.tunnel = tunnel
        self.limits = limits or Limits()
        self.endings = Endings()
        self.flows: Counter[int] = Counter()
        self.served = 0
        self.clients: set[_Client] = set()
        self.connections: Counter[int] = Counter()
        self._isolated = isolated
        self._pool: dict[str, TunnelPort] = {}
        self._pool_flows: Counter[str] = Counter()
        self._mode = mode
        self._sock: _socket.socket | None = None
        self._watcher: Watcher | None = None
        self._timer: Timer | None = None
        self._threads: Any = None
        self._inode = (0, 0)
        self._loop = tunnel.device.loop
        self._since = self._loop.now()

    # --- life ---

    def start(self) -> DaemonServer:
        """Listen; return self."""
        self._bind()
        _servers.append(self)
        self._loop.call(self._open)
        on_state = getattr(self.tunnel, "on_state", None)
        if on_state is not None:
            on_state(self._state_changed)
        return self

    def _state_changed(self, *_: object) -> None:
        if self._loop.running:
            self._loop.post(self._tell_watchers)

    def _bind(self) -> None:
        probe = CSocket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            if probe.connect_ex(str(self.path)) == 0:
                raise os_error(errno.EADDRINUSE, f"a daemon serves {self.path} already")
        finally:
            probe.close()
        sock = CSocket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK)
        fresh = f"{self.path}.{os.getpid()}"
        try:
            # The file has the mode of the socket's inode: it is never open to others, not for a moment.
            os.fchmod(sock.fileno(), self._mode)
            try:
                os.unlink(fresh)
            except FileNotFoundError:
                pass
            sock.bind(fresh)
            sock.listen(1024)
            os.rename(fresh, self.path)
        except BaseException:
            sock.close()
            raise
        found = os.stat(self.path)
        self._inode = (found.st_dev, found.st_ino)
        self._sock = sock

    def _open(self) -> None:
        assert self._sock is not None
        self._threads = gevent.threadpool.ThreadPool(_RESOLVING, hub=self._loop.hub)
        self._watcher = self._loop.watch_read(self._sock.fileno(), self._on_connection)
        self._watcher.start()
        self._collect()

    def stop(self) -> None:
        """Listen no more, remove the file and drop every client; their sockets end with ENETDOWN."""
        if self not in _servers:
            return
        _servers.remove(self)
        try:
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == self._inode:
                os.unlink(self.path)
        except OSError:
            pass
        if self._loop.running:
            self._loop.call(self._close)

    def _close(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        for client in list(self.clients):
            client.close()
        threads, self._threads = self._threads, None
        if threads is not None:
            self._loop.spawn(threads.kill)
        for tunnel in self._pool.values():
            _retire(tunnel)
        self._pool.clear()

    def __enter__(self) -> DaemonServer:
        return self if self in _servers else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _abandon(self) -> None:
        """Close the descriptors in a forked child, without a word to anybody."""
        for sock in (self._sock, *(client.sock for client in self.clients)):
            if sock is not None and (fd := sock.detach()) >= 0:
                posix_close(fd)

    @property
    def busy(self) -> bool:
        """Whether there is a client or a socket of one (any thread)."""
        return bool(self.clients or self.flows)

    # --- reactor ---

    def _collect(self) -> None:
        self.endings.collect()
        self._timer = self._loop.call_later(_COLLECT, self._collect)

    def _on_connection(self) -> None:
        assert self._sock is not None
        for _ in range(64):
            try:
                fd = self._sock._accept()[0]  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError:
                watcher = self._watcher
                if watcher is not None:
                    watcher.stop()
                    self._loop.call_later(_PAUSE, self._resume_accepting)
                return
            self._admit(adopt_descriptor(fd))

    def _resume_accepting(self) -> None:
        if self._watcher is not None and self._sock is not None:
            self._watcher.start()

    def _admit(self, sock: _socket.socket) -> None:
        sock.setblocking(False)
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))
        if uid not in (os.geteuid(), 0) or self.connections[pid] >= self.limits.connections:
            number = errno.EACCES if uid not in (os.geteuid(), 0) else errno.EMFILE
            try:
                sock.send(Reply(0, errno=number).encode())
            except OSError:
                pass
            sock.close()
            return
        self.connections[pid] += 1
        self.clients.add(_Client(self, sock, pid))

    def client_gone(self, client: _Client) -> None:
        """Forget a connection."""
        self.clients.discard(client)
        self.connections[client.pid] -= 1
        if self.connections[client.pid] <= 0:
            del self.connections[client.pid]

    def tunnel_of(self, key: str) -> TunnelPort:
        """Return the tunnel of an isolation key, begun if it is new; '' is the main one.

        Raises:
            OSError: EOPNOTSUPP without isolation, ENOBUFS when every tunnel of the pool is in use.
        """
        if not key:
            return self.tunnel
        port = self._pool.get(key)
        if port is None:
            if self._isolated is None:
                raise os_error(errno.EOPNOTSUPP, "this daemon has no isolation")
            if len(self._pool) >= self.limits.tunnels:
                idle = next((one for one in self._pool if not self._pool_flows[one]), None)
                if idle is None:
                    raise os_error(errno.ENOBUFS, "every tunnel of the pool is in use")
                _retire(self._pool.pop(idle))
            port = self._isolated(key)
        self._pool[key] = self._pool.pop(key, port)  # the one used last comes last
        return port

    def register(self, flow: ServedFlow, key: str = "") -> None:
        """Count a client's socket, and let it be found by its cookie.

        Raises:
            OSError: EMFILE when the process has too many.
        """
        if self.flows[flow.pid] >= self.limits.flows:
            raise os_error(errno.EMFILE, "too many sockets of this process")
        self.flows[flow.pid] += 1
        self._pool_flows[key] += 1
        self.served += 1
        flow.ended = lambda over: self._unregister(over, key)
        if flow.cookie != NO_COOKIE:
            flows.by_cookie[flow.cookie] = flow

    def _unregister(self, flow: ServedFlow, key: str) -> None:
        self.flows[flow.pid] -= 1
        if self.flows[flow.pid] <= 0:
            del self.flows[flow.pid]
        self._pool_flows[key] -= 1
        flows.ports.release(flow)

    def _tell_watchers(self) -> None:
        for client in list(self.clients):
            client.tell_state()

    def status(self, key: str = "") -> dict[str, Any]:
        """Return what STATUS tells, as JSON has it (reactor thread)."""
        port = self.tunnel_of(key)
        device = port.device
        told: dict[str, Any] = {
            "pid": os.getpid(),
            "uptime": round(self._loop.now() - self._since, 3),
            "state": "ready" if device.up else "down",
            "reason": "",
            "ready": device.up,
            "addresses": list(device.addresses),
            "resolver": device.resolver.config.primary,
            "clients": len({client.pid for client in self.clients}),
            "flows": sum(self.flows.values()),
            "served": self.served,
            "tunnels": 1 + len(self._pool),
        }
        state = getattr(port, "state", None)
        if state is not None:
            told["state"] = state.value
            told["reason"] = getattr(port, "reason", "")
            told["ready"] = told["state"] == "READY" or state.name == "READY"
        for name in ("gateway", "exit", "mtu"):
            try:
                value = getattr(port, name)
            except (AttributeError, SmolmixError):
                continue
            told[name] = value if isinstance(value, int) else str(value)
        stats = getattr(port, "stats", None)
        if stats is not None:
            counters = stats()
            told["stats"] = {name: getattr(counters, name) for name in type(counters).__dataclass_fields__}
        return told


def _retire(tunnel: Any) -> None:
    """Shut a tunnel down without waiting for it."""
    shutdown = getattr(tunnel, "shutdown", None)
    if shutdown is not None:
        _originals.start_new_thread(shutdown, (5.0,))


class _Client:
    """One control connection; everything in the reactor thread."""

    def __init__(self, server: DaemonServer, sock: _socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self.watching: set[int] = set()
        self._server = server
        self._loop = server.tunnel.device.loop
        self._pending: dict[int, Callable[[int], object]] = {}
        self._watcher = self._loop.watch_read(sock.fileno(), self._on_readable)
        self._watcher.start()

    def close(self) -> None:
        """Drop the connection; what it asked for and has not got is given up."""
        if self not in self._server.clients:
            return
        self._server.client_gone(self)
        self._watcher.close()
        self.sock.close()
        for cancel in list(self._pending.values()):
            cancel(errno.ECANCELED)
        self._pending.clear()

    def _on_readable(self) -> None:
        for _ in range(16):
            try:
                data, ancillary, shown, _ = self.sock.recvmsg(
                    MAX_REQUEST + 1, _socket.CMSG_SPACE(16), int(_socket.MSG_CMSG_CLOEXEC)
                )
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            received = [
                adopt_descriptor_or_none(fd)
                for level, kind, octets in ancillary
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
                for fd in struct.unpack(f"{len(octets) // 4}i", octets[: len(octets) // 4 * 4])
            ]
            ends = [one for one in received if one is not None]
            end = ends.pop(0) if ends else None
            for extra in ends:
                extra.close()
            if not data or shown & int(_socket.MSG_CTRUNC):
                if end is not None:
                    end.close()
                self.close()
                return
            try:
                request = Request.decode_untrusted(data)
            except WireError as problem:
                if end is not None:
                    end.close()
                self._send(Reply(0, errno=errno.EBADMSG, payload=str(problem).encode()))
                self.close()
                return
            self._handle(request, end)
            if self not in self._server.clients:
                return

    def _handle(self, request: Request, end: _socket.socket | None) -> None:
        kept = False
        try:
            if len(self._pending) >= self._server.limits.requests:
                raise os_error(errno.EBUSY, "too many requests at once")
            if request.ident in self._pending and request.op is not Op.CANCEL:
                raise os_error(errno.EALREADY, "this request id is in use")
            if request.op is Op.CONNECT:
                self._connect(request)
            elif request.op is Op.ATTACH:
                kept = True
                self._attach(request, end)
            elif request.op is Op.LISTEN:
                kept = True
                self._listen(request, end)
            elif request.op is Op.RESOLVE:
                self._resolve(request)
            elif request.op is Op.SETOPT:
                self._setopt(request)
            elif request.op is Op.STATUS:
                self._status(request)
            elif request.op is Op.CANCEL:
                cancel = self._pending.pop(request.ident, None)
                if cancel is not None:
                    cancel(errno.ECANCELED)
            else:
                self.watching.add(request.ident)
                self._tell(request.ident)
        except OSError as problem:
            self._refuse(request, problem)
        finally:
            if end is not None and not kept:
                end.close()

    # --- replies ---

    def _send(self, reply: Reply, fd: int = -1) -> None:
        rights = [] if fd < 0 else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))]
        try:
            self.sock.sendmsg([reply.encode()], rights, int(_socket.MSG_NOSIGNAL))
        except OSError:  # it does not read, or is gone
            self._loop.call_soon(self.close)

    def _refuse(self, request: Request, problem: OSError) -> None:
        number = problem.errno or errno.EIO
        flags = 0
        if isinstance(problem, _socket.gaierror):
            number, flags = abs(number), int(ReplyFlag.RESOLVER)
        text = (problem.strerror or str(problem)).encode("utf-8", "replace")
        self._send(Reply(request.op, request.ident, number, flags, payload=text))

    def _accept(
        self, request: Request, flow: ServedFlow | None = None, fd: int = -1, payload: bytes = b""
    ) -> None:
        reply = Reply(request.op, request.ident, payload=payload)
        if flow is not None:
            reply.local = NO_BLOCK if flow.laddr is None else pack_block(flow.laddr)
            reply.remote = NO_BLOCK if flow.raddr is None else pack_block(flow.raddr)
            reply.cookie = flow.cookie
        self._send(reply, fd)

    # --- sockets ---

    def _family(self, request: Request, host: str) -> int:
        if request.family:
            return AF_INET6 if request.family == 6 else AF_INET
        return AF_INET6 if ":" in host else AF_INET

    def _flow(self, request: Request, host: str, end: _socket.socket | None) -> tuple[int, ServedFlow]:
        """Make the flow of a request, counted."""
        kind = SOCK_DGRAM if request.type == 2 else SOCK_STREAM
        try:
            fd, flow = make_pair(self._family(request, host), kind, self.pid, end)
        except OSError:
            if end is not None:
                end.close()
            raise
        if end is not None:
            flow.cookie = request.cookie
        try:
            self._server.register(flow, request.isolate)
        except OSError:
            if fd >= 0:
                posix_close(fd)
            if flow.end is not None:
                flow.end.close()
            raise
        self._set_options(flow, request)
        return fd, flow

    @staticmethod
    def _set_options(flow: ServedFlow, request: Request) -> None:
        import sys

        for key, value in request.options.items():
            flow.options[key] = (
                int.from_bytes(value, sys.byteorder, signed=True) if len(value) == 4 else value
            )

    def _connect(self, request: Request) -> None:
        """A descriptor for a program without a library of ours."""
        host = request.host
        device = self._server.tunnel_of(request.isolate).device
        if request.type == 2:
            _check_destination(host)
            fd, flow = self._flow(request, host, None)
            try:
                self._open_datagrams(device, flow, request)
                self._accept(request, flow, fd)
            finally:
                posix_close(fd)
            return
        call = _Connect(self, request, device)
        self._pending[request.ident] = call.cancel
        self._loop.spawn(call.run)

    def _attach(self, request: Request, end: _socket.socket | None) -> None:
        device = self._server.tunnel_of(request.isolate).device
        if end is None:
            flow = flows.by_cookie.get(request.cookie)
            if not isinstance(flow, ServedFlow) or flow.end is None:
                raise os_error(errno.ENETDOWN, "no such socket")
            self._set_options(flow, request)
        else:
            if request.cookie == NO_COOKIE:
                end.close()
                raise os_error(errno.EINVAL, "a cookie is needed")
            _, flow = self._flow(request, request.host, end)
        if not flow.stream:
            self._open_datagrams(device, flow, request)
            self._accept(request, flow)
            return
        flow.junk = request.junk
        try:
            _check_destination(request.host)
            if flow.pump is not None:
                raise os_error(errno.EISCONN)
            self._take_port(flow, request)
        except OSError as problem:
            self._fail(request, flow, problem)
            return
        ident = request.ident
        self._pending[ident] = lambda number: None  # the client's close of its socket is the cancellation

        def report(flow: ServedFlow) -> None:
            self._pending.pop(ident, None)
            if flow.state is FlowState.FAILED:
                self._refuse(request, os_error(flow.take_error() or errno.ECONNREFUSED))
            else:
                self._accept(request, flow)

        flow.report = report
        flow.state = FlowState.CONNECTING
        from smolmix_sync.reactor.pump import open_stream

        try:
            open_stream(device, flow, present(flow.family, request.host, request.port))
        except Exception:  # a bug of ours, which the hub reports; the client must not wait for ever
            self._pending.pop(ident, None)
            flow.report = None
            self._fail(request, flow, os_error(errno.EIO))
            raise

    def _fail(self, request: Request, flow: ServedFlow, problem: OSError) -> None:
        """Refuse, and make the client's descriptor writable again."""
        self._refuse(request, problem)
        assert flow.end is not None
        while flow.junk:
            try:
                got = len(flow.end.recv(min(65536, flow.junk)))
            except OSError:
                got = 0
            flow.junk = flow.junk - got if got else 0
        end = flow.end
        self._loop.closes.add(end.fileno(), lambda: flows.forget(flow))

    def _take_port(self, flow: ServedFlow, request: Request) -> None:
        if request.local_port and flow.laddr is None:
            flows.ports.reserve(flow, request.local_port)
            flow.laddr = present(flow.family, _ANY[flow.family], request.local_port)
            flow.bound = True

    def _open_datagrams(self, device: Device, flow: ServedFlow, request: Request) -> None:
        from smolmix_sync.reactor.datagrams import open_datagrams

        assert flow.end is not None
        try:
            if flow.laddr is None:
                number = flows.ports.reserve(flow, request.local_port)
                flow.laddr = present(flow.family, _ANY[flow.family], number)
                flow.bound = bool(request.local_port)
            open_datagrams(device, flow)
        except OSError:  # the client may try another port with the same pair
            flows.ports.release(flow)
            flow.laddr = None
            self._loop.closes.add(flow.end.fileno(), lambda: flows.forget(flow))
            raise
        if request.host:
            _check_destination(request.host)
            flow.raddr = present(flow.family, request.host, request.port)
            if flow.pump is not None:
                flow.pump.connect(flow.raddr)

    def _listen(self, request: Request, end: _socket.socket | None) -> None:
        from smolmix_sync.reactor.listeners import listen

        device = self._server.tunnel_of(request.isolate).device
        fd, flow = -1, flows.by_cookie.get(request.cookie) if request.cookie != NO_COOKIE else None
        if end is not None or flow is None:
            fd, flow = self._flow(request, request.host, end)
        assert isinstance(flow, ServedFlow)
        try:
            if flow.laddr is None:
                number = flows.ports.reserve(flow, request.port or request.local_port)
                flow.laddr = present(flow.family, request.host or _ANY[flow.family], number)
                flow.bound = True
            listen(device, flow, request.backlog)
            self._accept(request, flow, fd)
        except OSError:
            flows.forget(flow)
            raise
        finally:
            if fd >= 0:
                posix_close(fd)

    def _setopt(self, request: Request) -> None:
        flow = flows.by_cookie.get(request.cookie)
        if flow is None:
            raise os_error(errno.EBADF, "no such socket")
        if not isinstance(flow, ServedFlow):  # accepted by a listener
            import sys

            for key, value in request.options.items():
                flow.options[key] = (
                    int.from_bytes(value, sys.byteorder, signed=True) if len(value) == 4 else value
                )
        else:
            self._set_options(flow, request)
        if flow.pump is not None:
            for key in request.options:
                flow.pump.option_changed(key)
        self._accept(request)

    # --- names and status ---

    def _resolve(self, request: Request) -> None:
        device = self._server.tunnel_of(request.isolate).device
        self._pending[request.ident] = lambda number: self._refuse(request, os_error(number))
        self._loop.spawn(self._resolve_in_greenlet, request, device)

    def _resolve_in_greenlet(self, request: Request, device: Device) -> None:
        blocks: list[bytes] = []
        name = ""
        problem: OSError | None = None
        try:
            if request.flags & RequestFlag.REVERSE:
                name = self.in_thread(device.resolver.reverse, request.host, request.timeout or None)
            else:
                family = {4: AF_INET, 6: AF_INET6}.get(request.family, 0)
                for answer in self.in_thread(
                    device.resolver.answers, request.host, family, request.timeout or None
                ):
                    name = name or answer.canonical
                    blocks += [pack_block((record, 0)) for record in answer.records]
        except OSError as failure:
            problem = failure
        except ValueError:
            problem = os_error(errno.EINVAL, "not an address")
        if self._pending.pop(request.ident, None) is None or self not in self._server.clients:
            return
        if problem is not None:
            self._refuse(request, problem)
        else:
            self._accept(request, payload=encode_addresses(blocks[:1024], name))

    def in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run what blocks in a native thread; the calling greenlet waits."""
        threads = self._server._threads
        if threads is None:
            raise os_error(errno.ENETDOWN, "the daemon ends")
        value, problem = threads.apply(_outcome, (fn, args))
        if problem is not None:
            raise problem
        return value

    def _status(self, request: Request) -> None:
        if request.cookie != NO_COOKIE:
            fin, number = self._server.endings.of(request.cookie)
            self._send(
                Reply(
                    request.op, request.ident, number, int(ReplyFlag.FIN) if fin else 0, cookie=request.cookie
                )
            )
            return
        device = self._server.tunnel_of(request.isolate).device
        if request.flags & RequestFlag.WAIT and not device.up:
            waiting = _UntilReady(self, request)
            self._pending[request.ident] = lambda number: device.stop_waiting(waiting)
            device.when_up(waiting, request.timeout or device.connect_timeout)
            return
        self.tell_status(request)

    def tell_status(self, request: Request) -> None:
        """Reply to STATUS."""
        self._pending.pop(request.ident, None)
        self._accept(request, payload=json.dumps(self._server.status(request.isolate)).encode())

    def failed(self, request: Request, number: int) -> None:
        """Reply with an errno."""
        self._pending.pop(request.ident, None)
        self._refuse(request, os_error(number))

    def tell_state(self) -> None:
        """Send the status to whoever watches."""
        for ident in self.watching:
            self._tell(ident)

    def _tell(self, ident: int) -> None:
        self._send(Reply(Op.WATCH, ident, payload=json.dumps(self._server.status()).encode()))

    # --- CONNECT ---

    def connected(self, request: Request, flow: ServedFlow, fd: int) -> None:
        """Hand the descriptor over."""
        self._pending.pop(request.ident, None)
        self._accept(request, flow, fd)

    def not_connected(self, request: Request, problem: OSError) -> None:
        """Tell why not."""
        if self._pending.pop(request.ident, None) is not None and self in self._server.clients:
            self._refuse(request, problem)


def _outcome(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """Return (result, error): gevent's pool would report what a call raises as an error of the hub."""
    try:
        return fn(*args), None
    except Exception as problem:
        return None, problem


class _UntilReady:
    """Who waits for the tunnel in STATUS."""

    def __init__(self, client: _Client, request: Request) -> None:
        self._client = client
        self._request = request

    def on_up(self) -> None:
        self._client.tell_status(self._request)

    def on_down(self, errno: int) -> None:
        self._client.failed(self._request, errno)


class _Connect:
    """One CONNECT of TCP: the name, then one address after the other."""

    def __init__(self, client: _Client, request: Request, device: Device) -> None:
        self._client = client
        self._request = request
        self._device = device
        self._fd = -1
        self._flow: ServedFlow | None = None
        self._addresses: list[str] = []
        self._timer: Timer | None = None
        self._over = False

    def run(self) -> None:
        """Resolve, and begin; in a greenlet."""
        request = self._request
        limit = request.timeout or self._device.connect_timeout
        self._timer = self._device.loop.call_later(limit, self._end, os_error(errno.ETIMEDOUT))
        try:
            family = {4: AF_INET, 6: AF_INET6}.get(request.family, 0)
            self._addresses = self._find(request.host, family, limit)
            if self._over:
                return
            self._fd, self._flow = self._client._flow(request, self._addresses[0], None)
            self._client._take_port(self._flow, request)
        except OSError as problem:
            self._end(problem)
            return
        self._next(self._flow)

    def _find(self, host: str, family: int, limit: float) -> list[str]:
        try:
            found = [str(ipaddress.ip_address(host))]
        except ValueError:
            resolver = self._device.resolver
            found = [
                record
                for answer in self._client.in_thread(resolver.answers, host, family, limit)
                for record in answer.records
            ]
            # One pair has one family; the first address decides.
            found = [one for one in found if (":" in one) == (":" in found[0])]
        for one in found:
            _check_destination(one)
        return found

    def _next(self, flow: ServedFlow) -> None:
        from smolmix_sync.reactor.pump import open_stream

        flow.report = self._reported
        flow.state = FlowState.CONNECTING
        address = present(flow.family, self._addresses.pop(0), self._request.port)
        open_stream(self._device, flow, address)

    def _reported(self, flow: ServedFlow) -> None:
        if self._over:
            return
        if flow.state is FlowState.ESTABLISHED:
            self._finish()
            self._client.connected(self._request, flow, self._fd)
            posix_close(self._fd)
        elif self._addresses:
            self._device.loop.call_soon(self._next, flow)
        else:
            self._end(os_error(flow.take_error() or errno.ECONNREFUSED))

    def _finish(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, problem: OSError) -> None:
        if self._over:
            return
        self._finish()
        self._client.not_connected(self._request, problem)
        if self._fd >= 0:
            posix_close(self._fd)  # the pump sees the close, and releases

    def cancel(self, number: int) -> None:
        """Give up."""
        self._client._pending[self._request.ident] = self.cancel
        self._end(os_error(number))


def adopt_descriptor_or_none(fd: int) -> Any:
    """Return a passed descriptor as a socket object; one that is no socket is closed."""
    try:
        return adopt_descriptor(fd)
    except OSError:
        posix_close(fd)
        return None


def _check_destination(host: str) -> None:
    """Refuse what an exit cannot reach; clients decide about loopback themselves, before they come here.

    Raises:
        OSError: EACCES for this machine, EINVAL for what is no address.
    """
    if not host:
        return
    try:
        address = ipaddress.ip_address(flows.unmapped(host.partition("%")[0]))
    except (ValueError, OSError):
        raise os_error(errno.EINVAL, "an address is needed here") from None
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        raise os_error(errno.EACCES, f"{host} is not behind the exit")


#: Servers of this process; a forked child closes its copies of their descriptors.
_servers: list[DaemonServer] = []
_abandoned: list[DaemonServer] = []


def _after_fork_in_child() -> None:
    for server in _servers:
        server._abandon()
        _abandoned.append(server)
    _servers.clear()


_originals.run_in_child(_after_fork_in_child)
