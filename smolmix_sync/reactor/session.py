"""The session: from nothing to an exit that answers, and back after every loss."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class TunnelState(enum.Enum):
    """Where a tunnel stands."""

    CONNECTING = "connecting"
    READY = "ready"
    RECONNECTING = "reconnecting"
    SHUTTING_DOWN = "shutting down"
    SHUTDOWN = "shut down"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of the set-up.

    Attributes:
        stage: ``topology``, ``gateway``, ``exit``, ``probe`` or ``ready``.
        detail: one sentence for a person.
        elapsed: seconds since the set-up began.
    """

    stage: str
    detail: str
    elapsed: float


@dataclass(frozen=True, slots=True)
class TunnelStats:
    """Counters of one tunnel since it was made; see each attribute.

    Attributes:
        state: name of the state.
        uptime: seconds since READY, 0.0 while not READY.
        packets_sent: Sphinx packets with real content.
        cover_sent: Sphinx packets of cover.
        retransmissions: Sphinx packets sent again by the ack layer.
        acks_received: acknowledgements that matched a packet.
        messages_received: mixnet messages reassembled.
        surbs_sent: reply SURBs handed out.
        surbs_used: replies that came back through them.
        ip_packets_sent: IP packets to the exit.
        ip_packets_received: IP packets from the exit.
        reconnects: times the gateway link was lost and found again.
        send_backlog: frames waiting for the gateway's websocket.
        bandwidth: octets left at the gateway, None if unknown.
        dropped: bad or unexpected input, by reason.
    """

    state: str
    uptime: float
    packets_sent: int
    cover_sent: int
    retransmissions: int
    acks_received: int
    messages_received: int
    surbs_sent: int
    surbs_used: int
    ip_packets_sent: int
    ip_packets_received: int
    reconnects: int
    send_backlog: int
    bandwidth: int | None
    dropped: dict[str, int]
