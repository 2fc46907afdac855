"""The network behind an exit, without a TUN device and without root.

A real exit writes its clients' IP packets to a TUN device, and the kernel routes them. This one
ends TCP and UDP in `smolmix_sync.netstack`, which here answers for every address, and
carries the content to services on loopback. Which address is what is in the host table.

Source: design.md decision 18.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smolmix_sync.localnet.config import Behaviour, Host
from smolmix_sync.netstack import Stack, StackConfig, TcpSettings
from smolmix_sync.netstack.connection import Conn
from smolmix_sync.netstack.events import CLOSED, ERROR, HUP, READABLE, WRITABLE
from smolmix_sync.netstack.listener import Incoming, Refusal
from smolmix_sync.netstack.udp import Datagram

__all__ = ["Relay"]

_log = logging.getLogger("smolmix_sync.localnet")

_LOOPBACK = "127.0.0.1"
_CONNECT_TIMEOUT = 10.0
_CHUNK = 65536
#: Ours: a UDP conversation is forgotten after this silence, and there are at most so many.
_UDP_IDLE = 60.0
_MAX_UDP = 1024


class Relay:
    """Takes the clients' IP packets and gives back what the world answers.

    Args:
        hosts: the host table.
        services: loopback port of each service by name.
        mtu: the largest packet to and from clients.
        counters: ``tcp_connections``, ``tcp_refused``, ``udp_datagrams``, ``unreachable``, ``relayed_in`` and
            ``relayed_out`` (octets of content from and to clients) are counted here.
        wake: called when the stack has output or a new deadline for a reason other than `receive`.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        services: Mapping[str, int],
        mtu: int,
        counters: Counter[str],
        wake: Callable[[], None],
    ) -> None:
        # What a server on the internet would have: with less, its buffer and not the mixnet bounds a download.
        settings = TcpSettings(nodelay=True, sndbuf=4 << 20)
        config = StackConfig(
            tcp=settings, rx_mtu=mtu, tx_mtu=mtu, echo_rate=1000.0, icmp_rate=1000.0, max_incoming=1024
        )
        self.stack = Stack("10.0.0.1", "fc00::1", config=config, urandom=os.urandom, any_address=True)
        self._hosts = {str(ipaddress.ip_address(a)): host for host in hosts for a in host.addresses}
        self._services = services
        self.counters = counters
        self.wake = wake
        self._flows: dict[Conn, _TcpFlow] = {}
        self._udp: dict[tuple[tuple[str, int], tuple[str, int]], _UdpFlow] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the clients' side ---

    def receive(self, packet: bytes, now: float) -> None:
        """Take one IP packet of a client, already allowed by the policy."""
        destination = _destination(packet)
        host = self._hosts.get(destination)
        if host is None or host.behaviour != Behaviour.SERVICE:
            behaviour = Behaviour.UNREACHABLE if host is None else host.behaviour
            # The stack would answer echo requests to any address.
            if behaviour == Behaviour.SILENT or (_is_icmp(packet) and behaviour == Behaviour.UNREACHABLE):
                return
        self.stack.receive_data(packet, now)
        self.run_events()

    def data_to_send(self, now: float) -> list[bytes]:
        """Return the IP packets that may go to clients now."""
        return self.stack.data_to_send(now)

    def next_deadline(self) -> float | None:
        """Return when `handle_deadline` wants to be called; now or earlier: there is output."""
        return self.stack.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Run the stack's timers."""
        self.stack.handle_deadline(now)
        self.run_events()

    def run_events(self) -> None:
        """Act on what the stack reports."""
        for obj, mask in self.stack.events():
            if isinstance(obj, Incoming):
                self._incoming(obj)
            elif isinstance(obj, Datagram):
                self._datagram(obj)
            elif isinstance(obj, Conn) and obj in self._flows:
                self._flows[obj].stack_event(mask)

    # --- TCP ---

    def _incoming(self, incoming: Incoming) -> None:
        target = self._target(incoming.local, "tcp")
        if isinstance(target, Refusal):
            self.counters["tcp_refused"] += 1
            incoming.refuse(target)
            return
        task = asyncio.get_running_loop().create_task(self._connect(incoming, target))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, incoming: Incoming, port: int) -> None:
        """Open the connection to the service first: the client's handshake then says the truth."""
        flow = _TcpFlow(self)
        try:
            connecting = asyncio.get_running_loop().create_connection(lambda: flow, _LOOPBACK, port)
            await asyncio.wait_for(connecting, _CONNECT_TIMEOUT)
        except OSError as error:
            self.counters["tcp_refused"] += 1
            refused = isinstance(error, ConnectionRefusedError)
            incoming.refuse(Refusal.RST if refused else Refusal.HOST_UNREACHABLE)
            self.wake()
            return
        conn = incoming.accept()
        if conn.error:  # the client has given up meanwhile
            flow.abort()
            return
        self.counters["tcp_connections"] += 1
        self._flows[conn] = flow
        flow.attach(conn)
        self.wake()

    def forget(self, conn: Conn) -> None:
        """Drop the flow of a connection that is over."""
        self._flows.pop(conn, None)

    # --- UDP ---

    def _datagram(self, datagram: Datagram) -> None:
        self.counters["udp_datagrams"] += 1
        target = self._target(datagram.dst, "udp")
        if isinstance(target, Refusal):
            datagram.refuse(Refusal.PORT_UNREACHABLE if target is Refusal.RST else target)
            return
        key = (datagram.src, datagram.dst)
        flow = self._udp.get(key)
        if flow is None:
            while len(self._udp) >= _MAX_UDP:
                self._udp.pop(next(iter(self._udp))).close()
            flow = self._udp[key] = _UdpFlow(self, datagram, target, lambda: self._udp.pop(key, None))
        flow.send(datagram)

    # --- the host table ---

    def _target(self, destination: tuple[str, int], protocol: str) -> int | Refusal:
        """Return the loopback port that *destination* stands for, or how it is refused."""
        address, port = destination
        host = self._hosts.get(str(ipaddress.ip_address(address)))
        if host is None or host.behaviour == Behaviour.UNREACHABLE:
            self.counters["unreachable"] += 1
            return Refusal.HOST_UNREACHABLE
        if host.behaviour == Behaviour.SILENT:
            return Refusal.DROP
        table = host.tcp if protocol == "tcp" else host.udp
        service = table.get(port) if host.behaviour == Behaviour.SERVICE else None
        if service is None:
            return Refusal.RST
        return service if isinstance(service, int) else self._services[service]

    def close(self) -> None:
        """Drop every conversation."""
        for task in self._tasks:
            task.cancel()
        for flow in list(self._flows.values()):
            flow.abort()
        for udp in list(self._udp.values()):
            udp.close()


