"""Layer 3 of failing closed: the kernel refuses internet sockets to every thread but the reactor's.

A seccomp filter belongs to a thread and is inherited by the threads and processes it starts later. Installed after the
reactor's thread exists and while there is no other, it covers the whole program, C libraries and children included, and
leaves the reactor its network. It needs no privilege and can never be taken back. setuid programs lose their
privileges under it (no_new_privs).

Source: spec/sockets.md section 10, layer 3; design.md decision 11.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from smolmix_sync.errors import LeakBlocked
from smolmix_sync.reactor import _originals

__all__ = ["other_threads", "program", "seal", "seal_thread", "sealed"]

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
#: Offsets in struct seccomp_data: the call's number, the architecture, the first argument.
_NUMBER, _ARCHITECTURE, _FAMILY = 0, 4, 16
_IO_URING_SETUP = 425
_X32 = 0x40000000
#: AF_UNIX and AF_NETLINK, a local query channel that getifaddrs needs.
_FAMILIES = (1, 16)
#: machine -> (AUDIT_ARCH_*, number of socket(2))
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
#: Ours: seconds for the callback thread to answer.
_PATIENCE = 5.0


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter for *machine* as ``(code, jump if true, jump if false, value)``.

    Raises:
        LeakBlocked: there is none for this machine.
    """
    if machine not in _MACHINES:
        raise LeakBlocked(f"strict mode has no seccomp filter for {machine}")
    architecture, socket_number = _MACHINES[machine]
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EACCES)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        refuse,  # the 32-bit calls
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [(_AT_LEAST, 0, 1, _X32), refuse]
    steps += [
        (_EQUAL, 0, 1, _IO_URING_SETUP),  # it makes sockets without socket(2)
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_EQUAL, 1, 0, socket_number),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FAMILY),
    ]
    for family in _FAMILIES:
        steps += [(_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    steps.append(refuse)
    return steps


def _install() -> None:
    """Put the filter on the calling thread."""
    steps = program(platform.machine())
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    for what, *words in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filter_)),
    ):
        if prctl(what, *words, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def seal_thread() -> None:
    """Put the filter on the calling thread alone: what it starts has no internet sockets.

    Raises:
        OSError: the kernel refuses; LeakBlocked: there is no filter for this machine.
    """
    _install()


def other_threads(known: frozenset[int]) -> list[str]:
    """Return the threads of this process, by id and name, that are not *known* and so would escape the filter."""
    found = []
    for task in sorted(int(name) for name in os.listdir("/proc/self/task")):
        if task not in known:
            try:
                with open(f"/proc/self/task/{task}/comm") as comm:
                    found.append(f"{task} ({comm.read().strip()})")
            except OSError:  # it has ended
                continue
    return found


def sealed() -> bool:
    """Tell whether the filter is on this process, or was on the one it was forked from."""
    return _originals.sealed


def seal() -> None:
    """Start the reactor, then put the filter on the calling thread and on the thread that runs callbacks.

    Raises:
        LeakBlocked: the kernel or the machine has no seccomp, or another thread exists that it would not cover.
    """
    if _originals.sealed:
        return
    if not sys.platform.startswith("linux"):
        raise LeakBlocked(f"strict mode needs Linux, this is {sys.platform}")
    program(platform.machine())
    from smolmix_sync.reactor.loop import shared_loop

    loop = shared_loop()
    callbacks: list[int] = []
    problems: list[OSError] = []

    def in_callback_thread(install: bool) -> None:
        done = _originals.allocate_lock()
        done.acquire()

        def run() -> None:
            try:
                callbacks.append(_originals.get_native_id())
                if install:
                    _install()
            except OSError as problem:
                problems.append(problem)
            finally:
                done.release()

        loop.defer(run)
        if not done.acquire(timeout=_PATIENCE):
            raise LeakBlocked("strict mode: the thread that runs callbacks is busy")

    in_callback_thread(False)
    own = {_originals.get_native_id(), loop.call(_originals.get_native_id)}
    others = other_threads(frozenset({*own, *callbacks, *_originals.lookup_threads}))
    if others:
        raise LeakBlocked(
            f"strict mode: threads {', '.join(others)} run already and would escape the seccomp filter; "
            "call patch_all(strict=True) earlier, from the main thread"
        )
    try:
        in_callback_thread(True)
        if problems:
            raise problems[0]
        _install()
    except OSError as problem:
        if isinstance(problem, LeakBlocked):
            raise
        raise LeakBlocked(f"strict mode: the kernel refuses the seccomp filter: {problem}") from problem
    _originals.sealed = True
