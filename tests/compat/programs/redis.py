"""redis-py: TLS, a password, a pipeline, a script, publish and subscribe, a blocking pop, errors."""

from __future__ import annotations

import hashlib
import threading
import uuid
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SERVICES = ("redis",)

_HASHES = "local t = {} for n = 1, ARGV[1] do t[n] = redis.sha1hex(n) end return table.concat(t)"


def main(services: dict[str, dict[str, Any]]) -> str:
    """Work with keys and channels."""
    server = services["redis"]
    options = {
        "host": server["host"], "port": server["port"], "ssl": True, "ssl_ca_certs": server["ca"],
        "ssl_check_hostname": True, "socket_timeout": 30,
    }  # fmt: skip
    said = ""
    try:
        redis.Redis(**options, password="wrong", retry=Retry(NoBackoff(), 0)).ping()
    except redis.AuthenticationError as error:
        said = str(error)
    assert "invalid" in said.lower(), said

    with redis.Redis(**options, password=server["password"], decode_responses=True) as client:
        text, number, table, queue, channel = (f"{uuid.uuid4()}:{part}" for part in "tnhqc")
        value = "ünïcode " * 1000
        pipeline = client.pipeline()
        pipeline.set(text, value).incrby(number, 41).incr(number).hset(table, mapping={"a": 1, "b": 2})
        pipeline.get(text).hgetall(table).eval(_HASHES, 0, 1000)
        done = pipeline.execute()
        assert done[:6] == [True, 41, 42, 2, value, {"a": "1", "b": "2"}], [str(part)[:50] for part in done]
        assert done[6] == "".join(hashlib.sha1(str(n).encode()).hexdigest() for n in range(1, 1001))
        try:
            client.lpush(text, "x")
        except redis.ResponseError as error:
            said = str(error)
        assert said.startswith("WRONGTYPE"), said

        # Two connections at once: one waits for what the other sends.
        popped: list[Any] = []
        waiting = threading.Thread(target=lambda: popped.append(client.blpop([queue], timeout=20)))
        waiting.start()
        with client.pubsub() as pubsub:
            pubsub.subscribe(channel)
            first = pubsub.get_message(timeout=20)
            assert first is not None
            assert first["type"] == "subscribe"
            sent = (
                client.pipeline(transaction=False).publish(channel, "extra!").rpush(queue, "late").execute()
            )
            assert sent == [1, 1], sent
            news = pubsub.get_message(timeout=20)
            assert news is not None
            assert news["data"] == "extra!"
        waiting.join(20)
        assert popped == [(queue, "late")], popped
    return f"a pipeline with {len(done[6])} octets back, news, a blocking pop, a wrong password, all over TLS"
