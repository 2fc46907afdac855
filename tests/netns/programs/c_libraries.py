"""C libraries with sockets of their own: refused at import, refused if imported before, harmless through forward().

Argument: ``after`` or ``before`` and the module, or ``forward``.
"""

# ruff: noqa: PT017 - not a test's own code
from __future__ import annotations

import importlib
import io
import os
import sys
import tempfile

import smolmix_sync

if sys.argv[1] == "before":
    importlib.import_module(sys.argv[2])
    try:
        smolmix_sync.patch_all()
    except smolmix_sync.LeakBlocked as refused:
        assert sys.argv[2] in str(refused), refused
        assert not smolmix_sync.is_patched()
    else:
        raise AssertionError(f"{sys.argv[2]} opens sockets past the tunnel")
elif sys.argv[1] == "after":
    smolmix_sync.patch_all()
    for module in ("pycurl", "psycopg", "grpc"):
        try:
            importlib.import_module(module)
        except smolmix_sync.LeakBlocked as refused:
            assert module in str(refused), refused
        else:
            raise AssertionError(f"{module} was imported")
else:
    smolmix_sync.patch_all(allow=("pycurl",))
    import pycurl

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "front")
        with smolmix_sync.forward("www.localnet", 80, path=path):
            body, curl = io.BytesIO(), pycurl.Curl()
            curl.setopt(pycurl.URL, "http://www.localnet/bytes/50000")
            curl.setopt(pycurl.WRITEDATA, body)
            curl.setopt(pycurl.UNIX_SOCKET_PATH, path)
            curl.setopt(pycurl.TIMEOUT, 30)
            curl.perform()
            curl.close()
            assert len(body.getvalue()) == 50000
print("DONE", flush=True)
