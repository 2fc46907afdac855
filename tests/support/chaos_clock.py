"""Virtual time for the whole reactor: a gevent loop whose clock jumps to the next thing that is due.

The production code runs as it is (sessions, links, shaper, pumps, greenlets and all); only the loop below gevent's
hub is this one. Descriptors are real: a pair of sockets inside one process answers at once, so they are polled
without waiting, and time moves only when neither a callback nor a descriptor is ready.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import random
import select
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.hub
import pytest
from gevent._hub_local import set_hub
from gevent.exceptions import HubDestroyed

from smolmix_sync.reactor import _real, bridge, directory, exitmemory, gateway, identity, nymapi, shaper
from smolmix_sync.reactor import loop as loop_module
from smolmix_sync.reactor._originals import get_ident
from smolmix_sync.reactor.flow import CloseWatch, nursery
from smolmix_sync.reactor.loop import ReactorLoop

__all__ = ["ChaosFailure", "VirtualLoop", "VirtualReactor", "in_virtual_time"]

#: Callbacks without time moving: more of them is a machine that spins.
_SPIN = 200_000
_EPOLL = {1: select.EPOLLIN, 2: select.EPOLLOUT, 3: select.EPOLLIN | select.EPOLLOUT}


class ChaosFailure(AssertionError):
    """The model found something that must not be."""


class _Callback:
    """What ``run_callback`` returns; gevent asks for ``pending``, ``stop`` and truth."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args: tuple[Any, ...] | None = args

    def stop(self) -> None:
        self.callback = self.args = None

    close = stop

    def __bool__(self) -> bool:
        return self.args is not None

    @property
    def pending(self) -> bool:
        return self.callback is not None


class _Watcher:
    """What timers, descriptors and wake-ups have in common."""

    __slots__ = ("args", "callback", "loop")

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.callback: Callable[..., object] | None = None
        self.args: tuple[Any, ...] = ()

    @property
    def active(self) -> bool:
        return self.callback is not None

    pending = False

    def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        self.callback = None
        self.args = ()

    def __enter__(self) -> _Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Timer(_Watcher):
    __slots__ = ("after", "entry")

    def __init__(self, loop: VirtualLoop, after: float) -> None:
        super().__init__(loop)
        self.after = after
        self.entry: list[Any] | None = None

    def start(self, callback: Callable[..., object], *args: Any, update: bool = False) -> None:
        self.stop()
        self.callback, self.args = callback, args
        self.entry = self.loop.at(self.loop.time + max(0.0, self.after), self._fire)

    def again(self, callback: Callable[..., object], *args: Any, update: bool = False) -> None:
        self.start(callback, *args)

    def stop(self) -> None:
        entry, self.entry = self.entry, None
        if entry is not None:
            self.loop.cancel(entry)
        super().stop()

    def _fire(self) -> None:
        callback, args = self.callback, self.args
        self.entry = None
        self.callback, self.args = None, ()
        if callback is not None:
            callback(*args)


class _Io(_Watcher):
    __slots__ = ("events", "fd")

    def __init__(self, loop: VirtualLoop, fd: int, events: int) -> None:
        super().__init__(loop)
        self.fd = fd
        self.events = events

    def start(self, callback: Callable[..., object], *args: Any, pass_events: bool = False) -> None:
        self.stop()
        self.callback, self.args = callback, args
        self.loop.watch(self)

    def stop(self) -> None:
        if self.callback is not None:
            self.loop.unwatch(self)
        super().stop()


class _Async(_Watcher):
    __slots__ = ()

    def start(self, callback: Callable[..., object], *args: Any) -> None:
        self.callback, self.args = callback, args

    def send(self) -> None:
        if self.callback is not None:
            self.loop.run_callback(self.callback, *self.args)


