"""The message layer for programs that want messages instead of sockets: MixnetClient and IpMixStream.

Source: design.md section 6 (nym-sdk's ``MixnetClient`` and ``IpMixStream``); spec/message-layer.md section 5.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import gevent

from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import IprError, SetupTimeout, SmolmixError, TunnelClosed, TunnelNotReady
from smolmix_sync.reactor.exits import ExitStream
from smolmix_sync.reactor.loop import ReactorLoop, shared_loop
from smolmix_sync.reactor.mixclient import MixnetSession
from smolmix_sync.reactor.session import IpPair
from smolmix_sync.reactor.signals import Signal

__all__ = ["IpMixStream", "MixnetClient", "ReceivedMessage"]

_T = TypeVar("_T")

#: Ours: messages that wait for ``receive``; beyond it the oldest is dropped and counted.
_MAX_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message from the mixnet.

    Attributes:
        data: its content.
        sender_tag: what ``send_reply`` takes to answer; None if the sender cannot be answered.
        is_reply: it came through one of our own reply SURBs.
    """

    data: bytes = field(repr=False)
    sender_tag: bytes | None
    is_reply: bool


class MixnetClient:
    """A client of the mixnet: messages to nym addresses, anonymous answers; a context manager.

    Every method may be called from any thread and from gevent greenlets; it blocks as a socket would.

    Args:
        config: complete settings; None merges :meth:`TunnelConfig.load` with *options*.
        options: single settings, by field name.

    Attributes:
        dropped: messages dropped because nobody received them.
    """

    def __init__(self, config: TunnelConfig | None = None, **options: Any) -> None:
        if config is None:
            config = TunnelConfig.load(**options)
        elif options:
            config = config.replace(**options)
        self.config = config
        self.dropped = 0
        self._pid = os.getpid()
        self._loop: ReactorLoop = shared_loop()
        self._changed = Signal()
        self._messages: deque[ReceivedMessage] = deque()
        self._session: MixnetSession | None = None
        self._lent = False
        self._closed = False

    @classmethod
    def connect_new(cls, **options: Any) -> MixnetClient:
        """Return a connected client with a new identity."""
        client = cls(**options)
        client.connect()
        return client

    # --- life ---

    def connect(self, timeout: float | None = None) -> None:
        """Register at a gateway; returns when messages can be sent.

        Args:
            timeout: seconds; None is ``connect_timeout``.

        Raises:
            TopologyError, GatewayError, SetupTimeout: the stage that failed.
        """
        self._check()
        if self._session is not None:
            return
        limit = self.config.connect_timeout if timeout is None else timeout
        session = self._loop.call(self._make_session)

        def run() -> None:
            timer = gevent.Timeout.start_new(limit, SetupTimeout(f"not connected within {limit:g} s"))
            try:
                session.connect()
            finally:
                timer.close()

        self._in_greenlet(run, limit + 5.0)
        self._session = session

    def _make_session(self) -> MixnetSession:
        return MixnetSession(
            self._loop,
            self.config,
            on_message=self._on_message,
            on_link=self._on_link,
            on_progress=self._on_progress,
        )

    def disconnect(self, timeout: float = 10.0) -> None:
        """Send what is queued, at most *timeout* seconds, and end; any number of times."""
        if self._closed:
            return
        self._closed = True
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid() and self._loop.running:

            def run() -> None:
                session.drain(timeout)
                session.close()

            self._in_greenlet(run, timeout + 3.0)
        self._changed.set()

    def __enter__(self) -> MixnetClient:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    # --- messages ---

    @property
    def nym_address(self) -> Recipient:
        """Our own address.

        Raises:
            TunnelNotReady: not connected.
        """
        core = self._connected().core
        assert core is not None
        return core.address

    def send(self, recipient: Recipient | str, data: bytes, surbs: int = 10) -> None:
        """Queue an anonymous message with *surbs* reply SURBs.

        Raises:
            TunnelNotReady: not connected, or too much is queued.
            WireError: *recipient* is no nym address.
        """
        to = Recipient.parse(recipient) if isinstance(recipient, str) else recipient
        self._send(lambda session, now: session.core.send(to, bytes(data), now, surbs=surbs))

    def send_plain(self, recipient: Recipient | str, data: bytes) -> None:
        """Queue a message that cannot be answered."""
        to = Recipient.parse(recipient) if isinstance(recipient, str) else recipient
        self._send(lambda session, now: session.core.send_plain(to, bytes(data), now))

    def send_reply(self, sender_tag: bytes, data: bytes) -> None:
        """Queue an answer to the sender of a message, through its SURBs."""
        self._send(lambda session, now: session.core.send_reply(sender_tag, bytes(data), now))

    def _send(self, queue: Callable[[Any, float], bool]) -> None:
        session = self._connected()

        def run() -> bool:
            accepted = queue(session, self._loop.now())
            session.wake()
            return accepted

        if not self._loop.call(run):
            raise TunnelNotReady(
                "the message was not accepted: too many are queued, or the sender is unknown"
            )

    def receive(self, timeout: float | None = None) -> ReceivedMessage:
        """Return the next message.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: none came.
            TunnelClosed: disconnected.
        """
        until = None if timeout is None else self._loop.now() + timeout
        with self._changed.waiter() as waiter:
            while True:
                try:
                    return self._messages.popleft()
                except IndexError:
                    pass
                self._check()
                left = 60.0 if until is None else until - self._loop.now()
                if left <= 0:
                    raise TimeoutError("no message came in time")
                waiter.wait(left)

    def __iter__(self) -> Iterator[ReceivedMessage]:
        """Yield messages until disconnected."""
        while True:
            try:
                yield self.receive()
            except TunnelClosed:
                return

    def reconnect(self) -> None:
        """Drop the gateway's link and connect again with the same identity."""
        self._loop.post(self._connected().drop_link, "a reconnect was asked for")

    # --- inside ---

    def _on_message(self, event: Any, now: float) -> None:
        if len(self._messages) >= _MAX_WAITING:
            self._messages.popleft()
            self.dropped += 1
        self._messages.append(ReceivedMessage(event.message, event.sender_tag, event.is_reply))
        self._changed.set()

    def _on_link(self, up: bool, reason: str) -> None:
        self._changed.set()

    def _on_progress(self, stage: str, detail: str) -> None:
        pass

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise TunnelClosed("the client belongs to the process before fork()")
        if self._closed:
            raise TunnelClosed("the client is disconnected")

    def _connected(self) -> MixnetSession:
        self._check()
        if self._session is None:
            raise TunnelNotReady("connect() first")
        if self._lent:
            raise TunnelNotReady("the client belongs to a tunnel now")
        return self._session

    def _lend(self) -> MixnetSession:
        """Hand the connected session to a tunnel or stream."""
        session = self._connected()
        self._lent = True
        return session

    def _take_back(self) -> None:
        """Have the session back; its messages come to ``receive`` again."""
        session = self._session
        self._lent = False
        if session is not None:
            session.on_message = self._on_message
            session.on_link = self._on_link
            session.on_progress = self._on_progress

    def _in_greenlet(self, fn: Callable[[], _T], timeout: float) -> _T:
        """Run *fn* in a greenlet of the reactor; return or raise what it does."""
        result: list[_T] = []
        errors: list[BaseException] = []
        with self._changed.waiter() as waiter:

            def run() -> None:
                try:
                    result.append(fn())
                except BaseException as error:
                    errors.append(error)
                finally:
                    waiter.set()

            self._loop.spawn(run)
            until = self._loop.now() + timeout
            while not result and not errors:
                left = until - self._loop.now()
                if left <= 0:
                    raise SetupTimeout(f"not finished within {timeout:g} s")
                waiter.wait(left)
        if errors:
            raise errors[0]
        return result[0]


