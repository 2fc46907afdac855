"""The client's side of an IPR session, sans-IO: what ``IpMixStream`` and its users do.

The owner hands every mixnet message that comes from the exit to :meth:`IprClient.receive_data`,
sends what :meth:`IprClient.data_to_send` and :meth:`IprClient.encode_data` return as one mixnet
message each, and follows the events.

Source: sdk/rust/nym-sdk/src/ipr_wrapper; spec/ipr.md sections 6, 8 and 9; design.md section 7.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smolmix_sync.errors import IprError, WireError
from smolmix_sync.ipr.bincode import varint_size
from smolmix_sync.ipr.codec import bundle, unbundle_untrusted
from smolmix_sync.ipr.events import (
    Connected,
    ConnectRefused,
    ConnectTimedOut,
    Disconnected,
    FellBack,
    HealthReceived,
    InfoReceived,
    IprClientEvent,
    KeepaliveDue,
    PacketsReceived,
    PolicyRefused,
    PongReceived,
    parse_destination,
)
from smolmix_sync.ipr.lp import LP_HEADER_SIZE, SEQUENCE_MODULUS, StreamFrame, StreamMessageType
from smolmix_sync.ipr.reasons import ExitPolicyFilterCheckFailed, Reason
from smolmix_sync.ipr.requests import (
    CURRENT_VERSIONS,
    ConnectRequest,
    DataRequest,
    DisconnectRequest,
    HealthRequest,
    PingRequest,
)
from smolmix_sync.ipr.resequencer import Resequencer
from smolmix_sync.ipr.responses import (
    ConnectResponse,
    ControlResponse,
    DataResponse,
    DisconnectResponse,
    HealthResponse,
    PongResponse,
    UnrequestedDisconnect,
    decode_response_untrusted,
)
from smolmix_sync.ipr.values import IpPair, Timestamp

__all__ = [
    "ConnectRefused",
    "ConnectTimedOut",
    "Connected",
    "Disconnected",
    "FellBack",
    "HealthReceived",
    "InfoReceived",
    "IprClient",
    "IprClientConfig",
    "IprClientEvent",
    "IprClientStats",
    "IprState",
    "KeepaliveDue",
    "PacketsReceived",
    "PolicyRefused",
    "PongReceived",
    "bundle_room",
    "data_overhead",
]

# From the specification: version, service provider and tag in front of a request's bundle.
_REQUEST_HEADER_SIZE = 3
_FIRST_IN_LP = 9
# From the specification (RFC 8200 section 5).
_LEAST_MTU = 1280
#: Ours: connect requests remembered after a newer one has taken their place.
_MOST_REPLACED = 16


class IprState(enum.Enum):
    """Where the session stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTING = "disconnecting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class IprClientConfig:
    """Times, in seconds, and bounds of a session.

    Attributes:
        v10_connect_timeout: after this a version 10 session asks again in version 9.
        connect_timeout: after this a connect request of version 8 or 9 has failed.
        connect_retry: how soon an unanswered connect request is made again; longer than the ack layer takes to
            repair a loss, because every request the exit sees makes it hand out other addresses.
        disconnect_timeout: after this a disconnect request counts as answered.
        keepalive_interval: exits forget a client 60 s after its last IP packet.
        keepalive_retry: how soon ``KeepaliveDue`` is repeated when nothing was sent.
        resequence_hold: how long a data message waits for those before it; 0 for not at all.
        resequence_limit: how many data messages may wait.
        pending_requests_limit: unanswered pings, and unanswered health requests, remembered.
        control_queue_limit: control messages waiting for :meth:`IprClient.data_to_send`.
        event_queue_limit: events waiting; beyond it packets and notices are dropped.
        send_open: send an LP Open frame first, as the SDK does.
        buffer_timeout_ms: how long the exit may hold packets to fill a bundle; None for its 20 ms.
    """

    v10_connect_timeout: float = 15.0
    connect_timeout: float = 60.0
    connect_retry: float = 6.0
    disconnect_timeout: float = 5.0
    keepalive_interval: float = 25.0
    keepalive_retry: float = 5.0
    resequence_hold: float = 0.060
    resequence_limit: int = 256
    pending_requests_limit: int = 16
    control_queue_limit: int = 16
    event_queue_limit: int = 4096
    send_open: bool = True
    buffer_timeout_ms: int | None = None

    def __post_init__(self) -> None:
        if self.buffer_timeout_ms is not None and self.buffer_timeout_ms < 1:
            raise ValueError("a buffer time-out below 1 ms makes the exit panic")
        times = (
            self.v10_connect_timeout,
            self.connect_timeout,
            self.connect_retry,
            self.disconnect_timeout,
            self.keepalive_interval,
            self.keepalive_retry,
        )
        if min(times) <= 0:
            raise ValueError("times of a session are positive")


