"""python-socks: its blocking face and its asyncio one."""

import asyncio
import hashlib
import ssl

from python_socks import ProxyError
from python_socks.async_.asyncio import Proxy as AsyncProxy
from python_socks.sync import Proxy

LIBRARY = "python-socks"
SERVICES = ("socks", "web")
REQUEST = b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"


def checked(answer: bytes, web: dict) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    assert hashlib.sha256(body).hexdigest() == web["sha256"]


async def at_once(url: str, web: dict) -> None:
    async def fetch() -> None:
        sock = await AsyncProxy.from_url(url, rdns=True).connect("localhost", web["tls_port"], timeout=30)
        context = ssl.create_default_context(cafile=web["ca"])
        reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=web["host"])
        writer.write(REQUEST % (b"/data.bin", web["host"].encode()))
        checked(await asyncio.wait_for(reader.read(), 30), web)
        writer.close()

    await asyncio.gather(fetch(), fetch())


def main(services: dict) -> str:
    proxy, web = services["socks"], services["web"]
    url = f"socks5://{proxy['user']}:{proxy['password']}@{proxy['host']}:{proxy['port']}"
    for where in (url, f"socks5://{proxy['host']}:{proxy['open_port']}"):
        with Proxy.from_url(where, rdns=True).connect("localhost", web["port"], timeout=30) as sock:
            sock.sendall(REQUEST % (b"/data.bin", web["host"].encode()))
            with sock.makefile("rb") as file:
                checked(file.read(), web)
    try:
        Proxy.from_url(url.replace("secret", "wrong")).connect("localhost", web["port"], timeout=30)
    except ProxyError:
        pass
    else:
        raise AssertionError("a wrong password was accepted")
    asyncio.run(at_once(url, web))
    return "SOCKS5 with and without a password: HTTP, 50 kB; asyncio: two at once over TLS; a wrong password refused"
