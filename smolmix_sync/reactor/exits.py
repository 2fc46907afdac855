"""Choosing an exit and opening a session with it; and a session whose packets a program handles itself.

Source: design.md decision 7 and section 8a; spec/ipr.md section 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

import gevent.event

from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import IprDenied, IprError, NoExit, SetupTimeout, SmolmixError, WireError
from smolmix_sync.ipr.events import Connected, ConnectRefused, ConnectTimedOut, Disconnected, IprClientEvent
from smolmix_sync.mixnet.client import MessageReceived
from smolmix_sync.mixnet.topology.selection import Exit
from smolmix_sync.reactor._real import limited
from smolmix_sync.reactor.bridge import Bridge, BridgeSettings
from smolmix_sync.reactor.log import printable
from smolmix_sync.reactor.mixclient import MixnetSession

__all__ = ["ExitStream", "check_link", "exit_choices", "open_bridge"]

#: Ours: IP packets of a program that wait for a slot; about a second of them at the default pace.
_MAX_QUEUED = 64
#: Ours: seconds between connect requests when the ack layer repairs losses, and when nothing does.
_CONNECT_RETRY = (6.0, 2.0)


def exit_choices(mix: MixnetSession, pinned: str | None, lost: Collection[Recipient] = ()) -> list[Exit]:
    """Return the exits to try in order; those in *lost* last.

    Raises:
        NoExit: none fits, or the pinned one cannot be reached.
        IprError: *pinned* is no nym address.
    """
    if pinned is None:
        return sorted(mix.directory.exits(), key=lambda choice: choice.recipient in lost)
    try:
        address = Recipient.parse(pinned)
    except WireError as error:
        raise IprError(f"ipr_address: {error}") from None
    return [mix.directory.exit_at(address)]


def check_link(mix: MixnetSession) -> None:
    """Raise IprError if the gateway's link is down: waiting for the exit makes no sense then."""
    if not mix.is_up:
        raise IprError("the gateway was lost while the exit was being set up")


def open_bridge(
    mix: MixnetSession,
    config: TunnelConfig,
    choice: Exit,
    until: float,
    *,
    on_event: Callable[[IprClientEvent], object],
    on_silent: Callable[[str], object],
) -> tuple[Bridge, Connected]:
    """Connect to an exit; blocks the calling greenlet. The bridge is the source of *mix* afterwards.

    The caller hands the messages of *mix* to the bridge through ``mix.on_message`` already.

    Raises:
        IprDenied: the exit refused.
        SetupTimeout: it did not answer before *until*.
        IprError: the gateway's link was lost.
    """
    assert mix.core is not None
    loop = mix.loop
    answer: gevent.event.AsyncResult[IprClientEvent] = gevent.event.AsyncResult()

    def take(event: IprClientEvent) -> None:
        if isinstance(event, (Connected, ConnectRefused, ConnectTimedOut, Disconnected)):
            answer.set(event)
        on_event(event)

    bridge = Bridge(
        loop,
        mix.core,
        choice.recipient,
        config.ipr_version or choice.ipr_version,
        BridgeSettings(
            open_surbs=config.open_reply_surbs,
            data_surbs=config.data_reply_surbs,
            surb_stock=config.surb_stock,
            keepalive_interval=config.keepalive_interval,
            resequence_hold=config.resequence_hold,
            connect_timeout=max(0.1, until - loop.now()),
            connect_retry=_CONNECT_RETRY[config.disable_retransmissions],
        ),
        wake=mix.wake,
        on_event=take,
        on_silent=on_silent,
    )
    # Only what this very session says counts until it is open.
    before, mix.on_message = mix.on_message, bridge.receive
    mix.source = bridge
    name = base58_encode(choice.recipient.gateway)
    try:
        bridge.connect()
        while True:
            event: IprClientEvent | None = None
            with limited(max(0.01, min(1.0, until - loop.now()))):
                event = answer.get()
            if isinstance(event, Connected):
                bridge.adopt(on_event=on_event, on_silent=on_silent)
                return bridge, event
            if isinstance(event, ConnectRefused):
                raise IprDenied(f"exit: {name} refused: {printable(event.reason)}")
            check_link(mix)
            if event is not None or loop.now() >= until:
                raise SetupTimeout(f"exit: {name} did not answer the connect request")
    except BaseException:
        mix.source = None
        bridge.close()
        raise
    finally:
        mix.on_message = before


class ExitStream:
    """A session with an exit for a program that makes its own IP packets. Reactor thread only.

    Args:
        mix: a connected client.
        config: settings.
        on_packets: gets the IP packets that come.
        on_end: called when the session ends or changes.
    """

    def __init__(
        self,
        mix: MixnetSession,
        config: TunnelConfig,
        *,
        on_packets: Callable[[list[bytes]], object],
        on_end: Callable[[], object],
    ) -> None:
        self._mix = mix
        self._config = config
        self._on_packets = on_packets
        self._on_end = on_end
        self._queue: deque[bytes] = deque()
        self.bridge: Bridge

    def open(self, pinned: str | None) -> None:
        """Connect to the pinned exit, or to the first of two that answers; blocks the greenlet."""
        failure: SmolmixError = NoExit("no exit in the directory fits the settings")
        for choice in exit_choices(self._mix, pinned)[:2]:
            limit = self._config.connect_timeout if pinned is not None else self._config.ipr_timeout
            until = self._mix.loop.now() + limit
            try:
                self.bridge, _ = open_bridge(
                    self._mix,
                    self._config,
                    choice,
                    until,
                    on_event=lambda event: self._on_end(),
                    on_silent=lambda reason: self._on_end(),
                )
            except SmolmixError as error:
                failure = error
                continue
            self._mix.on_message = self._on_message
            self.bridge.use_stack(self)
            self.bridge.watch.start(None)
            return
        raise failure

    def _on_message(self, event: MessageReceived, now: float) -> None:
        self.bridge.receive(event, now)

    def send(self, packet: bytes) -> bool:
        """Queue one IP packet; False if too many wait or the session is over."""
        if not self.bridge.connected or len(self._queue) >= _MAX_QUEUED:
            return False
        self._queue.append(packet)
        self._mix.wake()
        return True

    def close(self) -> None:
        """Tell the exit, and stop."""
        self.bridge.disconnect()
        self._mix.drain(1.0)
        self.bridge.close()
        self._mix.source = None

    # --- the face of a stack towards the bridge ---

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        """Return the packets that fit *room* octets with their prefixes; one that never fits goes alone."""
        taken: list[bytes] = []
        while self._queue:
            size = len(self._queue[0]) + 2
            if taken and room is not None and size > room:
                break
            taken.append(self._queue.popleft())
            if room is not None:
                room -= size
        return taken

    def receive_data(self, packet: bytes, now: float) -> None:
        """Take one IP packet from the exit."""
        self._on_packets([packet])