class _TcpFlow(asyncio.Protocol):
    """One client connection and its connection to a service; each waits for the other's buffers."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._conn: Conn | None = None
        self._transport: asyncio.Transport | None = None
        self._unsent = bytearray()  # from the service, no room in the stack yet
        self._service_eof = False
        self._client_eof = False
        self._service_writable = True

    def attach(self, conn: Conn) -> None:
        """Begin, the client's side being accepted."""
        self._conn = conn
        if self._transport is None:  # the service has closed in between
            conn.abort()
            return
        self._to_client()

    # --- from the service ---

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unsent += data
        self._to_client()
        self._relay.wake()

    def eof_received(self) -> bool:
        self._service_eof = True
        self._to_client()
        self._relay.wake()
        return True  # the other direction stays open

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        conn = self._conn
        if conn is None:
            return
        if error is not None or not self._service_eof:
            conn.abort()
            self._relay.forget(conn)
            self._relay.wake()

    def pause_writing(self) -> None:
        self._service_writable = False

    def resume_writing(self) -> None:
        self._service_writable = True
        self._to_service()
        self._relay.wake()

    # --- from the client ---

    def stack_event(self, mask: int) -> None:
        """Act on what the stack reports about the client's connection."""
        conn = self._conn
        assert conn is not None
        if mask & (READABLE | HUP):
            self._to_service()
        if mask & WRITABLE:
            self._to_client()
        if mask & ERROR or conn.error:
            self.abort()
            self._relay.forget(conn)
        elif mask & CLOSED:
            self._relay.forget(conn)
            if self._transport is not None:
                self._transport.close()

    def _to_service(self) -> None:
        conn, transport = self._conn, self._transport
        if conn is None:
            return
        while self._service_writable and conn.readable():
            data = conn.recv(_CHUNK)
            self._relay.counters["relayed_in"] += len(data)
            if transport is not None:
                transport.write(data)
        if conn.eof() and not self._client_eof:
            self._client_eof = True
            if transport is not None and not transport.is_closing():
                with contextlib.suppress(OSError):  # the service has reset it
                    transport.write_eof()
            self._finish()

    def _to_client(self) -> None:
        conn, transport = self._conn, self._transport
        if conn is None:
            return
        try:
            sent = conn.send(self._unsent) if self._unsent else 0
        except OSError:
            self.abort()
            return
        del self._unsent[:sent]
        self._relay.counters["relayed_out"] += sent
        if transport is not None and not transport.is_closing():
            if self._unsent:
                transport.pause_reading()
            elif not self._service_eof:
                transport.resume_reading()
        if self._service_eof and not self._unsent:
            with contextlib.suppress(OSError):
                conn.shutdown_write()
            self._finish()

    def _finish(self) -> None:
        """Close both once both directions have ended."""
        if self._client_eof and self._service_eof and not self._unsent and self._conn is not None:
            self._conn.close()
            if self._transport is not None:
                self._transport.close()

    def abort(self) -> None:
        """Reset both sides."""
        if self._transport is not None:
            # The service sees a reset, as it would from a client that resets.
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        if self._conn is not None and not self._conn.error:
            self._conn.abort()


