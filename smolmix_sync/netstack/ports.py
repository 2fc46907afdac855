"""Who is bound to which port, and the choice of free ones.

Source: RFC 6056 section 3.3.3 (algorithm 3) for connections; random for the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from smolmix_sync.netstack.secretnumbers import SecretNumbers

__all__ = ["Bindings", "EphemeralPorts", "covers"]


class _Bound(Protocol):
    @property
    def address(self) -> bytes: ...

    @property
    def local(self) -> tuple[str, int]: ...

    @property
    def v6only(self) -> bool: ...


_B = TypeVar("_B", bound=_Bound)

_ANY_V4 = bytes(4)
_ANY_V6 = bytes(16)


def covers(address: bytes, v6only: bool, destination: bytes) -> int:
    """Return how closely a bound address matches: 3 exact, 2 its family, 1 both families, 0 not."""
    if address == destination:
        return 3
    if not address:
        return 1
    if address == _ANY_V4:
        return 2 if len(destination) == 4 else 0
    if address == _ANY_V6:
        return 2 if len(destination) == 16 else 0 if v6only else 1
    return 0


def _overlap(first: bytes, first_v6only: bool, second: bytes, second_v6only: bool) -> bool:
    wild = (b"", _ANY_V4, _ANY_V6)
    if first in wild and second in wild:
        if first == _ANY_V4 and second == _ANY_V6:
            return not second_v6only
        if first == _ANY_V6 and second == _ANY_V4:
            return not first_v6only
        return True
    return bool(covers(first, first_v6only, second) or covers(second, second_v6only, first))


class Bindings(Generic[_B]):
    """Sockets by local port."""

    __slots__ = ("_ports",)

    def __init__(self) -> None:
        self._ports: dict[int, list[_B]] = {}

    def __iter__(self) -> Iterator[_B]:
        for bound in list(self._ports.values()):
            yield from list(bound)

    def at(self, port: int) -> list[_B]:
        """Return what is bound to *port*."""
        return self._ports.get(port, [])

    def taken(self, address: bytes, port: int, v6only: bool) -> bool:
        """Tell whether a new binding would collide."""
        return any(_overlap(address, v6only, other.address, other.v6only) for other in self.at(port))

    def add(self, bound: _B) -> None:
        """Register *bound* under its local port."""
        self._ports.setdefault(bound.local[1], []).append(bound)

    def remove(self, bound: _B) -> None:
        """Release the port of *bound*."""
        port = bound.local[1]
        others = [other for other in self.at(port) if other is not bound]
        if others:
            self._ports[port] = others
        else:
            self._ports.pop(port, None)

    def find(self, destination: bytes, port: int) -> _B | None:
        """Return the closest binding for a packet to *destination*."""
        best, found = 0, None
        for bound in self._ports.get(port, ()):
            score = covers(bound.address, bound.v6only, destination)
            if score > best:
                best, found = score, bound
        return found


class EphemeralPorts:
    """Chooses local ports."""

    __slots__ = ("_first", "_next", "_numbers", "_span")

    def __init__(self, first: int, last: int, numbers: SecretNumbers) -> None:
        self._first = first
        self._span = last - first + 1
        self._numbers = numbers
        self._next = numbers.random16()

    def for_connection(self, key: bytes, taken: Callable[[int], bool]) -> int:
        """Return a port for a connection to *key* (addresses and remote port).

        Raises:
            OSError: EADDRNOTAVAIL, every port is taken for this destination.
        """
        offset = self._numbers.port_offset(key)
        for _ in range(self._span):
            port = self._first + (offset + self._next) % self._span
            self._next += 1
            if not taken(port):
                return port
        raise OSError(errno.EADDRNOTAVAIL, "no free local port")

    def for_binding(self, taken: Callable[[int], bool]) -> int:
        """Return a random free port.

        Raises:
            OSError: EADDRINUSE, every port is taken (as Linux reports it for bind).
        """
        start = self._numbers.random32()
        for step in range(self._span):
            port = self._first + (start + step) % self._span
            if not taken(port):
                return port
        raise OSError(errno.EADDRINUSE, "no free local port")
