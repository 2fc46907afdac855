"""Counts what a program sends past its tunnel: runs it in a network namespace whose only way out is a meter.

Started by ``smolmix-sync leaktest`` under ``unshare --net``. The namespace has loopback and one link with default routes
that ends in nothing: whatever the program sends anywhere arrives there and is counted. The tunnel itself comes over
AF_UNIX from the daemon outside, which no namespace of the network stands in the way of, so the count must be zero.

The first argument is the report's descriptor, the others are the command; the exit code is the command's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

__all__ = ["main"]

_ETH_P_ALL = 0x0003
_LINK, _FAR_END = "meter0", "meter1"
#: Ours: documentation addresses that nobody uses; the source and the sink of everything.
_ADDRESSES = ("192.0.2.2/24", "2001:db8:2::2/64")
_ROUTES = (("-4", "192.0.2.1"), ("-6", "2001:db8:2::1"))
#: A question to a resolver on loopback is a leak all the same: that resolver asks in clear.
_RESOLVER_PORTS = frozenset({53, 853, 5353, 5355})
#: The kernel's own: router solicitation to redirect, multicast listener reports. Source: RFC 4861, RFC 3810.
_KERNEL_ICMPV6 = frozenset({*range(130, 138), 143})
_MAX_EXAMPLES = 20
#: Ours: packets may come this long after the program's end.
_LINGER = 0.3


def _ip(*words: str, needed: bool = True) -> None:
    subprocess.run(["ip", *words], check=needed, capture_output=not needed, timeout=20)


def _make_link() -> None:
    _ip("link", "set", "lo", "up")
    _ip("link", "add", _LINK, "type", "veth", "peer", "name", _FAR_END)
    for link in (_LINK, _FAR_END):
        # Without ARP everything is sent at once, to nobody.
        _ip("link", "set", link, "arp", "off")
        _ip("link", "set", link, "up")
    for address in _ADDRESSES:
        _ip("address", "add", address, "dev", _LINK, *(("nodad",) if ":" in address else ()), needed=False)
    for family, gateway in _ROUTES:
        _ip(family, "route", "add", "default", "via", gateway, "dev", _LINK, "onlink", needed=False)


class Meter:
    """A packet socket on every interface of this namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.setblocking(False)
        self.leaks = 0
        self.local = 0
        self.examples: list[str] = []

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def read(self) -> None:
        """Count what has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, where = self._socket.recvfrom(65536)
                link, kind = where[0], where[2]
                # Loopback shows every packet twice, the veth pair shows it leaving and arriving.
                if kind == socket.PACKET_OUTGOING and link != _FAR_END:
                    self._count(link, packet)

    def _count(self, link: str, packet: bytes) -> None:
        told = describe(packet)
        if told is None:
            return
        text, port = told
        if link == "lo" and port not in _RESOLVER_PORTS:
            self.local += 1
            return
        self.leaks += 1
        if text not in self.examples and len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(text)

    @property
    def lost(self) -> int:
        """Packets that the socket had no room for."""
        return int(
            struct.unpack("II", self._socket.getsockopt(263, 6, 8))[1]
        )  # SOL_PACKET, PACKET_STATISTICS

    def calibrate(self) -> bool:
        """Send one datagram as a leak would, and tell whether it was counted; the counters are zero afterwards."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"calibration", ("198.51.100.99", 9))
        until = time.monotonic() + 3.0
        while not self.leaks and time.monotonic() < until:
            select.select([self], [], [], 0.1)
            self.read()
        seen = any("198.51.100.99 port 9" in example for example in self.examples)
        self.leaks = self.local = 0
        self.examples.clear()
        return seen


def describe(packet: bytes) -> tuple[str, int] | None:
    """Return (what it is and where to, destination port or 0); None for the kernel's own chatter."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        protocol, destination = packet[9], ipaddress.ip_address(packet[16:20])
        rest = packet[(packet[0] & 15) * 4 :]
    elif version == 6 and len(packet) >= 40:
        protocol, destination, rest = packet[6], ipaddress.ip_address(packet[24:40]), packet[40:]
        # Multicast listener reports come behind a hop-by-hop header.
        if protocol == 0 or (protocol == 58 and rest[:1] and rest[0] in _KERNEL_ICMPV6):
            return None
    else:
        return "not IP", 0
    name = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}.get(protocol, f"protocol {protocol}")
    if protocol in (6, 17) and len(rest) >= 4:
        port = int.from_bytes(rest[2:4], "big")
        return f"{name} to {destination} port {port}", port
    return f"{name} to {destination}", 0


def main(argv: list[str] | None = None) -> int:
    """Run the command under the meter; report on the descriptor."""
    words = sys.argv[1:] if argv is None else argv
    report, command = int(words[0]), words[1:]
    os.set_inheritable(report, False)
    told: dict[str, object] = {}
    code = 1
    try:
        _make_link()
        meter = Meter()
        told["calibrated"] = meter.calibrate()
        program = subprocess.Popen(command)
        while program.poll() is None:
            select.select([meter], [], [], 0.1)
            meter.read()
        code = program.returncode
        until = time.monotonic() + _LINGER
        while (left := until - time.monotonic()) > 0:
            select.select([meter], [], [], left)
            meter.read()
        told |= {"leaks": meter.leaks, "local": meter.local, "lost": meter.lost, "examples": meter.examples}
    except (OSError, subprocess.SubprocessError) as error:
        told["error"] = str(error)
    told["code"] = code
    with os.fdopen(report, "w") as out:
        json.dump(told, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
