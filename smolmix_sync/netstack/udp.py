"""UDP: the codec, the socket object, and datagrams to any address.

Source: RFC 768; RFC 8200 section 8.1 (no zero checksum in IPv6).
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Protocol

from smolmix_sync.errors import WireError
from smolmix_sync.netstack import addresses
from smolmix_sync.netstack.checksum import transport_checksum
from smolmix_sync.netstack.events import ERROR, READABLE, WRITABLE
from smolmix_sync.netstack.ip import UDP
from smolmix_sync.netstack.ports import covers

if TYPE_CHECKING:
    from smolmix_sync.netstack.listener import Refusal

__all__ = ["MAX_PAYLOAD", "Datagram", "PacketQueue", "Udp", "decode_untrusted", "encode"]

_HEADER = struct.Struct("!HHHH")
# From the specification: 65535 less the IPv4 and UDP headers.
MAX_PAYLOAD = 65507
# Ours: what an empty datagram counts for in the receive buffer.
_BOOKKEEPING = 64


def encode(
    source: bytes, source_port: int, destination: bytes, destination_port: int, payload: bytes
) -> bytes:
    """Return header and payload; a checksum of 0 is sent as 0xffff."""
    size = _HEADER.size + len(payload)
    data = _HEADER.pack(source_port, destination_port, size, 0) + payload
    checksum = transport_checksum(source, destination, UDP, data) or 0xFFFF
    return data[:6] + checksum.to_bytes(2, "big") + data[8:]


def decode_untrusted(source: bytes, destination: bytes, data: bytes) -> tuple[int, int, bytes]:
    """Return source port, destination port and payload.

    Raises:
        WireError: the argument names the drop counter.
    """
    if len(data) < _HEADER.size:
        raise WireError("udp_short")
    source_port, destination_port, size, checksum = _HEADER.unpack_from(data)
    if not _HEADER.size <= size <= len(data):
        raise WireError("udp_length")
    if size < len(data):
        data = data[:size]
    if checksum == 0:
        if len(source) == 16:
            raise WireError("udp_checksum")
    elif transport_checksum(source, destination, UDP, data):
        raise WireError("udp_checksum")
    return source_port, destination_port, data[_HEADER.size :]


class PacketQueue:
    """Packets waiting for their turn among the connections' data segments, bounded by octets."""

    __slots__ = ("limit", "octets", "owner", "packets", "queued")

    def __init__(self, limit: int, owner: Udp | None = None) -> None:
        self.limit = limit
        self.octets = 0
        self.owner = owner
        self.packets: deque[bytes] = deque()
        self.queued = False

    def add(self, packets: list[bytes]) -> bool:
        """Append all of *packets* (fragments of one datagram), or none; an empty queue takes any size."""
        size = sum(map(len, packets))
        if self.packets and self.octets + size > self.limit:
            return False
        self.packets.extend(packets)
        self.octets += size
        return True

    def take(self) -> bytes:
        """Remove the oldest packet."""
        packet = self.packets.popleft()
        self.octets -= len(packet)
        return packet


class _DatagramHost(Protocol):
    def refuse_datagram(self, datagram: Datagram, how: Refusal) -> None: ...


class Datagram:
    """A datagram to any destination (``any_address`` stacks); answer with ``Stack.send_udp``."""

    __slots__ = ("_host", "dst", "packet", "payload", "src")

    def __init__(
        self, host: _DatagramHost, src: tuple[str, int], dst: tuple[str, int], payload: bytes, packet: bytes
    ) -> None:
        self._host = host
        self.src = src
        self.dst = dst
        self.payload = payload
        self.packet = packet
        """The packet's beginning, for an ICMP error to quote."""

    def refuse(self, how: Refusal) -> None:
        """Answer with an ICMP error."""
        self._host.refuse_datagram(self, how)


class _UdpHost(Protocol):
    def report(self, obj: Udp, mask: int) -> None: ...

    def destination(self, addr: str) -> bytes: ...

    def source_for(self, destination: bytes, preferred: bytes) -> bytes: ...

    def queue_udp(self, udp: Udp, source: bytes, destination: bytes, port: int, payload: bytes) -> bool: ...

    def close_udp(self, udp: Udp) -> None: ...


