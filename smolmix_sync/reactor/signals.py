"""Waking application threads from the reactor, over descriptors that every hub can wait for.

``threading.Condition`` is a greenlet primitive of the importing hub under gevent; a descriptor is one
thing everywhere. The wait goes through ``select.poll`` as it is at the time of the call: gevent's when
gevent has patched it, so that only the calling greenlet waits.

Source: design.md decision 3; spec/sockets.md section 13.
"""

from __future__ import annotations

import os
import select
from types import TracebackType

from smolmix_sync.reactor import _originals

__all__ = ["Signal", "Waiter"]


class Waiter:
    """One waiting thread or greenlet; a context manager made by :meth:`Signal.waiter`."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __enter__(self) -> Waiter:
        self._signal._add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal._remove(self)

    def set(self) -> None:
        """Wake the waiting one; any thread, also after it has stopped waiting."""
        self._signal._set_one(self)

    def wait(self, timeout: float) -> bool:
        """Wait for a signal, at most *timeout* seconds; return whether one came."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(max(0, int(timeout * 1000 + 0.999))):
            return False
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        return True


class Signal:
    """Tells every waiter that something has changed."""

    def __init__(self) -> None:
        self._lock = _originals.allocate_lock()
        self._waiters: set[Waiter] = set()

    def waiter(self) -> Waiter:
        """Return a waiter; signals count from its ``with`` on."""
        return Waiter(self)

    def set(self) -> None:
        """Wake every waiter; any thread, never blocks."""
        with self._lock:
            for waiter in self._waiters:
                os.eventfd_write(waiter._fd, 1)

    def _set_one(self, waiter: Waiter) -> None:
        with self._lock:
            if waiter in self._waiters:
                os.eventfd_write(waiter._fd, 1)

    def _add(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiters.add(waiter)

    def _remove(self, waiter: Waiter) -> None:
        # Closed under the lock: a late set() must not write into a descriptor that got the number again.
        with self._lock:
            self._waiters.discard(waiter)
            _originals.posix_close(waiter._fd)
