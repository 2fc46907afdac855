"""Where a node listens: the address in routing information, SURBs and MixPackets.

Source: spec/sphinx.md section 12; common/nymsphinx/addressing/src/nodes.rs.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass, field

from smolmix_sync.errors import WireError

__all__ = ["NodeAddress"]

_CACHED = 4096  # ours: several times the nodes of the network


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """An IP address and a port, encoded as ``type 4 or 6 || port || address``.

    Wire layout, big-endian::

        offset  size     field
        0       1        4 or 6
        1       2        port
        3       4 or 16  address octets

    *ip* is kept in its canonical text form, so equal addresses compare equal. An IPv4-mapped IPv6
    address stays of type 6.

    Raises:
        ValueError: *ip* is not an IP address (names and scope ids are not), or *port* no 16-bit number.

    Source: spec/sphinx.md section 12.
    """

    ip: str
    port: int
    _wire: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if "%" in self.ip:
            raise ValueError("a node address has no scope id")
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"port {self.port} is outside 0..65535")
        address = ipaddress.ip_address(self.ip)
        # set through object: the dataclass is frozen
        object.__setattr__(self, "ip", _canonical(address))
        wire = bytes((address.version,)) + self.port.to_bytes(2, "big") + address.packed
        object.__setattr__(self, "_wire", wire)

    @classmethod
    def parse(cls, text: str) -> NodeAddress:
        """Return the address written as ``1.2.3.4:1789`` or ``[::1]:1789``.

        Raises:
            ValueError: *text* is written otherwise.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise ValueError("a node address is written ip:port")
        if host.startswith("[") and host.endswith("]"):
            return cls(host[1:-1], int(port))
        if ":" in host:
            raise ValueError("an IPv6 node address is written [ip]:port")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    def encode(self) -> bytes:
        """Return the 7 (IPv4) or 19 (IPv6) octets."""
        return self._wire

    def encode_padded(self, size: int) -> bytes:
        """Return the encoding followed by zero octets up to *size*: 32 in headers and SURBs, 19 in acks.

        Raises:
            ValueError: *size* is less than the encoding needs.
        """
        if size < len(self._wire):
            raise ValueError(f"a node address needs {len(self._wire)} octets, not {size}")
        return self._wire.ljust(size, b"\0")

    @classmethod
    def decode_untrusted(cls, data: bytes | bytearray | memoryview) -> NodeAddress:
        """Return the address at the start of *data*; what follows it is ignored, as padding.

        Its length is ``len(address.encode())``.

        Raises:
            WireError: *data* is too short, or its first octet is neither 4 nor 6.
        """
        kind = data[0] if data else None
        size = _SIZES.get(kind)
        if size is None:
            raise WireError(f"node address starts with {kind}, neither 4 nor 6")
        if len(data) < size:
            raise WireError(f"node address of type {kind} needs {size} octets, got {len(data)}")
        return _decode(bytes(data[:size]))


_SIZES: dict[int | None, int] = {4: 7, 6: 19}


def _canonical(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}"  # Python prints this form only since 3.13
    return str(address)


@functools.lru_cache(maxsize=_CACHED)
def _decode(wire: bytes) -> NodeAddress:
    return NodeAddress(str(ipaddress.ip_address(wire[3:])), int.from_bytes(wire[1:3], "big"))
