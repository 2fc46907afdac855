"""Two connected sockets joined: what ends, stalls or breaks on one side does so on the other."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

__all__ = ["abort", "relay"]

#: Ours: octets that wait for one side; then the other is not read, and its own window closes.
_BUFFER = 256 * 1024
_CHUNK = 64 * 1024
#: Ours: milliseconds after which a relay without events looks whether it should go on.
_LOOK_UP = 5000
_READ = select.POLLIN
_WRITE = select.POLLOUT
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class _Side:
    """One socket and what waits to be written to it."""

    __slots__ = ("eof", "fd", "finished", "hung", "pending", "sock")

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.pending = bytearray()
        self.eof = False  # it has said everything
        self.finished = False  # we have told it that the other side has
        self.hung = False  # the kernel says HUP at every poll: not asked again without cause

    def interest(self, other: _Side) -> int:
        wanted = 0
        if not self.eof and len(other.pending) < _BUFFER:
            wanted |= _READ
        if self.pending:
            wanted |= _WRITE
        return wanted


def relay(
    one: Any, two: Any, *, idle: float | None = None, stopped: Callable[[], bool] = lambda: False
) -> tuple[int, int]:
    """Copy both ways until both have ended or one breaks; both sockets are closed afterwards.

    An end of file is passed on as one, the other direction goes on. An error resets the other side.

    Args:
        one, two: connected sockets.
        idle: seconds without an octet either way after which both are reset; None waits for ever.
        stopped: asked at every event, and every few seconds; True resets both.

    Returns:
        Octets carried from *one* to *two*, and back.
    """
    sides = (_Side(one), _Side(two))
    carried = [0, 0]
    used = time.monotonic()
    try:
        for side in sides:
            side.sock.setblocking(False)
        while not all(side.finished for side in sides):
            poller = select.poll()
            for side, other in (sides, sides[::-1]):
                wanted = side.interest(other)
                if wanted or not (side.hung or (side.eof and side.finished)):
                    poller.register(side.fd, wanted)  # with nothing wanted, for resets
            ready = dict(poller.poll(_LOOK_UP))
            if stopped() or (not ready and idle is not None and time.monotonic() - used > idle):
                raise ConnectionAbortedError
            for number, (side, other) in enumerate((sides, sides[::-1])):
                found = ready.get(side.fd, 0)
                if found & (_READ | _GONE) and side.interest(other) & _READ:
                    carried[number] += _read(side, other)
                elif found & _GONE:
                    _check(side)
                if found:
                    used = time.monotonic()
            for side, other in (sides, sides[::-1]):
                _write(side, other)
    except (OSError, ValueError):
        abort(one)
        abort(two)
    finally:
        for sock in (one, two):
            with contextlib.suppress(OSError):
                sock.close()
    return carried[0], carried[1]


def _read(side: _Side, other: _Side) -> int:
    try:
        data = side.sock.recv(_CHUNK)
    except (BlockingIOError, InterruptedError):
        return 0
    if data:
        other.pending += data
    else:
        side.eof = True
    return len(data)


def _check(side: _Side) -> None:
    """Raise if a side that is not being read was reset."""
    number = side.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
    side.hung = True


def _write(side: _Side, other: _Side) -> None:
    while side.pending:
        try:
            with memoryview(side.pending) as view:
                sent = side.sock.send(view[:_CHUNK])
        except (BlockingIOError, InterruptedError):
            return
        del side.pending[:sent]
    if other.eof and not side.finished:
        side.finished = True
        # The peer may be gone already; its last octets are still worth carrying.
        with contextlib.suppress(OSError):
            side.sock.shutdown(socket.SHUT_WR)


def abort(sock: Any) -> None:
    """Close *sock* with a reset, so that its peer does not take this for an end."""
    with contextlib.suppress(OSError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        sock.close()