class IpMixStream:
    """A session with an exit's IP packet router: IP packets in and out, no TCP; a context manager.

    Args:
        client: a connected client to use; None makes one, which ends with the stream.
        ipr_address: the exit; None chooses one from the directory.
        options: settings of a client made here.

    Raises:
        SmolmixError: the stage that failed.
    """

    def __init__(
        self, client: MixnetClient | None = None, ipr_address: Recipient | str | None = None, **options: Any
    ) -> None:
        if ipr_address is not None and client is None:
            options["ipr_address"] = str(ipr_address)
        self._client = client or MixnetClient(**options)
        self._owned = client is None
        self._packets: deque[bytes] = deque()
        self._given = False
        self._stream: ExitStream | None = None
        try:
            self._client.connect()
            session = self._client._lend()
            config = self._client.config
            stream = self._client._loop.call(
                lambda: ExitStream(
                    session, config, on_packets=self._on_packets, on_end=self._client._changed.set
                )
            )
            wanted = str(ipr_address) if ipr_address is not None else config.ipr_address
            self._client._in_greenlet(lambda: stream.open(wanted), config.connect_timeout + 5.0)
            self._stream = stream
        except BaseException:
            self.close()
            raise

    # --- what the exit said ---

    def _open(self) -> ExitStream:
        if self._stream is None or self._given:
            raise IprError("the stream is closed" if not self._given else "the stream belongs to a tunnel")
        return self._stream

    @property
    def allocated_ips(self) -> IpPair:
        """The addresses the exit gave us."""
        ips = self._open().bridge.ipr.ips
        if ips is None:
            raise IprError("Not connected to IPR")
        return ips

    @property
    def negotiated_mtu(self) -> int | None:
        """The largest IP packet the exit takes; None if it did not say (before version 10)."""
        return self._open().bridge.ipr.mtu

    @property
    def exit(self) -> Recipient:
        """The exit's address."""
        return self._open().bridge.exit_address

    # --- packets ---

    def send(self, packet: bytes) -> None:
        """Queue one IP packet; it must come from our address.

        Raises:
            IprError: the session is over.
            TunnelNotReady: too many packets wait.
        """
        stream = self._open()
        if not self._client._loop.call(stream.send, bytes(packet)):
            if not stream.bridge.connected:
                raise IprError("the tunnel was disconnected by the exit")
            raise TunnelNotReady("too many packets wait")

    def receive(self, timeout: float | None = 10.0) -> list[bytes]:
        """Return the IP packets that have come, waiting at most *timeout* seconds for the first; [] if none.

        Raises:
            IprError: the session is over.
        """
        loop = self._client._loop
        until = None if timeout is None else loop.now() + timeout
        with self._client._changed.waiter() as waiter:
            while not self._packets:
                stream = self._open()
                self._client._check()
                if not stream.bridge.connected:
                    raise IprError("the tunnel was disconnected by the exit")
                left = 60.0 if until is None else until - loop.now()
                if left <= 0:
                    return []
                waiter.wait(left)
        packets = list(self._packets)
        for _ in packets:
            self._packets.popleft()
        return packets

    def _on_packets(self, packets: list[bytes]) -> None:
        for packet in packets:
            if len(self._packets) >= _MAX_WAITING:
                self._packets.popleft()
            self._packets.append(packet)
        self._client._changed.set()

    # --- life ---

    def close(self) -> None:
        """End the session, and the client if it was made here; any number of times."""
        stream, self._stream = self._stream, None
        if stream is not None and not self._given:
            self._client._in_greenlet(stream.close, 5.0)
            self._client._take_back()
        if self._owned and not self._given:
            self._client.disconnect()

    def _lend(self) -> tuple[MixnetClient, Any]:
        """Hand client and bridge to a tunnel."""
        bridge = self._open().bridge
        if not bridge.connected:
            raise IprError("Not connected to IPR")
        self._given = True
        self._client._lent = False  # the tunnel borrows it itself
        return self._client, bridge

    def __enter__(self) -> IpMixStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except SmolmixError:
            if kind is None:
                raise
