"""The stack: addresses, tables of sockets, and the face its owner drives.

Source: spec/netstack.md section 7; conventions.md section 3.
"""

from __future__ import annotations

import errno as _errno
from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING

from smolmix_sync.errors import WireError
from smolmix_sync.netstack import addresses, icmp, ipv4, ipv6
from smolmix_sync.netstack import udp as udp_codec
from smolmix_sync.netstack.arrival import apply_syn
from smolmix_sync.netstack.config import StackConfig, TcpSettings
from smolmix_sync.netstack.connection import Conn
from smolmix_sync.netstack.counters import Counters
from smolmix_sync.netstack.events import INCOMING, EventQueue
from smolmix_sync.netstack.hostaddresses import HostAddresses
from smolmix_sync.netstack.ingress import Ingress, reset_for
from smolmix_sync.netstack.ip import ICMP, ICMPV6, UDP, IpPacket
from smolmix_sync.netstack.listener import Incoming, Listener, Refusal
from smolmix_sync.netstack.pathmtu import PathMtuCache
from smolmix_sync.netstack.ping import Ping
from smolmix_sync.netstack.ports import Bindings, EphemeralPorts
from smolmix_sync.netstack.recovery import RttEstimator
from smolmix_sync.netstack.scheduler import Scheduler
from smolmix_sync.netstack.secretnumbers import SecretNumbers
from smolmix_sync.netstack.segment import Segment, SegmentWriter
from smolmix_sync.netstack.seqnum import MASK
from smolmix_sync.netstack.states import State
from smolmix_sync.netstack.timeouts import expire
from smolmix_sync.netstack.udp import Datagram, PacketQueue, Udp

if TYPE_CHECKING:
    from smolmix_sync.netstack.events import StackObject

__all__ = ["Stack"]

# Ours (as Linux): room after the last number of the connection before, more than an unscaled window.
_BEYOND_OLD = 65537


