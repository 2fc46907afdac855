"""uvloop and aiodns, imported before the patch: they are named, and make nothing new."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import aiodns  # type: ignore[import-not-found]
import aiohttp.connector
import pycares  # type: ignore[import-not-found]
import uvloop  # type: ignore[import-not-found]

import smolmix_sync


def refused(action: Callable[[], Any]) -> str:
    try:
        action()
    except smolmix_sync.LeakBlocked as problem:
        return str(problem)
    raise AssertionError(f"{action} was not refused")


uvloop.new_event_loop().close()
pycares.Channel().close()
for _ in range(2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch = smolmix_sync.patch_all()
    named = " ".join(str(one.message) for one in caught)
    assert all(name in named for name in ("uvloop", "pycares", "aiodns")), named
    assert "uvloop" in refused(uvloop.new_event_loop)
    assert "uvloop" in refused(lambda: uvloop.run(asyncio.sleep(0)))
    assert "uvloop" in refused(uvloop.Loop)
    assert "pycares" in refused(pycares.Channel)
    assert aiohttp.connector.DefaultResolver is aiohttp.DefaultResolver is aiohttp.ThreadedResolver

    async def resolve() -> None:
        refused(aiodns.DNSResolver)

    asyncio.run(resolve())
    patch.__exit__(None, None, None)
    uvloop.new_event_loop().close()
    pycares.Channel().close()
    assert aiohttp.connector.DefaultResolver is aiohttp.DefaultResolver is aiohttp.AsyncResolver
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    with smolmix_sync.patch_all(allow=("uvloop",)):
        uvloop.new_event_loop().close()
print("DONE", flush=True)
