"""asyncio and selectors over both kinds of sockets, without any patch: what a loop is given, it works with."""

from __future__ import annotations

import asyncio
import selectors
import socket as stdlib
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from support.loopnet import loopnet
from support.worlds import LIMIT, World, make_world

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def net() -> Iterator[Any]:
    with loopnet() as port:
        yield port


@pytest.fixture(params=["kernel", "mix"])
def world(request: pytest.FixtureRequest, net: Any) -> Iterator[World]:
    made = make_world(request.param)
    yield made
    for sock in made.opened:
        sock.close()


def run(main: Any) -> Any:
    return asyncio.run(asyncio.wait_for(main, LIMIT))


def idle(sock: Any) -> Any:
    sock.setblocking(False)
    return sock


def test_streams_over_given_sockets(world: World) -> None:
    async def main() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.read()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, sock=idle(world.listener()))
        address = server.sockets[0].getsockname()
        sock = idle(world.tcp())
        await asyncio.get_running_loop().sock_connect(sock, address)
        reader, writer = await asyncio.open_connection(sock=sock)
        assert writer.get_extra_info("peername") == address
        writer.write(b"x" * 500_000)
        writer.write_eof()
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return data

    assert run(main()) == b"X" * 500_000


def test_low_level_calls_of_a_loop(world: World) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        listener = idle(world.listener())
        client = idle(world.tcp())
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        server, address = await accepting
        world.opened.append(server)
        found: list[Any] = [address == client.getsockname()]
        await loop.sock_sendall(client, b"y" * 300_000)
        count = 0
        while count < 300_000:
            count += len(await loop.sock_recv(server, 65536))
        with tempfile.TemporaryFile() as file:
            file.write(b"z" * 100_000)
            sending = asyncio.ensure_future(loop.sock_sendfile(client, file, fallback=False))
            buffer = bytearray(100_000)
            got = 0
            while got < 100_000:
                got += await loop.sock_recv_into(server, memoryview(buffer)[got:])
            found += [await sending, bytes(buffer) == b"z" * 100_000]
        server.close()
        return [*found, await loop.sock_recv(client, 1)]

    assert run(main()) == [True, 100_000, True, b""]


def test_refusal_reaches_the_loop(world: World) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_connect(idle(world.tcp()), (world.host, world.closed_port()))

    run(main())


def test_datagram_endpoints(world: World) -> None:
    class Collect(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got: asyncio.Queue[Any] = asyncio.Queue()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.got.put_nowait((data, addr))

        def error_received(self, exc: Exception) -> None:
            self.got.put_nowait(type(exc).__name__)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        one, two = (idle(sock) for sock in world.udp_pair())
        transport1, _ = await loop.create_datagram_endpoint(Collect, sock=one)
        transport2, receiving = await loop.create_datagram_endpoint(Collect, sock=two)
        transport1.sendto(b"hello", two.getsockname())
        found = [await receiving.got.get()]
        lost = idle(world.udp())
        lost.connect((world.host, 9))
        transport3, alone = await loop.create_datagram_endpoint(Collect, sock=lost)
        transport3.sendto(b"anybody?")
        found.append(await alone.got.get())
        for transport in (transport1, transport2, transport3):
            transport.close()
        return [found[0][0], found[0][1] == one.getsockname(), found[1]]

    assert run(main()) == [b"hello", True, "ConnectionRefusedError"]


@pytest.mark.parametrize(
    "kind",
    [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector, selectors.DefaultSelector],
)
def test_every_selector_sees_connect_data_and_end(world: World, kind: Any) -> None:
    listener, client = world.listener(), idle(world.tcp())
    with kind() as selector:
        selector.register(listener, selectors.EVENT_READ)
        client.connect_ex(listener.getsockname())
        selector.register(client, selectors.EVENT_WRITE)
        ready = set()
        while len(ready) < 2:
            found = selector.select(LIMIT)
            assert found
            ready |= {key.fileobj for key, _ in found}
        server, _ = listener.accept()
        world.opened.append(server)
        selector.modify(client, selectors.EVENT_READ)
        selector.unregister(listener)
        assert selector.select(0) == []
        server.sendall(b"data")
        assert [key.fileobj for key, _ in selector.select(LIMIT)] == [client]
        assert client.recv(10) == b"data"
        assert client.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == 0
        server.close()
        assert selector.select(LIMIT)
        assert client.recv(10) == b""
