"""The little internet behind the exit: web sites, a mail sink, echo servers and a resolver.

All of it listens on 127.0.0.1 and knows nothing of mixnets; the exit connects to it
as it would to a server on the internet. Run: ``python -m smolmix_sync.localnet.services``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any

from smolmix_sync.localnet.config import Host
from smolmix_sync.localnet.httpd import HttpServer, Request, Response
from smolmix_sync.localnet.mailsink import MailSink
from smolmix_sync.localnet.nameserver import NameServer, Zone
from smolmix_sync.localnet.process import Program, main
from smolmix_sync.localnet.site import site
from smolmix_sync.localnet.tls import Leaf, server_context

__all__ = ["SERVICE_NAMES", "Services"]

#: Every service has a TCP port of its own; ``dns`` and ``udp-echo`` use the same number for UDP.
SERVICE_NAMES = (
    "http",
    "https",
    "https-wrong",
    "https-expired",
    "https-selfsigned",
    "smtp",
    "tcp-echo",
    "tcp-discard",
    "tcp-reset",
    "udp-echo",
    "dns",
)

_LOOPBACK = "127.0.0.1"
_CHUNK = 65536


class Services(Program):
    """All services in one process."""

    async def start(self) -> None:
        """Open every listener."""
        leaves = {name: server_context(Leaf(**leaf)) for name, leaf in self.config["leaves"].items()}
        self._http = HttpServer(self._site)
        await self._http.listen(_LOOPBACK, self.port("http"))
        for name in ("https", "https-wrong", "https-expired", "https-selfsigned"):
            await self._http.listen(_LOOPBACK, self.port(name), leaves[name])
        self._mail = MailSink(self.counters, leaves["https"])
        await self._mail.listen(_LOOPBACK, self.port("smtp"))
        hosts = [Host.from_json(host) for host in self.config["hosts"]]
        self._dns = NameServer(Zone(hosts), self.counters)
        await self._dns.listen(_LOOPBACK, self.port("dns"))
        for name, serve in (("echo", self._echo), ("discard", self._discard), ("reset", self._reset)):
            await asyncio.start_server(serve, _LOOPBACK, self.port(f"tcp-{name}"), reuse_address=True)
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _UdpEcho(self), local_addr=(_LOOPBACK, self.port("udp-echo"))
        )

    async def _site(self, request: Request) -> Response:
        self.counters["http_requests"] += 1
        return await site(request, lambda query: self._dns.respond(query, udp=False))

    async def command_mails(self) -> list[dict[str, Any]]:
        """Return the mails received, oldest first: from, to, size, sha256, text."""
        return list(self._mail.mails)

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counters["echo_connections"] += 1
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        writer.close()

    async def _discard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                self.counters["discarded_bytes"] += len(data)
        writer.close()

    async def _reset(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reset the connection as soon as the client has said something."""
        with contextlib.suppress(OSError):
            await reader.read(_CHUNK)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


class _UdpEcho(asyncio.DatagramProtocol):
    def __init__(self, services: Services) -> None:
        self._services = services
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._services.counters["udp_echoes"] += 1
        if self._transport is not None:
            self._transport.sendto(data, address)


if __name__ == "__main__":
    main(Services)
