"""The patch changes what it says, twice is once, and it is undone exactly."""

# ruff: noqa: E402 - the order of imports is what is tested
from __future__ import annotations

import os

os.environ["NOTHING_YET"] = "1"
import _order

_order.PATCH.__exit__(None, None, None)  # start again from nothing

import _posixsubprocess
import _socket
import multiprocessing.reduction
import posix
import signal
import socket
import subprocess
import sys
import warnings
from typing import Any

import gevent.events
import gevent.hub

import smolmix_sync
from smolmix_sync import monkey
from smolmix_sync.reactor import isolation

std = smolmix_sync.get_original("socket", "socket").__mro__[1]
wref = sys.modules["gevent._socket3"]._wrefsocket
reducers = multiprocessing.reduction.ForkingPickler._extra_reducers


def snapshot() -> list[Any]:
    return [
        dict(vars(std)), dict(vars(wref)), dict(vars(_socket)), dict(vars(socket)), dict(reducers),
        list(gevent.events.subscribers), gevent.config.resolver, dict(vars(os)), dict(vars(posix)),
        dict(vars(subprocess)), dict(vars(_posixsubprocess)), dict(os.environ), signal.getsignal(signal.SIGTERM),
        isolation.current_key(),
    ]  # fmt: skip


assert not smolmix_sync.is_patched()
before = snapshot()
for _ in range(2):
    patch = smolmix_sync.patch_all()
    assert smolmix_sync.is_patched()
    assert patch is smolmix_sync.patch_all(), "a second call is the same patch"
    assert snapshot() != before
    assert issubclass(std, _socket.socket)
    with std(socket.AF_UNIX) as sock:
        assert isinstance(sock, _socket.socket)
    assert _socket.SocketType is _socket.socket
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        smolmix_sync.patch_all(listen="deny")
    assert [one.category for one in caught] == [RuntimeWarning]

    # originals
    assert smolmix_sync.get_original("_socket", "getaddrinfo") is before[2]["getaddrinfo"]
    assert smolmix_sync.get_original("socket", "gethostbyname") is not monkey.dns.gethostbyname
    kernel = smolmix_sync.get_original("socket", "socket")
    with kernel(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert os.readlink(f"/proc/self/fd/{sock.fileno()}").startswith("socket:")
        assert sock.getsockopt(socket.SOL_SOCKET, 39) == socket.AF_INET  # SO_DOMAIN: the kernel's own word
        sock.listen()
    try:
        smolmix_sync.get_original("socket", "no_such_name")
    except AttributeError:
        pass
    else:
        raise AssertionError("there is no such name")
    smolmix_sync.unpatch_all()
    smolmix_sync.unpatch_all()
    assert not smolmix_sync.is_patched()
    after = snapshot()
    for number, (one, two) in enumerate(zip(before, after, strict=True)):
        assert one == two, (
            number,
            {k for k in one if one.get(k) is not two.get(k)} if isinstance(one, dict) else two,
        )

with smolmix_sync.patch_all(direct=()):
    assert smolmix_sync.is_patched()
    try:
        socket.create_connection(("127.0.0.1", 1))
    except PermissionError:
        pass
    else:
        raise AssertionError("loopback was not listed")
assert not smolmix_sync.is_patched()

# what is refused leaves nothing behind
for wrong in ({"listen": "x"}, {"direct": ("name",)}, {"strict": "maybe"}, {"isolate": 3}, {"children": "x"},
              {"loopback": "x"}):  # fmt: skip
    try:
        smolmix_sync.patch_all(**wrong)  # type: ignore[arg-type]
    except ValueError:
        pass
    else:
        raise AssertionError(f"{wrong} was accepted")
assert not smolmix_sync.is_patched()
assert [dict(vars(std)), dict(vars(_socket))] == [before[0], before[2]]

# isolation: one key for everything, or a function
with smolmix_sync.patch_all(isolate="everything"):
    assert isolation.current_key() == "everything"
    with smolmix_sync.isolate("this"):
        assert isolation.current_key() == "this"
keys = iter(("first", "second"))
with smolmix_sync.patch_all(isolate=lambda: next(keys)):
    assert [isolation.current_key() for _ in range(2)] == ["first", "second"]
assert isolation.current_key() == ""

os.environ["HTTPS_PROXY"] = "http://127.0.0.1:8080"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with smolmix_sync.patch_all():
        pass
assert [one.category for one in caught] == [RuntimeWarning], caught
assert "HTTPS_PROXY" in str(caught[0].message)
_order.done()