@dataclass(slots=True)
class IprClientStats:
    """Counters of one session.

    ``dropped_foreign`` counts messages of other streams, versions, request ids or states;
    ``resequence_expired`` the times a gap was given up.
    """

    messages_sent: int = 0
    packets_sent: int = 0
    messages_received: int = 0
    packets_received: int = 0
    resequence_expired: int = 0
    dropped_malformed: int = 0
    dropped_foreign: int = 0
    dropped_overflow: int = 0


def data_overhead(version: int, bundle_len: int) -> int:
    """Return the octets that a Data message adds to a bundle of *bundle_len* octets."""
    lp = LP_HEADER_SIZE if version >= _FIRST_IN_LP else 0
    return lp + _REQUEST_HEADER_SIZE + varint_size(bundle_len)


def bundle_room(version: int, message_room: int) -> int:
    """Return the size of the largest bundle whose Data message has at most *message_room* octets.

    The size includes the two octets in front of every packet. It is 0 when there is no room.
    """
    room = message_room - data_overhead(version, 0) + 1
    # A length above 250 takes three octets instead of one, above 65535 five.
    return max(0, min(room - 1, 250), min(room - 3, 0xFFFF), room - 5)


class IprClient:
    """One session with an exit: connect, data both ways, keepalive, disconnect.

    Nothing that arrives raises: what is malformed, of another version, stream or request is
    counted in ``stats`` and dropped, because anyone who knows our address can send us messages.

    Args:
        version: 8 (bare), 9 or 10 (in LP frames); :func:`smolmix_sync.nodeversion.ipr_version_for`.
        stream_id: the LP stream; random if None.
        urandom: source of random octets.
        config: times and bounds.

    Attributes:
        version: what is spoken now; 9 after a version 10 session fell back.
        ips, mtu: what the exit gave us, once connected.
    """

    def __init__(
        self,
        version: int = 9,
        stream_id: int | None = None,
        *,
        urandom: Callable[[int], bytes],
        config: IprClientConfig | None = None,
    ) -> None:
        if version not in CURRENT_VERSIONS:
            raise ValueError("a session speaks version 8, 9 or 10")
        self._urandom = urandom
        self._config = config or IprClientConfig()
        self.version = version
        self.stream_id = self._random_id() if stream_id is None else stream_id
        self.state = IprState.IDLE
        self.ips: IpPair | None = None
        self.mtu: int | None = None
        self.stats = IprClientStats()
        self._unix_offset = 0.0
        self._opened = False
        self._sequence_num = 0
        self._request_id: int | None = None
        #: Connect requests that a newer one has replaced; the exit may still come to them.
        self._replaced: deque[int] = deque(maxlen=_MOST_REPLACED)
        self._request_deadline: float | None = None
        self._retry_at: float | None = None
        self._keepalive: float | None = None
        self._pings: dict[int, float] = {}
        self._healths: dict[int, float] = {}
        self._control: deque[tuple[StreamMessageType, int, bytes]] = deque()
        self._events: deque[IprClientEvent] = deque()
        self._resequencer = self._new_resequencer()

    # Commands

    def connect(self, now: float, unix_now: float) -> None:
        """Queue the Open frame, if it was not sent yet, and a connect request.

        Allowed again after the session is closed, or to get new addresses.

        Args:
            now: monotonic seconds.
            unix_now: seconds since 1970-01-01 UTC at the same moment.

        Raises:
            ValueError: a connect request is under way.
        """
        if self.state is IprState.CONNECTING:
            raise ValueError("a connect request is under way")
        self._unix_offset = unix_now - now
        self._reset()
        if self.version >= _FIRST_IN_LP and self._config.send_open and not self._opened:
            self._control.append((StreamMessageType.OPEN, 0, b""))
            self._opened = True
        self.state = IprState.CONNECTING
        config = self._config
        timeout = config.v10_connect_timeout if self.version == 10 else config.connect_timeout
        self._request_deadline = now + timeout
        self._request_addresses(now)

    def disconnect(self, now: float) -> None:
        """Queue a disconnect request; ``Disconnected`` follows at the latest when it times out.

        A session that is not connected is closed at once, without an event.
        """
        if self.state is not IprState.CONNECTED:
            if self.state is not IprState.DISCONNECTING:
                self._close()
            return
        self._control.clear()
        self.state = IprState.DISCONNECTING
        self._keepalive = None
        self._request_id = self._random_id()
        self._request_deadline = now + self._config.disconnect_timeout
        self._queue_request(DisconnectRequest(self.version, self._request_id, self._timestamp(now)))

    def ping(self, now: float) -> int:
        """Queue a ping and return its request id; ``PongReceived`` may follow.

        A ping proves that the exit lives, but does not keep the session alive there.

        Raises:
            IprError: the session is not connected.
        """
        self._check_connected()
        request_id = self._remember(self._pings, now)
        self._queue_request(PingRequest(self.version, request_id, self._timestamp(now)))
        return request_id

    def health(self, now: float) -> int:
        """Queue a health request and return its request id; ``HealthReceived`` may follow.

        Raises:
            IprError: the session is not connected.
        """
        self._check_connected()
        request_id = self._remember(self._healths, now)
        self._queue_request(HealthRequest(self.version, request_id, self._timestamp(now)))
        return request_id

    def encode_data(self, packets: Sequence[bytes], now: float) -> bytes:
        """Return one Data message with *packets*, to be sent as one mixnet message.

        It takes the next sequence number and restarts the keepalive timer.

        Args:
            packets: IP packets of our own; :meth:`bundle_room` tells how much fits.
            now: monotonic seconds.

        Raises:
            IprError: the session is not connected.
            ValueError: no packets, or one above 65535 octets.
        """
        self._check_connected()
        if not packets:
            raise ValueError("a Data message carries packets")
        message = self._frame(StreamMessageType.DATA, 0, DataRequest(self.version, bundle(packets)).encode())
        self._keepalive = now + self._config.keepalive_interval
        self.stats.packets_sent += len(packets)
        return message

    # Sizes

    def data_overhead(self, bundle_len: int) -> int:
        """Return the octets that a Data message of this session adds to a bundle."""
        return data_overhead(self.version, bundle_len)

    def bundle_room(self, message_room: int) -> int:
        """Return the largest bundle, prefixes included, for a message of *message_room* octets."""
        return bundle_room(self.version, message_room)

    # The five calls of a core

    @property
    def wants_to_send(self) -> bool:
        """Whether :meth:`data_to_send` has control messages."""
        return bool(self._control)

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        """Return control messages, each to be sent as one mixnet message.

        Args:
            now: monotonic seconds.
            room: octets that all of them together may have; the rest stays queued.
        """
        out: list[bytes] = []
        while self._control:
            msg_type, nonce, payload = self._control[0]
            size = len(payload) + (LP_HEADER_SIZE if self.version >= _FIRST_IN_LP else 0)
            if room is not None:
                if size > room:
                    break
                room -= size
            self._control.popleft()
            out.append(self._frame(msg_type, nonce, payload))
        return out

    def receive_data(self, message: bytes, now: float) -> None:
        """Take one mixnet message from the exit."""
        self.stats.messages_received += 1
        sequence_num = 0
        try:
            if self.version >= _FIRST_IN_LP:
                frame = StreamFrame.decode_untrusted(message)
                if frame.stream_id != self.stream_id:
                    self.stats.dropped_foreign += 1
                    return
                if frame.msg_type is not StreamMessageType.DATA:
                    self._receive_stream_control(frame)
                    return
                message, sequence_num = frame.payload, frame.sequence_num
            if message[:1] != bytes((self.version,)):
                self.stats.dropped_foreign += 1
                return
            response = decode_response_untrusted(message, self.version)
        except WireError:
            self.stats.dropped_malformed += 1
            return
        if isinstance(response, DataResponse):
            self._receive_bundle(response.bundle, sequence_num, now)
            return
        # Exits number every control answer 0; one that takes a number must not leave a gap.
        self._deliver(self._resequencer.skip(sequence_num))
        if not self._receive_control(response, now):
            self.stats.dropped_foreign += 1

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`handle_deadline`, or None."""
        deadlines = (self._request_deadline, self._retry_at, self._keepalive, self._resequencer.deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def keepalive_deadline(self) -> float | None:
        """Return when an IP packet of our own is due, or None when not connected."""
        return self._keepalive

    def handle_deadline(self, now: float) -> None:
        """Deal with every deadline that has passed."""
        late = self._resequencer.expire(now)
        if late:
            self.stats.resequence_expired += 1
            self._deliver(late)
        if self._keepalive is not None and self._keepalive <= now:
            self._keepalive = now + self._config.keepalive_retry
            self._emit(KeepaliveDue())
        if self._request_deadline is None or self._request_deadline > now:
            if self._retry_at is not None and self._retry_at <= now:
                self._control.clear()
                self._request_addresses(now)
            return
        if self.state is IprState.DISCONNECTING:
            self._close(Disconnected("the exit did not answer the disconnect request", requested=True))
        elif self.version == 10:
            self.version = 9
            self._control.clear()
            self._emit(FellBack(self.version))
            self._request_deadline = now + self._config.connect_timeout
            self._request_addresses(now)
        else:
            self._close(ConnectTimedOut())

    def next_event(self) -> IprClientEvent | None:
        """Return the oldest event that was not yet taken, or None."""
        return self._events.popleft() if self._events else None

    # Sending

    def _random_id(self) -> int:
        return int.from_bytes(self._urandom(8), "big")

    def _timestamp(self, now: float) -> Timestamp:
        return Timestamp.from_unix(now + self._unix_offset)

    def _new_resequencer(self) -> Resequencer[bytes]:
        # Bare messages have no numbers to order them by.
        hold = self._config.resequence_hold if self.version >= _FIRST_IN_LP else 0.0
        return Resequencer(hold, self._config.resequence_limit)

    def _check_connected(self) -> None:
        if self.state is not IprState.CONNECTED:
            raise IprError("not connected to the exit")

    def _request_addresses(self, now: float) -> None:
        """Queue a connect request. Only the answer to the newest counts: each request takes new addresses."""
        if self._request_id is not None:
            self._replaced.append(self._request_id)
        self._request_id = self._random_id()
        self._retry_at = now + self._config.connect_retry
        self._queue_request(
            ConnectRequest(
                self.version, self._request_id, self._timestamp(now), self._config.buffer_timeout_ms
            )
        )

    def _remember(self, pending: dict[int, float], now: float) -> int:
        """Return a new request id, forgetting the oldest of *pending* when there are too many."""
        if len(pending) >= self._config.pending_requests_limit:
            del pending[next(iter(pending))]
        request_id = self._random_id()
        pending[request_id] = now
        return request_id

    def _queue_request(
        self, request: ConnectRequest | DisconnectRequest | PingRequest | HealthRequest
    ) -> None:
        self._queue(StreamMessageType.DATA, 0, request.encode())

    def _queue(self, msg_type: StreamMessageType, nonce: int, payload: bytes) -> None:
        if len(self._control) >= self._config.control_queue_limit:
            self.stats.dropped_overflow += 1
            return
        self._control.append((msg_type, nonce, payload))

    def _frame(self, msg_type: StreamMessageType, nonce: int, payload: bytes) -> bytes:
        """Return *payload* as a mixnet message; Data frames are numbered here, as they leave."""
        self.stats.messages_sent += 1
        if self.version < _FIRST_IN_LP:
            return payload
        if msg_type is StreamMessageType.DATA:
            nonce = self._sequence_num
            self._sequence_num = (nonce + 1) % SEQUENCE_MODULUS
        return StreamFrame(self.stream_id, msg_type, nonce, payload).encode()

    # Receiving

    def _receive_stream_control(self, frame: StreamFrame) -> None:
        if frame.msg_type is StreamMessageType.PING:
            self._queue(StreamMessageType.PONG, frame.sequence_num, b"")
        elif frame.msg_type is StreamMessageType.OPEN:
            self.stats.dropped_foreign += 1

    def _receive_bundle(self, data: bytes, sequence_num: int, now: float) -> None:
        if self.state not in (IprState.CONNECTED, IprState.DISCONNECTING):
            self.stats.dropped_foreign += 1
            return
        self._deliver(self._resequencer.receive(sequence_num, data, now))

    def _deliver(self, bundles: list[bytes]) -> None:
        packets = [packet for data in bundles for packet in unbundle_untrusted(data)]
        if packets:
            self.stats.packets_received += len(packets)
            self._emit(PacketsReceived(packets))

    def _receive_control(self, response: ControlResponse, now: float) -> bool:
        """Act on a control answer; return False if it is not for this session as it stands."""
        connected = self.state in (IprState.CONNECTED, IprState.DISCONNECTING)
        if isinstance(response, ConnectResponse):
            if self.state is IprState.CONNECTED and response.request_id in self._replaced:
                self._receive_late_connect(response)
                return True
            if self.state is not IprState.CONNECTING or response.request_id != self._request_id:
                return False
            self._receive_connect(response, now)
        elif isinstance(response, DisconnectResponse):
            if self.state is not IprState.DISCONNECTING or response.request_id != self._request_id:
                return False
            self._close(Disconnected(str(response.failure or "disconnected"), requested=True))
        elif isinstance(response, UnrequestedDisconnect):
            if not connected:
                return False
            requested = self.state is IprState.DISCONNECTING
            self._close(Disconnected(str(response.reason), requested))
        elif isinstance(response, PongResponse):
            sent = self._pings.pop(response.request_id, None)
            if sent is None:
                return False
            self._emit(PongReceived(response.request_id, now - sent))
        elif isinstance(response, HealthResponse):
            if self._healths.pop(response.request_id, None) is None:
                return False
            self._emit(HealthReceived(response.request_id, response.build_info, response.routable))
        elif isinstance(response.reply, ExitPolicyFilterCheckFailed):
            destination = response.reply.destination
            self._emit(PolicyRefused(destination, parse_destination(destination)))
        else:
            self._emit(InfoReceived(str(response.reply), response.level))
        return True

    def _receive_connect(self, response: ConnectResponse, now: float) -> None:
        if isinstance(response.reply, Reason):
            self._close(ConnectRefused(str(response.reply)))
            return
        if not response.reply.ips.is_usable:
            self._close(ConnectRefused("the addresses it gives are no host's"))
            return
        self.ips, self.mtu = response.reply.ips, response.reply.mtu
        if self.mtu is not None and self.mtu < _LEAST_MTU:
            self.mtu = None  # nobody who carries IPv6 has less; it is as if none was named
        self.state = IprState.CONNECTED
        self._request_id = self._request_deadline = self._retry_at = None
        self._keepalive = now + self._config.keepalive_interval
        # The exit's handler for the new addresses counts from 1.
        self._resequencer = self._new_resequencer()
        self._emit(Connected(self.ips, self.mtu, self.version))

    def _receive_late_connect(self, response: ConnectResponse) -> None:
        """Take the answer to a request that was resent and overtaken: whose addresses hold now, nobody here can say.

        The exit gives new ones for every request, and drops packets from the old ones without a word.
        """
        if not isinstance(response.reply, Reason) and response.reply.ips != self.ips:
            self._close(Disconnected("an earlier request has changed our addresses", requested=False))

    # State

    def _reset(self) -> None:
        """Forget everything that belongs to the addresses we had."""
        self._deliver(self._resequencer.drain())
        self._control.clear()
        self._pings.clear()
        self._healths.clear()
        self._request_id = self._request_deadline = self._retry_at = self._keepalive = None
        self.ips = self.mtu = None

    def _close(self, event: ConnectRefused | ConnectTimedOut | Disconnected | None = None) -> None:
        self._reset()
        self.state = IprState.CLOSED
        if event is not None:
            self._emit(event)

    def _emit(self, event: IprClientEvent) -> None:
        """Queue *event*; those that a peer can repeat at will are dropped when too many wait."""
        bounded = isinstance(event, PacketsReceived | PolicyRefused | InfoReceived | KeepaliveDue)
        if bounded and len(self._events) >= self._config.event_queue_limit:
            self.stats.dropped_overflow += 1
            return
        self._events.append(event)
