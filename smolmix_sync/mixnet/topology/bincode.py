"""nym-api's binary bodies: ``output=bincode``, little-endian varints, the structs in field order.

Source: spec/topology.md section 4.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from smolmix_sync.address import base58_encode
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.topology.epochs import Health, Interval
from smolmix_sync.mixnet.topology.fields import (
    MAX_IPS,
    MAX_NODES,
    canonical_ip,
    identity_untrusted,
    key_untrusted,
)
from smolmix_sync.mixnet.topology.performance import Performance
from smolmix_sync.mixnet.topology.skimmed import (
    MAX_BODY_SIZE,
    DeclaredRoles,
    Metadata,
    Pagination,
    SkimmedEntry,
    SkimmedNode,
    SkimmedPage,
    Status,
)
from smolmix_sync.mixnet.topology.timestamps import Timestamp
from smolmix_sync.mixnet.topology.topology import RewardedSet

__all__ = [
    "decode_epoch_untrusted",
    "decode_health_untrusted",
    "decode_rewarded_set_untrusted",
    "decode_skimmed_untrusted",
    "encode_epoch",
    "encode_health",
    "encode_rewarded_set",
    "encode_skimmed",
]

_MAX_STRING: Final = 1024
_WIDE: Final = {251: 2, 252: 4, 253: 8}
_ROLE_TAGS: Final = ("Mixnode", "EntryGateway", "ExitGateway", "Standby", "Inactive")
_CHAIN_TAGS: Final = ("synced", "unknown", "stalled")


class _Writer:
    """Appends values to a buffer."""

    def __init__(self) -> None:
        self.out = bytearray()

    def integer(self, value: int) -> None:
        if value < 251:
            self.out.append(value)
            return
        for marker, size in _WIDE.items():
            if value < 1 << (8 * size):
                self.out.append(marker)
                self.out += value.to_bytes(size, "little")
                return
        raise ValueError("integer has more than 64 bits")

    def flag(self, value: bool) -> None:
        self.out.append(value)

    def text(self, value: str) -> None:
        data = value.encode()
        self.integer(len(data))
        self.out += data

    def ip(self, value: str) -> None:
        address = ipaddress.ip_address(value)
        self.integer(0 if address.version == 4 else 1)
        self.out += address.packed


class _Reader:
    """Takes values from the front of *data*; every method raises WireError only."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_BODY_SIZE:
            raise WireError("body is too long")
        self.data = data
        self.offset = 0

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise WireError("body ends too early")
        chunk = self.data[self.offset : end]
        self.offset = end
        return chunk

    def integer(self, bits: int) -> int:
        first = self.take(1)[0]
        if first < 251:
            return first
        size = _WIDE.get(first)
        if size is None:
            raise WireError("integer has a wrong marker")
        value = int.from_bytes(self.take(size), "little")
        if value >> bits:
            raise WireError(f"integer has more than {bits} bits")
        return value

    def octet(self) -> int:
        return self.take(1)[0]

    def flag(self) -> bool:
        value = self.take(1)[0]
        if value > 1:
            raise WireError("boolean is neither 0 nor 1")
        return value == 1

    def count(self, limit: int) -> int:
        value = self.integer(64)
        if value > limit:
            raise WireError(f"{value} items, more than {limit}")
        return value

    def text(self) -> str:
        try:
            return self.take(self.count(_MAX_STRING)).decode()
        except UnicodeDecodeError as exc:
            raise WireError("string is not UTF-8") from exc

    def tag(self, names: tuple[str, ...]) -> str:
        value = self.integer(32)
        if value >= len(names):
            raise WireError("unknown variant")
        return names[value]

    def ip(self) -> str:
        if self.tag(("4", "6")) == "4":
            return canonical_ip(ipaddress.IPv4Address(self.take(4)))
        return canonical_ip(ipaddress.IPv6Address(self.take(16)))

    def end(self) -> None:
        if self.offset != len(self.data):
            raise WireError("octets behind the body")


def _write_interval(writer: _Writer, interval: Interval) -> None:
    writer.integer(interval.interval_id)
    writer.integer(interval.epochs_in_interval)
    writer.text(interval.current_epoch_start.rfc3339())
    writer.integer(interval.current_epoch_id)
    writer.integer(interval.epoch_seconds)
    writer.integer(interval.epoch_nanos)
    writer.integer(interval.total_elapsed_epochs)


def _read_interval(reader: _Reader) -> Interval:
    interval_id, epochs = reader.integer(32), reader.integer(32)
    start = Timestamp.parse_rfc3339_untrusted(reader.text())
    current, seconds, nanos = reader.integer(32), reader.integer(64), reader.integer(32)
    if nanos > 999_999_999:
        raise WireError("nanoseconds are out of range")
    return Interval(interval_id, epochs, start, current, seconds, nanos, reader.integer(32))


def _write_node(writer: _Writer, node: SkimmedNode) -> None:
    writer.integer(node.node_id)
    writer.text(base58_encode(node.identity))
    writer.integer(len(node.ip_addresses))
    for ip in node.ip_addresses:
        writer.ip(ip)
    writer.integer(node.mix_port)
    writer.text(base58_encode(node.sphinx_key))
    if isinstance(node.role, int):
        writer.integer(0)
        writer.out.append(node.role)
    else:
        writer.integer(_ROLE_TAGS.index(node.role))
    roles = node.declared
    for flag in (roles.mixnode, roles.entry, roles.exit_nr, roles.exit_ipr):
        writer.flag(flag)
    writer.flag(node.entry is not None)
    if node.entry is not None:
        _write_entry(writer, node.entry)
    writer.text(str(node.performance))


