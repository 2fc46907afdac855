"""A stand-in for Sphinx: the sizes, the routing and the failures of the real packets, without their cost.

A header names its hops in the clear; a check sum stands for its MAC, one more in the payload for the padding that the
last hop looks for. So a header that was changed is dropped by the next node, a payload by the last, a packet for
another key by the node it reaches, and a packet that comes twice is known by its tag. What is not modelled is that
packets look different at every hop: nothing here looks at them from outside.

Fragments are not encrypted for the recipient either, but keep their size.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import pytest

from smolmix_sync.crypto import x25519_base
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet import acks, client, packets
from smolmix_sync.mixnet.sphinx import FinalHop, ForwardHop, NodeAddress, PacketSize, Surb
from smolmix_sync.mixnet.sphinx.constants import HEADER_SIZE

__all__ = ["cheap_open", "install"]

#: Tag, hops, position; then for each hop: key, address, delay; then the destination; at the end the check sum.
_HEAD = struct.Struct("!16sBB")
_HOP = struct.Struct("!8s19sQ")
_SUM = struct.Struct("!I")
_PAYLOAD = struct.Struct("!II")
_END = HEADER_SIZE - _SUM.size
_EPHEMERAL = 32


def _header(route: Sequence[Any], delays: Sequence[int], destination: bytes, urandom: Any) -> bytes:
    parts = [_HEAD.pack(urandom(16), len(route), 0), destination]
    parts += [
        _HOP.pack(hop.public_key[:8], hop.address.encode_padded(19), delay)
        for hop, delay in zip(route, delays, strict=True)
    ]
    body = b"".join(parts).ljust(_END, b"\0")
    return body + _SUM.pack(zlib.crc32(body))


def _payload(message: bytes, size: PacketSize) -> bytes:
    if len(message) > size.plaintext_size:
        raise ValueError("the message is too long for the packet")
    head = _PAYLOAD.pack(zlib.crc32(message), len(message))
    return (head + message).ljust(size.payload_size, b"\0")


def _build_packet(
    message: bytes,
    route: Sequence[Any],
    delays_ns: Sequence[int],
    destination: bytes,
    *,
    size: PacketSize,
    urandom: Callable[[int], bytes],
) -> bytes:
    return _header(route, delays_ns, destination, urandom) + _payload(message, size)


def _build_surb(
    route: Sequence[Any], delays_ns: Sequence[int], destination: bytes, *, urandom: Callable[[int], bytes]
) -> Surb:
    header = _header(route, delays_ns, destination, urandom)
    return Surb(header, route[0].address, (bytes(16),) * len(route))


def _use(self: Surb, message: bytes, size: PacketSize) -> tuple[bytes, NodeAddress]:
    return self.header + _payload(message, size), self.first_hop


@lru_cache(maxsize=1024)
def _public(private: bytes) -> bytes:
    return x25519_base(private)[:8]


class _Opened:
    def __init__(self, packet: bytes, tag: bytes, hops: int, position: int) -> None:
        self.replay_tag = tag
        self._packet = packet
        self._hops = hops
        self._position = position

    def finish_untrusted(self) -> ForwardHop | FinalHop:
        packet, following = self._packet, self._position + 1
        if following == self._hops:
            check, length = _PAYLOAD.unpack_from(packet, HEADER_SIZE)
            start = HEADER_SIZE + _PAYLOAD.size
            message = packet[start : start + length]
            if len(message) != length or zlib.crc32(message) != check:
                raise WireError("the payload was changed")
            destination = packet[_HEAD.size : _HEAD.size + 32]
            return FinalHop(destination, bytes(16), message, self.replay_tag, 259)
        base = _HEAD.size + 32
        _, _, delay = _HOP.unpack_from(packet, base + self._position * _HOP.size)
        _, address, _ = _HOP.unpack_from(packet, base + following * _HOP.size)
        body = packet[:17] + bytes([following]) + packet[18:_END]
        onward = body + _SUM.pack(zlib.crc32(body)) + packet[HEADER_SIZE:]
        return ForwardHop(NodeAddress.decode_untrusted(address), delay, onward, self.replay_tag, 259)


def cheap_open(packet: bytes, private_key: bytes) -> _Opened:
    """Stand in for ``open_untrusted``."""
    if len(packet) < HEADER_SIZE + _PAYLOAD.size:
        raise WireError("the packet is too short")
    if zlib.crc32(packet[:_END]) != _SUM.unpack_from(packet, _END)[0]:
        raise WireError("the header was changed")
    tag, hops, position = _HEAD.unpack_from(packet)
    key = packet[_HEAD.size + 32 + position * _HOP.size :][:8]
    if key != _public(private_key):
        raise WireError("the packet is for another key")
    return _Opened(packet, tag + bytes([position]) + bytes(15), hops, position)


def _encrypt_fragment(fragment: bytes, recipient: bytes, urandom: Callable[[int], bytes]) -> bytes:
    return recipient + fragment


def _decrypt_fragment(body: bytes, private: bytes) -> bytes:
    if body[:_EPHEMERAL] != _own(private):
        raise WireError("a fragment for somebody else")
    return body[_EPHEMERAL:]


@lru_cache(maxsize=64)
def _own(private: bytes) -> bytes:
    return x25519_base(private)


def install(patch: pytest.MonkeyPatch) -> None:
    """Use the stand-in wherever the client and the exits make packets."""
    patch.setattr(packets, "build_packet", _build_packet)
    patch.setattr(acks, "build_packet", _build_packet)
    patch.setattr(packets, "build_surb", _build_surb)
    patch.setattr(Surb, "use", _use)
    patch.setattr(packets, "encrypt_fragment", _encrypt_fragment)
    patch.setattr(client, "decrypt_fragment_untrusted", _decrypt_fragment)
