"""Patches this process in the order named by ORDER, and gives it a network of its own.

Orders: ``plain`` (smolmix first, nothing else), ``late`` (libraries imported before the patch), ``gevent-first``,
``smolmix-first`` (gevent's patch after ours).
"""

# ruff: noqa: E402, F401 - the order of imports is what is tested
from __future__ import annotations

import faulthandler
import os
import signal
import sys
from typing import Any

faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs, then dies of it
signal.alarm(45)
os.register_at_fork(after_in_child=lambda: signal.alarm(20) and None)

ORDER = os.environ.get("ORDER", "plain")

if ORDER == "gevent-first":
    from gevent import monkey

    monkey.patch_all()
if ORDER == "late":
    import asyncio
    import ftplib
    import http.client
    import selectors
    import smtplib
    import socketserver
    import ssl
    import urllib.request
    import xmlrpc.client

    import requests

import smolmix_sync

assert not {"gevent.hub", "nacl", "cryptography"} & set(sys.modules) or ORDER in ("gevent-first", "late")

before = len(os.listdir("/proc/self/task"))
PATCH = smolmix_sync.patch_all()

if ORDER == "smolmix-first":
    from gevent import monkey

    monkey.patch_all()

threads = len(os.listdir("/proc/self/task"))
assert threads == before, f"patch_all started a thread ({before} -> {threads})"

V4 = "198.51.100.2"


def network(**options: Any) -> Any:
    """Install a tunnel that is only a device over a loopback stack; return its port."""
    from smolmix_sync.netstack import Stack
    from smolmix_sync.reactor import provider
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import shared_loop
    from smolmix_sync.reactor.resolver import ResolverConfig

    hosts = {"server.example": [V4], **options.pop("hosts", {})}
    config = options.pop("config", None)
    device = Device(
        shared_loop(), Stack(V4, "2001:db8:100::2", urandom=os.urandom, loopback=True, config=config),
        resolver=ResolverConfig(hosts=hosts), **options,
    )  # fmt: skip
    port = provider.DevicePort(device)
    provider.install(lambda: port)
    return port


def done() -> None:
    """Tell the test that everything was reached."""
    print("DONE", flush=True)
