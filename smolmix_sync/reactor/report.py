"""What a tunnel says about itself: its state, the steps of its set-up, its counters, and a sign of life while it waits.

Source: design.md sections 6 and 8a.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from smolmix_sync.reactor.loop import ReactorLoop, Timer

__all__ = ["Heartbeat", "Progress", "TunnelState", "TunnelStats"]

#: Seconds between two reports while a stage takes long. Source: peers' silence is what their users complain of.
_EVERY = 5.0


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
        waiting: seconds the step has taken so far: this is a heartbeat, no new step. 0.0 for a new one.
    """

    stage: str
    detail: str
    elapsed: float
    waiting: float = 0.0


@dataclass(frozen=True, slots=True)
class TunnelStats:
    """Counters of one tunnel since it was made.

    Attributes:
        state: name of the state.
        uptime: seconds since READY, 0.0 while not READY.
        packets_sent: Sphinx packets with real content, retransmissions included.
        cover_sent: Sphinx packets of cover.
        retransmissions: Sphinx packets sent again by the ack layer.
        acks_received: acknowledgements that matched a packet.
        messages_received: mixnet messages reassembled.
        surbs_sent: reply SURBs handed out.
        surbs_used: replies that came back through them.
        surbs_at_exit: reply SURBs the exit is thought to hold.
        ip_packets_sent: IP packets to the exit.
        ip_packets_received: IP packets from the exit.
        tcp_retransmissions: TCP segments sent again, since this exit was reached.
        reconnects: times the gateway link was lost and found again.
        send_backlog: frames waiting for the gateway's websocket.
        slots_blocked: send slots lost because that queue was full.
        bandwidth: octets left at the gateway, None if unknown.
        rtt: round trip to the exit in seconds, measured with its own pings.
        dropped: bad or unexpected input, by reason.
    """

    state: str = ""
    uptime: float = 0.0
    packets_sent: int = 0
    cover_sent: int = 0
    retransmissions: int = 0
    acks_received: int = 0
    messages_received: int = 0
    surbs_sent: int = 0
    surbs_used: int = 0
    surbs_at_exit: int = 0
    ip_packets_sent: int = 0
    ip_packets_received: int = 0
    tcp_retransmissions: int = 0
    reconnects: int = 0
    send_backlog: int = 0
    slots_blocked: int = 0
    bandwidth: int | None = None
    rtt: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)


class Heartbeat:
    """Repeats the step that is under way, with how long it has taken, until it is stopped. Reactor thread.

    Args:
        loop: the clock.
        tell: gets the stage, the text and the seconds the step has taken.
        signs: returns a number that changes with everything that comes back from the network.
    """

    def __init__(
        self, loop: ReactorLoop, tell: Callable[[str, str, float], object], signs: Callable[[], int]
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._signs = signs
        self._timer: Timer | None = None
        self._stage = self._detail = ""
        self._since = self._heard = 0.0
        self._seen = 0

    def step(self, stage: str, detail: str) -> None:
        """A step begins."""
        self.stop()
        self._stage, self._detail = stage, detail
        self._since = self._heard = self._loop.now()
        self._seen = self._signs()
        self._timer = self._loop.call_later(_EVERY, self._beat)

    def stop(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        now, seen = self._loop.now(), self._signs()
        if seen != self._seen:
            self._seen, self._heard = seen, now
        waited = now - self._since
        heard = f"something came back within the last {_EVERY:g} s"
        if self._heard < now:
            heard = f"nothing has come back for {now - self._heard:.0f} s"
        self._tell(self._stage, f"still {self._detail} ({waited:.0f} s, {heard})", waited)
        self._timer = self._loop.call_later(_EVERY, self._beat)
