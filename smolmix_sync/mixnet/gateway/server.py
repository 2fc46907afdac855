"""The gateway's side of the session, one object per websocket connection."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.gateway import constants as c
from smolmix_sync.mixnet.gateway import text as wire
from smolmix_sync.mixnet.gateway.authentication import address_is_sealed_with, signature_is_valid
from smolmix_sync.mixnet.gateway.clients import ClientRecord, ClientTable
from smolmix_sync.mixnet.gateway.events import (
    ClientAuthenticated,
    ClientForgotten,
    ClientRegistered,
    ForwardPacket,
    PingWanted,
    ProbeFinished,
    ServerEvent,
    SessionClosed,
    SessionRemembered,
)
from smolmix_sync.mixnet.gateway.frames import decode_forward_untrusted, encode_pushed
from smolmix_sync.mixnet.gateway.handshake import FINALIZATION, GatewayHandshake
from smolmix_sync.mixnet.gateway.sealing import open_untrusted, seal

__all__ = ["GatewayServerSession", "ServerSettings", "ServerState"]

_TAG_SIZE: Final = 8


class ServerState(enum.Enum):
    """Where a server session stands."""

    #: Before authentication: ``supportedProtocol``, registration or ``authenticateV2`` may come.
    FRESH = "fresh"
    #: Registering.
    HANDSHAKE = "handshake"
    #: Authenticated, but another live connection of the client is being probed.
    DUPLICATE = "duplicate"
    #: Packets flow.
    READY = "ready"
    #: Over; the owner flushes and drops the connection.
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Habits of a gateway.

    *newest_wins* lets the latest successful authentication take a client's place at once; without it the
    reference's rule applies: an older live connection is pinged first, and wins if it answers.
    *accept_any_ticket* credits every well-sealed e-cash credential, as a node with mock e-cash does.
    """

    enforce_tickets: bool = False
    accept_any_ticket: bool = False
    upgrade_mode: bool = False
    free_bandwidth: int = c.FREE_BANDWIDTH
    newest_wins: bool = True
    max_queued_frames: int = 8192