class Udp:
    """A UDP socket; made by ``Stack.udp``. READABLE, WRITABLE (queue drained), ERROR.

    Attributes for the owner: ``local`` (address ``""`` when bound to every
    address), ``remote`` (the connected peer or None), ``rcvbuf`` and ``sndbuf``
    in octets, ``dropped`` (datagrams lost to a full queue), ``tag``.
    """

    __slots__ = (
        "_blocked",
        "_error",
        "_host",
        "_octets",
        "_queue",
        "address",
        "closed",
        "dropped",
        "local",
        "output",
        "peer",
        "rcvbuf",
        "remote",
        "reuse",
        "tag",
        "v6only",
    )

    def __init__(
        self,
        host: _UdpHost,
        address: bytes,
        port: int,
        *,
        sndbuf: int,
        rcvbuf: int,
        v6only: bool,
        reuse: bool,
    ) -> None:
        self._host = host
        self.address = address
        self.local = (addresses.unpack(address) if address else "", port)
        self.remote: tuple[str, int] | None = None
        self.peer: tuple[bytes, int] | None = None
        self.v6only = v6only
        self.reuse = reuse
        self.rcvbuf = rcvbuf
        self.output = PacketQueue(sndbuf, self)
        self._queue: deque[tuple[bytes, tuple[str, int], tuple[str, int]]] = deque()
        self._octets = 0
        self._error = 0
        self._blocked = False
        self.dropped = 0
        self.closed = False
        self.tag: object = None

    @property
    def error(self) -> int:
        """The pending ICMP errno, 0 without one (see ``take_error``)."""
        return self._error

    @property
    def sndbuf(self) -> int:
        """Octets that may wait to be sent."""
        return self.output.limit

    @sndbuf.setter
    def sndbuf(self, value: int) -> None:
        self.output.limit = value

    def connect(self, addr: str, port: int) -> None:
        """Fix the peer: only its datagrams are delivered, ``send`` goes to it.

        Raises:
            OSError: ENETUNREACH when no address of ours has that family.
        """
        destination = self._host.destination(addr)
        source = self._host.source_for(destination, self.address)
        self.peer = (destination, port)
        self.remote = (addresses.unpack(destination), port)
        self.local = (addresses.unpack(source), self.local[1])

    def disconnect(self) -> None:
        """Undo ``connect`` (AF_UNSPEC)."""
        self.peer = self.remote = None
        self.local = (addresses.unpack(self.address) if self.address else "", self.local[1])

    def sendto(self, data: bytes | bytearray | memoryview, addr: str, port: int) -> int:
        """Queue one datagram; return its size.

        Raises:
            BlockingIOError: the send queue is full (wait for WRITABLE).
            OSError: EMSGSIZE, ENETUNREACH, EBADF when closed; a pending ICMP error once.
        """
        return self._send(data, self._host.destination(addr), port)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Queue one datagram to the connected peer (EDESTADDRREQ without one)."""
        if self.peer is None:
            raise OSError(errno.EDESTADDRREQ, "no destination address")
        return self._send(data, *self.peer)

    def _send(self, data: bytes | bytearray | memoryview, destination: bytes, port: int) -> int:
        if self.closed:
            raise OSError(errno.EBADF, "socket is closed")
        if error := self.take_error():
            raise OSError(error, "earlier datagram failed")
        payload = bytes(data)
        if len(payload) > MAX_PAYLOAD:
            raise OSError(errno.EMSGSIZE, "datagram too long")
        source = self._host.source_for(destination, self.address)
        if not self._host.queue_udp(self, source, destination, port, payload):
            self._blocked = True
            raise BlockingIOError(errno.EAGAIN, "send queue is full")
        return len(payload)

    def recv(self) -> tuple[bytes, tuple[str, int], tuple[str, int]] | None:
        """Take one datagram: payload, source, destination; None when none waits."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        self._octets -= len(item[0]) + _BOOKKEEPING
        return item

    def readable(self) -> int:
        """Return how many datagrams wait."""
        return len(self._queue)

    def writable(self) -> bool:
        """Tell whether a datagram would be taken now."""
        return not self.output.packets or self.output.octets < self.output.limit

    def take_error(self) -> int:
        """Return and clear the pending ICMP errno (connected sockets only)."""
        error, self._error = self._error, 0
        return error

    def close(self) -> None:
        """Release the port; queued datagrams are still sent."""
        if not self.closed:
            self.closed = True
            self._queue.clear()
            self._octets = 0
            self._host.close_udp(self)

    # -- for the stack

    def score(self, source: bytes, source_port: int, destination: bytes) -> int:
        """Return how well this socket fits a datagram, -1 if not at all."""
        score = covers(self.address, self.v6only, destination)
        if not score:
            return -1
        if self.peer is not None:
            if self.peer != (source, source_port):
                return -1
            score += 4
        return score

    def deliver(self, payload: bytes, src: tuple[str, int], dst: tuple[str, int]) -> bool:
        """Queue a received datagram; False when the buffer is full (the newest is dropped)."""
        size = len(payload) + _BOOKKEEPING
        if self._queue and self._octets + size > self.rcvbuf:
            self.dropped += 1
            return False
        self._queue.append((payload, src, dst))
        self._octets += size
        self._host.report(self, READABLE)
        return True

    def fail(self, error: int) -> None:
        """Set the pending error."""
        self._error = error
        self._host.report(self, ERROR | READABLE | WRITABLE)

    def drained(self) -> None:
        """Note that a packet left the send queue."""
        if self._blocked and 2 * self.output.octets <= self.output.limit:
            self._blocked = False
            self._host.report(self, WRITABLE)
