"""The reactor: one native thread with a gevent hub of its own.

Application threads talk to it through :meth:`ReactorLoop.post` and never touch its hub; it never runs user code:
callbacks and log records go through :meth:`ReactorLoop.defer` to a second native thread.

Both threads are started with the original ``_thread.start_new_thread``: under a gevent-patched ``threading`` the
patched one would give a greenlet of the caller's hub.

Source: design.md section 2 and decision 3; spec/sockets.md sections 13 and 14.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
import gevent.hub
from greenlet import getcurrent

from smolmix_sync.reactor import _originals
from smolmix_sync.reactor._originals import allocate_lock, get_ident, monotonic, os_error, posix_close
from smolmix_sync.reactor.flow import CloseWatch, nursery

__all__ = ["ReactorLoop", "Timer", "Watcher", "shared_loop"]

_T = TypeVar("_T")

_LOG = logging.getLogger("smolmix_sync.reactor")

READ = 1
WRITE = 2

#: Ours: seconds for the greenlets of a reactor that ends to notice.
_END_GREENLETS = 1.0


class Watcher:
    """Calls a function in the reactor whenever a descriptor is ready (level-triggered).

    Stop it before the descriptor is closed: libev aborts the process over a started watcher on a closed
    descriptor. :meth:`close` does, and may be called twice.
    """

    __slots__ = ("_callback", "_io", "active")

    def __init__(self, loop: Any, fd: int, events: int, callback: Callable[[], object]) -> None:
        self._io = loop.io(fd, events)
        self._callback = callback
        self.active = False

    def start(self) -> None:
        """Begin to watch; nothing happens if it does already."""
        if not self.active and self._io is not None:
            self.active = True
            self._io.start(self._callback)

    def stop(self) -> None:
        """Pause."""
        if self.active:
            self.active = False
            self._io.stop()

    def close(self) -> None:
        """Stop for good and release the watcher."""
        self.stop()
        if self._io is not None:
            self._io.close()
            self._io = None


class Timer:
    """One call in the future; :meth:`cancel` may come at any time, also after it."""

    __slots__ = ("_timer",)

    def __init__(
        self, loop: Any, delay: float, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self._timer = loop.timer(max(0.0, delay))
        # update=True: libev's idea of now is that of the start of the iteration, which may be long ago.
        self._timer.start(self._fire, callback, args, update=True)

    def _fire(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.cancel()
        callback(*args)

    def cancel(self) -> None:
        """Make the call not happen."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()


