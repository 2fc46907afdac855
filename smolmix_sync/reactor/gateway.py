"""The connection to the entry gateway: websocket-client over a real socket, one reader, one writer.

Only the writer greenlet sends, pongs included: a reader that had to send could block on a full
socket while the gateway waits for us to read. The reader therefore takes frames, not messages,
from websocket-client and answers control frames through the writer's queue.

Source: design.md decision 3b and section 8a; spec/gateway.md sections 1 and 9.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gevent
import gevent.event
import gevent.lock
import websocket
from websocket import ABNF

from smolmix_sync.errors import GatewayAuthError, GatewayBandwidthError, GatewayError, WireError
from smolmix_sync.mixnet.gateway.client import ClientState, GatewayClient
from smolmix_sync.mixnet.gateway.events import (
    Authenticated,
    BandwidthChanged,
    GatewayRefused,
    MustWait,
    OutOfBandwidth,
    Pushed,
    Refusal,
    Registered,
)
from smolmix_sync.mixnet.sphinx import MixPacket
from smolmix_sync.mixnet.topology import EntryDetails
from smolmix_sync.reactor._originals import monotonic
from smolmix_sync.reactor._real import (
    RealSocket,
    RealTlsSocket,
    Turn,
    client_tls_context,
    connect_tcp,
    limited,
)
from smolmix_sync.reactor.log import ReactorLogger, printable
from smolmix_sync.reactor.wsupgrade import Upgrade

__all__ = ["CLOCK_SKEW", "FRAME_LIMIT", "GatewayEndpoint", "GatewayLink", "GatewayRefusal", "endpoints_of"]

_LOG = ReactorLogger("reactor.gateway")

#: The real client's queue to the gateway. Source: spec/gateway.md 9.4.
FRAME_LIMIT = 32
#: Ours: the largest message a gateway has for us is a pushed extended32 packet of 32393 octets.
_MAX_MESSAGE = 1 << 17
_READ_AHEAD = 65536
#: Ours: pieces of what was read ahead between two looks at the clock.
_READS = 64
#: From the specification (RFC 6455 section 5.5).
_MAX_CONTROL = 125
#: What a person is told; the gateway's own words, with both clocks, follow.
CLOCK_SKEW = "clock skew: the clocks of this machine and of the gateway differ by more than 2 minutes"


@dataclass(frozen=True, slots=True)
class GatewayEndpoint:
    """Where a gateway's websocket is.

    Attributes:
        host: a name or IP literal.
        port: TCP port.
        tls: wss.
    """

    host: str
    port: int
    tls: bool = False

    @property
    def url(self) -> str:
        """The websocket URL, IPv6 literals in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.tls else 'ws'}://{host}:{self.port}"


def endpoints_of(entry: EntryDetails, *, force_tls: bool = False) -> list[GatewayEndpoint]:
    """Return where to dial, in order: wss by name if forced, else ws by IP literals, then by name.

    Unlike the Rust client literals come first: a name would tell the resolver which gateway we use.
    Source: spec/gateway.md section 1; design.md section 8a.
    """
    if force_tls:
        if entry.hostname and entry.clients_wss_port:
            return [GatewayEndpoint(entry.hostname, entry.clients_wss_port, True)]
        return []
    literals = sorted(entry.ip_addresses, key=lambda address: ":" in address)
    hosts = [*literals, *([entry.hostname] if entry.hostname else [])]
    return [GatewayEndpoint(host, entry.clients_ws_port) for host in hosts[:2]]


class GatewayRefusal(GatewayError):
    """The gateway refused the session, or broke the protocol; ``kind`` says which.

    Args:
        message: the gateway's words.
        kind_value: a value of :class:`Refusal`.
    """

    def __init__(self, message: str, kind_value: str = Refusal.ERROR.value) -> None:
        super().__init__(message)
        self.args = (message, kind_value)

    @property
    def kind(self) -> Refusal:
        """The kind of refusal."""
        return Refusal(self.args[1])

    def public(self) -> GatewayError:
        """Return the error as users see it."""
        if self.kind is Refusal.TICKETS_REQUIRED:
            return GatewayBandwidthError(str(self))
        if self.kind is Refusal.CLOCK_SKEW:
            return GatewayAuthError(f"{CLOCK_SKEW}: {self}")
        return GatewayAuthError(str(self))


