"""Real sockets for the reactor: the C type, made cooperative with the reactor's hub, and TLS over it.

``socket.socket`` and ``gevent.socket.socket`` are patched in place by programs that use
:func:`smolmix_sync.patch_all`, so a reactor that used them would dial its own gateway through
its own tunnel. Everything here stands on the C types captured at first import.

One greenlet may read and another write at a time; a second reader or writer is a bug.

Source: design.md decision 3a.
"""

from __future__ import annotations

import _socket
import _ssl
import errno
import ipaddress
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.lock

from smolmix_sync.reactor import _originals
from smolmix_sync.reactor._originals import monotonic

__all__ = [
    "RealSocket",
    "RealTlsSocket",
    "Turn",
    "client_tls_context",
    "connect_tcp",
    "is_public",
    "limited",
    "resolve_host",
]

#: Ours: how much ciphertext is read at once; a gateway's burst of 30 regular packets.
_TLS_READ = 65536
#: Ours: how long one peer is read before other greenlets and timers get their turn.
_TURN = 0.005

#: From the specification (ssl.TLSVersion.TLSv1_2); the enum itself lives in Python.
_TLS_1_2 = 0x0303

_IN_PROGRESS = (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EINTR)


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Leave the block quietly when *seconds* are over (reactor greenlets)."""
    timer = gevent.Timeout.start_new(seconds)
    try:
        yield
    except gevent.Timeout as late:
        if late is not timer:
            raise
    finally:
        timer.close()


class _Closed(OSError):
    """Given to a greenlet whose socket was closed by another one."""

    def __init__(self, *_: object) -> None:
        super().__init__(errno.EBADF, "the socket was closed by another greenlet")


_open_sockets: weakref.WeakSet[RealSocket] = weakref.WeakSet()
#: In a forked child: the parent's sockets, whose watchers must not be touched, not even by the collector.
_abandoned: list[RealSocket] = []


def _after_fork_in_child() -> None:
    for sock in list(_open_sockets):
        _abandoned.append(sock)
        sock._open = False
        number = sock._sock.detach()
        # No goodbye of TLS or websocket: that would end the parent's connection.
        if number >= 0:
            _originals.posix_close(number)
    _open_sockets.clear()


_originals.run_in_child(_after_fork_in_child)


def open_descriptors() -> set[int]:
    """Return the descriptors of the reactor's own sockets. Any thread."""
    return {sock.fileno() for sock in list(_open_sockets)}