class _UdpFlow:
    """One client port talking to one destination port."""

    def __init__(self, relay: Relay, first: Datagram, port: int, forget: Callable[[], object]) -> None:
        self._relay = relay
        self._client, self._server = first.src, first.dst
        self._last = first
        self._forget = forget
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.connect((_LOOPBACK, port))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._readable)
        self._used = time.monotonic()
        self._timer = self._loop.call_later(_UDP_IDLE, self._idle)

    def send(self, datagram: Datagram) -> None:
        """Pass a datagram on."""
        self._last = datagram
        self._used = time.monotonic()
        self._relay.counters["relayed_in"] += len(datagram.payload)
        try:
            self._sock.send(datagram.payload)
        except OSError as error:
            self._failed(error)

    def _readable(self) -> None:
        try:
            payload = self._sock.recv(65535)
        except OSError as error:
            self._failed(error)
            return
        self._used = time.monotonic()
        self._relay.counters["relayed_out"] += len(payload)
        self._relay.stack.send_udp(self._server, self._client, payload)
        self._relay.wake()

    def _failed(self, error: OSError) -> None:
        if error.errno == errno.ECONNREFUSED:  # the service is not there: the kernel told us by ICMP
            self._last.refuse(Refusal.PORT_UNREACHABLE)
            self._relay.wake()

    def _idle(self) -> None:
        left = self._used + _UDP_IDLE - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._idle)
        else:
            self._forget()
            self.close()

    def close(self) -> None:
        """Release the socket."""
        self._timer.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()


def _destination(packet: bytes) -> str:
    """Return the destination address of an IP packet that the router has already checked."""
    if packet[0] >> 4 == 6:
        return str(ipaddress.IPv6Address(packet[24:40]))
    return str(ipaddress.IPv4Address(packet[16:20]))


def _is_icmp(packet: bytes) -> bool:
    return (packet[6] == 58) if packet[0] >> 4 == 6 else (packet[9] == 1)
