"""websockets: its threading client and its asyncio one."""

import asyncio
import ssl

import websockets.asyncio.client
import websockets.exceptions
import websockets.sync.client

SERVICES = ("websocket",)


async def several(url: str, context: ssl.SSLContext) -> None:
    async def talk(number: int) -> None:
        async with websockets.asyncio.client.connect(url, ssl=context, proxy=None) as connection:
            await connection.send(f"{number} " * 1000)
            assert await asyncio.wait_for(connection.recv(), 30) == f"{number} " * 1000

    await asyncio.gather(*map(talk, range(3)))


def main(services: dict) -> str:
    server = services["websocket"]
    context = ssl.create_default_context(cafile=server["ca"])
    body = bytes(range(256)) * 100
    plain = f"ws://{server['host']}:{server['port']}/"
    secure = f"wss://{server['host']}:{server['tls_port']}/"
    for url, trusted in ((plain, None), (secure, context)):
        with websockets.sync.client.connect(url, ssl=trusted, open_timeout=30, proxy=None) as connection:
            connection.send(body)
            assert connection.recv(timeout=30) == body
            connection.send(["in ", "pieces"])
            assert connection.recv(timeout=30) == "in pieces"
            assert connection.ping().wait(30)
            try:
                connection.recv(timeout=0.05)
            except TimeoutError:
                pass
            else:
                raise AssertionError("nothing was sent")
    asyncio.run(several(secure, context))
    return (
        "threads: 25 kB echoed over ws and wss, fragments, pings, a timeout; asyncio: three at once over wss"
    )
