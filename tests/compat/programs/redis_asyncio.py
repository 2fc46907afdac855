"""redis.asyncio: several connections of a pool at once over TLS, news, a blocking pop, a timeout."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import redis.asyncio

LIBRARY = "redis"
SERVICES = ("redis",)


async def work(server: dict[str, Any]) -> None:
    """Let tasks wait for each other."""
    client = redis.asyncio.Redis(
        host=server["host"], port=server["port"], password=server["password"], ssl=True, ssl_ca_certs=server["ca"],
        ssl_check_hostname=True, decode_responses=True, socket_timeout=30,
    )  # fmt: skip
    queue, answers = (f"{uuid.uuid4()}:{part}" for part in "qa")

    async def serve() -> None:
        _, asked = await client.blpop([queue], timeout=20)
        await client.rpush(answers, asked[::-1])

    async def ask() -> str:
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(queue)
            await pubsub.get_message(timeout=20)
            await client.publish(queue, "soon")
            news = await pubsub.get_message(timeout=20)
            assert news["data"] == "soon"
        await client.rpush(queue, "0123456789" * 1200)
        _, answer = await client.blpop([answers], timeout=20)
        return str(answer)

    _, answer = await asyncio.gather(serve(), ask())
    assert answer == "9876543210" * 1200
    late = False
    try:
        async with asyncio.timeout(0.3):
            await client.blpop([queue], timeout=20)
    except TimeoutError:
        late = True
    assert late
    await client.aclose()


def main(services: dict[str, dict[str, Any]]) -> str:
    """Run a loop."""
    asyncio.run(work(services["redis"]))
    return "tasks that wait for each other with 12 kB over TLS, news, a pop that is given up"