def _write_entry(writer: _Writer, entry: SkimmedEntry) -> None:
    writer.flag(entry.hostname is not None)
    if entry.hostname is not None:
        writer.text(entry.hostname)
    writer.integer(entry.ws_port)
    writer.flag(entry.wss_port is not None)
    if entry.wss_port is not None:
        writer.integer(entry.wss_port)


def _read_node(reader: _Reader) -> SkimmedNode:
    node_id = reader.integer(32)
    identity = identity_untrusted(reader.text())
    ips = tuple(reader.ip() for _ in range(reader.count(MAX_IPS)))
    mix_port = reader.integer(16)
    sphinx_key = key_untrusted(reader.text())
    name = reader.tag(_ROLE_TAGS)
    role: str | int = reader.octet() if name == "Mixnode" else name
    declared = DeclaredRoles(reader.flag(), reader.flag(), reader.flag(), reader.flag())
    entry = _read_entry(reader) if reader.flag() else None
    performance = Performance.parse_untrusted(reader.text())
    return SkimmedNode(node_id, identity, ips, mix_port, sphinx_key, role, declared, entry, performance)


def _read_entry(reader: _Reader) -> SkimmedEntry:
    hostname = reader.text() if reader.flag() else None
    ws_port = reader.integer(16)
    return SkimmedEntry(hostname, ws_port, reader.integer(16) if reader.flag() else None)


def encode_skimmed(page: SkimmedPage) -> bytes:
    """Return the body of a skimmed endpoint."""
    writer = _Writer()
    status = page.metadata.status
    writer.flag(status is not None)
    if isinstance(status, Interval):
        writer.integer(1)
        _write_interval(writer, status)
    elif status is not None:
        writer.integer(0)
    writer.integer(page.metadata.absolute_epoch_id)
    writer.integer(page.metadata.rotation_id)
    writer.text(page.metadata.refreshed_at.own())
    writer.integer(page.pagination.total)
    writer.integer(page.pagination.page)
    writer.integer(page.pagination.size)
    writer.integer(len(page.nodes))
    for node in page.nodes:
        _write_node(writer, node)
    return bytes(writer.out)


def decode_skimmed_untrusted(body: bytes) -> SkimmedPage:
    """Read the body of a skimmed endpoint.

    Raises:
        WireError: the body is too short, too long, or a value is out of range.
    """
    reader = _Reader(body)
    status: Status = None
    if reader.flag():
        fresh = reader.tag(("no-updates", "fresh")) == "fresh"
        status = _read_interval(reader) if fresh else "no-updates"
    epoch, rotation = reader.integer(32), reader.integer(32)
    metadata = Metadata(epoch, rotation, Timestamp.parse_lenient(reader.text()), status)
    pagination = Pagination(reader.integer(64), reader.integer(32), reader.integer(64))
    nodes = tuple(_read_node(reader) for _ in range(reader.count(MAX_NODES)))
    reader.end()
    return SkimmedPage(metadata, pagination, nodes)


_SETS: Final = ("entry_gateways", "exit_gateways", "layer1", "layer2", "layer3", "standby")


def encode_rewarded_set(rewarded_set: RewardedSet) -> bytes:
    """Return the body of ``v1/nym-nodes/rewarded-set``."""
    writer = _Writer()
    writer.integer(rewarded_set.epoch_id)
    for name in _SETS:
        ids: tuple[int, ...] = getattr(rewarded_set, name)
        writer.integer(len(ids))
        for node_id in ids:
            writer.integer(node_id)
    return bytes(writer.out)


def decode_rewarded_set_untrusted(body: bytes) -> RewardedSet:
    """Read the body of ``v1/nym-nodes/rewarded-set``.

    Raises:
        WireError: the body is too short, too long, or a value is out of range.
    """
    reader = _Reader(body)
    epoch_id = reader.integer(32)
    sets = [tuple(reader.integer(32) for _ in range(reader.count(MAX_NODES))) for _ in _SETS]
    reader.end()
    return RewardedSet(epoch_id, *sets)


def encode_epoch(interval: Interval | None) -> bytes:
    """Return the body of ``v1/epoch/current``."""
    writer = _Writer()
    writer.flag(interval is not None)
    if interval is not None:
        _write_interval(writer, interval)
    return bytes(writer.out)


def decode_epoch_untrusted(body: bytes) -> Interval | None:
    """Read the body of ``v1/epoch/current``.

    Raises:
        WireError: the body is too short, too long, or a value is out of range.
    """
    reader = _Reader(body)
    interval = _read_interval(reader) if reader.flag() else None
    reader.end()
    return interval


def encode_health(health: Health) -> bytes:
    """Return the body of ``v1/api-status/health`` of an API that is up."""
    writer = _Writer()
    writer.integer(0)
    writer.integer(_CHAIN_TAGS.index(health.chain_status))
    if health.stalled is not None:
        writer.text(health.stalled)
    writer.integer(health.uptime)
    return bytes(writer.out)


def decode_health_untrusted(body: bytes) -> Health:
    """Read the body of ``v1/api-status/health``.

    Raises:
        WireError: the body is too short, too long, or a value is out of range.
    """
    reader = _Reader(body)
    reader.tag(("up",))
    chain = reader.tag(_CHAIN_TAGS)
    stalled = reader.text() if chain == "stalled" else None
    health = Health("up", chain, reader.integer(64), stalled)
    reader.end()
    return health