class _BoundedFrameBuffer(websocket.frame_buffer):
    """Refuses a frame by its announced length, before its octets are collected."""

    def recv_length(self) -> None:
        super().recv_length()
        if self.length is not None and self.length > _MAX_MESSAGE:
            raise websocket.WebSocketProtocolException(f"a frame of {self.length} octets")


class _ReadAhead:
    """Reads a socket in large pieces for websocket-client, which asks for a few octets at a time."""

    def __init__(self, sock: RealSocket | RealTlsSocket) -> None:
        self._sock = sock
        self._buffer = b""
        self._offset = 0
        self._turn = Turn()
        self._reads = 0

    def recv(self, size: int) -> bytes:
        # A gateway that always has more, in however small frames, must not keep the hub from its timers.
        self._reads += 1
        if self._offset >= len(self._buffer) or not self._reads % _READS:
            self._turn.give()
        if self._offset >= len(self._buffer):
            self._buffer = self._sock.recv(_READ_AHEAD)
            self._offset = 0
        data = self._buffer[self._offset : self._offset + size]
        self._offset += len(data)
        return data

    def unread(self, data: bytes) -> None:
        """Put octets back in front."""
        self._buffer = data + self._buffer[self._offset :]
        self._offset = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _upgrade(reader: _ReadAhead, endpoint: GatewayEndpoint) -> None:
    """Make a websocket of a connection.

    Raises:
        WireError: the gateway's answer is none to that.
    """
    upgrade = Upgrade(endpoint.url.partition("://")[2], os.urandom)
    reader.sendall(upgrade.request())
    while not upgrade.receive_untrusted(reader.recv(_READ_AHEAD)):
        pass
    reader.unread(upgrade.rest)


