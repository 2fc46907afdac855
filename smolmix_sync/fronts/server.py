"""What the fronts share: a kernel listener, a thread per connection, an end."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import threading
from types import TracebackType
from typing import Any, Self

from smolmix_sync.errors import ExitPolicyError, LeakBlocked
from smolmix_sync.http.dial import Carrier, Deadline, connect_limit, dial
from smolmix_sync.tunnel import carrier

__all__ = ["Front", "Refused", "kind_of"]

_LOG = logging.getLogger("smolmix_sync.fronts")

#: Ours: clients served at once; more wait in the listener's queue, and then in their own connect.
_MAX_CLIENTS = 512
#: Ours: a client that connects says what it wants within this time.
HANDSHAKE_TIMEOUT = 30.0


class Refused(Exception):
    """A destination cannot be had; :attr:`kind` says why in one word."""

    def __init__(self, kind: str, error: BaseException) -> None:
        super().__init__(kind, error)
        self.kind = kind
        self.error = error


def kind_of(error: BaseException) -> str:
    """Return ``denied``, ``refused``, ``timeout``, ``name``, ``network``, ``host`` or ``failure``."""
    if isinstance(error, (LeakBlocked, ExitPolicyError)):
        return "denied"
    if isinstance(error, socket.gaierror):
        return "name"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, OSError):
        return {
            errno.EACCES: "denied",
            errno.EPERM: "denied",
            errno.ECONNREFUSED: "refused",
            errno.ETIMEDOUT: "timeout",
            errno.ENETUNREACH: "network",
            errno.ENETDOWN: "network",
            errno.EHOSTUNREACH: "host",
        }.get(error.errno or 0, "failure")
    return "failure"


class Front:
    """A listener on this machine whose connections go into a tunnel; a context manager.

    Served in threads of its own from the moment it is made. Everything it carries is cut off by :meth:`close`.

    Args:
        address: where to listen; anything but loopback needs *password*.
        port: 0 chooses one.
        tunnel: None is the tunnel of the process at the time of each connection.
        password: clients must give it; None: nothing is asked.
        username: the name that goes with *password*; see :class:`SocksServer` for other names.
        connect_timeout: seconds for the name and the connect of one destination; None: the tunnel's.
        path: listen on an AF_UNIX socket of this name instead, for this user only; removed by :meth:`close`.

    Raises:
        ValueError: *address* is not loopback and there is no password.
        OSError: it cannot be bound.
    """

    #: The name in logs and in ``repr``.
    kind = "front"

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        tunnel: Carrier | None = None,
        password: str | None = None,
        username: str = "smolmix",
        connect_timeout: float | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        if path is None and not ipaddress.ip_address(address).is_loopback and not password:
            raise ValueError(f"{self.kind}: {address} can be reached by others; that needs a password")
        self._tunnel = tunnel
        self._password = password
        self._username = username
        self._connect_timeout = connect_timeout
        self._closed = threading.Event()
        self._places = threading.Semaphore(_MAX_CLIENTS)
        self._lock = threading.Lock()
        self._open: set[Any] = set()
        self._pid = os.getpid()
        #: What it listens on: an address and a port, or an AF_UNIX path and port 0.
        self.address = address
        self.port = port
        self._path = None if path is None else os.fspath(path)
        self._listener = self._listen_unix(self._path) if self._path else self._listen_inet(address, port)
        self._thread = threading.Thread(target=self._accept_all, name=f"smolmix-{self.kind}", daemon=True)
        self._thread.start()

    def _listen_inet(self, address: str, port: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(128)
            self.address, self.port = listener.getsockname()[:2]
        except BaseException:
            listener.close()
            raise
        return listener

    def _listen_unix(self, path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(128)
            self.address, self.port = path, 0
        except BaseException:
            listener.close()
            raise
        return listener

    # --- for subclasses ---

    def serve(self, client: Any) -> None:
        """Serve one client; called in a thread of its own. The socket is closed afterwards."""
        raise NotImplementedError

    @property
    def tunnel(self) -> Carrier:
        """The tunnel in use."""
        return self._tunnel if self._tunnel is not None else carrier()

    def connect(self, tunnel: Carrier, host: str, port: int) -> Any:
        """Connect to a destination.

        Raises:
            Refused: it cannot be had.
        """
        limit = connect_limit(tunnel) if self._connect_timeout is None else self._connect_timeout
        try:
            return dial(tunnel, host, port, Deadline(limit))
        except (OSError, ValueError) as error:
            _LOG.debug("%s: a destination cannot be had: %s", self.kind, kind_of(error))
            raise Refused(kind_of(error), error) from error

    @property
    def stopped(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed.is_set()

    # --- life ---

    def _accept_all(self) -> None:
        while not self.stopped:
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if self.stopped or error.errno in (errno.EBADF, errno.EINVAL):
                    return
                _LOG.warning("%s: accept: %s", self.kind, error)
                self._closed.wait(0.2)  # out of descriptors, most likely
                continue
            while not self._places.acquire(timeout=0.5):
                if self.stopped:
                    client.close()
                    return
            with self._lock:
                self._open.add(client)
            try:
                threading.Thread(
                    target=self._serve, args=(client,), name=f"smolmix-{self.kind}-client", daemon=True
                ).start()
            except RuntimeError as error:  # no more threads
                _LOG.warning("%s: %s", self.kind, error)
                self._finish(client)

    def _serve(self, client: Any) -> None:
        try:
            client.settimeout(HANDSHAKE_TIMEOUT)
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.serve(client)
        except OSError as error:
            _LOG.debug("%s: %s", self.kind, error)
        except Exception:
            _LOG.exception("%s: a client could not be served", self.kind)
        finally:
            self._finish(client)

    def _finish(self, client: Any) -> None:
        with self._lock:
            self._open.discard(client)
        with contextlib.suppress(OSError):
            client.close()
        self._places.release()

    @property
    def clients(self) -> int:
        """How many clients are being served."""
        with self._lock:
            return len(self._open)

    def close(self, timeout: float = 3.0) -> None:
        """Stop listening and cut every connection off; any number of times."""
        if self._pid != os.getpid():
            return
        self._closed.set()
        with self._lock:
            clients = list(self._open)
        for client in clients:
            # Their threads may be reading: wake them, they close.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join(timeout)
        with contextlib.suppress(OSError):
            self._listener.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._path is not None:
            return f"<{type(self).__name__} {self._path}{' closed' if self.stopped else ''}>"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"<{type(self).__name__} {host}:{self.port}{' closed' if self.stopped else ''}>"
