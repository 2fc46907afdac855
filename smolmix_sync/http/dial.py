"""Connections for helpers: one deadline over name, address and TLS, and never to this machine.

A MixSocket to a loopback address is the kernel's business by rule (design.md decision 12). A helper that takes its
destinations from others, a redirect or a proxy's client, must not become a way to the services of this
host: loopback is refused here, also when a name out in the world resolves to it.
"""

from __future__ import annotations

import errno
import ipaddress
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from smolmix_sync.errors import LeakBlocked

if TYPE_CHECKING:
    from smolmix_sync.socket import MixSocket

__all__ = [
    "Carrier",
    "Deadline",
    "ascii_host",
    "connect_limit",
    "dial",
    "is_local",
    "refuse_local",
    "start_tls",
]

#: Ours: an address that stays silent while others wait gets this long; the last one gets all that is left.
_PER_ADDRESS = 20.0
#: Ours: seconds after which the next address is tried beside one that has not answered.
_STAGGER = 2.0


class Carrier(Protocol):
    """What carries connections: a ``Tunnel``, or the daemon's by ``attach()``."""

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None:
        """Block until it is READY."""
        ...

    def resolve(self, host: str, family: int = 0, timeout: float | None = None) -> list[str]:
        """Return the addresses of a name."""
        ...

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> MixSocket:
        """Connect."""
        ...


def connect_limit(tunnel: Carrier) -> float:
    """Return the tunnel's ``connect_timeout``; a daemon's is its own affair, and the default is used."""
    return float(getattr(getattr(tunnel, "config", None), "connect_timeout", 60.0))


class Deadline:
    """A point in time by which all of an operation must be done.

    Args:
        total: seconds from now, or None: no end, but no single wait is longer than *each*.
        each: seconds of one wait without a *total*.
    """

    __slots__ = ("_each", "_until", "total")

    def __init__(self, total: float | None, each: float = 60.0) -> None:
        if total is not None and total <= 0:
            raise ValueError("timeout must be positive")
        self.total = total
        self._each = each
        self._until = None if total is None else time.monotonic() + total

    def left(self) -> float:
        """Return the seconds the next wait may take.

        Raises:
            TimeoutError: there are none left.
        """
        if self._until is None:
            return self._each
        left = self._until - time.monotonic()
        if left <= 0:
            raise self.expired()
        return left

    def expired(self) -> TimeoutError:
        """Return the error for a time that is over."""
        seconds = self._each if self.total is None else self.total
        return TimeoutError(errno.ETIMEDOUT, f"timed out after {seconds:g} s")

    @property
    def over(self) -> bool:
        """Whether the total is used up."""
        return self._until is not None and time.monotonic() >= self._until


def ascii_host(host: str) -> str:
    """Return *host* as it goes on the wire: an address without brackets, or the name in its ASCII form.

    Raises:
        ValueError: it is neither.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host or any(c in host for c in " /\\?#@:%\r\n\t"):
        raise ValueError(f"not a host name: {host!r}")
    return host.lower() if host.isascii() else host.encode("idna").decode("ascii").lower()


def is_local(address: str) -> bool:
    """Tell whether *address* means this machine."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    return ip.is_loopback or ip.is_unspecified


def refuse_local(host: str, addresses: list[str]) -> None:
    """Raise for a destination that is this machine.

    Raises:
        LeakBlocked: one of *addresses* is a loopback address.
    """
    if any(is_local(address) for address in addresses):
        raise LeakBlocked(f"{host} is this machine, which is not in the tunnel")


def dial(tunnel: Carrier, host: str, port: int, deadline: Deadline) -> MixSocket:
    """Resolve *host* in the tunnel and connect to the first of its addresses that answers.

    An address that stays silent does not hold the next one up: that is tried beside it after two seconds.

    Args:
        tunnel: the tunnel; waited for if it is not READY.
        host: a name or an address.
        port: TCP port.
        deadline: bounds everything together.

    Returns:
        A connected socket whose timeout the caller sets.

    Raises:
        TimeoutError: the time is over.
        LeakBlocked: the destination is this machine.
        OSError: what the first address failed with, ``socket.gaierror`` included.
    """
    tunnel.wait_ready(min(deadline.left(), connect_limit(tunnel)), fail_fast=True)
    try:
        addresses = tunnel.resolve(host, 0, deadline.left())
    except OSError as error:
        if deadline.over:
            raise deadline.expired() from error
        raise
    refuse_local(host, addresses)
    if len(addresses) == 1:
        try:
            return tunnel.create_connection((addresses[0], port), deadline.left())
        except OSError as error:
            if deadline.over:
                raise deadline.expired() from error
            raise
    return _Race(tunnel, port, deadline).run(addresses, host)


class _Race:
    """Connects to several addresses, each a little after the one before; the first that answers wins.

    Source: RFC 8305 section 5, with a delay for round trips of half a second.
    """

    def __init__(self, tunnel: Carrier, port: int, deadline: Deadline) -> None:
        self._tunnel = tunnel
        self._port = port
        self._deadline = deadline
        self._results: queue.SimpleQueue[tuple[int, MixSocket | None, OSError | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._over = False

    def run(self, addresses: list[str], host: str) -> MixSocket:
        """Return the winner; raises what the first address failed with, if all fail."""
        failures: dict[int, OSError] = {}
        waiting = list(enumerate(addresses))
        try:
            while len(failures) < len(addresses):
                if waiting:
                    self._begin(*waiting.pop(0), last=not waiting)
                left = self._deadline.left()
                try:
                    number, sock, error = self._results.get(timeout=min(left, _STAGGER) if waiting else left)
                except queue.Empty:
                    continue
                if sock is not None:
                    return sock
                failures[number] = error or OSError(errno.EHOSTUNREACH, f"{host} does not answer")
        finally:
            self._end()
        if self._deadline.over:
            raise self._deadline.expired() from failures.get(0)
        raise failures.get(0) or OSError(errno.EHOSTUNREACH, f"{host} has no address")

    def _begin(self, number: int, address: str, *, last: bool) -> None:
        limit = self._deadline.left()
        limit = limit if last else min(limit, _PER_ADDRESS)

        def attempt() -> None:
            sock, failure = None, None
            try:
                sock = self._tunnel.create_connection((address, self._port), limit)
            except OSError as error:
                failure = error
            with self._lock:
                if not self._over:
                    self._results.put((number, sock, failure))
                elif sock is not None:
                    sock.close()

        threading.Thread(target=attempt, name="smolmix-connect", daemon=True).start()

    def _end(self) -> None:
        with self._lock:
            self._over = True
            while not self._results.empty():
                _, sock, _ = self._results.get()
                if sock is not None:
                    sock.close()


def start_tls(sock: MixSocket, context: Any, host: str, deadline: Deadline) -> Any:
    """Wrap a connected socket in TLS; *sock* is closed if that fails."""
    try:
        sock.settimeout(deadline.left())
        # A stream that ends without the closing alert must not look like a body that is complete.
        return context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)
    except BaseException:
        sock.close()
        raise
