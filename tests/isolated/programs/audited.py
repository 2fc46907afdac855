"""The default, ``strict="auto"``: an audit hook refuses Python's ways past the patch, and is gone with it."""

# ruff: noqa: E402, PT017 - what is captured before the patch is what is tested
from __future__ import annotations

import os

os.environ["NOTHING_YET"] = "1"
import _socket
import importlib
import socket
import sys

captured, captured_lookup, captured_reverse = _socket.socket, _socket.gethostbyname, _socket.getnameinfo

import _order

import smolmix_sync

_order.PATCH.__exit__(None, None, None)
captured(socket.AF_INET, socket.SOCK_STREAM).close()  # the hook is there, and off

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "c_libraries"))
for _ in range(2):
    with smolmix_sync.patch_all():
        for call, arguments in (
            (captured, (socket.AF_INET, socket.SOCK_STREAM)),
            (captured, ()),
            (captured_lookup, ("www.example.com",)),
            (captured_reverse, (("192.0.2.1", 80), 0)),
        ):
            try:
                call(*arguments)  # type: ignore[operator]
            except smolmix_sync.LeakBlocked:
                continue
            raise AssertionError(f"{call}{arguments} went past the tunnel")
        assert captured_lookup("192.0.2.1") == "192.0.2.1"
        captured(socket.AF_UNIX, socket.SOCK_STREAM).close()
        socket.socket().close()
        assert socket.getaddrinfo("192.0.2.1", 80)
        with smolmix_sync.get_original("socket", "socket")(socket.AF_INET) as kernel:
            assert kernel.getsockopt(socket.SOL_SOCKET, 39) == socket.AF_INET, "asked for by name"
        with socket.create_server(("127.0.0.1", 0)):
            pass
        for load, library, error in (
            (__import__, "pynng", smolmix_sync.LeakBlocked),
            (importlib.import_module, "pynng", smolmix_sync.LeakBlocked),
            (importlib.import_module, "pycurl", smolmix_sync.LeakBlocked),
            (__import__, "uvloop", ImportError),
            (importlib.import_module, "uvloop", ImportError),
            (__import__, "aiodns", ImportError),
        ):
            try:
                load(library)
            except error as problem:
                assert library in str(problem), problem
                assert isinstance(problem.__cause__ or problem, smolmix_sync.LeakBlocked)
            else:
                raise AssertionError(f"{library} was imported")
    sys.modules.pop("pynng", None)
    with smolmix_sync.patch_all(allow=("pynng",)):
        import pynng  # type: ignore[import-not-found]  # noqa: F401
    try:
        smolmix_sync.patch_all()
    except smolmix_sync.LeakBlocked as problem:
        assert "imported already: pynng" in str(problem), problem
    else:
        raise AssertionError("what was imported before opens sockets past the tunnel")
    assert not smolmix_sync.is_patched()
    with smolmix_sync.patch_all(allow=("*",)):
        pass
    sys.modules.pop("pynng", None)
    captured(socket.AF_INET, socket.SOCK_STREAM).close()

with smolmix_sync.patch_all(strict=False):
    captured(socket.AF_INET, socket.SOCK_STREAM).close()
_order.done()
