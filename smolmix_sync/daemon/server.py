"""The daemon: listens on an AF_UNIX path and serves the sockets of other processes over one tunnel.

It lives in the reactor of the process that has the tunnel; no thread of its own. A client that dies leaves nothing
behind: its descriptors close, and the pumps see that as they do in one process.

Source: spec/sockets.md section 12; design.md decision 16.
"""

from __future__ import annotations

import _socket
import errno
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
    NO_COOKIE,
    Reply,
)
from smolmix_sync.daemon.requests import Client
from smolmix_sync.daemon.served import Endings, ServedFlow, adopt_descriptor
from smolmix_sync.errors import SmolmixError
from smolmix_sync.reactor import _originals
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import CSocket, os_error, posix_close
from smolmix_sync.reactor.isolation import isolated_port
from smolmix_sync.reactor.provider import TunnelPort

if TYPE_CHECKING:
    from smolmix_sync.reactor.loop import Timer, Watcher

__all__ = ["DaemonServer", "Limits"]

_LOG = logging.getLogger("smolmix_sync.daemon")

# Ours: names asked for at once; each holds a native thread for as long as it takes.
_RESOLVING = 16
# Ours: names that may wait for one of those.
_WAITING = 2048
# Ours: seconds between two looks for streams nobody asked about.
_COLLECT = 5.0
# Ours: seconds that accept() pauses when there are no descriptors left.
_PAUSE = 0.1


@dataclass(frozen=True)
class Limits:
    """What clients may hold.

    Attributes:
        connections: control connections of one process.
        flows: sockets of one process.
        requests: requests of one connection that wait for their replies.
    """

    connections: int = 256
    flows: int = 4096
    requests: int = 64


class DaemonServer:
    """Serves one tunnel on one path; a context manager.

    Args:
        path: where to listen; the file is created with *mode*. A file that no daemon answers on is replaced.
        tunnel: the tunnel (or bare device) to serve.
        mode: permissions of the file. Whatever they are, only processes of our own user (and root) are served.
        limits: bounds for clients.

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
    ) -> None:
        self.path = Path(path).absolute()
        self.tunnel = tunnel
        self.limits = limits or Limits()
        self.endings = Endings()
        self.flows: Counter[int] = Counter()
        self.served = 0
        self.clients: set[Client] = set()
        self.connections: Counter[int] = Counter()
        self._mode = mode
        self._sock: _socket.socket | None = None
        self._watcher: Watcher | None = None
        self._timer: Timer | None = None
        self._threads: Any = None
        self._in_threads = 0
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
        self.clients.add(Client(self, sock, pid))

    def in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run what blocks in a native thread; the calling greenlet waits."""
        if self._threads is None:
            raise os_error(errno.ENETDOWN, "the daemon ends")
        if self._in_threads >= _WAITING:
            raise os_error(errno.EBUSY, "too many names are being looked up")
        self._in_threads += 1
        try:
            return self._threads.apply(fn, args)
        finally:
            self._in_threads -= 1

    def client_gone(self, client: Client) -> None:
        """Forget a connection."""
        self.clients.discard(client)
        self.connections[client.pid] -= 1
        if self.connections[client.pid] <= 0:
            del self.connections[client.pid]

    def tunnel_of(self, key: str) -> TunnelPort:
        """Return the tunnel of an isolation key, begun if it is new; '' is the main one.

        Raises:
            OSError: EOPNOTSUPP without isolation, ENOBUFS when as many tunnels as there may be are in use.
        """
        return isolated_port(self.tunnel, key)

    def register(self, flow: ServedFlow) -> None:
        """Count a client's socket, and let it be found by its cookie.

        Raises:
            OSError: EMFILE when the process has too many.
        """
        if self.flows[flow.pid] >= self.limits.flows:
            raise os_error(errno.EMFILE, "too many sockets of this process")
        self.flows[flow.pid] += 1
        self.served += 1
        flow.ended = self._unregister
        if flow.cookie != NO_COOKIE:
            flows.by_cookie[flow.cookie] = flow

    def _unregister(self, flow: ServedFlow) -> None:
        self.flows[flow.pid] -= 1
        if self.flows[flow.pid] <= 0:
            del self.flows[flow.pid]
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
            "tunnels": 1 + getattr(self.tunnel, "isolated_count", 0),
        }
        state = getattr(port, "state", None)
        if state is not None:
            told["state"] = state.value
            told["reason"] = getattr(port, "reason", "")
            told["ready"] = state.name == "READY"
        for name in ("gateway", "exit", "mtu"):
            try:
                value = getattr(port, name)
            except (AttributeError, SmolmixError):
                continue
            told[name] = value if isinstance(value, int) else str(value)
        told["layers"] = list(getattr(port, "layers", ()))
        stats = getattr(port, "stats", None)
        if stats is not None:
            counters = stats()
            told["stats"] = {name: getattr(counters, name) for name in type(counters).__dataclass_fields__}
        return told


#: Servers of this process; a forked child closes its copies of their descriptors.
_servers: list[DaemonServer] = []
_abandoned: list[DaemonServer] = []


def _after_fork_in_child() -> None:
    for server in _servers:
        server._abandon()
        _abandoned.append(server)
    _servers.clear()


_originals.run_in_child(_after_fork_in_child)
