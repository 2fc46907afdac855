"""A gateway: the clients' way into the mixnet, and the last hop of everything sent to them.

Two faces. To clients it is a websocket server (ws, and wss on a port of its own); the session
itself (registration, authentication, bandwidth, encrypted frames) is
`smolmix_sync.mixnet.gateway.GatewayServerSession`. To the mixnet it is a node: it unwraps
packets that end here, hands the content to its client or keeps it until the client is back,
and sends the acknowledgement that came inside on its way.

Source: spec/gateway.md, chiefly sections 8, 9 and 11.
Run: ``python -m smolmix_sync.localnet.gateway``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from smolmix_sync.crypto import ed25519_public_from_seed
from smolmix_sync.errors import WireError
from smolmix_sync.localnet.process import main
from smolmix_sync.localnet.sphinxnode import SphinxProgram
from smolmix_sync.localnet.tls import Leaf, server_context
from smolmix_sync.mixnet.gateway import (
    ClientAuthenticated,
    ClientForgotten,
    ClientRecord,
    ClientRegistered,
    ClientTable,
    ForwardPacket,
    GatewayServerSession,
    PingWanted,
    ProbeFinished,
    ServerEvent,
    ServerSettings,
    ServerState,
    SessionClosed,
)
from smolmix_sync.mixnet.gateway.final_hop import split_payload_untrusted
from smolmix_sync.mixnet.sphinx import FinalHop, MixFrame

__all__ = ["Gateway"]

# From the specification: the HTTP upgrade must be through by then.
_UPGRADE_TIMEOUT = 1.5
# Ours: no message of the protocol is larger.
_MAX_MESSAGE = 1 << 20
# Ours: how often balances are handed to the supervisor, who gives them back after a kill.
_KEEP_INTERVAL = 1.0


class Gateway(SphinxProgram):
    """A gateway without an exit.

    Counters besides those of `SphinxProgram`: ``from_clients`` (packets), ``delivered`` and ``stored``
    (messages), ``acks_delivered``, ``acks_sent``, ``registrations``, ``authentications``, ``websockets``
    (and how many of them in TLS, ``websockets_tls``). ``packets_in`` counts packets from clients and from links.
    """

    delivers = True

    def __init__(self, config: dict[str, Any], keep: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(config, keep)
        for counter in (
            "from_clients",
            "delivered",
            "stored",
            "acks_delivered",
            "acks_sent",
            "registrations",
        ):
            self.counters[counter] = 0
        self.identity_seed = bytes.fromhex(config["identity_seed"])
        self.identity = ed25519_public_from_seed(self.identity_seed)
        self.clients = ClientTable()
        self.links: dict[GatewayServerSession, _ClientLink] = {}
        #: Clients inside this process (the exit's IP packet router), by address.
        self.local_clients: dict[bytes, Callable[[bytes], None]] = {}
        self._servers: list[asyncio.Server] = []
        self._kept: dict[str, dict[str, Any]] = {}
        for key, record in config.get("kept", {}).items():
            self._kept[key] = record
            values = dict(record)
            values["shared_key"] = bytes.fromhex(values["shared_key"])
            self.clients.records[bytes.fromhex(key)] = ClientRecord(**values)

    async def start(self) -> None:
        """Open the mix listener and both websocket listeners."""
        await super().start()
        loop = asyncio.get_running_loop()
        tls = server_context(Leaf(**self.config["leaf"]))
        for kind, context in (("ws", None), ("wss", tls)):
            address, port = self.config["address"], self.port(kind)
            server = await loop.create_server(
                lambda: _ClientLink(self), address, port, ssl=context, reuse_address=True, backlog=256
            )
            self._servers.append(server)
        self.spawn(self._keep_records())

    async def stop(self) -> None:
        """Close every listener, the websockets and the links."""
        for server in self._servers:
            server.close()
        for link in list(self.links.values()):
            link.end()
        await super().stop()

    @property
    def settings(self) -> ServerSettings:
        """What new sessions are made with."""
        return ServerSettings(enforce_tickets=bool(self.switches.get("enforce_tickets", False)))

    # --- the mixnet's side ---

    def deliver(self, hop: FinalHop, frame: MixFrame) -> None:
        """Hand the content to its client, then send the acknowledgement on its way."""
        try:
            final = split_payload_untrusted(hop.message, frame.key_rotation)
        except WireError:
            self.counters["bad_packets"] += 1
            return
        if final.ack is None:
            self.counters["acks_delivered"] += 1
        local = self.local_clients.get(hop.destination)
        if local is not None:
            self.counters["delivered"] += 1
            local(final.message)
        else:
            session = self.clients.deliver(hop.destination, final.message, time.monotonic())
            self.counters["stored" if session is None else "delivered"] += 1
            if session is not None and session in self.links:
                self.links[session].flush()
        if final.ack is not None:
            self.counters["acks_sent"] += 1
            self.forward(final.ack.first_hop, final.ack.packet, final.ack.key_rotation)

    # --- the clients' side ---

    def session_event(self, link: _ClientLink, event: ServerEvent) -> None:
        """Act on what a session reports."""
        match event:
            case ForwardPacket(packet):
                self.counters["packets_in"] += 1
                self.counters["from_clients"] += 1
                self.forward(packet.first_hop, packet.packet, packet.key_rotation)
            case ClientRegistered():
                self.counters["registrations"] += 1
            case ClientAuthenticated(address):
                self.counters["authentications"] += 1
                self._keep_record(address)
                self._end_replaced_links()
            case ClientForgotten(address):
                self._kept.pop(address.hex(), None)
                self.keep({address.hex(): None})
            case PingWanted(payload):
                link.ping(payload)
            case ProbeFinished(newcomer):
                if newcomer in self.links:
                    self.links[newcomer].flush()
            case _:
                pass

    def _end_replaced_links(self) -> None:
        """Drop connections whose client has just authenticated on another one."""
        for link in list(self.links.values()):
            if link.is_over:
                link.flush()

    def _keep_record(self, address: bytes) -> None:
        """Let the supervisor remember a client, as a real gateway's database does."""
        record = self.clients.records.get(address)
        if record is None:
            return
        value = {
            "shared_key": record.shared_key.hex(),
            "balance": record.balance,
            "expires_day": record.expires_day,
            "last_auth_timestamp": record.last_auth_timestamp,
        }
        key = address.hex()
        if self._kept.get(key) != value:
            self._kept[key] = value
            self.keep({key: value})

    async def _keep_records(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_INTERVAL)
            self.clients.purge(time.monotonic())
            for address in list(self.clients.live):
                self._keep_record(address)

    # --- commands ---

    async def command_stall(self, seconds: float, ping_interval: float = 0.2) -> int:
        """Stop reading from every websocket for a while, pinging meanwhile; return how many there are.

        With a small receive buffer the kernel's window closes soon, as with a gateway that hangs.
        """
        links = list(self.links.values())
        for link in links:
            link.stall(seconds, ping_interval)
        return len(links)

    async def command_disconnect(self) -> int:
        """Drop every websocket's TCP connection; return how many there were."""
        links = list(self.links.values())
        for link in links:
            link.abort()
        return len(links)


