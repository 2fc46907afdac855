"""The exit's side of IPR sessions, sans-IO: what localnet's exit runs.

It follows the exit of nym 1.21 (spec/ipr.md section 7) for versions 8, 9 and 10 and differs
where that one is careless: a packet must come from the client whose address it bears, a
buffer time-out of 0 means the default, a client that is reaped is told, tables are bounded.

Source: service-providers/ip-packet-router/src; spec/ipr.md sections 5 to 7 and 9.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from smolmix_sync.errors import WireError
from smolmix_sync.ipr.codec import MAX_IP_PACKET_SIZE, BundleEncoder, unbundle_untrusted
from smolmix_sync.ipr.ip_header import destination_untrusted, parse_packet_untrusted
from smolmix_sync.ipr.lp import SEQUENCE_MODULUS, StreamFrame, StreamMessageType
from smolmix_sync.ipr.reasons import (
    BuildInfo,
    ConnectFailure,
    DisconnectFailure,
    ExitPolicyFilterCheckFailed,
    InfoLevel,
    Reason,
    UnrequestedReason,
)
from smolmix_sync.ipr.requests import (
    ConnectRequest,
    DataRequest,
    DisconnectRequest,
    PingRequest,
    decode_request_untrusted,
)
from smolmix_sync.ipr.responses import (
    ConnectResponse,
    ConnectSuccess,
    DataResponse,
    DisconnectResponse,
    HealthResponse,
    InfoResponse,
    PongResponse,
    Response,
    UnrequestedDisconnect,
)
from smolmix_sync.ipr.values import IpPair

__all__ = [
    "ClientConnected",
    "ClientDisconnected",
    "IpPacketRouter",
    "PacketAccepted",
    "Policy",
    "RouterConfig",
    "RouterEvent",
    "RouterStats",
    "SendReply",
]

# From the specification.
_FIRST_IN_LP = 9
_CONTROL_RETRANSMISSIONS = 10
_POOL_FIRST, _POOL_LAST = 2, 65534
_POOL_REDRAWS = 100

Policy = Callable[[str, int], bool]
"""``policy(host, port)``: may a packet go there? The port is 0 where there is none."""


def _default_build_info() -> BuildInfo:
    return BuildInfo(binary_name="smolmix-sync-localnet", rustc_channel="python")


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Behaviour and bounds of an exit; times in seconds.

    Attributes:
        versions: which of 8, 9 and 10 are served; others are dropped without an answer.
        mtu: named to version 10 clients.
        bundle_timeout: how long packets for a client wait for others, unless it asks otherwise.
        inactivity_timeout: a client without an accepted packet for longer is removed.
        reap_interval: how often that is checked.
        tell_reaped: send UnrequestedDisconnect to a client that is removed; the real exit does not.
        max_clients: connects beyond it are answered with NoAvailableIp.
        event_queue_limit: events waiting; beyond it packets and replies are dropped.
        stream_extensions: understand the LP message types 2 to 4.
        send_open_ack: answer an LP Open with OpenAck, as exits newer than 1.21 do.
        build_info: the answer to health requests.
    """

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
    build_info: BuildInfo = field(default_factory=_default_build_info)


@dataclass(slots=True)
class SendReply:
    """Send *message* to a client through its SURBs, resending it so many times if unacknowledged."""

    sender_tag: bytes
    message: bytes = field(repr=False)
    max_retransmissions: int


@dataclass(slots=True)
class PacketAccepted:
    """An IP packet of a client, for the network."""

    packet: bytes = field(repr=False)
    sender_tag: bytes


@dataclass(slots=True)
class ClientConnected:
    """A client got its addresses."""

    sender_tag: bytes
    ips: IpPair
    version: int


@dataclass(slots=True)
class ClientDisconnected:
    """A client's addresses are free again; *reason* is "disconnect", "reconnect" or "timeout"."""

    sender_tag: bytes
    ips: IpPair
    reason: str


RouterEvent = SendReply | PacketAccepted | ClientConnected | ClientDisconnected


