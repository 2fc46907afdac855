"""The client's side of the gateway session: register or authenticate, claim, forward, receive."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from smolmix_sync.crypto import Secret, ed25519_public_from_seed
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.gateway import text as wire
from smolmix_sync.mixnet.gateway.authentication import authenticate
from smolmix_sync.mixnet.gateway.constants import (
    BANDWIDTH_THRESHOLD,
    DAY,
    ERROR_BAD_ADDRESS,
    ERROR_BAD_SIGNATURE,
    ERROR_DUPLICATE,
    ERROR_HANDSHAKE_PREFIX,
    ERROR_INCOMPATIBLE_VERSION,
    ERROR_MALFORMED_BINARY_PREFIX,
    ERROR_NOT_REGISTERED,
    ERROR_SKEWED_PREFIX,
    ERROR_STALE_AUTHENTICATION,
    ERROR_TICKETS_ONLY,
    ERROR_TIMESTAMP_REUSED,
    HANDSHAKE_TIMEOUT,
    INITIAL_MESSAGE_TIMEOUT,
    MIN_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
)
from smolmix_sync.mixnet.gateway.events import (
    Authenticated,
    BandwidthChanged,
    ClientEvent,
    ForgetAcknowledged,
    GatewayRefused,
    MustWait,
    OutOfBandwidth,
    Pushed,
    Refusal,
    Registered,
    RememberAcknowledged,
)
from smolmix_sync.mixnet.gateway.frames import PlainFrameError, decode_pushed_untrusted, encode_forward
from smolmix_sync.mixnet.gateway.handshake import FINALIZATION, ClientHandshake
from smolmix_sync.mixnet.gateway.sealing import open_untrusted, seal
from smolmix_sync.mixnet.sphinx import MixPacket

__all__ = ["ClientCounters", "ClientSettings", "ClientState", "GatewayClient", "refusal_of"]

# Ours: holding back longer than this would run into the gateway's time-out for initial messages.
_LONGEST_HOLD: Final = INITIAL_MESSAGE_TIMEOUT - 2.0
# Ours: a gateway whose allowance is below the threshold must not make us claim before every packet.
_CLAIM_INTERVAL: Final = 1.0
# Ours: wake a little after the second has passed, so that float rounding cannot make us wait again.
_HOLD_MARGIN: Final = 0.01

_KINDS: Final = (
    (ERROR_NOT_REGISTERED, Refusal.NOT_REGISTERED),
    (ERROR_DUPLICATE, Refusal.ALREADY_CONNECTED),
    (ERROR_STALE_AUTHENTICATION, Refusal.STALE_TIMESTAMP),
    (ERROR_TIMESTAMP_REUSED, Refusal.STALE_TIMESTAMP),
    (ERROR_SKEWED_PREFIX, Refusal.CLOCK_SKEW),
    (ERROR_INCOMPATIBLE_VERSION.partition(".")[0], Refusal.VERSION),
    (ERROR_BAD_SIGNATURE, Refusal.AUTHENTICATION),
    (ERROR_BAD_ADDRESS, Refusal.AUTHENTICATION),
    (ERROR_HANDSHAKE_PREFIX, Refusal.HANDSHAKE),
    (ERROR_TICKETS_ONLY, Refusal.TICKETS_REQUIRED),
)


def refusal_of(message: str) -> Refusal:
    """Return what an ``error`` text of a gateway means; the text is all there is to go by."""
    for known, kind in _KINDS:
        if known in message:
            return kind
    return Refusal.ERROR


class ClientState(enum.Enum):
    """Where a client session stands."""

    #: Not started.
    IDLE = "idle"
    #: Holding back authentication until the clock has passed the last used second.
    WAITING = "waiting"
    #: Waiting for the gateway's protocol version.
    NEGOTIATING = "negotiating"
    #: Registering.
    HANDSHAKE = "handshake"
    #: Waiting for the answer to ``authenticateV2``.
    AUTHENTICATING = "authenticating"
    #: Packets can be forwarded.
    READY = "ready"
    #: Over; see :meth:`GatewayClient.successor`.
    CLOSED = "closed"


class _Step(enum.Enum):
    """What the client expects next while it registers."""

    MATERIAL = 2
    FINALIZATION = 4
    REGISTER = 5


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Bounds and habits of a client session; sizes in messages, times in seconds."""

    auto_claim: bool = True
    control_timeout: float = 30.0
    max_queued_frames: int = 64
    max_events: int = 8192


