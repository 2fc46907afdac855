"""The DNS server behind the exit, which also answers as 1.1.1.1 and 8.8.8.8.

It knows the hosts of the network and these names besides:

======================  =========================================================
``alias.localnet``      a CNAME of ``www.localnet``
``many.localnet``       60 addresses: truncated over UDP without EDNS
``v4.localnet``         an address of IPv4 only; ``v6.localnet`` of IPv6 only
``text.localnet``       a TXT record
``servfail.localnet``   SERVFAIL
``lost.localnet``       no answer at all
``shortlived.localnet`` a TTL of 1 second
======================  =========================================================

Everything else does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter
from collections.abc import Sequence
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

from smolmix_sync.localnet.config import LOCALNET_V4, Host

__all__ = ["NameServer", "Zone"]

_TTL = 60
_NEGATIVE_TTL = 5
#: From the specification: a UDP answer without EDNS. Source: RFC 1035 section 4.2.1.
_PLAIN_UDP_SIZE = 512
_MAX_UDP_SIZE = 1232
_IDLE_TIMEOUT = 30.0


class Zone:
    """Names and their records."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._addresses: dict[str, tuple[str, ...]] = {h.name: h.addresses for h in hosts if h.in_dns}
        self._pointers = {
            dns.name.from_text(ipaddress.ip_address(address).reverse_pointer): name
            for name, addresses in self._addresses.items()
            for address in addresses
        }
        web = self._addresses["www.localnet"]
        self._addresses["many.localnet"] = tuple(str(LOCALNET_V4[octet]) for octet in range(180, 240))
        self._addresses["v4.localnet"] = web[:1]
        self._addresses["v6.localnet"] = web[1:]
        self._addresses["shortlived.localnet"] = web

    def answer(self, query: dns.message.Message) -> dns.message.Message | None:
        """Return the answer to *query*, or None where the server says nothing."""
        response = dns.message.make_response(query, recursion_available=True)
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        if name == "lost.localnet":
            return None
        if name == "servfail.localnet":
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        owner = question.name
        if name == "alias.localnet":
            target = dns.name.from_text("www.localnet.")
            response.answer.append(dns.rrset.from_text(owner, _TTL, "IN", "CNAME", "www.localnet."))
            owner, name = target, "www.localnet"
            if question.rdtype == dns.rdatatype.CNAME:
                return response
        records = self._records(name, question.name, question.rdtype)
        if records is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif records:
            ttl = 1 if name == "shortlived.localnet" else _TTL
            kind = dns.rdatatype.to_text(question.rdtype)
            response.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, *records))
        if not records:
            authority = f"dns.localnet. hostmaster.localnet. 1 3600 600 86400 {_NEGATIVE_TTL}"
            response.authority.append(dns.rrset.from_text("localnet.", _NEGATIVE_TTL, "IN", "SOA", authority))
        return response

    def _records(self, name: str, owner: dns.name.Name, kind: int) -> list[str] | None:
        """Return the record texts, empty if the name has none of that kind, None if there is no such name."""
        if owner in self._pointers:
            return [f"{self._pointers[owner]}."] if kind == dns.rdatatype.PTR else []
        if name == "text.localnet":
            return ['"a text behind the exit"'] if kind == dns.rdatatype.TXT else []
        if name == "localnet":
            return []
        addresses = self._addresses.get(name)
        if addresses is None:
            return None
        if kind == dns.rdatatype.A:
            return [address for address in addresses if ":" not in address]
        if kind == dns.rdatatype.AAAA:
            return [address for address in addresses if ":" in address]
        return []


class NameServer:
    """Serves a zone over UDP and TCP."""

    def __init__(self, zone: Zone, counters: Counter[str]) -> None:
        self._zone = zone
        self._counters = counters
        self._transport: asyncio.BaseTransport | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, address: str, port: int) -> None:
        """Open both listeners on one port number."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _UdpFace(self), local_addr=(address, port)
        )
        self._server = await asyncio.start_server(self._serve_tcp, address, port, reuse_address=True)

    def close(self) -> None:
        """Close the listeners."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()

    def respond(self, wire: bytes, *, udp: bool) -> bytes | None:
        """Return the answer's octets, or None for garbage and for names that get no answer."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            self._counters["dns_malformed"] += 1
            return None
        self._counters["dns_queries"] += 1
        response = self._zone.answer(query)
        if response is None:
            return None
        if not udp:
            return response.to_wire(max_size=65535)
        limit = _PLAIN_UDP_SIZE if query.edns < 0 else max(_PLAIN_UDP_SIZE, min(query.payload, _MAX_UDP_SIZE))
        try:
            return response.to_wire(max_size=limit)
        except dns.exception.TooBig:
            self._counters["dns_truncated"] += 1
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC
            return short.to_wire(max_size=limit)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            while True:
                size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), _IDLE_TIMEOUT), "big")
                wire = await asyncio.wait_for(reader.readexactly(size), _IDLE_TIMEOUT)
                answer = self.respond(wire, udp=False)
                if answer is not None:
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        writer.close()


class _UdpFace(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        answer = self._server.respond(data, udp=True)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, address)
