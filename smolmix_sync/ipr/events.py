"""What an IPR session tells its owner.

Source: spec/ipr.md sections 3 and 6.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from smolmix_sync.ipr.reasons import BuildInfo, InfoLevel
from smolmix_sync.ipr.values import IpPair

__all__ = [
    "ConnectRefused",
    "ConnectTimedOut",
    "Connected",
    "Disconnected",
    "FellBack",
    "HealthReceived",
    "InfoReceived",
    "IprClientEvent",
    "KeepaliveDue",
    "PacketsReceived",
    "PolicyRefused",
    "PongReceived",
    "parse_destination",
]


@dataclass(slots=True)
class Connected:
    """The exit accepted us; ``mtu`` is None before version 10."""

    ips: IpPair
    mtu: int | None
    version: int


@dataclass(slots=True)
class FellBack:
    """Version 10 was not answered in time; ``version`` is tried now, on the same stream."""

    version: int


@dataclass(slots=True)
class ConnectRefused:
    """The exit answered the connect request with a failure; the session is closed."""

    reason: str


@dataclass(slots=True)
class ConnectTimedOut:
    """No connect request was answered; the session is closed."""


@dataclass(slots=True)
class PacketsReceived:
    """IP packets from the exit, none of them empty; otherwise unchecked."""

    packets: list[bytes] = field(repr=False)


@dataclass(slots=True)
class Disconnected:
    """The session is over; ``requested`` tells whether we asked for it."""

    reason: str
    requested: bool


@dataclass(slots=True)
class PolicyRefused:
    """The exit's policy refused a packet.

    Attributes:
        destination: as the exit wrote it, "ip:port" or "[v6]:port".
        address: the same as a canonical address and a port, or None if it does not read so.
    """

    destination: str
    address: tuple[str, int] | None


@dataclass(slots=True)
class InfoReceived:
    """Another notice of the exit."""

    message: str
    level: InfoLevel


@dataclass(slots=True)
class PongReceived:
    """The answer to a ping, ``rtt`` seconds after it was queued."""

    request_id: int
    rtt: float


@dataclass(slots=True)
class HealthReceived:
    """The answer to a health request."""

    request_id: int
    build_info: BuildInfo
    routable: bool | None


@dataclass(slots=True)
class KeepaliveDue:
    """An IP packet of our own should leave now, or the exit will forget us.

    Repeated until one leaves. IPR pings do not count at the exit, only Data does.
    """


IprClientEvent = (
    Connected
    | FellBack
    | ConnectRefused
    | ConnectTimedOut
    | PacketsReceived
    | Disconnected
    | PolicyRefused
    | InfoReceived
    | PongReceived
    | HealthReceived
    | KeepaliveDue
)


def parse_destination(text: str) -> tuple[str, int] | None:
    """Return address and port of "ip:port" or "[v6]:port", or None for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        return None
    try:
        if host.startswith("[") and host.endswith("]"):
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        return None