class _ClientLink(asyncio.Protocol):
    """One websocket: octets to websocket messages to the session, and back."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._websocket = WSConnection(ConnectionType.SERVER)
        self._session = GatewayServerSession(
            gateway.identity_seed, gateway.clients, urandom=os.urandom, settings=gateway.settings
        )
        self._transport: asyncio.Transport | None = None
        self._open = False
        self._text: list[str] = []
        self._binary: list[bytes] = []
        self._message_size = 0
        self._writable = True
        self._timer: asyncio.TimerHandle | None = None
        self._upgrade_timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether the session has ended."""
        return self._session.state is ServerState.CLOSED

    # --- asyncio's side ---

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._gateway.counters["websockets"] += 1
        self._gateway.counters["websockets_tls"] += transport.get_extra_info("ssl_object") is not None
        self._upgrade_timer = asyncio.get_running_loop().call_later(_UPGRADE_TIMEOUT, self.abort)

    def data_received(self, data: bytes) -> None:
        gateway = self._gateway
        gateway.counters["bytes_in"] += len(data)
        gateway.capture.write(f"client-to-{gateway.name}", data)
        try:
            self._websocket.receive_data(data)
            for event in self._websocket.events():
                self._websocket_event(event)
        except (RemoteProtocolError, LocalProtocolError, UnicodeDecodeError):
            self.abort()
            return
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for timer in (self._timer, self._upgrade_timer):
            if timer is not None:
                timer.cancel()
        self._gateway.links.pop(self._session, None)
        if self._open:
            self._session.connection_lost(time.monotonic())
            self._take_events()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.flush()

    # --- the websocket ---

    def _websocket_event(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Request():
                self._send(AcceptConnection())
                assert self._upgrade_timer is not None
                self._upgrade_timer.cancel()
                self._open = True
                self._gateway.links[self._session] = self
                self._session.start(now, time.time())
            case Message():
                self._message_part(event, now)
            case Ping(payload):
                self._session.receive_ping(bytes(payload), now)
                if self._session.state is ServerState.READY:
                    self._send(event.response())
            case Pong(payload):
                self._session.receive_pong(bytes(payload), now)
            case CloseConnection():
                with contextlib.suppress(LocalProtocolError):
                    self._send(event.response())
                self.end()
            case _:
                pass

    def _message_part(self, event: Message[Any], now: float) -> None:
        self._message_size += len(event.data)
        if self._message_size > _MAX_MESSAGE:
            self.abort()
            return
        if isinstance(event, TextMessage):
            self._text.append(event.data)
        else:
            self._binary.append(bytes(event.data))
        if not event.message_finished:
            return
        self._session.update_clock(now, time.time())
        if isinstance(event, TextMessage):
            self._session.receive_data("".join(self._text), now)
            self._text.clear()
        else:
            self._session.receive_data(b"".join(self._binary), now)
            self._binary.clear()
        self._message_size = 0
        self._take_events()

    def _send(self, event: Event) -> None:
        data = self._websocket.send(event)
        # A write may have found that the client is gone: asyncio says so later, and logs every further one.
        if self._transport is None or self._transport.is_closing():
            return
        gateway = self._gateway
        gateway.counters["bytes_out"] += len(data)
        gateway.capture.write(f"{gateway.name}-to-websockets", data)
        self._transport.write(data)

    # --- the session ---

    def _take_events(self) -> None:
        while (event := self._session.next_event()) is not None:
            if isinstance(event, SessionClosed):
                self._write_output()
                self.end()
            else:
                self._gateway.session_event(self, event)

    def _write_output(self) -> None:
        if not self._writable or self._transport is None:
            return
        for message in self._session.data_to_send(time.monotonic()):
            event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
            try:
                self._send(event)
            except LocalProtocolError:  # the client has closed the websocket
                return

    def flush(self) -> None:
        """Write what the session has to say, as far as the client reads it, and set its timer."""
        if not self._open:
            return
        self._write_output()
        self._take_events()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._session.next_deadline()
        if deadline is not None and self._transport is not None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._deadline)

    def _deadline(self) -> None:
        self._session.update_clock(time.monotonic(), time.time())
        self._session.handle_deadline(time.monotonic())
        self._take_events()
        self.flush()

    def ping(self, payload: bytes) -> None:
        """Send a websocket ping."""
        with contextlib.suppress(LocalProtocolError):
            self._send(Ping(payload=payload))

    def end(self) -> None:
        """Close the TCP connection after what is queued, without a close frame."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the TCP connection."""
        if self._transport is not None:
            self._transport.abort()

    def stall(self, seconds: float, ping_interval: float) -> None:
        """Do not read for a while; ping instead."""
        transport = self._transport
        if transport is None:
            return
        sock: socket.socket = transport.get_extra_info("socket")
        size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel reports the double
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        set_limits = getattr(transport, "set_read_buffer_limits", None)
        if set_limits is not None:  # TLS buffers by itself
            set_limits(high=1024, low=512)
        transport.pause_reading()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds

        def again() -> None:
            if self._transport is None:
                return
            if loop.time() >= end:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
                transport.resume_reading()
                return
            self.ping(b"stalling")
            loop.call_later(ping_interval, again)

        again()


if __name__ == "__main__":
    main(Gateway)
