"""What the stack does with a packet that arrives: checks, reassembly, and who gets it.

Every packet that is not delivered increments one named counter; nothing raises.

Source: spec/netstack.md sections 3.1 to 3.3; RFC 5927 for ICMP against TCP.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from smolmix_sync.errors import WireError
from smolmix_sync.netstack import addresses, icmp, ipv4, ipv6, segment, udp
from smolmix_sync.netstack.arrival import segment_arrives
from smolmix_sync.netstack.ip import ICMP, ICMPV6, TCP, UDP, IpPacket
from smolmix_sync.netstack.ping import EchoReply
from smolmix_sync.netstack.ratelimit import RateLimit
from smolmix_sync.netstack.reassembly import Reassembler
from smolmix_sync.netstack.segment import ACK, RST, SYN, Segment, SegmentWriter
from smolmix_sync.netstack.seqnum import MASK, from_wire
from smolmix_sync.netstack.states import State

if TYPE_CHECKING:
    from smolmix_sync.netstack.connection import Conn
    from smolmix_sync.netstack.stack import Stack

__all__ = ["Ingress"]

_TIME_WAIT = State.TIME_WAIT
# From the specification (RFC 4443): an ICMPv6 error fits the minimum MTU; 576 for IPv4 (RFC 1812).
_QUOTE = {4: 576 - 28, 16: 1280 - 48}
# ICMP type and code per kind of refusal, IPv4 and IPv6.
UNREACHABLE_CODES = {
    "port": ((3, 3), (1, 4)),
    "host": ((3, 1), (1, 3)),
    "net": ((3, 0), (1, 0)),
    "admin": ((3, 13), (1, 1)),
}


class Ingress:
    """The receiving side of one stack."""

    __slots__ = ("_echo_limit", "_error_limit", "_stack", "reassembler")

    def __init__(self, stack: Stack) -> None:
        config = stack.config
        self._stack = stack
        self.reassembler = Reassembler(
            config.reassembly_datagrams, config.reassembly_octets, config.reassembly_timeout
        )
        self._echo_limit = RateLimit(config.echo_rate)
        self._error_limit = RateLimit(config.icmp_rate)

    def receive(self, packet: bytes, now: float, local: bool) -> None:
        """Deliver one packet; *local* when it comes from this stack itself."""
        stack = self._stack
        counters = stack.counters
        counters.packets_in += 1
        counters.octets_in += len(packet)
        try:
            if not packet:
                raise WireError("ip_short")
            version = packet[0] >> 4
            if version == 4:
                decoded = ipv4.decode_untrusted(packet)
            elif version == 6:
                decoded = ipv6.decode_untrusted(packet)
            else:
                raise WireError("ip_version")
            self._check_addresses(decoded, local)
            if decoded.fragment is not None:
                whole = self.reassembler.add(
                    decoded.source,
                    decoded.destination,
                    decoded.protocol,
                    decoded.fragment,
                    decoded.payload,
                    now,
                )
                if whole is None:
                    return
                decoded.protocol, decoded.payload = whole
                if version == 6:
                    decoded.protocol, decoded.payload, nested = ipv6.upper_layer(*whole)
                    if nested is not None:
                        raise WireError("fragment_bad")
            protocol = decoded.protocol
            if protocol == TCP:
                self._tcp(decoded, packet, now)
            elif protocol == UDP:
                self._udp(decoded, packet, now)
            elif protocol == (ICMP if version == 4 else ICMPV6):
                self._icmp(decoded, now)
            else:
                if version == 6 and not local and stack.config.parameter_problem:
                    self._unknown_protocol(decoded, packet, now)
                raise WireError("ip_protocol")
        except WireError as error:
            counters.drop(str(error))

    def _unknown_protocol(self, packet: IpPacket, raw: bytes, now: float) -> None:
        """Tell an IPv6 peer which next header we do not know (RFC 8200 section 4, RFC 4443 section 3.4)."""
        if not self._error_limit.allow(now):
            self._stack.counters.drop("icmp_rate")
            return
        pointer = ipv6.next_header_offset(raw) if packet.fragment is None else ipv6.NEXT_HEADER
        message = icmp.encode(
            packet.destination, packet.source, 4, 1, pointer.to_bytes(4, "big"), raw[: _QUOTE[16]]
        )
        self._stack.send_control(
            ipv6.encode(packet.destination, packet.source, ICMPV6, message), packet.source
        )

    def _check_addresses(self, packet: IpPacket, local: bool) -> None:
        stack = self._stack
        if local:
            return
        source, destination = packet.source, packet.destination
        if not addresses.is_unicast(source) or addresses.is_loopback(source):
            raise WireError("ip_source")
        if source in stack.own:
            raise WireError("ip_spoofed_own_address")
        if destination not in stack.own and (
            not stack.any_address
            or not addresses.is_unicast(destination)
            or addresses.is_loopback(destination)
        ):
            raise WireError("ip_not_for_us")

    # -- TCP

    def _tcp(self, packet: IpPacket, raw: bytes, now: float) -> None:
        stack = self._stack
        data = packet.payload
        addresses_ = packet.source + packet.destination
        arrived = segment.decode_untrusted(data, int.from_bytes(addresses_, "big") + TCP + len(data))
        key = addresses_ + data[:4]
        conn = stack.connections.get(key)
        if conn is not None and conn.state is _TIME_WAIT and arrived.flags & (SYN | ACK | RST) == SYN:
            self._reuse_time_wait(conn, arrived)
            conn = stack.connections.get(key)
        if conn is None:
            self._no_connection(packet, arrived, key, raw, now)
            return
        if arrived.flags & RST:
            stack.counters.resets_in += 1
        reason = segment_arrives(conn, arrived, now)
        stack.touch(conn)
        if reason == "reset":
            self._reset(packet, arrived)
        elif reason is not None:
            stack.counters.drop(reason)

    def _reuse_time_wait(self, conn: Conn, arrived: Segment) -> None:
        """A new SYN may end TIME-WAIT early, unless its timestamp says that it is an old one.

        Source: RFC 6191 section 2; RFC 1122 section 4.2.2.13.
        """
        rcv = conn.rcv
        later = from_wire(arrived.seq, rcv.irs, rcv.rcv_nxt) > rcv.rcv_nxt
        if conn.timestamps and arrived.tsval is not None:
            age = (arrived.tsval - conn.ts_recent) & MASK
            fresh = 0 < age < 0x80000000 or (age == 0 and later)
        else:
            fresh = later
        if fresh:
            conn.finish()
            self._stack.retire(conn)

    def _no_connection(self, packet: IpPacket, arrived: Segment, key: bytes, raw: bytes, now: float) -> None:
        stack = self._stack
        flags = arrived.flags
        if flags & (SYN | ACK | RST) == SYN:
            listener = stack.listeners.find(packet.destination, arrived.destination_port)
            if listener is not None:
                stack.passive_open(listener, packet, arrived, key)
                return
            if stack.any_address and packet.destination not in stack.own:
                stack.hold_incoming(packet, arrived, key, raw[: _QUOTE[len(packet.source)]])
                return
        elif flags & RST:
            stack.incoming.pop(key, None)
            raise WireError("tcp_no_connection")
        elif key in stack.incoming:
            raise WireError("tcp_early")
        stack.counters.drop("tcp_no_connection")
        self._reset(packet, arrived)

    def _reset(self, packet: IpPacket, arrived: Segment) -> None:
        self._stack.send_control(reset_for(packet.source, packet.destination, arrived), packet.source)

    # -- UDP

    def _udp(self, packet: IpPacket, raw: bytes, now: float) -> None:
        stack = self._stack
        source, destination = packet.source, packet.destination
        source_port, port, payload = udp.decode_untrusted(source, destination, packet.payload)
        best, found = -1, None
        for socket in stack.udp_sockets.at(port):
            score = socket.score(source, source_port, destination)
            if score > best:
                best, found = score, socket
        src = (addresses.unpack(source), source_port)
        dst = (addresses.unpack(destination), port)
        if found is not None:
            if not found.deliver(payload, src, dst):
                raise WireError("udp_queue_full")
        elif stack.any_address and destination not in stack.own:
            stack.deliver_datagram(udp.Datagram(stack, src, dst, payload, raw[: _QUOTE[len(source)]]))
        else:
            if stack.config.port_unreachable or addresses.is_loopback(destination) or source in stack.own:
                self.send_unreachable("port", source, destination, raw[: _QUOTE[len(source)]], now)
            raise WireError("udp_no_port")

    # -- ICMP

    def send_unreachable(self, kind: str, peer: bytes, ours: bytes, quoted: bytes, now: float) -> None:
        """Send an ICMP error quoting the beginning of the peer's packet."""
        if not self._error_limit.allow(now):
            self._stack.counters.drop("icmp_rate")
            return
        v4, v6 = UNREACHABLE_CODES[kind]
        kind_, code = v4 if len(peer) == 4 else v6
        message = icmp.encode(ours, peer, kind_, code, bytes(4), quoted)
        encode, protocol = (ipv4.encode, ICMP) if len(peer) == 4 else (ipv6.encode, ICMPV6)
        self._stack.send_control(encode(ours, peer, protocol, message), peer)

    def _icmp(self, packet: IpPacket, now: float) -> None:
        stack = self._stack
        message = icmp.decode_untrusted(packet.source, packet.destination, packet.payload)
        if message.type == (icmp.ECHO_REQUEST if message.version == 4 else icmp.ECHO_REQUEST_V6):
            if not self._echo_limit.allow(now):
                raise WireError("icmp_rate")
            kind = icmp.ECHO_REPLY if message.version == 4 else icmp.ECHO_REPLY_V6
            reply = icmp.encode(packet.destination, packet.source, kind, 0, message.rest, message.body)
            stack.send_raw(packet.destination, packet.source, ICMP if message.version == 4 else ICMPV6, reply)
        elif message.type == (icmp.ECHO_REPLY if message.version == 4 else icmp.ECHO_REPLY_V6):
            self._echo_reply(packet.source, message.rest, message.body, now, 0)
        elif icmp.is_error(message):
            self._icmp_error(message, packet, now)
        else:
            raise WireError("icmp_type")

    def _echo_reply(self, peer: bytes, rest: bytes, body: bytes, now: float, error: int) -> None:
        ping = self._stack.pings.get(int.from_bytes(rest[:2], "big"))
        seq = int.from_bytes(rest[2:], "big")
        if ping is None or not ping.deliver(EchoReply(addresses.unpack(peer), seq, body, now, error)):
            raise WireError("icmp_unmatched")

    def _icmp_error(self, message: icmp.IcmpMessage, packet: IpPacket, now: float) -> None:
        quote = icmp.quote_untrusted(message)
        if quote.source != packet.destination:
            raise WireError("icmp_unmatched")
        error = icmp.errno_of(message)
        mtu = icmp.mtu_of(message, quote)
        ours, theirs = quote.transport[:2], quote.transport[2:4]
        if quote.protocol == TCP:
            conn = self._stack.connections.get(quote.destination + quote.source + theirs + ours)
            self._tcp_error(conn, quote, error, mtu, now)
        elif quote.protocol == UDP:
            self._udp_error(
                quote, int.from_bytes(ours, "big"), int.from_bytes(theirs, "big"), error, mtu, now
            )
        elif quote.protocol in (ICMP, ICMPV6) and error is not None:
            self._echo_reply(quote.destination, quote.transport[4:8], b"", now, error)
        else:
            raise WireError("icmp_unmatched")

    def _tcp_error(
        self, conn: Conn | None, quote: icmp.Quote, error: int | None, mtu: int | None, now: float
    ) -> None:
        if conn is None:
            raise WireError("icmp_unmatched")
        snd = conn.snd
        seq = from_wire(int.from_bytes(quote.transport[4:8], "big"), snd.iss, snd.snd_una)
        if not snd.snd_una <= seq < snd.snd_nxt:
            raise WireError("icmp_unmatched")
        if mtu is not None:
            self._stack.lower_path_mtu(quote.destination, mtu, conn.tx_mtu)
        elif error is not None:
            if conn.state is State.SYN_SENT or (conn.state is State.SYN_RCVD and conn.listener is None):
                conn.fail(error)
            else:
                conn.soft_error = error

    def _udp_error(
        self, quote: icmp.Quote, port: int, remote_port: int, error: int | None, mtu: int | None, now: float
    ) -> None:
        stack = self._stack
        for socket in stack.udp_sockets.at(port):
            if socket.peer == (quote.destination, remote_port):
                if mtu is not None:
                    stack.lower_path_mtu(quote.destination, mtu, stack.config.tx_mtu)
                    socket.fail(errno.EMSGSIZE)
                elif error is not None:
                    socket.fail(error)
                return
        raise WireError("icmp_unmatched")


def reset_for(peer: bytes, ours: bytes, arrived: Segment) -> bytes:
    """Return the RST that answers a segment nobody expects (RFC 9293 section 3.10.7.1)."""
    writer = SegmentWriter(ours, arrived.destination_port, peer, arrived.source_port)
    if arrived.flags & ACK:
        return writer.plain(arrived.ack, 0, RST, 0, b"")
    return writer.plain(0, (arrived.seq + arrived.length) & MASK, RST | ACK, 0, b"")