class RealSocket:
    """A kernel stream socket whose calls wait in the current thread's gevent hub.

    Args:
        family: ``AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
        sock: an existing object of the C type to take over; None makes a TCP socket.
    """

    def __init__(self, family: int = _socket.AF_INET, sock: Any = None) -> None:
        self._hub = gevent.get_hub()
        self._sock: Any = _originals.CSocket(family, _socket.SOCK_STREAM, 0) if sock is None else sock
        self._sock.setblocking(False)
        self._timeout: float | None = None
        self._open = True
        self._readable = self._hub.loop.io(self._sock.fileno(), 1)
        self._writable = self._hub.loop.io(self._sock.fileno(), 2)
        _open_sockets.add(self)

    def __repr__(self) -> str:
        return f"<RealSocket fd={self.fileno()}>"

    # --- waiting ---

    def _wait(self, watcher: Any, timeout: float | None, what: str) -> None:
        if not self._open:
            raise _Closed
        if timeout is None:
            self._hub.wait(watcher)
            return
        timer = gevent.Timeout.start_new(timeout, TimeoutError(errno.ETIMEDOUT, f"{what} timed out"))
        try:
            self._hub.wait(watcher)
        finally:
            timer.close()

    # --- the calls of a socket ---

    def connect(self, address: Any) -> None:
        """Connect to a numeric *address*; names would block the hub (see :func:`resolve_host`)."""
        error = self._sock.connect_ex(address)
        while error in _IN_PROGRESS:
            self._wait(self._writable, self._timeout, "connect")
            error = self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if not error:
                break
        if error:
            raise OSError(error, os.strerror(error))

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return up to *size* octets, b"" at the end of the stream; waits for the first."""
        while True:
            try:
                data: bytes = self._sock.recv(size, flags)
                return data
            except BlockingIOError:
                if self._timeout == 0.0:
                    raise
            self._wait(self._readable, self._timeout, "recv")

    def recv_into(self, buffer: bytearray | memoryview, size: int = 0, flags: int = 0) -> int:
        """Like :meth:`recv`, into *buffer*; return how many octets."""
        while True:
            try:
                count: int = self._sock.recv_into(buffer, size, flags)
                return count
            except BlockingIOError:
                if self._timeout == 0.0:
                    raise
            self._wait(self._readable, self._timeout, "recv")

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Hand at least one octet of *data* to the kernel; return how many it took."""
        while True:
            try:
                count: int = self._sock.send(data, flags)
                return count
            except BlockingIOError:
                if self._timeout == 0.0:
                    raise
            self._wait(self._writable, self._timeout, "send")

    def sendall(self, data: bytes | bytearray | memoryview, flags: int = 0) -> None:
        """Hand all of *data* to the kernel; the timeout is for each wait, not for the whole."""
        view = memoryview(data)
        while view:
            view = view[self.send(view, flags) :]

    def wait_readable(self, timeout: float | None = None) -> None:
        """Wait until :meth:`recv` would not; raises TimeoutError."""
        self._wait(self._readable, timeout, "recv")

    def shutdown(self, how: int) -> None:
        """Close one or both directions."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close; greenlets waiting in a call get EBADF. Any number of times."""
        if not self._open:
            return
        self._open = False
        _open_sockets.discard(self)
        # The watchers must be gone before the number of the descriptor can be used again.
        self._hub.cancel_waits_close_and_then((self._readable, self._writable), _Closed, self._sock.close)

    # --- options ---

    def settimeout(self, timeout: float | None) -> None:
        """Seconds for each wait; None waits forever, 0.0 never waits."""
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """Return what :meth:`settimeout` set."""
        return self._timeout

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set a kernel option."""
        self._sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int) -> int:
        """Return a kernel option."""
        value: int = self._sock.getsockopt(level, option)
        return value

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        number: int = self._sock.fileno() if self._open else -1
        return number

    def getpeername(self) -> Any:
        """Return the address of the other end."""
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        """Return the local address."""
        return self._sock.getsockname()

    @property
    def family(self) -> int:
        """The address family."""
        return int(self._sock.family)


class RealTlsSocket:
    """TLS over a :class:`RealSocket`, with the face of a socket.

    The C objects do the protocol in memory; only ciphertext goes through the real socket. A reader
    may wait while another greenlet writes: TLS 1.3 key updates and renegotiation answers are flushed
    by whoever produced them.

    Args:
        sock: a connected socket; it belongs to this object from now on.
        context: from :func:`client_tls_context` (or a server's C context, for tests).
        server_hostname: the name to ask for and to verify.
        server_side: answer the handshake instead of opening it.
    """

    def __init__(
        self, sock: RealSocket, context: Any, server_hostname: str | None, *, server_side: bool = False
    ) -> None:
        self._sock = sock
        self._incoming = _ssl.MemoryBIO()
        self._outgoing = _ssl.MemoryBIO()
        self._tls = context._wrap_bio(
            self._incoming, self._outgoing, server_side, server_hostname=server_hostname
        )
        self._flushing = gevent.lock.Semaphore(1)

    def __repr__(self) -> str:
        return f"<RealTlsSocket fd={self.fileno()}>"

    def do_handshake(self) -> None:
        """Run the handshake; raises ``ssl.SSLError`` (an OSError) when the certificate does not verify."""
        try:
            self._run(self._tls.do_handshake)
        finally:
            self._flush()

    def _run(self, operation: Callable[..., Any], *arguments: object) -> Any:
        """Call *operation* until it needs no more input."""
        while True:
            try:
                return operation(*arguments)
            except _ssl.SSLWantReadError:
                self._flush(wait=False)
                self._fill()
            except _ssl.SSLWantWriteError:
                self._flush()

    def _fill(self) -> None:
        data = self._sock.recv(_TLS_READ)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self, *, wait: bool = True) -> None:
        # One flusher at a time keeps records in order; it takes what the other adds meanwhile.
        if not self._outgoing.pending or not self._flushing.acquire(blocking=wait):
            return
        try:
            while self._outgoing.pending:
                self._sock.sendall(self._outgoing.read())
        finally:
            self._flushing.release()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return up to *size* octets of plaintext, b"" at the end, clean or not."""
        if size <= 0:
            return b""
        try:
            data: bytes = self._run(self._tls.read, size)
        except (_ssl.SSLEOFError, _ssl.SSLZeroReturnError):
            return b""
        self._flush(wait=False)
        return data

    def recv_into(self, buffer: bytearray | memoryview, size: int = 0, flags: int = 0) -> int:
        """Like :meth:`recv`, into *buffer*."""
        data = self.recv(size or len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Encrypt and hand over all of *data*; return its length."""
        if not len(data):
            return 0
        count: int = self._run(self._tls.write, data)
        self._flush()
        return count

    def sendall(self, data: bytes | bytearray | memoryview, flags: int = 0) -> None:
        """Encrypt and hand over all of *data*."""
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def pending(self) -> int:
        """Return how many octets of plaintext are waiting."""
        return int(self._tls.pending())

    def shutdown(self, how: int) -> None:
        """Shut the socket below; no close_notify (a fork must not send one)."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the socket below, without close_notify."""
        self._sock.close()

    def settimeout(self, timeout: float | None) -> None:
        """Set the timeout of the socket below."""
        self._sock.settimeout(timeout)

    def gettimeout(self) -> float | None:
        """Return the timeout of the socket below."""
        return self._sock.gettimeout()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set a kernel option of the socket below."""
        self._sock.setsockopt(level, option, value)

    def fileno(self) -> int:
        """Return the descriptor of the socket below, -1 once closed."""
        return self._sock.fileno()

    def getpeername(self) -> Any:
        """Return the address of the other end."""
        return self._sock.getpeername()


def client_tls_context(ca_file: str | None = None, alpn: tuple[bytes, ...] = ()) -> Any:
    """Return a C-level TLS context that verifies certificate and host name, TLS 1.2 at least.

    Args:
        ca_file: PEM file of the only authorities trusted; None is the system's store
            (``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured by OpenSSL itself).
        alpn: protocol names to offer.
    """
    context = _ssl._SSLContext(_ssl.PROTOCOL_TLS_CLIENT)  # check_hostname and CERT_REQUIRED are on
    context.minimum_version = _TLS_1_2
    # Without renegotiation a write never has to read: reader and writer stay apart.
    context.options |= _ssl.OP_NO_RENEGOTIATION
    if ca_file is None:
        context.set_default_verify_paths()
    else:
        context.load_verify_locations(ca_file, None, None)
    if alpn:
        context._set_alpn_protocols(  # type: ignore[attr-defined]
            b"".join(bytes([len(name)]) + name for name in alpn)
        )
    return context


def _system_lookup(host: bytes, port: int) -> list[Any]:
    _originals.lookup_threads.add(_originals.get_native_id())
    return _originals.getaddrinfo(  # type: ignore[no-any-return]
        host, port, _socket.AF_UNSPEC, _socket.SOCK_STREAM
    )


def resolve_host(host: str, port: int, timeout: float | None = None) -> list[tuple[int, Any]]:
    """Return ``(family, sockaddr)`` of *host* in the system resolver's order, IPv4 first.

    The captured C getaddrinfo runs in the hub's native thread pool, because it blocks.
    Must be called in a greenlet of the reactor.
    """
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [(family, (host, port) if family == _socket.AF_INET else (host, port, 0, 0))]
    try:
        name = host.encode("idna")
    except UnicodeError:
        name = b""
    if not name or b"\0" in name:
        raise OSError(errno.EHOSTUNREACH, "not a host name")
    with gevent.Timeout(timeout, TimeoutError(errno.ETIMEDOUT, f"resolving {host} timed out")):
        found = gevent.get_hub().threadpool.apply(_system_lookup, (name, port))
    addresses: list[tuple[int, Any]] = []
    for family, _, _, _, sockaddr in found:
        if family in (_socket.AF_INET, _socket.AF_INET6) and (int(family), sockaddr) not in addresses:
            addresses.append((int(family), sockaddr))
    addresses.sort(key=lambda item: item[0] != _socket.AF_INET)
    return addresses


class Turn:
    """How long a greenlet has read without a pause: a peer that always has more must not keep the hub from its timers."""

    def __init__(self) -> None:
        self._ends = monotonic() + _TURN

    def give(self) -> None:
        """Let others have theirs if ours is over."""
        if monotonic() > self._ends:
            gevent.sleep(0)
            self._ends = monotonic() + _TURN


def is_public(address: str) -> bool:
    """Tell whether an IP literal is one of the internet: no loopback, private, link-local or multicast address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    return ip.is_global and not ip.is_multicast


def connect_tcp(
    host: str,
    port: int,
    *,
    timeout: float,
    tls: Any = None,
    addresses: Mapping[str, str] | None = None,
    public: bool = False,
) -> RealSocket | RealTlsSocket:
    """Connect to *host*, trying each of its addresses, all within *timeout* seconds.

    Args:
        host: a name or an IP literal (without brackets).
        port: the TCP port.
        timeout: seconds for resolving, connecting and the TLS handshake together.
        tls: a context of :func:`client_tls_context`; None is plain TCP.
        addresses: lower-case name -> IP literal, asked before the resolver.
        public: leave out addresses of this machine and of private networks, unless *addresses* has them.

    Raises:
        TimeoutError: the time is over.
        OSError: no address could be reached, or TLS failed (``ssl.SSLError``).
    """
    target = (addresses or {}).get(host.lower(), host)
    failure: OSError = OSError(errno.EHOSTUNREACH, f"{host} has no address")
    with gevent.Timeout(timeout, TimeoutError(errno.ETIMEDOUT, f"connecting to {host} timed out")):
        for family, sockaddr in resolve_host(target, port):
            if public and target == host and not is_public(sockaddr[0]):
                failure = OSError(errno.EHOSTUNREACH, "its address is not one of the internet")
                continue
            sock = RealSocket(family)
            try:
                sock.connect(sockaddr)
                sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
                if tls is None:
                    return sock
                wrapped = RealTlsSocket(sock, tls, host)
                wrapped.do_handshake()
                return wrapped
            except OSError as error:
                sock.close()
                if isinstance(error, TimeoutError):
                    raise
                failure = error
            except BaseException:
                sock.close()
                raise
    raise failure
