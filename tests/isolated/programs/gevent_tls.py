"""Our own TLS (``fetch``, ``smolmix_sync.ssl``) and ``forward`` in programs that gevent has patched before anything else.

Argument: whether the stdlib's ssl was imported ``early``, before gevent's patch, or ``late``.
"""

# ruff: noqa: E402, F401 - the order of imports is what is tested
from __future__ import annotations

import sys

if sys.argv[1] == "early":
    import ssl
from gevent import monkey

assert sys.argv[1] == "early" or "ssl" not in sys.modules
monkey.patch_all()

import os
import ssl as stdlib
import urllib.request

import smolmix_sync
from smolmix_sync.localnet import LocalNet

with LocalNet() as net:
    smolmix_sync.patch_all()
    os.environ["SSL_CERT_FILE"] = str(net.ca_path)
    assert smolmix_sync.fetch("https://www.localnet/").status == 200
    assert urllib.request.urlopen("https://www.localnet/").status == 200
    import smolmix_sync.socket
    import smolmix_sync.ssl

    for purpose in (stdlib.Purpose.SERVER_AUTH, smolmix_sync.ssl.Purpose.SERVER_AUTH):
        context = smolmix_sync.ssl.create_default_context(purpose, cafile=str(net.ca_path))
        context.minimum_version = stdlib.TLSVersion.TLSv1_3
        sock = smolmix_sync.socket.create_connection(("www.localnet", 443), 30)
        with context.wrap_socket(sock, server_hostname="www.localnet") as wrapped:
            assert isinstance(wrapped, smolmix_sync.socket.MixSocket)
            assert wrapped.version() == "TLSv1.3"
            wrapped.sendall(b"GET /bytes/50000 HTTP/1.0\r\nHost: www.localnet\r\n\r\n")
            with wrapped.makefile("rb") as file:
                assert len(file.read().partition(b"\r\n\r\n")[2]) == 50000
    context = smolmix_sync.ssl.SSLContext(stdlib.PROTOCOL_TLS_CLIENT)
    sock = smolmix_sync.socket.create_connection(("selfsigned.localnet", 443), 30)
    try:
        context.wrap_socket(sock, server_hostname="selfsigned.localnet")
    except stdlib.SSLCertVerificationError:
        pass
    else:
        raise AssertionError("nobody vouches for it")
    with (
        smolmix_sync.forward("www.localnet", 80) as front,
        urllib.request.urlopen(f"http://127.0.0.1:{front.port}/bytes/1000") as answer,
    ):
        assert len(answer.read()) == 1000
print("DONE", flush=True)