@dataclass(slots=True)
class ClientCounters:
    """What a client session did and what it dropped."""

    packets_forwarded: int = 0
    packets_pushed: int = 0
    packets_refused: int = 0
    claims: int = 0
    dropped_unencrypted: int = 0
    dropped_undecryptable: int = 0
    dropped_malformed: int = 0
    dropped_overflow: int = 0


class GatewayClient(Secret):
    """One websocket connection to an entry gateway, without the websocket.

    Feed websocket messages in (``str`` for text, ``bytes`` for binary), send out what ``data_to_send``
    returns, in order. One object serves one connection; ``successor()`` makes the one for the next. Without
    *shared_key* it registers, with it it authenticates; with *protocol_version* too it does so at once,
    without asking the gateway's version first, as real clients do on reconnecting.

    Pings are websocket frames and so the owner's: none before READY (the gateway would refuse the
    session), every 30 s after, and the gateway's own must be answered at any time, or another connection
    with our identity takes our place.

    Source: spec/gateway.md sections 3 to 7 and 9.
    """

    def __init__(
        self,
        identity_seed: bytes,
        gateway_identity: bytes,
        *,
        urandom: Callable[[int], bytes],
        shared_key: bytes | None = None,
        last_auth_timestamp: int = 0,
        protocol_version: int | None = None,
        credential_provider: Callable[[bytes], bytes | None] | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        """Create an idle session.

        Args:
            identity_seed: the client's Ed25519 seed.
            gateway_identity: the gateway's Ed25519 key, from the topology; a handshake with another fails.
            urandom: source of randomness.
            shared_key: the key of an earlier registration at this gateway.
            last_auth_timestamp: ``last_auth_timestamp`` of the session before.
            protocol_version: ``protocol_version`` of the session before.
            credential_provider: given the gateway's identity, returns the body of a zk-nym ticket to spend,
                or None for a free claim.
            settings: bounds and habits.
        """
        self.settings = settings or ClientSettings()
        self.state = ClientState.IDLE
        self.counters = ClientCounters()
        self._seed = identity_seed
        self._gateway = gateway_identity
        self._urandom = urandom
        self._key = shared_key
        self._last_auth = last_auth_timestamp
        self._version = protocol_version
        self._given_version = protocol_version
        self._credential_provider = credential_provider
        self._bandwidth = 0
        self._day = 0
        self._upgrade_mode = False
        self._claiming = False
        self._claim_refused = False
        self._next_claim = 0.0
        self._handshake: ClientHandshake | None = None
        self._step = _Step.MATERIAL
        self._offset = 0.0
        self._deadline: float | None = None
        self._out: deque[str | bytes] = deque()
        self._events: deque[ClientEvent] = deque()

    # What the owner reads.

    @property
    def identity(self) -> bytes:
        """Our own Ed25519 public key, which is our address at the gateway."""
        return ed25519_public_from_seed(self._seed)

    @property
    def shared_key(self) -> bytes | None:
        """The key of this registration; set from ``Registered`` on."""
        return self._key

    @property
    def bandwidth(self) -> int:
        """The last balance the gateway reported, octets."""
        return self._bandwidth

    @property
    def last_auth_timestamp(self) -> int:
        """The newest Unix second signed; to be stored beside the shared key."""
        return self._last_auth

    @property
    def protocol_version(self) -> int | None:
        """The negotiated version."""
        return self._version

    def start_delay(self, unix_now: float) -> float:
        """Return how many seconds to wait before dialling, so that authentication can succeed at once.

        Nothing when the clock is far behind the last authentication: ``start`` registers anew then.
        """
        delay = self._last_auth + 1 - unix_now
        if self._key is None or delay <= 0 or delay > _LONGEST_HOLD:
            return 0.0
        return delay + _HOLD_MARGIN

    # Life cycle.

    def start(self, now: float, unix_now: float) -> None:
        """Begin, the websocket being open. *unix_now* is the wall clock in seconds."""
        self.update_clock(now, unix_now)
        if self._last_auth + 1 - unix_now > _LONGEST_HOLD:
            # The clock was set back: no signature of ours would be accepted until it has caught up. A
            # registration is not dated, so it works at once; only the stored messages are lost.
            self._key = None
        delay = self.start_delay(unix_now)
        if delay > 0:
            self.state = ClientState.WAITING
            self._deadline = now + delay
            self._emit(MustWait(delay))
        else:
            self._begin(now)

    def update_clock(self, now: float, unix_now: float) -> None:
        """Tell a long-lived session the wall clock anew (it is extrapolated from *now* otherwise)."""
        self._offset = unix_now - now

    def connection_lost(self, now: float) -> None:
        """Note the end of the websocket; the session is CLOSED, without an event."""
        self._close()

    def successor(self) -> GatewayClient:
        """Return a fresh session for the next connection, with what this one learnt."""
        return GatewayClient(
            self._seed,
            self._gateway,
            urandom=self._urandom,
            shared_key=self._key,
            last_auth_timestamp=self._last_auth,
            protocol_version=self._version if self._key is not None else None,
            credential_provider=self._credential_provider,
            settings=self.settings,
        )

    def _begin(self, now: float) -> None:
        if self._key is not None and self._given_version is not None:
            self._authenticate(self._given_version, now)
            return
        self.state = ClientState.NEGOTIATING
        self._deadline = now + self.settings.control_timeout
        self._out.append(wire.SupportedProtocol().encode())

    def _authenticate(self, version: int, now: float) -> None:
        assert self._key is not None
        timestamp = max(int(now + self._offset), 0)
        if timestamp <= self._last_auth:
            # The clock was set back while we waited: WAITING again, or registering by start()'s rule.
            self.start(now, now + self._offset)
            return
        self._last_auth = timestamp
        request = authenticate(self._seed, self._key, timestamp, version, self._urandom)
        self._out.append(request.encode())
        self.state = ClientState.AUTHENTICATING
        self._deadline = now + self.settings.control_timeout

    def _close(self) -> None:
        self.state = ClientState.CLOSED
        self._deadline = None
        self._claiming = False
        self._out.clear()

    def _refuse(self, reason: str, kind: Refusal, farewell: str | None = None) -> None:
        if kind is Refusal.NOT_REGISTERED:
            self._key = None
            self._last_auth = 0
        elif kind is Refusal.CLOCK_SKEW:
            self._key = None  # a registration is not dated, so the next connection can make one
        elif kind is Refusal.VERSION:
            self._version = None
        self._close()
        if farewell is not None:
            self._out.append(farewell)
        self._emit(GatewayRefused(reason, kind))

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
        return self._deadline

    def handle_deadline(self, now: float) -> None:
        """Deal with every deadline that has passed."""
        if self._deadline is None or now < self._deadline:
            return
        self._deadline = None
        if self.state is ClientState.WAITING:
            self._begin(now)
        else:
            self._refuse("the gateway did not answer in time", Refusal.TIMEOUT)

    def next_event(self) -> ClientEvent | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def _emit(self, event: ClientEvent) -> None:
        # What a gateway can repeat at will, before READY too, does not pile up.
        if len(self._events) >= self.settings.max_events and not (
            isinstance(event, (Registered, Authenticated, MustWait))
            or (isinstance(event, GatewayRefused) and event.fatal)
        ):
            self.counters.dropped_overflow += 1
            return
        self._events.append(event)

    # Commands.

    def forward(self, packet: MixPacket, now: float) -> bool:
        """Queue one Sphinx packet; False if not READY or if ``max_queued_frames`` wait already."""
        if self.state is not ClientState.READY or len(self._out) >= self.settings.max_queued_frames:
            return False
        if self.settings.auto_claim:
            self._claim_if_low(now)
        assert self._key is not None
        assert self._version is not None
        self._out.append(encode_forward(packet, self._key, self._urandom, self._version))
        self.counters.packets_forwarded += 1
        return True

    def claim_bandwidth(self, now: float) -> None:
        """Ask for bandwidth now unless a claim is under way."""
        if self.state is not ClientState.READY or self._claiming:
            return
        assert self._key is not None
        body = self._credential_provider(self._gateway) if self._credential_provider else None
        if body is None:
            self._out.append(wire.ClaimFreeTestnetBandwidth().encode())
        else:
            ciphertext, nonce = seal(self._key, body, self._urandom)
            self._out.append(wire.EcashCredential(ciphertext, nonce).encode())
        self._claiming = True
        self._next_claim = now + _CLAIM_INTERVAL
        self._deadline = now + self.settings.control_timeout
        self.counters.claims += 1

    def forget_me(self, now: float, *, client: bool = True, stats: bool = False) -> None:
        """Ask the gateway to delete this client's registration, balance and inbox."""
        self._send_sealed(wire.ForgetMe(client, stats))

    def remember_me(self, now: float, session_type: str = "Native") -> None:
        """Tell the gateway the kind of session for its statistics."""
        self._send_sealed(wire.RememberMe(session_type))

    def _send_sealed(self, request: wire.SensitiveRequest) -> None:
        if self.state is not ClientState.READY:
            return
        assert self._key is not None
        ciphertext, nonce = seal(self._key, request.encode(), self._urandom)
        self._out.append(wire.EncryptedRequest(ciphertext, nonce).encode())

    def _claim_if_low(self, now: float) -> None:
        if self._claiming or self._claim_refused or self._upgrade_mode or now < self._next_claim:
            return
        # At 00:00 UTC the gateway resets the free balance without telling anyone.
        expired = int((now + self._offset) // DAY) > self._day
        if expired or self._bandwidth < BANDWIDTH_THRESHOLD:
            self.claim_bandwidth(now)

    # Input.

    def receive_data(self, data: str | bytes, now: float) -> None:
        """Take one websocket message: ``str`` is a text message, ``bytes`` a binary one."""
        if self.state in (ClientState.IDLE, ClientState.CLOSED):
            return
        if isinstance(data, str):
            self._receive_text(data, now)
        else:
            self._receive_frame(data)

    def _receive_frame(self, frame: bytes) -> None:
        # Stored messages come before the reply to authenticateV2, and before `register`: then under the
        # new key, which this side has since the second handshake message.
        key = self._key
        if key is None and self._handshake is not None:
            key = self._handshake.shared_key
        if key is None:
            self.counters.dropped_undecryptable += 1
            return
        try:
            payload = decode_pushed_untrusted(frame, key)
        except PlainFrameError:
            self.counters.dropped_unencrypted += 1
        except WireError:
            self.counters.dropped_undecryptable += 1
        else:
            self.counters.packets_pushed += 1
            self._emit(Pushed(payload))

    def _receive_text(self, data: str, now: float) -> None:
        if self.state is ClientState.HANDSHAKE and self._expect_handshake(data, now):
            return
        try:
            response = wire.decode_response_untrusted(data)
        except WireError as exc:
            self.counters.dropped_malformed += 1
            if self.state in (ClientState.NEGOTIATING, ClientState.AUTHENTICATING):
                self._refuse(f"the gateway's reply cannot be read: {exc}", Refusal.PROTOCOL)
            return
        self._receive_response(response, now)

    def _receive_response(self, response: wire.Response, now: float) -> None:
        if isinstance(response, wire.SendReply):
            self._bandwidth = response.remaining_bandwidth
            self._upgrade_mode = response.upgrade_mode
        elif isinstance(response, wire.ErrorReply):
            self._receive_error(response.message)
        elif self.state is ClientState.READY:
            self._receive_ready(response, now)
        elif self.state is ClientState.NEGOTIATING and isinstance(response, wire.SupportedProtocolReply):
            self._negotiated(response.version, now)
        elif self.state is ClientState.AUTHENTICATING and isinstance(response, wire.AuthenticateReply):
            self._authenticated(response, now)
        elif self.state is ClientState.HANDSHAKE:
            if isinstance(response, wire.RegisterReply):
                self._registered(response, now)
            else:  # texts that do not belong to the handshake are skipped; its timer keeps running
                self.counters.dropped_malformed += 1
        elif self.state is not ClientState.WAITING:
            self._refuse("the gateway answered something else than was asked", Refusal.PROTOCOL)

    def _receive_ready(self, response: wire.Response, now: float) -> None:
        if isinstance(response, wire.BandwidthReply):
            self._note_balance(response.available_total, response.upgrade_mode, now)
            self._claim_answered()
            self._emit(BandwidthChanged(response.available_total))
        elif isinstance(response, wire.OutOfBandwidthReply):
            self.counters.packets_refused += 1
            self._bandwidth = response.available
            self._emit(OutOfBandwidth(response.required, response.available))
            if self.settings.auto_claim and not self._claim_refused and now >= self._next_claim:
                self.claim_bandwidth(now)
        elif isinstance(response, wire.EncryptedResponse):
            self._receive_sealed(response)
        elif isinstance(response, wire.TicketReplayReply):
            self._claim_answered()
            self._emit(GatewayRefused("the ticket was spent before", Refusal.ERROR, fatal=False))

    def _receive_sealed(self, response: wire.EncryptedResponse) -> None:
        assert self._key is not None
        try:
            plaintext = open_untrusted(self._key, response.ciphertext, response.nonce)
            inner = wire.decode_sensitive_response_untrusted(plaintext)
        except WireError:
            self.counters.dropped_malformed += 1
            return
        forgotten = isinstance(inner, wire.ForgetMeAck)
        self._emit(ForgetAcknowledged() if forgotten else RememberAcknowledged())

    def _receive_error(self, message: str) -> None:
        kind = refusal_of(message)
        if self.state is not ClientState.READY:
            self._refuse(message, kind)
            return
        if kind is Refusal.TICKETS_REQUIRED:
            self._claim_refused = True
        # An error about a packet sent before the claim does not answer the claim.
        if self._claiming and not message.startswith(ERROR_MALFORMED_BINARY_PREFIX):
            self._claim_answered()
        self._emit(GatewayRefused(message, kind, fatal=False))

    def _claim_answered(self) -> None:
        self._claiming = False
        self._deadline = None

    def _note_balance(self, balance: int, upgrade_mode: bool, now: float) -> None:
        self._bandwidth = balance
        self._upgrade_mode = upgrade_mode
        self._day = int((now + self._offset) // DAY)

    # Set-up.

    def _negotiated(self, theirs: int, now: float) -> None:
        if theirs < MIN_PROTOCOL_VERSION:
            self._refuse(f"the gateway speaks protocol {theirs}, too old for us", Refusal.VERSION)
            return
        version = min(theirs, PROTOCOL_VERSION)
        self._version = version
        if self._key is not None:
            self._authenticate(version, now)
            return
        self._handshake = ClientHandshake(self._seed, self._gateway, self._urandom)
        self._out.append(wire.HandshakePayload(version, self._handshake.init()).encode())
        self.state = ClientState.HANDSHAKE
        self._deadline = now + HANDSHAKE_TIMEOUT

    def _expect_handshake(self, data: str, now: float) -> bool:
        """Take a message of the handshake; False if it is none, but a control reply."""
        try:
            message = wire.decode_handshake_untrusted(data)
        except WireError:
            return False
        if isinstance(message, wire.HandshakeError):
            self._refuse(message.message, Refusal.HANDSHAKE)
        elif self._adopt_version(message.protocol_version):
            self._advance(message.data, now)
        return True

    def _advance(self, data: bytes, now: float) -> None:
        assert self._handshake is not None
        assert self._version is not None
        if self._step is _Step.MATERIAL:
            try:
                answer = self._handshake.receive_untrusted(data)
            except WireError as exc:
                self._refuse(str(exc), Refusal.HANDSHAKE, wire.HandshakeError(str(exc)).encode())
                return
            self._out.append(wire.HandshakePayload(self._version, answer).encode())
            self._step = _Step.FINALIZATION
            self._deadline = now + HANDSHAKE_TIMEOUT
        elif self._step is _Step.FINALIZATION and data == FINALIZATION:
            self._step = _Step.REGISTER
            self._deadline = now + self.settings.control_timeout
        else:
            self._refuse("the gateway did not confirm the handshake", Refusal.HANDSHAKE)

    def _registered(self, reply: wire.RegisterReply, now: float) -> None:
        handshake = self._handshake
        assert handshake is not None
        if not reply.status or self._step is not _Step.REGISTER:
            self._refuse("the gateway refused the registration", Refusal.HANDSHAKE)
            return
        if not self._adopt_version(reply.protocol_version):
            return
        assert handshake.shared_key is not None
        self._key = handshake.shared_key
        self._handshake = None
        self._upgrade_mode = reply.upgrade_mode
        # Until its handler has ended, a gateway takes this moment for our last authentication.
        self._last_auth = max(self._last_auth, int(now + self._offset))
        self._emit(Registered(self._key))
        self._ready(now)

    def _authenticated(self, reply: wire.AuthenticateReply, now: float) -> None:
        if not reply.status:
            self._refuse("the gateway refused the authentication", Refusal.AUTHENTICATION)
            return
        if not self._adopt_version(reply.protocol_version):
            return
        self._note_balance(reply.bandwidth_remaining, reply.upgrade_mode, now)
        self._ready(now)

    def _adopt_version(self, version: int) -> bool:
        """Take over the version the gateway names, 0 being none; False if it is not ours to speak."""
        if version == 0 or MIN_PROTOCOL_VERSION <= version <= PROTOCOL_VERSION:
            self._version = version or self._version
            return True
        self._refuse(f"the gateway chose protocol {version}, which we do not speak", Refusal.VERSION)
        return False

    def _ready(self, now: float) -> None:
        self.state = ClientState.READY
        self._deadline = None
        self._day = int((now + self._offset) // DAY)
        self._emit(Authenticated(self._bandwidth))
        if self.settings.auto_claim:
            self._claim_if_low(now)
