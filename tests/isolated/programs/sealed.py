"""Under ``strict=True`` nothing but the reactor makes an internet socket: Python, C code, threads, children."""

# ruff: noqa: E402 - what is captured before the patch is what is tested
from __future__ import annotations

import _socket
import asyncio
import ctypes
import errno
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from socket import gethostbyname as captured_lookup
from typing import Any

captured = _socket.socket
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(45)

import smolmix_sync
from smolmix_sync.netstack import Stack
from smolmix_sync.reactor import provider
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import shared_loop
from smolmix_sync.reactor.resolver import ResolverConfig


def refused(call: Any, *arguments: Any, **named: Any) -> OSError:
    try:
        call(*arguments, **named)
    except OSError as problem:
        return problem
    raise AssertionError(f"{call} was not refused")


# a thread that the filter would not cover: refused, and nothing is left behind
go = threading.Event()
stranger = threading.Thread(target=go.wait)
stranger.start()
assert "threads" in str(refused(smolmix_sync.patch_all, strict=True))
assert not smolmix_sync.is_patched()
captured(socket.AF_INET, socket.SOCK_STREAM).close()
go.set()
stranger.join()

V4 = "198.51.100.2"
device = Device(
    shared_loop(), Stack(V4, "2001:db8:100::2", urandom=os.urandom, loopback=True),
    resolver=ResolverConfig(hosts={"server.example": [V4]}),
)  # fmt: skip
port = provider.DevicePort(device)
provider.install(lambda: port)
patch = smolmix_sync.patch_all(strict=True)
assert smolmix_sync.patch_all(strict=True) is patch

# layer 2
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET):
    assert isinstance(refused(captured, family, socket.SOCK_DGRAM), smolmix_sync.LeakBlocked)
assert isinstance(refused(captured), smolmix_sync.LeakBlocked)
assert isinstance(refused(captured_lookup, "www.example.com"), smolmix_sync.LeakBlocked)
assert captured_lookup("127.0.0.1") == "127.0.0.1"
captured(socket.AF_UNIX, socket.SOCK_STREAM).close()

# layer 3
libc = ctypes.CDLL(None, use_errno=True)


def c_socket(family: int) -> int:
    """Return the errno of socket(2), 0 if it worked."""
    fd = libc.socket(family, 1, 0)
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


assert c_socket(socket.AF_INET) == c_socket(socket.AF_INET6) == errno.EACCES
assert c_socket(socket.AF_UNIX) == 0
assert libc.syscall(425, 8, None) == -1, "io_uring_setup"
assert ctypes.get_errno() == errno.ENOSYS
in_thread: list[int] = []
in_callback: list[int] = []
called = threading.Event()
thread = threading.Thread(target=lambda: in_thread.append(c_socket(socket.AF_INET)))
thread.start()
thread.join()
shared_loop().defer(lambda: (in_callback.append(c_socket(socket.AF_INET)), called.set()))
assert called.wait(10)
assert in_thread == in_callback == [errno.EACCES]
assert shared_loop().call(c_socket, socket.AF_INET) == 0, "the reactor keeps its network"
child = "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)"
found = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=30, check=False)
assert found.returncode == 1, found
assert "PermissionError" in found.stderr, found

# what works: loopback beside the tunnel, names and connections in it, asyncio
with socket.create_server(("127.0.0.1", 0)) as server:
    assert server.getsockopt(socket.SOL_SOCKET, 39) == socket.AF_INET  # SO_DOMAIN: the kernel's own word
    with socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            near.sendall(b"loopback")
            assert far.recv(20) == b"loopback"
with (
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
):
    one.bind(("127.0.0.1", 0))
    two.sendto(b"datagram", one.getsockname())
    assert one.recv(20) == b"datagram"

assert socket.gethostbyname("server.example") == V4
listener = socket.socket()
listener.bind((V4, 80))
listener.listen()


def echo() -> None:
    for _ in range(2):
        peer, _ = listener.accept()
        with peer:
            peer.sendall(peer.recv(100).upper())


echoing = threading.Thread(target=echo)
echoing.start()
with socket.create_connection(("server.example", 80), timeout=10) as sock:
    sock.sendall(b"hello")
    assert sock.recv(100) == b"HELLO"


async def over_asyncio() -> bytes:
    reader, writer = await asyncio.open_connection("server.example", 80)
    writer.write(b"asyncio")
    answer = await reader.read(100)
    writer.close()
    return answer


assert asyncio.run(asyncio.wait_for(over_asyncio(), 10)) == b"ASYNCIO"
echoing.join(10)
listener.close()

# C libraries are refused at import; those that are not installed are missing as ever
folder = os.path.join(os.path.dirname(__file__), "c_libraries")
try:
    import pynng  # type: ignore[import-not-found]  # noqa: F401
except ModuleNotFoundError:
    pass
sys.path.insert(0, folder)
sys.path_importer_cache.clear()
assert isinstance(refused(__import__, "pynng"), smolmix_sync.LeakBlocked)

# a forked child has no tunnel of its own, and says why
pid = os.fork()
if pid == 0:
    problem = refused(smolmix_sync.connect)
    os._exit(0 if problem.errno == errno.ENETDOWN and "seccomp" in str(problem) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

# it stays
assert isinstance(refused(smolmix_sync.unpatch_all), smolmix_sync.LeakBlocked)
assert smolmix_sync.is_patched()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    smolmix_sync.patch_all(strict=False)
assert len(caught) == 1
print("DONE", flush=True)