class GatewayLink:
    """One websocket to the entry gateway, from dialling to its end. Reactor thread only.

    Args:
        client: a fresh session (see ``GatewayClient.successor``).
        on_payload: called with every pushed payload.
        on_lost: called once with a sentence when an open link ends by itself.
        on_writable: called when a full queue of frames has room again.
        ping_interval: seconds between pings.
        pong_timeout: seconds until an unanswered ping means that the link is lost.
    """

    def __init__(
        self,
        client: GatewayClient,
        *,
        on_payload: Callable[[bytes, float], object],
        on_lost: Callable[[str], object],
        on_writable: Callable[[], object] | None = None,
        ping_interval: float = 30.0,
        pong_timeout: float = 10.0,
    ) -> None:
        self.client = client
        self._on_payload = on_payload
        self._on_lost = on_lost
        self._on_writable = on_writable
        self._ping_interval = ping_interval
        self._pong_timeout = pong_timeout
        self._websocket: Any = None
        self._control: deque[tuple[int, bytes]] = deque()
        self._frames: deque[str | bytes] = deque()
        self._wake = gevent.event.Event()
        self._ready: gevent.event.AsyncResult[None] = gevent.event.AsyncResult()
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self._open = False
        self._closed = False
        self._pong_due: float | None = None
        self._ping_due = 0.0
        self._fragments = bytearray()
        self._fragments_opcode = ABNF.OPCODE_CONT
        self.reason = ""
        self.shared_key: bytes | None = client.shared_key

    # --- opening ---

    def open(
        self,
        endpoint: GatewayEndpoint,
        *,
        timeout: float,
        ca_file: str | None = None,
        addresses: Mapping[str, str] | None = None,
        public: bool = False,
    ) -> None:
        """Dial, upgrade, register or authenticate; returns when the gateway takes packets.

        With *public* it is not dialled at addresses of this machine or of private networks.

        Raises:
            GatewayRefusal: the gateway said no.
            TimeoutError: *timeout* seconds are over.
            OSError: it could not be reached, or the link broke.
        """
        message = f"gateway {endpoint.host} did not finish the set-up in {timeout:g} s"
        with gevent.Timeout(timeout, TimeoutError(errno.ETIMEDOUT, message)):
            try:
                wait = self.client.start_delay(time.time())
                if wait > 0:
                    gevent.sleep(wait)
                self._dial(endpoint, timeout, ca_file, addresses, public)
                self._greenlets = [
                    gevent.spawn(self._read),
                    gevent.spawn(self._write),
                    gevent.spawn(self._watch),
                ]
                self.client.start(monotonic(), time.time())
                self._pump()
                self._ready.get()
                if self._closed:  # it was lost before we had our turn
                    raise OSError(errno.ECONNRESET, self.reason)
                self._open = True
                self._ping_due = monotonic() + self._ping_interval
                self._wake.set()
            except BaseException:
                self.close()
                raise

    def _dial(
        self,
        endpoint: GatewayEndpoint,
        timeout: float,
        ca_file: str | None,
        addresses: Mapping[str, str] | None,
        public: bool,
    ) -> None:
        tls = client_tls_context(ca_file) if endpoint.tls else None
        sock = connect_tcp(
            endpoint.host, endpoint.port, timeout=timeout, tls=tls, addresses=addresses, public=public
        )
        reader = _ReadAhead(sock)
        try:
            _upgrade(reader, endpoint)
        except WireError as error:
            sock.close()
            raise GatewayRefusal(f"no websocket at {endpoint.url}: {error}", Refusal.PROTOCOL.value) from None
        except BaseException:
            sock.close()
            raise
        link: Any = websocket.WebSocket(skip_utf8_validation=False)
        # Native locks would stop the whole hub; these stop a greenlet.
        link.lock = gevent.lock.RLock()
        link.readlock = gevent.lock.RLock()
        link.frame_buffer = _BoundedFrameBuffer(link._recv, skip_utf8_validation=False)
        link.frame_buffer.lock = gevent.lock.RLock()
        link.sock = reader
        link.connected = True
        self._websocket = link

    # --- what the owner calls ---

    @property
    def is_open(self) -> bool:
        """Whether packets can be forwarded."""
        return self._open and not self._closed

    @property
    def backlog(self) -> int:
        """Frames that wait for the socket."""
        return len(self._frames)

    def room(self) -> int:
        """Return how many more packets fit the queue."""
        return max(0, FRAME_LIMIT - len(self._frames)) if self.is_open else 0

    def forward(self, packet: MixPacket) -> bool:
        """Queue one Sphinx packet; False if the link is down or the queue full."""
        if self.room() <= 0 or not self.client.forward(packet, monotonic()):
            return False
        self._pump()
        return True

    def close(self) -> None:
        """End the link without a word to its owner; no close frame (gateways do not wait for one)."""
        if self._closed:
            return
        self._closed = True
        self._open = False
        self.client.connection_lost(monotonic())
        if self._websocket is not None and self._websocket.sock is not None:
            self._websocket.sock.close()
        current = gevent.getcurrent()
        gevent.killall([g for g in self._greenlets if g is not current], block=False)

    def drain(self, timeout: float) -> bool:
        """Wait until every queued frame is with the kernel; return whether it is."""
        with limited(timeout):
            while self._frames and not self._closed:
                gevent.sleep(0.005)
        return not self._frames

    # --- the session ---

    def _lose(self, reason: str) -> None:
        if self._closed:
            return
        was_open = self._open
        self.reason = reason
        if not was_open:
            self._fail(OSError(errno.ECONNRESET, reason))
        self.close()
        if was_open:
            self._on_lost(reason)

    def _fail(self, error: OSError) -> None:
        """End the set-up; only the first reason counts: gateways close the connection after a refusal."""
        if not self._ready.ready():
            self._ready.set_exception(error)

    def _pump(self) -> None:
        """Take the session's output and events."""
        now = monotonic()
        self._take_output(now)
        while (event := self.client.next_event()) is not None:
            if isinstance(event, Pushed):
                self._on_payload(event.payload, now)
            elif isinstance(event, Registered):
                self.shared_key = event.shared_key
            elif isinstance(event, Authenticated):
                if not self.client.bandwidth:
                    self.client.claim_bandwidth(now)
                else:
                    self._ready.set(None)
            elif isinstance(event, BandwidthChanged):
                self._ready.set(None)
            elif isinstance(event, (OutOfBandwidth, MustWait)):
                _LOG.debug("gateway: %s", event)
            elif isinstance(event, GatewayRefused):
                self._refused(event)
        self._take_output(now)

    def _refused(self, event: GatewayRefused) -> None:
        error = GatewayRefusal(f"the gateway refused: {printable(event.reason)}", event.kind.value)
        if not self._open:
            self._fail(error)
            return
        # A real client goes deaf after an error; the session behind it may be gone.
        if event.fatal or event.kind is Refusal.TICKETS_REQUIRED:
            self._lose(str(error))

    def _take_output(self, now: float) -> None:
        frames = self.client.data_to_send(now)
        if frames:
            self._frames.extend(frames)
            self._wake.set()

    # --- greenlets ---

    def _read(self) -> None:
        link = self._websocket
        try:
            while not self._closed:
                frame = link.recv_frame()
                opcode = frame.opcode
                if opcode >= ABNF.OPCODE_CLOSE and (len(frame.data) > _MAX_CONTROL or not frame.fin):
                    self._lose("the gateway sent a control frame that is too large")
                elif opcode == ABNF.OPCODE_PING:
                    # Some answers are enough; a flood must not fill the memory of a writer that is stuck.
                    if len(self._control) < FRAME_LIMIT:
                        self._control.append((ABNF.OPCODE_PONG, frame.data))
                        self._wake.set()
                elif opcode == ABNF.OPCODE_PONG:
                    self._pong_due = None
                elif opcode == ABNF.OPCODE_CLOSE:
                    self._lose("the gateway closed the connection")
                else:
                    self._take_data(frame)
        except (websocket.WebSocketException, OSError, ValueError) as error:
            self._lose(f"the gateway's connection broke: {error}")

    def _take_data(self, frame: Any) -> None:
        if frame.opcode != ABNF.OPCODE_CONT:
            self._fragments.clear()
            self._fragments_opcode = frame.opcode
        elif self._fragments_opcode == ABNF.OPCODE_CONT:
            self._lose("the gateway continued a message it had not begun")
            return
        if len(self._fragments) + len(frame.data) > _MAX_MESSAGE:
            self._lose("the gateway sent a message that is too large")
            return
        self._fragments += frame.data
        if not frame.fin:
            return
        data = bytes(self._fragments)
        self._fragments.clear()
        text = self._fragments_opcode == ABNF.OPCODE_TEXT
        self._fragments_opcode = ABNF.OPCODE_CONT
        self.client.receive_data(data.decode("utf-8") if text else data, monotonic())
        self._pump()

    def _write(self) -> None:
        link = self._websocket
        try:
            while not self._closed:
                if self._control:
                    opcode, payload = self._control.popleft()
                    link.send(payload, opcode)
                elif self._frames:
                    frame = self._frames[0]
                    if isinstance(frame, str):
                        link.send(frame, ABNF.OPCODE_TEXT)
                    else:
                        link.send(frame, ABNF.OPCODE_BINARY)
                    was_full = len(self._frames) >= FRAME_LIMIT
                    if self._frames:
                        self._frames.popleft()
                    if was_full and self._on_writable is not None:
                        self._on_writable()
                else:
                    self._wake.clear()
                    self._wake.wait()
        except (websocket.WebSocketException, OSError) as error:
            self._lose(f"the gateway's connection broke: {error}")

    def _watch(self) -> None:
        """Run the session's deadlines and the pings."""
        while not self._closed:
            now = monotonic()
            self.client.update_clock(now, time.time())
            deadlines = [now + 1.0]
            if self._open:
                if self._pong_due is not None and now >= self._pong_due:
                    self._lose(f"the gateway did not answer a ping in {self._pong_timeout:g} s")
                    return
                if now >= self._ping_due:
                    self._ping_due = now + self._ping_interval
                    if self._pong_due is None:
                        self._pong_due = now + self._pong_timeout
                    self._control.append((ABNF.OPCODE_PING, os.urandom(8)))
                    self._wake.set()
                deadlines.append(self._ping_due)
                if self._pong_due is not None:
                    deadlines.append(self._pong_due)
            deadline = self.client.next_deadline()
            if deadline is not None:
                if deadline <= now:
                    self.client.handle_deadline(now)
                    self._pump()
                    deadline = self.client.next_deadline()
                if deadline is not None:
                    deadlines.append(deadline)
            if self.client.state is ClientState.CLOSED and not self._closed and self._open:
                self._lose("the gateway session ended")
                return
            gevent.sleep(max(0.0, min(deadlines) - monotonic()))
