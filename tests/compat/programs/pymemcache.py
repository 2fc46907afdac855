"""pymemcache: values, counters, compare and swap, many keys at once, a pool, errors."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import Any

from pymemcache import serde
from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheClientError

SERVICES = ("memcached",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Work with keys that nobody else has."""
    server = services["memcached"]
    options: dict[str, Any] = {
        "server": (server["host"], server["port"]), "connect_timeout": 30, "timeout": 30, "default_noreply": False,
        "key_prefix": f"{uuid.uuid4()}:".encode(), "serde": serde.pickle_serde,
    }  # fmt: skip
    content = bytes(range(256)) * 50
    with closing(Client(**options)) as client:
        values = {"content": content, "number": "41", "list": [1, 2, {"three": 3}]}
        assert client.set_many(values) == []
        assert client.incr("number", 1) == 42
        found = client.get_many(["content", "list", "nothing"])
        assert found == {"content": content, "list": [1, 2, {"three": 3}]}, list(found)
        value, token = client.gets("list")
        assert client.cas("list", [*value, 4], token)
        assert client.cas("list", "too late", token) is False
        said = ""
        try:
            client.incr("list", 1)
        except MemcacheClientError as error:
            said = str(error)
        assert "non-numeric" in said, said
    with closing(PooledClient(**options, max_pool_size=2)) as pool:
        assert pool.get("list") == [1, 2, {"three": 3}, 4]
        assert pool.delete("number")
        assert pool.get("number", "gone") == "gone"
    return f"values of {len(content)} octets there and back, compare and swap, a pool, a wrong type refused"