class _Deferred:
    """A native thread that runs what the reactor must not: user callbacks and log handlers.

    It starts with the first call and ends with ``stop``. The queue is bounded: a callback that hangs must not
    eat the memory; what is refused is counted.
    """

    LIMIT = 10_000

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._wake = allocate_lock()
        self._wake.acquire()
        self._state = allocate_lock()
        self._started = False
        self._stopping = False
        self._finished = allocate_lock()
        self.dropped = 0

    def put(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Queue a call; any thread."""
        if len(self._calls) >= self.LIMIT:
            self.dropped += 1
            return
        self._calls.append((fn, args))
        with self._state:
            if not self._started and not self._stopping:
                self._started = True
                self._finished.acquire()
                _originals.start_new_thread(self._run, ())
            self._signal()

    def _signal(self) -> None:
        if self._wake.locked():  # a binary semaphore: two signals before the thread looks are one
            self._wake.release()

    def _run(self) -> None:
        try:
            while True:
                self._wake.acquire()
                while self._calls:
                    fn, args = self._calls.popleft()
                    try:
                        fn(*args)
                    except Exception:
                        _LOG.exception("a callback failed")
                if self._stopping:
                    return
        finally:
            self._finished.release()

    def stop(self, timeout: float) -> None:
        """Run what is queued, then end the thread; wait at most *timeout* seconds for it."""
        with self._state:
            self._stopping = True
            started = self._started
            self._signal()
        if started and self._finished.acquire(timeout=timeout):
            self._finished.release()


def _end_greenlets(hub: Any) -> None:
    """Kill what still waits in *hub*, in its own thread, while there is one.

    A greenlet that is suspended when its thread ends can never be finished: its stack keeps the hub and all it knows
    alive, and the interpreter's end meets it half-dead (a fault in greenlet's ``green_is_gc`` was seen).
    """
    for _ in range(3):  # what is killed may spawn or wait once more
        waiting = [
            one
            for one in gc.get_objects()
            # Not isinstance(): it asks proxies of the program, and those whose object is gone raise.
            if issubclass(type(one), gevent.Greenlet)
            and one.parent is hub
            and not one.dead
            and one is not getcurrent()
        ]
        if not waiting:
            return
        gevent.killall(waiting, block=True, timeout=_END_GREENLETS)


class ReactorLoop:
    """A gevent hub in a native thread, and the only ways to reach it.

    Args:
        name: used in log records.

    Attributes:
        pid: the process that owns it; in a forked child every use raises ENETDOWN.
        closes: tells when the application closed a socket nobody reads from (reactor thread only).
    """

    def __init__(self, name: str = "smolmix-reactor") -> None:
        self.name = name
        self.pid = os.getpid()
        self._commands: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._guarded: dict[int, bool] = {}
        self._at_stop: list[Callable[[], object]] = []
        self._state = allocate_lock()
        self._started = False
        self._stopped = False
        self._ended = allocate_lock()
        self._ident: int | None = None
        self._deferred = _Deferred()
        self._hub: Any = None
        self._wake: Any = None
        self._main: Any = None
        self.closes: CloseWatch

    # --- life ---

    def start(self) -> ReactorLoop:
        """Start the thread if it does not run yet, wait until it listens, and return self.

        Raises:
            OSError: ENETDOWN after ``stop``, in a forked child, or at the end of the process.
        """
        with self._state, _starting:
            self._check()
            if self._started:
                return self
            if _ending and (_originals.exit_over() or _originals.get_ident() != _ending):
                raise os_error(errno.ENETDOWN, "the process is ending")
            _originals.require_linux()
            ready = allocate_lock()
            ready.acquire()
            self._ended.acquire()
            _originals.start_new_thread(self._run, (ready,))
            ready.acquire()
            self._started = True
            _live.append(self)
        return self

    def _run(self, ready: Any) -> None:
        try:
            self._ident = get_ident()
            _originals.reactor_idents.add(self._ident)
            hub: Any = gevent.get_hub()
            self._hub = hub
            # The hub prints errors of watchers to stderr; ours are bugs, and go to the log.
            hub.handle_error = self._hub_error
            hub.name = self.name
            self._wake = hub.loop.async_()
            self._wake.start(self._drain)
            self.closes = CloseWatch()
            closes = self.watch_read(self.closes.fileno(), self.closes.sweep)
            closes.start()
            self._main = gevent.hub.Waiter(hub)
            ready.release()
            self._main.get()
            self._wake.stop()
            self._wake.close()
            closes.close()
            self.closes.close()
            _end_greenlets(hub)
            hub.destroy(destroy_loop=True)
            del hub.handle_error  # gevent keeps what is left of a hub; it need not keep us
        finally:
            _originals.reactor_idents.discard(get_ident())
            self._ended.release()

    def _hub_error(self, context: object, kind: Any, value: Any, trace: Any) -> None:
        if kind is not None and issubclass(kind, gevent.GreenletExit):
            return
        self.defer(
            _LOG.error,
            "error in the reactor, %r:\n%s",
            context,
            "".join(traceback.format_exception(kind, value, trace)),
        )

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread; afterwards every use raises ENETDOWN. Idempotent.

        Args:
            timeout: seconds to wait for the thread and for deferred callbacks.
        """
        with self._state:
            if self._stopped or not self._started or self.pid != os.getpid():
                self._stopped = True
                return
            self.post(self._end)
            self._stopped = True
        if not self.inside() and self._ended.acquire(timeout=timeout):
            self._ended.release()
        self._deferred.stop(timeout)
        if self in _live:
            _live.remove(self)

    def _end(self) -> None:
        for fn in list(self._at_stop):
            try:
                fn()
            except Exception:
                self.defer(_LOG.error, "failed at the reactor's end:\n%s", traceback.format_exc())
        self._main.switch(None)

    def at_stop(self, fn: Callable[[], object]) -> None:
        """Call *fn* in the reactor before it ends: nobody who waits may wait for ever."""
        self._at_stop.append(fn)

    def not_at_stop(self, fn: Callable[[], object]) -> None:
        """Take ``at_stop`` back."""
        if fn in self._at_stop:
            self._at_stop.remove(fn)

    @property
    def running(self) -> bool:
        """Whether it was started in this process and not stopped."""
        return self._started and not self._stopped and self.pid == os.getpid()

    def inside(self) -> bool:
        """Tell whether the calling thread is the reactor's."""
        return get_ident() == self._ident

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise os_error(errno.ENETDOWN, "the reactor belongs to the process before fork()")
        if self._stopped:
            raise os_error(errno.ENETDOWN, "the reactor is stopped")

    # --- from any thread ---

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args)`` in the reactor soon, in the order of the posts; what it raises is logged.

        It must not block and must not switch greenlets: ``spawn`` what has to.

        Raises:
            OSError: ENETDOWN after ``stop``, or in a forked child.
        """
        self._check()
        self._commands.append((fn, args))
        self._wake.send()

    def call(self, fn: Callable[..., _T], *args: Any) -> _T:
        """Run ``fn(*args)`` in the reactor and return or raise what it does.

        For local work only (7 to 20 microseconds): it holds the calling thread. Never for anything that waits
        for the network.

        Raises:
            OSError: ENETDOWN after ``stop``, or in a forked child.
        """
        if self.inside():
            return fn(*args)
        done = allocate_lock()
        done.acquire()
        result: list[_T] = []
        error: list[BaseException] = []

        def run() -> None:
            try:
                result.append(fn(*args))
            except BaseException as problem:
                error.append(problem)
            finally:
                done.release()

        self.post(run)
        # Wake up now and then: a reactor stopped in between never comes to our command.
        while not done.acquire(timeout=1.0):
            if self._stopped and self._ended.acquire(blocking=False):
                self._ended.release()
                if not done.acquire(blocking=False):
                    raise os_error(errno.ENETDOWN, "the reactor is stopped")
                break
        if error:
            try:
                raise error.pop().with_traceback(None)
            finally:
                del error, run
        return result[0]

    def spawn(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args)`` in a new greenlet of the reactor's hub, where it may block on gevent primitives."""
        if self.inside():
            gevent.spawn(fn, *args)
        else:
            self.post(gevent.spawn, fn, *args)

    def defer(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args)`` in the callback thread: user callbacks and log records; order is kept."""
        self._deferred.put(fn, args)

    @staticmethod
    def now() -> float:
        """Return the monotonic clock, the time that all cores are given."""
        return monotonic()

    # --- in the reactor ---

    def call_soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args)`` in this or the next iteration (reactor thread only)."""
        self._hub.loop.run_callback(fn, *args)

    def call_later(self, delay: float, fn: Callable[..., object], *args: Any) -> Timer:
        """Run ``fn(*args)`` after *delay* seconds (reactor thread only)."""
        return Timer(self._hub.loop, delay, fn, args)

    def watch_read(self, fd: int, callback: Callable[[], object]) -> Watcher:
        """Return a stopped watcher of *fd* for reading (reactor thread only)."""
        return Watcher(self._hub.loop, fd, READ, callback)

    def watch_write(self, fd: int, callback: Callable[[], object]) -> Watcher:
        """Return a stopped watcher of *fd* for writing (reactor thread only)."""
        return Watcher(self._hub.loop, fd, WRITE, callback)

    @property
    def hub(self) -> Any:
        """The gevent hub; for what runs inside the reactor."""
        return self._hub

    def _drain(self) -> None:
        # Closes that the kernel has already reported take effect first: close(); bind(same port).
        nursery.sweep()
        self.closes.sweep()
        commands = self._commands
        # Only what is there now: a command that posts again must not starve the watchers.
        for _ in range(len(commands)):
            command, args = commands.popleft()
            try:
                command(*args)
            except Exception:
                self.defer(_LOG.error, "a command failed in the reactor:\n%s", traceback.format_exc())
        if commands:
            self._wake.send()

    # --- fork ---

    def guard_fd(self, fd: int, *, first: bool = False) -> None:
        """Have a forked child close its copy of *fd* at once, without any protocol's goodbye.

        Args:
            fd: a descriptor of the reactor; call ``unguard_fd`` before closing it.
            first: before all others (the gateway's connection).
        """
        self._guarded[fd] = first

    def unguard_fd(self, fd: int) -> None:
        """Forget *fd*."""
        self._guarded.pop(fd, None)

    def _abandon(self) -> None:
        for fd in sorted(self._guarded, key=lambda fd: not self._guarded[fd]):
            try:
                posix_close(fd)
            except OSError:
                pass
        self._guarded.clear()
        self._commands.clear()


