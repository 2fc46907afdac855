"""A look at the tunnel's inside: its IP packets into a file for Wireshark, and a line each into the log.

The reactor only copies references; files are written in its callback thread.

Source: the pcap format as of https://ietf-opsawg-wg.github.io/draft-ietf-opsawg-pcap/draft-ietf-opsawg-pcap.html, with
LINKTYPE_RAW (101).
"""

from __future__ import annotations

import ipaddress
import logging
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from smolmix_sync.reactor.log import PACKETS
from smolmix_sync.reactor.loop import ReactorLoop
from smolmix_sync.reactor.signals import Signal

__all__ = ["PacketTap", "PcapCapture", "PcapWriter", "describe"]

_LOG = PACKETS
_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_MAGIC = 0xA1B2C3D4
_LINKTYPE_RAW = 101
_SNAPLEN = 65535
#: Ours: packets on their way to the file; a disk that is slower loses some, and they are counted.
_MAX_WAITING = 5000
#: Ours: seconds that the end of a capture waits for the disk.
_CLOSE_TIMEOUT = 5.0


class PcapWriter:
    """A capture file, readable by its owner alone: it has the content of connections.

    Args:
        path: replaced if there is one.

    Attributes:
        written: packets in the file.
        dropped: packets the disk was too slow for.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.written = 0
        self.dropped = 0
        self.waiting = 0
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        if self.path.is_file():
            os.fchmod(descriptor, 0o600)  # one that was there before may have been open to others
        self._file: IO[bytes] | None = open(descriptor, "wb", buffering=0)  # noqa: SIM115 - lives as long as this
        self._file.write(_HEADER.pack(_MAGIC, 2, 4, 0, 0, _SNAPLEN, _LINKTYPE_RAW))

    def write(self, packets: list[bytes], at: float) -> None:
        """Append packets seen at Unix time *at*."""
        self.waiting -= len(packets)
        if self._file is None:
            return
        seconds, micro = divmod(round(at * 1_000_000), 1_000_000)
        records = b"".join(
            _RECORD.pack(seconds, micro, min(len(packet), _SNAPLEN), len(packet)) + packet[:_SNAPLEN]
            for packet in packets
        )
        try:
            self._file.write(records)
            self.written += len(packets)
        except OSError as error:
            _LOG.warning("the capture %s ends: %s", self.path, error)
            self.close()

    def close(self) -> None:
        """End the file; any number of times."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class PcapCapture:
    """A capture under way; a context manager. Any thread.

    Args:
        loop: the reactor.
        writers: those that a :class:`PacketTap` serves.
        path: the file.
    """

    def __init__(self, loop: ReactorLoop, writers: list[PcapWriter], path: str | os.PathLike[str]) -> None:
        self._loop = loop
        self._writers = writers
        self.writer = PcapWriter(path)
        loop.call(writers.append, self.writer)

    def close(self) -> None:
        """End the capture: everything seen before is in the file when this returns."""
        if self.writer in self._writers and self._loop.running:
            self._loop.call(self._writers.remove, self.writer)
            with Signal().waiter() as written:
                self._loop.defer(written.set)
                written.wait(_CLOSE_TIMEOUT)
        self.writer.close()

    def __enter__(self) -> PcapCapture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PacketTap:
    """Shows packets to whoever looks. Reactor thread.

    Args:
        loop: whose callback thread writes.
    """

    def __init__(self, loop: ReactorLoop) -> None:
        self._loop = loop
        self.writers: list[PcapWriter] = []

    @property
    def active(self) -> bool:
        """Whether anybody looks."""
        return bool(self.writers) or _LOG.isEnabledFor(logging.DEBUG)

    def sent(self, packets: list[bytes]) -> None:
        """Packets on their way to the exit."""
        self._show("to exit", packets)

    def received(self, packets: list[bytes]) -> None:
        """Packets from the exit."""
        self._show("from exit", packets)

    def _show(self, way: str, packets: list[bytes]) -> None:
        at = time.time()
        for writer in self.writers:
            if writer.waiting + len(packets) > _MAX_WAITING:
                writer.dropped += len(packets)
                continue
            writer.waiting += len(packets)
            self._loop.defer(writer.write, list(packets), at)
        if _LOG.isEnabledFor(logging.DEBUG):
            for packet in packets:
                self._loop.defer(_log, way, packet)


def _log(way: str, packet: bytes) -> None:
    _LOG.debug("%s: %s", way, describe(packet))


def describe(packet: bytes) -> str:
    """Return one line about an IP packet: protocol, ends, TCP flags and numbers, length; never its content."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        start, protocol = (packet[0] & 15) * 4, packet[9]
        source, target = packet[12:16], packet[16:20]
    elif version == 6 and len(packet) >= 40:
        start, protocol = 40, packet[6]
        source, target = packet[8:24], packet[24:40]
    else:
        return f"no IP packet, {len(packet)} octets"
    ends = [str(ipaddress.ip_address(end)) for end in (source, target)]
    rest = packet[start:]
    if protocol in (6, 17) and len(rest) >= (20 if protocol == 6 else 8):
        ports = struct.unpack_from("!HH", rest)
        ends = [
            f"[{end}]:{port}" if version == 6 else f"{end}:{port}"
            for end, port in zip(ends, ports, strict=True)
        ]
        if protocol == 17:
            return f"UDP {ends[0]} > {ends[1]} {len(rest) - 8} octets"
        number, acknowledged = struct.unpack_from("!II", rest, 4)
        flags = "".join(name for bit, name in enumerate("FSRPAU") if rest[13] >> bit & 1)
        length = len(rest) - (rest[12] >> 4) * 4
        return f"TCP {ends[0]} > {ends[1]} [{flags}] seq {number} ack {acknowledged} {length} octets"
    name = {1: "ICMP", 58: "ICMPv6"}.get(protocol, f"protocol {protocol}")
    return f"{name} {ends[0]} > {ends[1]} {len(rest)} octets"
