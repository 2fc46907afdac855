"""The C types and functions of the standard library, as they were before anybody patched them.

Imported with the package, so that later patches (gevent's, eventlet's, our own) do not reach the reactor.
When gevent was there first, its saved originals are used. Python-level classes are never "original": they
are patched in place.

Source: design.md section 3; spec/sockets.md section 2 (last two points).
"""

from __future__ import annotations

import _socket
import _thread
import atexit
import errno
import importlib
import os
import posix
import select
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smolmix_sync.errors import NetworkDown

__all__ = [
    "CSocket",
    "allocate_lock",
    "epoll",
    "exit_over",
    "get_ident",
    "get_native_id",
    "getaddrinfo",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "gethostname",
    "getnameinfo",
    "import_once",
    "lookup_threads",
    "monotonic",
    "original",
    "os_error",
    "pause",
    "poll",
    "posix_close",
    "reactor_idents",
    "require_linux",
    "run_at_exit",
    "run_in_child",
    "sealed",
    "settle_fork",
    "socketpair",
    "start_new_thread",
    "wait_fd",
]


def original(module: str, name: str) -> Any:
    """Return the object *module*.*name* had before gevent patched it, or has now if gevent did not.

    Raises:
        AttributeError: the module never had it.
    """
    if "gevent.monkey" in sys.modules:
        return sys.modules["gevent.monkey"].get_original(module, name)
    return getattr(sys.modules[module], name)


def _c_socket_type() -> type[_socket.socket]:
    # A second copy of this package in a patched process finds our subclass under the name: take its base.
    for base in _socket.socket.__mro__:
        if base.__module__ == "_socket" and base.__name__ == "socket":
            return base
    raise ImportError("smolmix_sync: _socket.socket is not the interpreter's C type any more")


if TYPE_CHECKING:
    from _socket import socket as CSocket
else:
    CSocket = _c_socket_type()
socketpair = _socket.socketpair
getaddrinfo = original("_socket", "getaddrinfo")
gethostbyname = original("_socket", "gethostbyname")
gethostbyname_ex = original("_socket", "gethostbyname_ex")
gethostbyaddr = original("_socket", "gethostbyaddr")
getnameinfo = original("_socket", "getnameinfo")
gethostname = _socket.gethostname

start_new_thread: Callable[..., int] = original("_thread", "start_new_thread")
allocate_lock: Callable[[], _thread.LockType] = original("_thread", "allocate_lock")
get_ident: Callable[[], int] = original("_thread", "get_ident")
get_native_id: Callable[[], int] = _thread.get_native_id

#: Threads (by ``get_ident``) that are a reactor: the audit hook lets them make sockets.
reactor_idents: set[int] = set()
#: Threads (by the kernel's id) that the reactor started for look-ups of nym-api and gateway.
lookup_threads: set[int] = set()
#: Whether this process, or the one it was forked from, is under the seccomp filter of ``patch_all(strict=True)``.
sealed = False

# None where the platform has none: the package must import everywhere and fail on first use.
poll = original("select", "poll") if hasattr(select, "poll") or "gevent.monkey" in sys.modules else None
try:
    epoll = original("select", "epoll")
except AttributeError:  # not Linux
    epoll = None

monotonic: Callable[[], float] = time.monotonic
pause: Callable[[float], None] = original("time", "sleep")
#: gevent replaces ``os.close`` by one that defers to the caller's hub: the pair would never see its end close.
posix_close: Callable[[int], None] = posix.close


def wait_fd(fd: int, events: int, timeout: float | None) -> int:
    """Wait in the kernel until *fd* shows one of *events*; return what it shows, 0 when the time is over.

    Blocks the calling thread (not cooperative under gevent, whose sockets never block here).

    Args:
        fd: a descriptor.
        events: ``select.POLLIN`` and friends; 0 waits for HUP or ERR alone.
        timeout: seconds, None for ever.
    """
    assert poll is not None
    poller = poll()
    poller.register(fd, events)
    # Round up: a wait that ends a millisecond early would be seen as a spurious timeout.
    found = poller.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999)))
    return int(found[0][1]) if found else 0


def os_error(number: int, message: str | None = None) -> OSError:
    """Return the OSError subclass of errno *number* with the kernel's words, to be raised at once.

    Raise it without a name: a frame that holds its own exception is a cycle, and keeps the socket open until
    the collector comes.
    """
    if number == errno.ENETDOWN:
        return NetworkDown(number, message or os.strerror(number))
    return OSError(number, message or os.strerror(number))


def require_linux() -> None:
    """Refuse clearly where the kernel lacks what sockets need (epoll, SOCK_SEQPACKET, SO_COOKIE)."""
    if not sys.platform.startswith("linux"):
        raise os_error(errno.ENOSYS, f"smolmix_sync needs Linux, this is {sys.platform}")


_fork_hooks: list[Callable[[], None]] = []


def run_in_child(hook: Callable[[], None], *, first: bool = False) -> None:
    """Call *hook* in every forked child, in the order of registration; *first* before all others."""
    if first:
        _fork_hooks.insert(0, hook)
    else:
        _fork_hooks.append(hook)


_process = os.getpid()


def settle_fork() -> None:
    """Run the hooks of a forked child, unless that was done.

    A hook of the program that was registered before our import comes first and may use the network: what it makes
    is the child's, and must not be taken for the parent's afterwards.
    """
    global _process
    if _process != os.getpid():
        _process = os.getpid()
        for hook in _fork_hooks:
            hook()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=settle_fork)


_importing = allocate_lock()
#: The thread (by ``get_ident``) that holds the lock above.
_importer: int | None = None


def import_once(*modules: str) -> None:
    """Import modules that are needed late, one thread after another.

    After gevent's patch the interpreter's own locks of modules are gevent's, which may miss being released by another
    thread: two threads of gevent's pool that begin with the same look-up would wait for ever.
    """
    global _importer
    if all(_loaded(module) for module in modules):
        return
    me = get_ident()
    if _importer == me:  # another greenlet of this thread, or an import within an import
        for module in modules:
            importlib.import_module(module)
        return
    with _importing:
        _importer = me
        try:
            for module in modules:
                importlib.import_module(module)
        finally:
            _importer = None


def _loaded(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _forget_importer() -> None:
    global _importing, _importer
    _importing, _importer = allocate_lock(), None


run_in_child(_forget_importer)


_exit_hooks: list[Callable[[], None]] = []


def run_at_exit(hook: Callable[[], None]) -> None:
    """Call *hook* at the end of the process, after user code registered later than our import.

    It is called once more when the user code registered earlier has run, too.
    """
    _exit_hooks.append(hook)


class _Exit:
    """The end of the process, in two steps. atexit holds the only reference, until everything registered has run."""

    over = False
    _pid = 0

    def __call__(self) -> None:
        self._pid = os.getpid()
        self._run()

    def __del__(self) -> None:
        if self._pid == os.getpid():  # else multiprocessing has cleared the hooks of a forked child
            _Exit.over = True
            self._run()

    @staticmethod
    def _run() -> None:
        for hook in reversed(_exit_hooks):
            hook()


def exit_over() -> bool:
    """Tell whether nothing is left but the interpreter's own end."""
    return _Exit.over


# atexit runs last-in first-out and after the non-daemon threads: registered with the package, it comes after
# nearly everything that may still want to send (logging.shutdown included, if logging was imported later).
atexit.register(_Exit())
