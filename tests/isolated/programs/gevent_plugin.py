"""gevent's patch_all() brings ours along where it is asked to, and only there."""

# ruff: noqa: E402 - the order of imports is what is tested
from __future__ import annotations

import os
import sys

WAY = sys.argv[1]
if WAY == "both":
    from smolmix_sync.ext import gevent_monkey as ext

    patch = ext.patch_all(gevent_options={"thread": True}, listen="deny")
    assert patch.options["listen"] == "deny"
else:
    from smolmix_sync.ext import gevent_monkey as ext

    ext.subscribe()
    from gevent import monkey

    if WAY == "word":
        monkey.patch_all(smolmix=True)
    elif WAY == "options":
        monkey.patch_all(smolmix={"direct": ()})
    else:  # not asked, or by the environment
        monkey.patch_all()

import gevent.monkey
import gevent.socket

import smolmix_sync

assert gevent.monkey.is_module_patched("socket")
assert smolmix_sync.is_patched() is (WAY != "unasked")
if WAY != "unasked":
    sock = gevent.socket.socket(gevent.socket.AF_INET, 1)
    from smolmix_sync.reactor.flow import by_fd

    assert sock.fileno() in by_fd, "gevent's sockets are the tunnel's"
    with gevent.socket.socket(gevent.socket.AF_INET, 1) as client:
        client.settimeout(5)
        expected = PermissionError if WAY == "options" else ConnectionRefusedError
        try:
            client.connect(("127.0.0.1", 1))
        except expected:
            pass
        else:
            raise AssertionError("there is nobody")
    assert os.readlink(f"/proc/self/fd/{sock.fileno()}").startswith("socket:")
    sock.close()
print("DONE", flush=True)