class Stack:
    """A host with one IPv4 and one IPv6 address.

    Args:
        v4: our IPv4 address, or None.
        v6: our IPv6 address, or None.
        config: settings; the defaults suit a paced mixnet.
        urandom: source of random octets.
        loopback: serve 127/8, ::1 and our own addresses inside the stack.
        loopback_delay: seconds such a packet takes.
        any_address: accept packets to every destination and raise INCOMING (an exit's side).

    ``counters`` has the named counters of every packet and every drop.
    """

    def __init__(
        self,
        v4: str | None,
        v6: str | None = None,
        *,
        config: StackConfig | None = None,
        urandom: Callable[[int], bytes],
        loopback: bool = False,
        loopback_delay: float = 0.0,
        any_address: bool = False,
    ) -> None:
        self.config = config or StackConfig()
        self.counters = Counters()
        self._retransmissions_of_the_gone = 0
        self.any_address = any_address
        self._addresses = HostAddresses(loopback=loopback, any_address=any_address)
        self.connections: dict[bytes, Conn] = {}
        self.listeners: Bindings[Listener] = Bindings()
        self.udp_sockets: Bindings[Udp] = Bindings()
        self.pings: dict[int, Ping] = {}
        self.incoming: dict[bytes, Incoming] = {}
        self._loopback_delay = loopback_delay
        self._loop_packets: deque[tuple[float, bytes]] = deque()
        self._down = 0
        self._rx_mtu = self.config.rx_mtu
        self._tx_mtu = self.config.tx_mtu
        self._numbers = SecretNumbers(urandom)
        self._ports = EphemeralPorts(self.config.port_min, self.config.port_max, self._numbers)
        self._path_mtu = PathMtuCache(self.config.pmtu_entries, self.config.pmtu_lifetime)
        self._handshakes = RttEstimator(self.config)
        self._events = EventQueue()
        self._scheduler = Scheduler(self.config, self.counters)
        self._ingress = Ingress(self)
        self._raw = PacketQueue(self.config.udp_sndbuf)
        self._datagrams = 0
        self._retired: tuple[bytes, int] | None = None
        self.set_addresses(v4, v6)

    # -- below: packets and time

    @property
    def now(self) -> float:
        """The latest time the stack was told."""
        return self._scheduler.now

    @property
    def v4(self) -> str | None:
        """Our IPv4 address."""
        return addresses.unpack(self._addresses.v4) if self._addresses.v4 is not None else None

    @property
    def v6(self) -> str | None:
        """Our IPv6 address."""
        return addresses.unpack(self._addresses.v6) if self._addresses.v6 is not None else None

    def receive_data(self, packet: bytes, now: float) -> None:
        """Take one IP packet. Never raises on its content: bad packets are dropped and counted."""
        self._scheduler.now = now
        self._ingress.receive(packet, now, local=False)

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        """Return IP packets that may leave now, most urgent first.

        Args:
            now: seconds.
            room: octets left in the bundle, counting 2 for each packet's length prefix; None: no limit.
                Give at least a full packet's worth at the start of a bundle; a smaller first segment is
                cut to fit, a second one waits.
        """
        self.handle_deadline(now)
        packets = self._scheduler.pull(now, room)
        if packets:
            self.counters.packets_out += len(packets)
            self.counters.octets_out += sum(map(len, packets))
        return packets

    def next_deadline(self) -> float | None:
        """Return when to call ``handle_deadline`` or, when it is past, ``data_to_send``; None when idle.

        Output that is ready now counts as the deadline ``0.0``.
        """
        scheduler = self._scheduler
        if scheduler.loop or scheduler.ready():
            return 0.0
        due = scheduler.next_timer()
        if self._loop_packets:
            due = min(due, self._loop_packets[0][0])
        fragments = self._ingress.reassembler.next_deadline()
        if fragments is not None:
            due = min(due, fragments)
        if self.incoming:
            due = min(due, next(iter(self.incoming.values())).deadline)
        return None if due == inf else due

    def handle_deadline(self, now: float) -> None:
        """Run every timer that is due, and the loopback exchange."""
        scheduler = self._scheduler
        scheduler.now = now
        for conn in scheduler.due(now):
            expire(conn, now)
            scheduler.touch(conn)
        if len(self._ingress.reassembler):
            expired = self._ingress.reassembler.expire(now)
            self.counters.drops["fragment_timeout"] += expired
        while self.incoming:
            request = next(iter(self.incoming.values()))
            if request.deadline > now:
                break
            del self.incoming[request.key]
        if scheduler.loop or self._loop_packets:
            self._exchange_loopback(now)

    def _exchange_loopback(self, now: float) -> None:
        """Carry packets between sockets of this stack until nothing is due.

        It ends because the application does not run in between: buffers fill.
        """
        scheduler = self._scheduler
        packets = self._loop_packets
        due = now + self._loopback_delay
        while True:
            while scheduler.loop:
                conn = scheduler.loop.popleft()
                packets.extend([(due, packet) for packet in scheduler.drain(conn, now)])
            if not packets or packets[0][0] > now:
                return
            self._ingress.receive(packets.popleft()[1], now, local=True)

    def pending(self) -> tuple[int, int]:
        """Return octets waiting to be pulled: (urgent, bulk). An estimate."""
        return self._scheduler.pending()

    def set_mtu(self, tx: int, rx: int) -> None:
        """Change the MTUs; live connections send smaller segments from now on."""
        self._tx_mtu, self._rx_mtu = tx, rx
        for conn in list(self.connections.values()):
            if not conn.loop:
                conn.lower_mtu(tx)

    def set_addresses(self, v4: str | None, v6: str | None) -> None:
        """Change our addresses; connections bound to a lost one get ENETDOWN."""
        self._addresses.assign(v4, v6)
        self._down = 0
        for conn in list(self.connections.values()):
            if not self._addresses.is_ours(conn.writer.source):
                conn.fail(_errno.ENETDOWN)

    def shutdown(self, errno: int) -> None:
        """End every connection and socket with *errno* without a packet.

        New sockets are refused with it until ``set_addresses``.
        """
        self._down = errno
        for conn in list(self.connections.values()):
            conn.fail(errno)
        for socket in self.udp_sockets:
            socket.fail(errno)
        self.incoming.clear()
        self._loop_packets.clear()
        self._scheduler.clear()

    # -- above: sockets

    def connect(
        self,
        addr: str,
        port: int,
        now: float,
        *,
        local_address: str | None = None,
        local_port: int = 0,
        settings: TcpSettings | None = None,
    ) -> Conn:
        """Start an active open; CONNECTED or ERROR follows.

        Raises:
            OSError: ENETUNREACH (no address of that family), EADDRNOTAVAIL (ports or a foreign local
                address), EADDRINUSE (explicit local_port taken for this peer), ENOBUFS (table full).
        """
        self._scheduler.now = now
        destination = self.destination(addr)
        preferred = addresses.pack(local_address) if local_address is not None else b""
        source = self.source_for(destination, preferred)
        if self._is_full():
            raise OSError(_errno.ENOBUFS, "connection table is full")
        pair = destination + source
        tail = port.to_bytes(2, "big")
        if local_port:
            old = self.connections.get(pair + tail + local_port.to_bytes(2, "big"))
            if old is not None:
                if old.state is not State.TIME_WAIT:
                    raise OSError(_errno.EADDRINUSE, "address in use")
                old.finish()
                self.retire(old)
        else:
            local_port = self._ports.for_connection(
                pair + tail, lambda number: pair + tail + number.to_bytes(2, "big") in self.connections
            )
        conn = self._make(source, local_port, destination, port, settings or self.config.tcp)
        conn.state = State.SYN_SENT
        conn.syn_wanted = True
        self.touch(conn)
        return conn

    def listen(
        self,
        addr: str | None,
        port: int,
        backlog: int = 128,
        *,
        settings: TcpSettings | None = None,
        v6only: bool = False,
    ) -> Listener:
        """Listen on *port* (0: choose) of *addr* (None: every address; "0.0.0.0"; "::").

        Raises:
            OSError: EADDRINUSE, EADDRNOTAVAIL.
        """
        self._check_up()
        address = self._addresses.bindable(addr)
        port = self._bindable_port(self.listeners, address, port, v6only)
        listener = Listener(self, address, port, backlog, settings or self.config.tcp, v6only)
        self.listeners.add(listener)
        return listener

    def udp(
        self, addr: str | None = None, port: int = 0, *, v6only: bool = False, reuse: bool = False
    ) -> Udp:
        """Open a UDP socket on *port* (0: choose).

        With *reuse* (SO_REUSEADDR or SO_REUSEPORT) sockets of the same kind may
        share the port; a datagram goes to the one that fits best.

        Raises:
            OSError: EADDRINUSE, EADDRNOTAVAIL.
        """
        self._check_up()
        address = self._addresses.bindable(addr)
        if not (port and reuse and all(other.reuse for other in self.udp_sockets.at(port))):
            port = self._bindable_port(self.udp_sockets, address, port, v6only)
        socket = Udp(
            self,
            address,
            port,
            sndbuf=self.config.udp_sndbuf,
            rcvbuf=self.config.udp_rcvbuf,
            v6only=v6only,
            reuse=reuse,
        )
        self.udp_sockets.add(socket)
        return socket

    def ping(self, ident: int | None = None) -> Ping:
        """Open an echo socket.

        Raises:
            OSError: EADDRINUSE, the identifier is taken.
        """
        if ident is None:
            ident = self._numbers.random16()
            while ident in self.pings:
                ident = (ident + 1) & 0xFFFF
        elif ident in self.pings:
            raise OSError(_errno.EADDRINUSE, "echo identifier in use")
        ping = self.pings[ident] = Ping(self, ident)
        return ping

    def send_udp(self, src: tuple[str, int], dst: tuple[str, int], payload: bytes) -> None:
        """Queue a datagram from any source address (``any_address`` stacks); dropped when the queue is full."""
        source, destination = addresses.pack(src[0]), addresses.pack(dst[0])
        data = udp_codec.encode(source, src[1], destination, dst[1], payload)
        self.send_raw(source, destination, UDP, data)

    def events(self) -> Iterator[tuple[StackObject, int]]:
        """Yield (object, mask) until there is no news; masks are in ``events``."""
        while (item := self.next_event()) is not None:
            yield item

    def next_event(self) -> tuple[StackObject, int] | None:
        """Take one report, or None."""
        item = self._events.pop()
        if item is not None and isinstance(item[0], Datagram):
            self._datagrams -= 1
        return item

    # -- addresses and ports

    @property
    def own(self) -> frozenset[bytes]:
        """Our addresses, packed."""
        return self._addresses.own

    def _check_up(self) -> None:
        if self._down:
            raise OSError(self._down, "stack is down")

    def destination(self, addr: str) -> bytes:
        """Return what a user's address means: the unspecified one is this host, as in Linux."""
        return self._addresses.destination(addr)

    def source_for(self, destination: bytes, preferred: bytes) -> bytes:
        """Return our address towards *destination*; *preferred* is the bound one, empty if none.

        Raises:
            OSError: ENETDOWN, ENETUNREACH, EADDRNOTAVAIL.
        """
        self._check_up()
        return self._addresses.source_for(destination, preferred)

    def _bindable_port(
        self, table: Bindings[Listener] | Bindings[Udp], address: bytes, port: int, v6only: bool
    ) -> int:
        if port == 0:
            return self._ports.for_binding(lambda number: table.taken(address, number, v6only))
        if table.taken(address, port, v6only):
            raise OSError(_errno.EADDRINUSE, "address in use")
        return port

    @property
    def tcp_retransmissions(self) -> int:
        """TCP segments sent again, SYNs included, by all connections there are and were."""
        return self._retransmissions_of_the_gone + sum(c.retransmissions for c in self.connections.values())

    # -- for connections and sockets

    def touch(self, conn: Conn) -> None:
        """Look again at what *conn* wants to send and when it wants to be woken."""
        self._scheduler.touch(conn)

    def forget(self, conn: Conn) -> None:
        """Take *conn* out of the table."""
        if self.connections.get(conn.key) is conn:
            del self.connections[conn.key]
            self._retransmissions_of_the_gone += conn.retransmissions
        if conn.listener is not None:
            conn.listener.gone(conn)

    def report(self, obj: StackObject, mask: int) -> None:
        """Queue an event; what nobody accepted yet stays silent."""
        if isinstance(obj, Conn) and obj.listener is not None:
            return
        self._events.add(obj, mask)

    def handshake_done(self, conn: Conn) -> None:
        """Hand a passively opened connection to its listener."""
        if conn.listener is not None:
            conn.listener.established(conn)

    def note_handshake(self, rtt: float) -> None:
        """Learn from one handshake what the next SYN should expect of the tunnel."""
        self._handshakes.sample(rtt)

    def send_control(self, packet: bytes, destination: bytes) -> None:
        """Queue a packet before everything else."""
        if self._addresses.is_local(destination):
            self._send_local(packet)
        else:
            self._scheduler.add_control(packet)

    def _send_local(self, packet: bytes) -> None:
        if len(self._loop_packets) >= self.config.max_control:
            self.counters.drop("loopback_full")
        else:
            self._loop_packets.append((self.now + self._loopback_delay, packet))

    def _packets(
        self, source: bytes, destination: bytes, protocol: int, data: bytes, mtu: int
    ) -> list[bytes]:
        if len(source) == 4:
            if len(data) + ipv4.HEADER_SIZE <= mtu:
                return [ipv4.encode(source, destination, protocol, data)]
            return ipv4.fragment(source, destination, protocol, data, mtu, self._numbers.random16())
        if len(data) + ipv6.HEADER_SIZE <= mtu:
            return [ipv6.encode(source, destination, protocol, data)]
        return ipv6.fragment(source, destination, protocol, data, mtu, self._numbers.random32())

    def _queue_packets(
        self, queue: PacketQueue, source: bytes, destination: bytes, protocol: int, data: bytes
    ) -> bool:
        """Queue an IP payload, in fragments if need be; False when the queue is full."""
        if self._addresses.is_local(destination):
            for packet in self._packets(source, destination, protocol, data, self.config.loopback_mtu):
                self._send_local(packet)
            return True
        mtu = self._path_mtu.get(destination, min(self._tx_mtu, self.config.datagram_mtu), self.now)
        if not queue.add(self._packets(source, destination, protocol, data, mtu)):
            return False
        self._scheduler.add_queue(queue)
        return True

    def send_raw(self, source: bytes, destination: bytes, protocol: int, data: bytes) -> None:
        """Queue an IP payload that belongs to no socket."""
        if not self._queue_packets(self._raw, source, destination, protocol, data):
            self.counters.drop("raw_queue_full")

    def queue_udp(self, udp: Udp, source: bytes, destination: bytes, port: int, payload: bytes) -> bool:
        """Queue a socket's datagram; False when its queue is full."""
        data = udp_codec.encode(source, udp.local[1], destination, port, payload)
        return self._queue_packets(udp.output, source, destination, UDP, data)

    def close_udp(self, udp: Udp) -> None:
        """Release a UDP port."""
        self.udp_sockets.remove(udp)

    def send_echo(self, destination: bytes, ident: int, seq: int, payload: bytes) -> None:
        """Queue an echo request.

        Raises:
            OSError: ENETUNREACH; ENOBUFS when too much waits.
        """
        source = self.source_for(destination, b"")
        data = icmp.echo(source, destination, ident, seq, payload)
        if not self._queue_packets(
            self._raw, source, destination, ICMP if len(source) == 4 else ICMPV6, data
        ):
            raise OSError(_errno.ENOBUFS, "send queue is full")

    def close_ping(self, ping: Ping) -> None:
        """Release an echo identifier."""
        self.pings.pop(ping.ident, None)

    def stop_listening(self, listener: Listener) -> None:
        """Release a listening port."""
        self.listeners.remove(listener)

    def lower_path_mtu(self, destination: bytes, mtu: int, current: int) -> None:
        """Apply a router's word about the path to *destination*."""
        if not self._path_mtu.lower(destination, mtu, current, self.now):
            raise WireError("icmp_unmatched")
        for conn in list(self.connections.values()):
            if conn.writer.destination == destination:
                conn.lower_mtu(mtu)

    # -- passive opens

    def _make(
        self, source: bytes, source_port: int, destination: bytes, port: int, settings: TcpSettings
    ) -> Conn:
        loop = self._addresses.is_local(destination)
        key = destination + source + port.to_bytes(2, "big") + source_port.to_bytes(2, "big")
        now = self.now
        label = self._numbers.flow_label(key) if len(source) == 16 else 0
        conn = Conn(
            self,
            SegmentWriter(source, source_port, destination, port, label),
            settings,
            self.config,
            key=key,
            iss=self._first_number(key, now),
            ts_offset=self._numbers.timestamp_offset(key[:-4]),
            tx_mtu=self.config.loopback_mtu if loop else self._path_mtu.get(destination, self._tx_mtu, now),
            rx_mtu=self.config.loopback_mtu if loop else self._rx_mtu,
            loop=loop,
        )
        if not loop:
            conn.rtt.rto = max(self.config.rto_initial, self._handshakes.rto)
        self.connections[key] = conn
        return conn

    def _first_number(self, key: bytes, now: float) -> int:
        """Return the ISN, beyond the numbers of a connection whose TIME-WAIT just ended early."""
        iss = self._numbers.isn(key, now)
        if self._retired is not None and self._retired[0] == key:
            last = self._retired[1]
            if (iss - last) & MASK >= 1 << 31:
                iss = (last + _BEYOND_OLD) & MASK
        return iss

    def retire(self, conn: Conn) -> None:
        """Remember the last number of a connection in TIME-WAIT whose ports are used again (RFC 6191)."""
        self._retired = (conn.key, (conn.snd.iss + conn.snd.snd_nxt) & MASK)

    def passive_open(self, listener: Listener, packet: IpPacket, arrived: Segment, key: bytes) -> None:
        """Answer a SYN to *listener*.

        Raises:
            WireError: the backlog or the table is full; the peer repeats its SYN.
        """
        if listener.full():
            raise WireError("tcp_backlog")
        conn = self._answer(packet.source, packet.destination, arrived, listener.settings)
        conn.listener = listener
        listener.half_open.add(conn)

    def _answer(self, source: bytes, target: bytes, arrived: Segment, settings: TcpSettings) -> Conn:
        if self._is_full():
            raise WireError("tcp_table_full")
        conn = self._make(target, arrived.destination_port, source, arrived.source_port, settings)
        conn.state = State.SYN_RCVD
        apply_syn(conn, arrived)
        conn.syn_wanted = True
        self.touch(conn)
        return conn

    def hold_incoming(self, packet: IpPacket, arrived: Segment, key: bytes, raw: bytes) -> None:
        """Keep a SYN to any address for the owner's decision.

        Raises:
            WireError: too many wait.
        """
        if key in self.incoming:
            return
        if len(self.incoming) >= self.config.max_incoming:
            raise WireError("tcp_backlog")
        deadline = self.now + self.config.incoming_timeout
        request = Incoming(self, key, packet.source, packet.destination, arrived, raw, deadline)
        self.incoming[key] = request
        self._events.add(request, INCOMING)

    def _is_full(self) -> bool:
        """Tell whether there is no room for a connection; the oldest in TIME_WAIT gives way, as in the kernel."""
        if len(self.connections) < self.config.max_connections:
            return False
        old = next((conn for conn in self.connections.values() if conn.state is State.TIME_WAIT), None)
        if old is None:
            return True
        old.finish()
        self.retire(old)
        return False

    def accept_incoming(self, incoming: Incoming, settings: TcpSettings | None) -> Conn:
        """Answer a held SYN."""
        known = self._take_incoming(incoming)
        live = self.connections.get(incoming.key)
        try:
            conn = self._answer(
                incoming.source, incoming.target, incoming.segment, settings or self.config.tcp
            )
        except WireError:
            raise OSError(_errno.ENOBUFS, "connection table is full") from None
        if not known:
            conn.fail(_errno.ECONNABORTED)
            if live is not None:
                self.connections[incoming.key] = live
        return conn

    def _take_incoming(self, incoming: Incoming) -> bool:
        """Take a held SYN; False when it expired, and perhaps came again."""
        known = self.incoming.get(incoming.key) is incoming
        if known:
            del self.incoming[incoming.key]
        return known

    def refuse_incoming(self, incoming: Incoming, how: Refusal) -> None:
        """Turn a held SYN away."""
        if not self._take_incoming(incoming) or how is Refusal.DROP:
            return
        if how is Refusal.RST:
            self.send_control(reset_for(incoming.source, incoming.target, incoming.segment), incoming.source)
        else:
            self._ingress.send_unreachable(
                how.value, incoming.source, incoming.target, incoming.packet, self.now
            )

    def deliver_datagram(self, datagram: Datagram) -> None:
        """Report a datagram to any address.

        Raises:
            WireError: too many wait.
        """
        if self._datagrams >= self.config.max_datagrams:
            raise WireError("event_queue_full")
        self._datagrams += 1
        self._events.add(datagram, INCOMING)

    def refuse_datagram(self, datagram: Datagram, how: Refusal) -> None:
        """Answer a datagram to any address with an ICMP error."""
        if how is not Refusal.DROP:
            kind = Refusal.PORT_UNREACHABLE.value if how is Refusal.RST else how.value
            peer, ours = addresses.pack(datagram.src[0]), addresses.pack(datagram.dst[0])
            self._ingress.send_unreachable(kind, peer, ours, datagram.packet, self.now)
