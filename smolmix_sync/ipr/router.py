"""The exit's side of IPR sessions, sans-IO: what localnet's exit runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smolmix_sync.ipr.values import IpPair

__all__ = [
    "ClientConnected",
    "ClientDisconnected",
    "IpPacketRouter",
    "PacketAccepted",
    "RouterConfig",
    "RouterEvent",
    "RouterStats",
    "SendReply",
]

Policy = Callable[[str, int], bool]


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Behaviour and bounds of an exit; all times in seconds."""

    versions: frozenset[int] = frozenset({8, 9, 10})
    mtu: int = 1420
    bundle_timeout: float = 0.020
    inactivity_timeout: float = 60.0
    reap_interval: float = 10.0
    tell_reaped: bool = True
    max_clients: int = 1024
    event_queue_limit: int = 16384
    stream_extensions: bool = True
    send_open_ack: bool = False


@dataclass(slots=True)
class SendReply:
    """Send *message* to a client through its SURBs."""

    sender_tag: bytes
    message: bytes
    max_retransmissions: int


@dataclass(slots=True)
class PacketAccepted:
    """An IP packet of a client, for the network."""

    packet: bytes
    sender_tag: bytes


@dataclass(slots=True)
class ClientConnected:
    """A client got its addresses."""

    sender_tag: bytes
    ips: IpPair
    version: int


@dataclass(slots=True)
class ClientDisconnected:
    """A client's addresses are free again; reason "disconnect", "reconnect" or "timeout"."""

    sender_tag: bytes
    ips: IpPair
    reason: str


RouterEvent = SendReply | PacketAccepted | ClientConnected | ClientDisconnected


@dataclass(slots=True)
class RouterStats:
    """Counters of an exit."""

    messages_received: int = 0
    dropped: int = 0


class IpPacketRouter:
    """The exit: client table, address pool, policy, bundling towards the clients.

    Args:
        policy: ``policy(host, port)`` says whether a packet may go there; port 0 if none. None allows all.
    """

    stats: RouterStats

    def __init__(
        self,
        *,
        urandom: Callable[[int], bytes],
        policy: Policy | None = None,
        config: RouterConfig | None = None,
    ) -> None:
        raise NotImplementedError

    def receive_data(self, message: bytes, sender_tag: bytes | None, now: float) -> None:
        """Take one mixnet message; whatever the real exit drops is counted and dropped."""
        raise NotImplementedError

    def packet_from_network(self, packet: bytes, now: float) -> None:
        """Take one IP packet for a client, chosen by destination address; it is bundled 20 ms at most."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Return when to call handle_deadline, or None."""
        raise NotImplementedError

    def handle_deadline(self, now: float) -> None:
        """Flush bundles that are due and reap silent clients."""
        raise NotImplementedError

    def next_event(self) -> RouterEvent | None:
        """Return the oldest event that was not yet taken, or None."""
        raise NotImplementedError