#: Loops that run; a forked child finds here what it has to give up.
_live: list[ReactorLoop] = []
#: Loops of the process before fork(). Kept for ever: destroying a hub whose thread does not exist is not safe.
_abandoned: list[ReactorLoop] = []
_shared: ReactorLoop | None = None
_shared_lock = allocate_lock()
#: Held while a loop starts; and the thread that ends the process, once it does.
_starting = allocate_lock()
_ending = 0


def shared_loop() -> ReactorLoop:
    """Return the one reactor of this process, started; tunnels share it.

    A forked child gets a new one.

    Raises:
        OSError: ENETDOWN where a seccomp filter would leave a new one without network.
    """
    global _shared
    _originals.settle_fork()
    with _shared_lock:
        if _shared is None or not _shared.running:
            if _originals.sealed:
                raise os_error(
                    errno.ENETDOWN,
                    "the seccomp filter of strict mode leaves this process no network of its own: "
                    "use a daemon (SMOLMIX_DAEMON), fork='parent', or no strict mode",
                )
            _shared = ReactorLoop()
        return _shared.start()


def _after_fork_in_child() -> None:
    global _shared, _shared_lock, _starting
    _shared_lock, _starting = allocate_lock(), allocate_lock()
    _shared = None
    _originals.reactor_idents.clear()
    _originals.lookup_threads.clear()
    for loop in _live:
        loop._abandon()
        _abandoned.append(loop)
    _live.clear()


# First: the gateway must not see a second holder of its connection for longer than needed.
_originals.run_in_child(_after_fork_in_child, first=True)


def _stop_all() -> None:
    """Stop every loop, and let none start: daemon threads and finalizers of the program may go on asking.

    Those of the program's hooks that come later still get one.
    """
    global _ending
    with _starting:
        _ending = _originals.get_ident()
    for loop in list(_live):
        loop.stop()


# A native thread that meets the end of the interpreter inside a greenlet takes the process down with it.
_originals.run_at_exit(_stop_all)
