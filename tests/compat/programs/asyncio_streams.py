"""asyncio's streams: several connections at once, STARTTLS in the middle, timeouts, errors."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from typing import Any

LIBRARY = "asyncio"
SERVICES = ("web", "smtp")


async def fetch(web: dict[str, Any], context: ssl.SSLContext | None) -> str:
    """Return the digest of the file that the web server has."""
    port = web["port"] if context is None else web["tls_port"]
    reader, writer = await asyncio.open_connection(web["host"], port, ssl=context)
    writer.write(f"GET /data.bin HTTP/1.1\r\nHost: {web['host']}\r\nConnection: close\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    body = await reader.read()
    writer.close()
    await writer.wait_closed()
    return hashlib.sha256(body).hexdigest()


async def upgrade(smtp: dict[str, Any]) -> str:
    """Change to TLS on an open connection; return the certificate's name."""
    reader, writer = await asyncio.open_connection(smtp["host"], smtp["port"])
    assert (await reader.readline()).startswith(b"220 ")
    writer.write(b"EHLO client.example.org\r\n")
    while (await reader.readline())[3:4] == b"-":
        pass
    writer.write(b"STARTTLS\r\n")
    assert (await reader.readline()).startswith(b"220 ")
    await writer.start_tls(ssl.create_default_context(cafile=smtp["ca"]), server_hostname=smtp["host"])
    writer.write(b"NOOP\r\n")
    assert (await reader.readline()).startswith(b"250 ")
    names = [value for kind, value in writer.get_extra_info("peercert")["subjectAltName"] if kind == "DNS"]
    silent = False
    try:
        await asyncio.wait_for(reader.readline(), 0.1)
    except TimeoutError:
        silent = True
    assert silent
    writer.close()
    await writer.wait_closed()
    return str(names[0])


async def refused(host: str) -> bool:
    """Tell whether a port is closed."""
    try:
        await asyncio.open_connection(host, 9, family=socket.AF_INET)
    except ConnectionRefusedError:
        return True
    return False


async def work(web: dict[str, Any], smtp: dict[str, Any]) -> None:
    """Do everything at once."""
    context = ssl.create_default_context(cafile=web["ca"])
    one, two, name, closed = await asyncio.gather(
        fetch(web, None), fetch(web, context), upgrade(smtp), refused(web["host"])
    )
    assert one == two == web["sha256"]
    assert name == smtp["host"] or name.startswith("smtp"), name
    assert closed


def main(services: dict[str, dict[str, Any]]) -> str:
    """Run a loop."""
    asyncio.run(work(services["web"], services["smtp"]))
    return "four connections at once: 50 kB over HTTP and HTTPS, STARTTLS, a timeout, a closed port"
