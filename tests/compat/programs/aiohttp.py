"""aiohttp: several requests at once over TLS, an upload in pieces, a websocket."""

import asyncio
import hashlib
import ssl

import aiohttp

SERVICES = ("web", "websocket")


async def work(web: dict, websocket: dict) -> str:
    plain = f"http://{web['host']}:{web['port']}"
    secure = f"https://{web['host']}:{web['tls_port']}"
    context = ssl.create_default_context(cafile=web["ca"])
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def fetch(base: str) -> str:
            async with session.get(f"{base}/data.bin", ssl=context) as answer:
                assert answer.status == 200, answer
                return hashlib.sha256(await answer.read()).hexdigest()

        assert set(await asyncio.gather(*map(fetch, [plain, secure] * 2))) == {web["sha256"]}
        async with session.get(f"{secure}/moved", ssl=context) as moved:
            assert await moved.text() == web["text"]

        async def pieces():
            for _ in range(20):
                yield b"0123456789" * 100

        async with session.put(f"{secure}/put/aiohttp", data=pieces(), ssl=context) as answer:
            assert answer.status in (201, 204), answer
        async with session.get(f"{secure}/put/aiohttp", ssl=context) as answer:
            assert await answer.read() == b"0123456789" * 2000
        where = f"wss://{websocket['host']}:{websocket['tls_port']}/"
        trusted = ssl.create_default_context(cafile=websocket["ca"])
        async with session.ws_connect(where, ssl=trusted) as socket:
            await socket.send_str("ünï")
            assert await socket.receive_str(timeout=30) == "ünï"
            await socket.send_bytes(bytes(20_000))
            assert await socket.receive_bytes(timeout=30) == bytes(20_000)
        try:
            await session.get(f"http://{web['host']}:9/")
        except aiohttp.ClientConnectorError as error:
            assert isinstance(error.os_error, ConnectionRefusedError), error
        else:
            raise AssertionError("nobody listens there")
    return "four requests at once, HTTP and HTTPS, redirect, 20 kB up in chunks, a websocket over TLS, a refused connection"


def main(services: dict) -> str:
    return asyncio.run(work(services["web"], services["websocket"]))