class VirtualLoop:
    """The part of gevent's loop that hub, greenlets and reactor use, in virtual time.

    Attributes:
        time: virtual seconds.
        steps: how often time moved.
        callbacks_run: how many callbacks ran.
    """

    default = False
    approx_timer_resolution = 0.0

    def __init__(self) -> None:
        self.time = 1000.0
        self.steps = 0
        self.callbacks_run = 0
        self.error_handler: Any = None
        self.ending = False
        self.failures: list[str] = []
        self._serial = 0
        self._heap: list[list[Any]] = []
        self._cancelled = 0
        self._callbacks: deque[_Callback] = deque()
        self._epoll = select.epoll()
        self._watched: dict[int, list[_Io]] = {}
        self._without_time = 0

    # --- what gevent calls ---

    def now(self) -> float:
        return self.time

    def update_now(self) -> None:
        pass

    update = update_now

    def run_callback(self, callback: Callable[..., object], *args: Any) -> _Callback:
        item = _Callback(callback, args)
        self._callbacks.append(item)
        return item

    run_callback_threadsafe = run_callback

    def timer(self, after: float, repeat: float = 0.0, ref: bool = True, priority: Any = None) -> _Timer:
        return _Timer(self, after)

    def io(self, fd: int, events: int, ref: bool = True, priority: Any = None) -> _Io:
        return _Io(self, fd, events)

    def async_(self, ref: bool = True, priority: Any = None) -> _Async:
        return _Async(self)

    def destroy(self) -> bool:
        self._heap.clear()
        self._callbacks.clear()
        self._epoll.close()
        return True

    def debug(self) -> list[str]:
        return []

    def _format(self) -> str:
        return f"virtual time {self.time:.3f}"

    def handle_error(self, context: object, kind: Any, value: Any, trace: Any) -> None:
        if self.error_handler is not None:
            self.error_handler.handle_error(context, kind, value, trace)

    # --- time ---

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> list[Any]:
        """Call at a virtual time; cheaper than a timer."""
        self._serial += 1
        entry = [when, self._serial, callback, args]
        heapq.heappush(self._heap, entry)
        return entry

    def cancel(self, entry: list[Any]) -> None:
        """Take ``at`` back."""
        if entry[2] is None:
            return
        entry[2] = None
        entry[3] = ()
        self._cancelled += 1
        if self._cancelled > 4096 and self._cancelled * 2 > len(self._heap):
            self._heap = [one for one in self._heap if one[2] is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    @property
    def timers(self) -> int:
        """Timers that will fire."""
        return len(self._heap) - self._cancelled

    def watch(self, io: _Io) -> None:
        self._watched.setdefault(io.fd, []).append(io)
        self._set(io.fd)

    def unwatch(self, io: _Io) -> None:
        watchers = self._watched[io.fd]
        watchers.remove(io)
        self._set(io.fd)

    def _set(self, fd: int) -> None:
        watchers = self._watched[fd]
        wanted = 0
        for io in watchers:
            wanted |= io.events
        try:
            if not watchers:
                del self._watched[fd]
                self._epoll.unregister(fd)
            else:
                try:
                    self._epoll.modify(fd, _EPOLL[wanted])
                except FileNotFoundError:
                    self._epoll.register(fd, _EPOLL[wanted])
        except OSError as error:
            if watchers:
                raise ChaosFailure(f"a watcher of descriptor {fd}, which is closed: {error}") from None

    def run(self) -> None:
        while not self.ending:
            if self._callbacks:
                self._run_callbacks()
            found = self._epoll.poll(0) if self._watched else ()
            for fd, mask in found:
                events = (1 if mask & ~select.EPOLLOUT else 0) | (2 if mask & ~select.EPOLLIN else 0)
                for io in list(self._watched.get(fd, ())):
                    if io.callback is not None and io.events & events:
                        self._call(io, io.callback, io.args)
            if found:
                self._spins()
            if not found and not self._callbacks and not self.ending:
                self._advance()
        raise HubDestroyed(True)  # a waiter has swallowed the one thrown by destroy()

    def _spins(self) -> None:
        self._without_time += 1
        if self._without_time > _SPIN:
            raise ChaosFailure(f"the reactor spins at {self.time:.3f}: {self._callbacks!r:.500}")

    def _run_callbacks(self) -> None:
        for _ in range(len(self._callbacks)):
            item = self._callbacks.popleft()
            callback, args = item.callback, item.args
            item.callback = None
            self.callbacks_run += 1
            if callback is not None and args is not None:
                self._call(item, callback, args)
            item.args = None
        self._spins()

    def _call(self, context: object, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            callback(*args)
        except BaseException:
            self.handle_error(context, *sys.exc_info())

    def _advance(self) -> None:
        heap = self._heap
        while heap:
            when, _, callback, args = heapq.heappop(heap)
            if callback is None:
                self._cancelled -= 1
                continue
            if when > self.time:
                self.time = when
                self.steps += 1
                self._without_time = 0
            else:
                self._spins()
            self._call("a timer", callback, args)
            return
        self.ending = True
        raise ChaosFailure("nothing will ever happen again")


class VirtualReactor(ReactorLoop):
    """The reactor over a virtual loop, in the thread that makes it.

    Attributes:
        loop: the virtual loop.
        errors: what was logged as an error, which no fault may bring about.
        log: the last lines of the log.
    """

    def __init__(self, loop: VirtualLoop, hub: Any) -> None:
        super().__init__("virtual")
        self.loop = loop
        self.errors: list[str] = []
        self.log: deque[str] = deque(maxlen=400)
        self._ident = get_ident()
        self._hub = hub
        self._wake = loop.async_()
        self._wake.start(self._drain)
        self._started = True
        self.closes = CloseWatch()
        self._closing = self.watch_read(self.closes.fileno(), self.closes.sweep)
        self._closing.start()
        hub.handle_error = self._hub_error

    def now(self) -> float:  # type: ignore[override]
        return self.loop.time

    def defer(self, fn: Callable[..., object], *args: Any) -> None:
        name = getattr(fn, "__name__", "")
        if name == "log" or name in ("error", "warning"):
            level, message, *rest = args if name == "log" else (getattr(logging, name.upper()), *args)
            text = f"{self.loop.time:.3f} {message % tuple(rest) if rest else message}"
            if level >= logging.INFO:
                self.log.append(text)
            if level >= logging.ERROR:
                self.errors.append(text)
            return
        fn(*args)

    def spawn(self, fn: Callable[..., object], *args: Any) -> None:
        gevent.spawn(fn, *args)

    def finish(self) -> None:
        """Release descriptors."""
        for fn in list(self._at_stop):
            fn()
        nursery.sweep()
        self.closes.sweep()
        self._closing.close()
        self.closes.close()
        self._stopped = True


class _Clock(types.SimpleNamespace):
    """Stands for the module ``time`` in the modules of the reactor that ask for the wall clock."""


def in_virtual_time(seed: int, body: Callable[[VirtualReactor, random.Random, Any], Any]) -> Any:
    """Run *body* in a greenlet of a virtual reactor, in a thread of its own; return or raise what it does.

    *body* gets the reactor, the random numbers of the model, and the clock of the client's machine, whose ``skew``
    may be changed at any time. The client's own randomness is another stream of the same seed.
    """
    result: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(_run(seed, body))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _run(seed: int, body: Callable[[VirtualReactor, random.Random, Any], Any]) -> Any:
    virtual = VirtualLoop()
    hub = gevent.hub.Hub(loop=virtual)
    set_hub(hub)
    clock = _Clock(base=1_800_000_000.0 + 3600.0 * 20, skew=0.0)
    clock.time = lambda: clock.base + virtual.time + clock.skew
    clock.true_time = lambda: clock.base + virtual.time
    client_random = random.Random(seed ^ 0x5EED)
    with pytest.MonkeyPatch.context() as patch, _registered(virtual, hub) as reactor:
        for module in (gateway, _real):
            patch.setattr(module, "monotonic", lambda: virtual.time)
        for module in (gateway, directory, exitmemory, bridge, nymapi):
            patch.setattr(module, "time", clock)
        # The stream of random octets is the seed's, wherever it is taken from.
        patch.setattr(os, "urandom", client_random.randbytes)
        patch.setitem(shaper.Shaper.__init__.__kwdefaults__, "urandom", client_random.randbytes)
        generate = identity.ClientIdentity.generate.__func__  # type: ignore[attr-defined]
        patch.setattr(generate, "__defaults__", (client_random.randbytes,))
        outcome: list[Any] = []
        failure: list[BaseException] = []
        waiter = gevent.hub.Waiter(hub)

        def main() -> None:
            try:
                outcome.append(body(reactor, random.Random(seed), clock))
            except BaseException as error:
                failure.append(error)
            virtual.run_callback(waiter.switch, None)

        gevent.spawn(main)
        waiter.get()
        if failure:
            for line in reactor.log:
                print(line)
            raise failure[0]
        if reactor.errors:
            raise ChaosFailure("logged as an error:\n" + "\n".join(reactor.errors))
        return outcome[0]


@contextlib.contextmanager
def _registered(virtual: VirtualLoop, hub: Any) -> Iterator[VirtualReactor]:
    reactor = VirtualReactor(virtual, hub)
    loop_module._live.append(reactor)
    try:
        yield reactor
    finally:
        loop_module._live.remove(reactor)
        reactor.finish()
        loop_module._end_greenlets(hub)
        virtual.ending = True
        hub.destroy(destroy_loop=True)
        del hub.handle_error
