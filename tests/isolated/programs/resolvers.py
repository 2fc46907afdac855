"""gevent's resolvers that ask by themselves (c-ares, dnspython) are replaced; so are loops and resolvers of asyncio."""

# ruff: noqa: E402, PT017 - the order of imports is what is tested
from __future__ import annotations

import os
import sys

CHOSEN = sys.argv[1]
os.environ["GEVENT_RESOLVER"] = CHOSEN
import gevent
import gevent.hub
import gevent.socket

late = os.environ["ORDER"] == "late"
os.environ["ORDER"] = "late"  # gevent is here already
if late:
    first = gevent.get_hub().resolver  # made before the patch
    assert CHOSEN in type(first).__module__, first
import _order

import smolmix_sync
from smolmix_sync.netstack import Stack
from smolmix_sync.reactor import provider
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import shared_loop
from smolmix_sync.reactor.resolver import ResolverConfig

device = Device(
    shared_loop(), Stack(_order.V4, None, urandom=os.urandom, loopback=True),
    resolver=ResolverConfig(hosts={"www.example.com": ["203.0.113.5"]}),
)  # fmt: skip
port = provider.DevicePort(device)
provider.install(lambda: port)

assert gevent.get_hub().resolver.__class__.__module__ == "gevent.resolver.thread"
for _ in range(2):
    assert gevent.socket.gethostbyname("www.example.com") == "203.0.113.5"
    assert gevent.socket.getaddrinfo("www.example.com", 80)[0][4] == ("203.0.113.5", 80)
try:
    gevent.socket.getaddrinfo("printer.local", 80)
except gevent.socket.gaierror as problem:
    assert problem.errno == gevent.socket.EAI_NONAME


def in_thread() -> None:
    assert gevent.get_hub().resolver.__class__.__module__ == "gevent.resolver.thread", "hubs made later, too"
    assert gevent.socket.gethostbyname("www.example.com") == "203.0.113.5"
    seen.append(True)
    gevent.get_hub().destroy()


seen: list[bool] = []
import threading

thread = threading.Thread(target=in_thread)
thread.start()
thread.join(10)
assert seen

for module in ("uvloop", "aiodns", "pycares"):
    try:
        __import__(module)
    except ImportError as problem:
        assert "sockets in C" in str(problem), problem
        assert isinstance(problem.__cause__, smolmix_sync.LeakBlocked)
    else:
        raise AssertionError(f"{module} was imported")
_order.done()