@dataclass(slots=True)
class RouterStats:
    """Counters of an exit; the ``dropped`` ones count messages, or packets where that is said.

    ``dropped_spoofed`` counts packets whose source is not the sender's, ``dropped_unroutable``
    packets from the network that are for nobody.
    """

    messages_received: int = 0
    packets_accepted: int = 0
    packets_refused: int = 0
    packets_to_clients: int = 0
    clients_reaped: int = 0
    dropped_malformed: int = 0
    dropped_version: int = 0
    dropped_no_tag: int = 0
    dropped_spoofed: int = 0
    dropped_unroutable: int = 0
    dropped_overflow: int = 0


@dataclass(slots=True)
class _Route:
    """How a reply goes back: version, and stream unless bare."""

    sender_tag: bytes
    version: int
    stream_id: int | None

    def wrap(self, sequence_num: int, payload: bytes) -> bytes:
        if self.stream_id is None:
            return payload
        return StreamFrame(self.stream_id, StreamMessageType.DATA, sequence_num, payload).encode()


class _Client:
    """A connected client: its addresses, and the bundle that is being filled for it."""

    __slots__ = (
        "activity",
        "encoder",
        "flush_at",
        "ips",
        "packed",
        "period",
        "route",
        "sequence_num",
        "tick",
    )

    def __init__(self, route: _Route, ips: IpPair, period: float, now: float) -> None:
        self.route = route
        self.ips = ips
        self.packed = (ips.encode()[:4], ips.encode()[4:])
        self.activity = now
        self.encoder = BundleEncoder()
        self.period = period
        # The flush timer ticks from here; every bundle that leaves starts it anew.
        self.tick = now
        self.flush_at: float | None = None
        self.sequence_num = 0

    def add(self, packet: bytes, now: float) -> bytes:
        """Bundle *packet*; return the Data message that is thereby due, or nothing."""
        out = self.encoder.encode(packet)
        if out:
            self.tick = now
        if not len(self.encoder):
            self.flush_at = None
        elif out or self.flush_at is None:
            self.flush_at = self.tick + ((now - self.tick) // self.period + 1) * self.period
        return self._message(out) if out else b""

    def flush(self, now: float) -> bytes:
        """Return the Data message with everything that waits; call it only when something does."""
        self.tick = now
        self.flush_at = None
        return self._message(self.encoder.flush())

    def _message(self, bundle: bytes) -> bytes:
        # 0 is left to control answers, on the wrap too.
        self.sequence_num = (self.sequence_num + 1) % SEQUENCE_MODULUS or 1
        return self.route.wrap(self.sequence_num, DataResponse(self.route.version, bundle).encode())


class IpPacketRouter:
    """The exit: client table, address pool, policy, bundling towards the clients.

    A client is known by its sender tag alone. Whatever the real exit drops is counted and
    dropped; nothing that arrives raises.

    Args:
        urandom: source of random octets, for the addresses.
        policy: says whether a packet may go to an address and port; None allows all.
        config: behaviour and bounds.
    """

    def __init__(
        self,
        *,
        urandom: Callable[[int], bytes],
        policy: Policy | None = None,
        config: RouterConfig | None = None,
    ) -> None:
        self._urandom = urandom
        self._policy = policy
        self._config = config or RouterConfig()
        self.stats = RouterStats()
        self._clients: dict[bytes, _Client] = {}
        self._by_address: dict[bytes, _Client] = {}
        self._reap_at: float | None = None
        self._events: deque[RouterEvent] = deque()

    def addresses(self) -> dict[bytes, IpPair]:
        """Return the addresses of every connected client by its sender tag."""
        return {tag: client.ips for tag, client in self._clients.items()}

    # The calls of a core

    def receive_data(self, message: bytes, sender_tag: bytes | None, now: float) -> None:
        """Take one mixnet message, with the tag of its anonymous sender if it had one."""
        self.stats.messages_received += 1
        if len(self._events) >= self._config.event_queue_limit:
            self.stats.dropped_overflow += 1
            return
        try:
            payload, stream_id = self._unwrap(message, sender_tag)
            if not payload:
                return
            version = payload[0]
            if version not in self._config.versions:
                self.stats.dropped_version += 1
                return
            request = decode_request_untrusted(payload)
        except WireError:
            self.stats.dropped_malformed += 1
            return
        if (stream_id is not None) != (version >= _FIRST_IN_LP):
            self.stats.dropped_version += 1
            return
        if sender_tag is None:
            self.stats.dropped_no_tag += 1
            return
        route = _Route(sender_tag, version, stream_id)
        if isinstance(request, DataRequest):
            for packet in unbundle_untrusted(request.bundle):
                self._receive_packet(packet, route, now)
        elif isinstance(request, ConnectRequest):
            self._connect(request, route, now)
        elif isinstance(request, DisconnectRequest):
            self._disconnect(request, route)
        elif isinstance(request, PingRequest):
            self._answer(route, PongResponse(version, request.request_id))
        else:
            self._answer(route, HealthResponse(version, request.request_id, self._config.build_info))

    def packet_from_network(self, packet: bytes, now: float) -> None:
        """Take one IP packet for a client, chosen by its destination; it waits to be bundled."""
        try:
            client = self._by_address.get(destination_untrusted(packet))
        except WireError:
            client = None
        if client is None or len(packet) > MAX_IP_PACKET_SIZE:
            self.stats.dropped_unroutable += 1
            return
        self.stats.packets_to_clients += 1
        message = client.add(packet, now)
        if message:
            self._emit(SendReply(client.route.sender_tag, message, 0))

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`handle_deadline`, or None."""
        deadlines = [client.flush_at for client in self._clients.values() if client.flush_at is not None]
        if self._reap_at is not None:
            deadlines.append(self._reap_at)
        return min(deadlines, default=None)

    def handle_deadline(self, now: float) -> None:
        """Flush the bundles that are due, and reap clients that were silent for too long."""
        for client in self._clients.values():
            if client.flush_at is not None and client.flush_at <= now:
                self._emit(SendReply(client.route.sender_tag, client.flush(now), 0))
        if self._reap_at is not None and self._reap_at <= now:
            self._reap(now)

    def next_event(self) -> RouterEvent | None:
        """Return the oldest event that was not yet taken, or None."""
        return self._events.popleft() if self._events else None

    # Receiving

    def _unwrap(self, message: bytes, sender_tag: bytes | None) -> tuple[bytes, int | None]:
        """Return the IPR message and its stream, None if bare; the message is empty if there is none."""
        if message[:2] != b"\x03\x00" or len(message) < 16:
            if len(message) < 2:
                raise WireError("too short for a request")
            return message, None
        frame = StreamFrame.decode_untrusted(message, extended=self._config.stream_extensions)
        if frame.msg_type is StreamMessageType.PING:
            self._answer_stream(frame, StreamMessageType.PONG, sender_tag)
        elif frame.msg_type is StreamMessageType.OPEN and self._config.send_open_ack:
            self._answer_stream(frame, StreamMessageType.OPEN_ACK, sender_tag)
        if frame.msg_type in (StreamMessageType.OPEN, StreamMessageType.DATA):
            return frame.payload, frame.stream_id
        return b"", frame.stream_id

    def _answer_stream(
        self, frame: StreamFrame, msg_type: StreamMessageType, sender_tag: bytes | None
    ) -> None:
        if sender_tag is None:
            self.stats.dropped_no_tag += 1
            return
        answer = StreamFrame(frame.stream_id, msg_type, frame.sequence_num).encode()
        self._emit(SendReply(sender_tag, answer, _CONTROL_RETRANSMISSIONS))

    def _receive_packet(self, packet: bytes, route: _Route, now: float) -> None:
        try:
            addresses = parse_packet_untrusted(packet)
        except WireError:
            self.stats.dropped_malformed += 1
            return
        client = self._by_address.get(addresses.source)
        # The real exit does not compare the tag.
        if client is None or client.route.sender_tag != route.sender_tag:
            self.stats.dropped_spoofed += 1
            return
        client.activity = now
        host, port = str(ipaddress.ip_address(addresses.destination)), addresses.port
        if self._policy is None or self._policy(host, port):
            self.stats.packets_accepted += 1
            self._emit(PacketAccepted(packet, route.sender_tag))
            return
        self.stats.packets_refused += 1
        destination = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        refusal = ExitPolicyFilterCheckFailed(destination)
        self._answer(route, InfoResponse(route.version, 0, refusal, InfoLevel.WARN))

    # Clients

    def _connect(self, request: ConnectRequest, route: _Route, now: float) -> None:
        client = self._clients.get(route.sender_tag)
        if client is not None and route.stream_id is not None:
            self._remove(client, "reconnect")
            client = None
        if client is None:
            ips = self._draw_addresses()
            if ips is None:
                failure = Reason(ConnectFailure.NO_AVAILABLE_IP)
                self._answer(route, ConnectResponse(route.version, request.request_id, failure))
                return
            milliseconds = request.buffer_timeout_ms
            period = milliseconds / 1000 if milliseconds else self._config.bundle_timeout
            client = _Client(route, ips, period, now)
            self._clients[route.sender_tag] = client
            for address in client.packed:
                self._by_address[address] = client
            if self._reap_at is None:
                self._reap_at = now + self._config.reap_interval
            self._emit(ClientConnected(route.sender_tag, ips, route.version))
        success = ConnectSuccess(client.ips, self._config.mtu if route.version >= 10 else None)
        self._answer(route, ConnectResponse(route.version, request.request_id, success))

    def _disconnect(self, request: DisconnectRequest, route: _Route) -> None:
        client = self._clients.get(route.sender_tag)
        failure = None
        if client is None:
            failure = Reason(DisconnectFailure.CLIENT_NOT_CONNECTED)
        else:
            self._remove(client, "disconnect")
        self._answer(route, DisconnectResponse(route.version, request.request_id, failure))

    def _draw_addresses(self) -> IpPair | None:
        """Return a free pair out of 10.0.0.0/16 and fc00::/112, or None if none was found."""
        if len(self._clients) >= self._config.max_clients:
            return None
        for _ in range(_POOL_REDRAWS + 1):
            drawn = int.from_bytes(self._urandom(8), "big")
            number = (_POOL_FIRST + drawn % (_POOL_LAST - _POOL_FIRST + 1)).to_bytes(2, "big")
            pair = IpPair.decode_untrusted(b"\x0a\x00" + number + b"\xfc" + bytes(13) + number)
            if pair.encode()[:4] not in self._by_address:
                return pair
        return None

    def _remove(self, client: _Client, reason: str) -> None:
        del self._clients[client.route.sender_tag]
        for address in client.packed:
            del self._by_address[address]
        self._emit(ClientDisconnected(client.route.sender_tag, client.ips, reason))

    def _reap(self, now: float) -> None:
        for client in list(self._clients.values()):
            if now - client.activity > self._config.inactivity_timeout:
                self.stats.clients_reaped += 1
                self._remove(client, "timeout")
                if self._config.tell_reaped:
                    reason = Reason(UnrequestedReason.CLIENT_MIXNET_TRAFFIC_TIMEOUT)
                    self._answer(client.route, UnrequestedDisconnect(client.route.version, reason))
        self._reap_at = now + self._config.reap_interval if self._clients else None

    # Events

    def _answer(self, route: _Route, response: Response) -> None:
        """Send a control answer; all of them bear the number 0."""
        message = route.wrap(0, response.encode())
        self._emit(SendReply(route.sender_tag, message, _CONTROL_RETRANSMISSIONS))

    def _emit(self, event: RouterEvent) -> None:
        # The client table bounds the other two, and a full queue takes no more messages.
        bounded = isinstance(event, SendReply | PacketAccepted)
        if bounded and len(self._events) >= self._config.event_queue_limit:
            self.stats.dropped_overflow += 1
            return
        self._events.append(event)