class GatewayServerSession:
    """One websocket connection at a gateway, without the websocket.

    Feed websocket messages in (``str`` for text, ``bytes`` for binary) and pings and pongs too; write out
    what ``data_to_send`` returns. After ``SessionClosed`` flush and drop the TCP connection. All sessions of
    a gateway share one :class:`ClientTable`; a message for a client goes to ``ClientTable.deliver``.

    Source: spec/gateway.md sections 4 to 9 and 11.2.
    """

    def __init__(
        self,
        identity_seed: bytes,
        clients: ClientTable,
        *,
        urandom: Callable[[int], bytes],
        settings: ServerSettings | None = None,
    ) -> None:
        self.settings = settings or ServerSettings()
        self.state = ServerState.FRESH
        self._seed = identity_seed
        self._clients = clients
        self._urandom = urandom
        self._address: bytes | None = None
        self._version = c.PROTOCOL_VERSION
        self._handshake: GatewayHandshake | None = None
        self._offset = 0.0
        self._deadline: float | None = None
        self._out: deque[str | bytes] = deque()
        self._events: deque[ServerEvent] = deque()
        # Wall clock of the registration, or the signed second of the authentication (section 9.2).
        self._session_timestamp = 0.0
        self._request: wire.AuthenticateV2 | None = None
        self._probe: tuple[bytes, GatewayServerSession] | None = None
        self._probe_deadline: float | None = None
        self._probed_by: GatewayServerSession | None = None
        # Our client's row as it was when we went live: it outlasts ForgetMe on this connection.
        self._orphan = ClientRecord(b"")

    @property
    def address(self) -> bytes | None:
        """The client's Ed25519 key once it is authenticated."""
        return self._address

    # Life cycle.

    def start(self, now: float, unix_now: float) -> None:
        """Begin, the websocket being accepted."""
        self.update_clock(now, unix_now)
        self._deadline = now + c.INITIAL_MESSAGE_TIMEOUT

    def update_clock(self, now: float, unix_now: float) -> None:
        """Tell the session the wall clock anew (it is extrapolated from *now* otherwise)."""
        self._offset = unix_now - now

    def connection_lost(self, now: float) -> None:
        """Note the end of the websocket; the table of live connections forgets this session."""
        if self.state is not ServerState.CLOSED:
            self._close("connection lost")

    def replace(self, now: float) -> None:
        """End this session because a newer connection of its client takes over."""
        if self.state is not ServerState.CLOSED:
            self._close("replaced by a newer connection")

    def _close(self, reason: str) -> None:
        self.state = ServerState.CLOSED
        self._deadline = None
        if self._address is not None and self._clients.live.get(self._address) is self:
            del self._clients.live[self._address]
        self._events.append(SessionClosed(reason))
        self._finish_probe(alive=False)

    def _fail(self, message: str, times: int) -> None:
        """Send an ``error`` text once or twice, as the reference does, and close."""
        self._out.extend([wire.ErrorReply(message).encode()] * times)
        self._close(message)

    # Output, timers, events.

    def data_to_send(self, now: float, room: int | None = None) -> list[str | bytes]:
        """Return the websocket messages to write now, in order; *room* octets at most, but at least one."""
        if room is None:
            out = list(self._out)
            self._out.clear()
            return out
        out = []
        while self._out and (not out or len(self._out[0]) <= room):
            room -= len(self._out[0])
            out.append(self._out.popleft())
        return out

    def next_deadline(self) -> float | None:
        """Return when ``handle_deadline`` wants to be called; output does not count as a deadline."""
        deadlines = [when for when in (self._deadline, self._probe_deadline) if when is not None]
        return min(deadlines, default=None)

    def handle_deadline(self, now: float) -> None:
        """Deal with every deadline that has passed."""
        if self._probe_deadline is not None and now >= self._probe_deadline:
            self._finish_probe(alive=False)
        if self._deadline is None or now < self._deadline:
            return
        self._deadline = None
        if self.state is ServerState.FRESH:
            self._fail(c.ERROR_INITIAL_TIMEOUT, 1)
        elif self.state is ServerState.HANDSHAKE:
            self._fail_handshake(c.ERROR_HANDSHAKE_TIMEOUT)
        else:  # DUPLICATE: the other handler did not even report, it is as good as gone
            self._resolve(alive=False, now=now)

    def next_event(self) -> ServerEvent | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    # Towards the client.

    def push(self, payload: bytes, now: float) -> bool:
        """Queue one final-hop payload for the client; False if not READY or full (store it then)."""
        if self.state is not ServerState.READY or len(self._out) >= self.settings.max_queued_frames:
            return False
        self._out.append(encode_pushed(payload, self._record().shared_key, self._urandom))
        return True

    def _record(self) -> ClientRecord:
        """Return our client's row, also if the table has forgotten it meanwhile."""
        assert self._address is not None
        return self._clients.records.get(self._address) or self._orphan

    def _balance(self, now: float) -> int:
        balance = self._record().balance_at(now + self._offset)
        return max(balance, c.UPGRADE_MODE_BANDWIDTH) if self.settings.upgrade_mode else balance

    # Input.

    def receive_data(self, data: str | bytes, now: float) -> None:
        """Take one websocket message: ``str`` is a text message, ``bytes`` a binary one."""
        if self.state in (ServerState.CLOSED, ServerState.DUPLICATE):
            return
        if len(self._out) >= 2 * self.settings.max_queued_frames:
            self._close("the client does not read")
        elif self.state is ServerState.HANDSHAKE:
            if isinstance(data, str):
                self._receive_handshake(data, now)
        elif isinstance(data, bytes):
            if self.state is ServerState.FRESH:
                self._fail(c.ERROR_PREMATURE_BINARY, 1)
            else:
                self._receive_forward(data, now)
        elif self.state is ServerState.FRESH:
            self._receive_initial(data, now)
        else:
            self._receive_control(data, now)

    def receive_ping(self, payload: bytes, now: float) -> None:
        """Note a websocket ping; the owner answers it, but before authentication it ends the session."""
        if self.state is ServerState.FRESH:
            self._fail(c.ERROR_UNEXPECTED_MESSAGE.format(kind="ping"), 1)

    def receive_pong(self, payload: bytes, now: float) -> None:
        """Take a websocket pong: the answer to ``PingWanted``, or unasked for and ignored."""
        if self.state is ServerState.FRESH:
            self._fail(c.ERROR_UNEXPECTED_MESSAGE.format(kind="pong"), 1)
        elif self._probe is not None and payload == self._probe[0]:
            self._finish_probe(alive=True)

    def _receive_initial(self, data: str, now: float) -> None:
        try:
            request = wire.decode_request_untrusted(data)
        except WireError:
            self._fail(c.ERROR_ONLY_REGISTER_OR_AUTHENTICATE, 1)
            return
        if isinstance(request, wire.SupportedProtocol):
            self._out.append(wire.SupportedProtocolReply(c.PROTOCOL_VERSION).encode())
            self._deadline = now + c.INITIAL_MESSAGE_TIMEOUT
        elif isinstance(request, wire.HandshakePayload):
            self._begin_registration(request, now)
        elif isinstance(request, wire.AuthenticateV2):
            self._authenticate(request, now)
        elif isinstance(request, wire.LegacyAuthenticate):
            self._fail(c.ERROR_LEGACY_AUTHENTICATION, 1)
        else:
            self._fail(c.ERROR_ONLY_REGISTER_OR_AUTHENTICATE, 1)

    # Registration.

    def _begin_registration(self, request: wire.HandshakePayload, now: float) -> None:
        self._version = min(request.protocol_version, c.PROTOCOL_VERSION)
        if not self.settings.newest_wins and request.data[:32] in self._clients.live:
            self._fail(c.ERROR_DUPLICATE, 2)
            return
        handshake = GatewayHandshake(self._seed, self._urandom)
        try:
            answer = handshake.respond_untrusted(request.data)
        except WireError as exc:
            self._fail_handshake(str(exc))
            return
        self._handshake = handshake
        self._out.append(wire.HandshakePayload(self._version, answer).encode())
        self.state = ServerState.HANDSHAKE
        self._deadline = now + c.HANDSHAKE_TIMEOUT

    def _receive_handshake(self, data: str, now: float) -> None:
        assert self._handshake is not None
        try:
            message = wire.decode_handshake_untrusted(data)
        except WireError:
            return  # texts that do not belong to the handshake are skipped; its timer keeps running
        if isinstance(message, wire.HandshakeError):
            self._fail(c.ERROR_HANDSHAKE_PREFIX + message.message, 2)
            return
        try:
            self._handshake.finish_untrusted(message.data)
        except WireError as exc:
            self._fail_handshake(str(exc))
            return
        self._out.append(wire.HandshakePayload(self._version, FINALIZATION).encode())
        self._registered(self._handshake, now)

    def _fail_handshake(self, reason: str) -> None:
        self._out.append(wire.HandshakeError(reason).encode())
        self._fail(c.ERROR_HANDSHAKE_PREFIX + reason, 2)

    def _registered(self, handshake: GatewayHandshake, now: float) -> None:
        assert handshake.shared_key is not None
        address = handshake.client_identity
        older = self._clients.live.get(address)
        if older is not None:
            older.replace(now)
        self._handshake = None
        self._clients.register(address, handshake.shared_key)
        self._session_timestamp = now + self._offset
        self._events.append(ClientRegistered(address))
        # Rust pushes the stored messages before the reply, too early for its own clients to read them.
        self._go_live(address, now)
        self._out.append(wire.RegisterReply(self._version, True, self.settings.upgrade_mode).encode())

    def _go_live(self, address: bytes, now: float) -> None:
        self._address = address
        self._orphan = self._clients.records[address]
        self._clients.live[address] = self
        self.state = ServerState.READY
        self._deadline = None
        for payload in self._clients.take_stored(address, now):
            self._out.append(encode_pushed(payload, self._orphan.shared_key, self._urandom))
        self._events.append(ClientAuthenticated(address))

    # Authentication.

    def _authenticate(self, request: wire.AuthenticateV2, now: float) -> None:
        reason = self._refusal(request, now)
        if reason is not None:
            self._fail(reason, 2)
            return
        self._version = request.protocol_version
        self._request = request
        older = self._clients.live.get(request.client_identity)
        if older is None:
            self._authenticated(now)
        elif self.settings.newest_wins:
            older.replace(now)
            self._authenticated(now)
        elif request.timestamp <= older._session_timestamp:
            self._fail(c.ERROR_STALE_AUTHENTICATION, 2)
        elif older._probe is not None:
            self._fail(c.ERROR_DUPLICATE, 2)
        else:
            self.state = ServerState.DUPLICATE
            self._deadline = now + c.DUPLICATE_HANDLER_TIMEOUT
            older._start_probe(self, now)

    def _refusal(self, request: wire.AuthenticateV2, now: float) -> str | None:
        """Return the error text of the first check that fails, in the reference's order."""
        version = request.protocol_version
        if not c.MIN_PROTOCOL_VERSION <= version <= c.PROTOCOL_VERSION:
            return c.ERROR_INCOMPATIBLE_VERSION.format(ours=c.PROTOCOL_VERSION, theirs=version)
        clock = int(now + self._offset)
        if abs(clock - request.timestamp) > c.MAX_CLOCK_SKEW:
            return c.ERROR_SKEWED.format(theirs=request.timestamp, ours=clock)
        if not signature_is_valid(request):
            return c.ERROR_BAD_SIGNATURE
        record = self._clients.records.get(request.client_identity)
        if record is None:
            return c.ERROR_NOT_REGISTERED
        if not address_is_sealed_with(record.shared_key, request):
            return c.ERROR_BAD_ADDRESS
        if request.timestamp <= record.last_auth_timestamp:
            return c.ERROR_TIMESTAMP_REUSED
        return None

    def _authenticated(self, now: float) -> None:
        assert self._request is not None
        record = self._clients.records.get(self._request.client_identity)
        if record is None:  # forgotten by its other connection while that was being probed
            self._fail(c.ERROR_NOT_REGISTERED, 2)
            return
        record.last_auth_timestamp = self._request.timestamp
        self._session_timestamp = float(self._request.timestamp)
        self._go_live(self._request.client_identity, now)
        reply = wire.AuthenticateReply(self._version, True, self._balance(now), self.settings.upgrade_mode)
        self._out.append(reply.encode())
        self._request = None

    # Duplicate connections (section 9.2); the older session is asked, the newer one waits.

    def _start_probe(self, newcomer: GatewayServerSession, now: float) -> None:
        tag = self._urandom(_TAG_SIZE)
        self._probe = (tag, newcomer)
        self._probe_deadline = now + c.DUPLICATE_PONG_TIMEOUT
        newcomer._probed_by = self
        self._events.append(PingWanted(tag))

    def _finish_probe(self, *, alive: bool) -> None:
        if self._probe is None:
            return
        _, newcomer = self._probe
        self._probe = None
        when, self._probe_deadline = self._probe_deadline, None
        if newcomer.state is ServerState.DUPLICATE:
            assert when is not None
            newcomer._resolve(alive=alive, now=when)
            self._events.append(ProbeFinished(newcomer))

    def _resolve(self, *, alive: bool, now: float) -> None:
        older, self._probed_by = self._probed_by, None
        self.state = ServerState.FRESH  # so that ending the older session does not resolve us again
        self._deadline = None
        if alive:
            self._fail(c.ERROR_DUPLICATE, 2)
            return
        assert older is not None
        older.replace(now)
        self._authenticated(now)

    # READY.

    def _receive_forward(self, frame: bytes, now: float) -> None:
        record = self._record()
        try:
            packet = decode_forward_untrusted(frame, record.shared_key)
        except WireError as exc:
            self._out.append(wire.ErrorReply(c.ERROR_MALFORMED_BINARY_PREFIX + str(exc)).encode())
            return
        if not self.settings.upgrade_mode:
            cost, balance = len(packet.packet), record.balance_at(now + self._offset)
            if balance < cost:
                self._out.append(wire.OutOfBandwidthReply(cost, balance).encode())
                return
            record.balance -= cost
        self._events.append(ForwardPacket(packet))
        self._out.append(wire.SendReply(self._balance(now), self.settings.upgrade_mode).encode())

    def _receive_control(self, data: str, now: float) -> None:
        try:
            request = wire.decode_request_untrusted(data)
        except WireError as exc:
            self._out.append(wire.ErrorReply(c.ERROR_MALFORMED_TEXT_PREFIX + str(exc)).encode())
            return
        if isinstance(request, wire.SupportedProtocol):
            self._out.append(wire.SupportedProtocolReply(c.PROTOCOL_VERSION).encode())
        elif isinstance(request, wire.ClaimFreeTestnetBandwidth):
            self._claim(now)
        elif isinstance(request, wire.EcashCredential):
            self._spend(request, now)
        elif isinstance(request, wire.EncryptedRequest):
            self._receive_sealed(request)
        else:
            self._out.append(wire.ErrorReply(c.ERROR_UNEXPECTED_REQUEST).encode())

    def _claim(self, now: float) -> None:
        if self.settings.enforce_tickets:
            self._out.append(wire.ErrorReply(c.ERROR_TICKETS_ONLY).encode())
            return
        self._record().credit(self.settings.free_bandwidth, now + self._offset)
        self._out.append(wire.BandwidthReply(self._balance(now), self.settings.upgrade_mode).encode())

    def _spend(self, request: wire.EcashCredential, now: float) -> None:
        record = self._record()
        try:
            open_untrusted(record.shared_key, request.enc_credential, request.iv)
        except WireError as exc:
            self._out.append(wire.ErrorReply(str(exc)).encode())
            return
        if not self.settings.accept_any_ticket:
            self._out.append(wire.ErrorReply(c.ERROR_TICKET_REFUSED).encode())
            return
        record.credit(c.TICKET_BANDWIDTH, now + self._offset)
        self._out.append(wire.BandwidthReply(self._balance(now), self.settings.upgrade_mode).encode())

    def _receive_sealed(self, request: wire.EncryptedRequest) -> None:
        assert self._address is not None
        key = self._record().shared_key
        try:
            inner = wire.decode_sensitive_request_untrusted(
                open_untrusted(key, request.ciphertext, request.nonce)
            )
        except WireError as exc:
            self._out.append(wire.ErrorReply(c.ERROR_MALFORMED_TEXT_PREFIX + str(exc)).encode())
            return
        answer: wire.SensitiveResponse
        if isinstance(inner, wire.ForgetMe):
            if inner.client:
                self._clients.forget(self._address)
                self._events.append(ClientForgotten(self._address))
            answer = wire.ForgetMeAck()
        else:
            self._events.append(SessionRemembered(inner.session_type))
            answer = wire.RememberMeAck()
        ciphertext, nonce = seal(key, answer.encode(), self._urandom)
        self._out.append(wire.EncryptedResponse(ciphertext, nonce).encode())
