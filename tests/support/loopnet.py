"""A device over a stack that is its own network: sockets without a mixnet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from smolmix_sync.netstack import Stack, StackConfig
from smolmix_sync.reactor import provider
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import ReactorLoop, shared_loop
from smolmix_sync.reactor.resolver import ResolverConfig

V4 = "198.51.100.2"
V6 = "2001:db8:100::2"


def make_stack(delay: float = 0.0, config: StackConfig | None = None) -> Stack:
    """Return a stack with our test addresses."""
    return Stack(V4, V6, urandom=os.urandom, loopback=True, loopback_delay=delay, config=config)


@contextlib.contextmanager
def loopnet(
    *,
    up: bool = True,
    delay: float = 0.0,
    connect_timeout: float = 60.0,
    resolver: ResolverConfig | None = None,
    loop: ReactorLoop | None = None,
) -> Iterator[provider.DevicePort]:
    """Install a default tunnel that is only a device, for the block."""
    loop = loop or shared_loop()
    device = Device(
        loop, make_stack(delay) if up else None, connect_timeout=connect_timeout, resolver=resolver
    )
    port = provider.DevicePort(device)
    before = provider.install(lambda: port)
    try:
        yield port
    finally:
        provider.install(before)
        if loop.running:
            loop.call(device.close)


def settle(port: Any) -> None:
    """Let the reactor run what was posted and see what was closed."""
    for _ in range(3):
        port.device.loop.call(lambda: None)
