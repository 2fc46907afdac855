"""Which addresses are ours, and which of them goes with a destination."""

from __future__ import annotations

import errno

from smolmix_sync.netstack import addresses

__all__ = ["HostAddresses"]

_LOOPBACK_V4 = b"\x7f\0\0\x01"
_LOOPBACK_V6 = bytes(15) + b"\x01"


class HostAddresses:
    """The addresses of one stack.

    Args:
        loopback: 127/8, ::1 and our own addresses are served inside the stack.
        any_address: every address counts as ours to bind and to send from.
    """

    __slots__ = ("_any_address", "_loopback", "own", "v4", "v6")

    def __init__(self, *, loopback: bool, any_address: bool) -> None:
        self._loopback = loopback
        self._any_address = any_address
        self.v4: bytes | None = None
        self.v6: bytes | None = None
        self.own: frozenset[bytes] = frozenset()

    def assign(self, v4: str | None, v6: str | None) -> None:
        """Take new addresses."""
        self.v4 = addresses.pack(v4) if v4 is not None else None
        self.v6 = addresses.pack(v6) if v6 is not None else None
        self.own = frozenset(address for address in (self.v4, self.v6) if address is not None)

    def is_ours(self, address: bytes) -> bool:
        """Tell whether a socket may have *address*."""
        return self._any_address or address in self.own or (self._loopback and addresses.is_loopback(address))

    def is_local(self, destination: bytes) -> bool:
        """Tell whether packets to *destination* stay inside the stack."""
        return self._loopback and (addresses.is_loopback(destination) or destination in self.own)

    def destination(self, addr: str) -> bytes:
        """Return what a user's address means: the unspecified one is this host, as in Linux."""
        packed = addresses.pack(addr)
        if self._loopback and addresses.is_unspecified(packed):
            return _LOOPBACK_V4 if len(packed) == 4 else _LOOPBACK_V6
        return packed

    def source_for(self, destination: bytes, preferred: bytes) -> bytes:
        """Return our address towards *destination*; *preferred* is the bound one, empty if none.

        Raises:
            OSError: ENETUNREACH, EADDRNOTAVAIL.
        """
        if preferred and addresses.is_unspecified(preferred):
            if len(preferred) == 4 != len(destination):
                raise OSError(errno.ENETUNREACH, "address family mismatch")
            preferred = b""
        if preferred and not self.is_ours(preferred):
            raise OSError(errno.EADDRNOTAVAIL, "not an address of this stack")
        if self.is_local(destination):
            if not preferred:
                return destination
            source: bytes | None = preferred
        else:
            source = preferred or (self.v4 if len(destination) == 4 else self.v6)
            if (
                not addresses.is_unicast(destination)
                or addresses.is_loopback(destination)
                or destination in self.own
                or (source is not None and addresses.is_loopback(source))
            ):
                source = None
        if source is None or len(source) != len(destination):
            raise OSError(errno.ENETUNREACH, "network is unreachable")
        return source

    def bindable(self, addr: str | None) -> bytes:
        """Return the packed address to bind, empty for every address.

        Raises:
            OSError: EADDRNOTAVAIL.
        """
        if not addr:
            return b""
        address = addresses.pack(addr)
        if not addresses.is_unspecified(address) and not self.is_ours(address):
            raise OSError(errno.EADDRNOTAVAIL, "not an address of this stack")
        return address
