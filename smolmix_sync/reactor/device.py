"""The network device that sockets see: one userspace stack, its timer, and who is told of its events.

For the owner of the tunnel (reactor/bridge.py), in the reactor thread::

    device = Device(loop, connect_timeout=60.0)       # not up: connects wait (any thread)
    device.on_output = shaper.wake                    # the stack has something to send
    device.set_up(Stack(v4, v6, ...))                 # READY
    device.receive_packet(packet)                     # from the exit
    packets = device.data_to_send(room)               # at a send slot
    device.set_down(errno.ENETDOWN)                   # lost beyond the grace period; set_up may follow
    device.close(errno.ENETDOWN)                      # for good

Source: spec/sockets.md sections 3 to 7; spec/netstack.md section 7; design.md section 8a.
"""

from __future__ import annotations

import copy
import errno as _errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from smolmix_sync.netstack import CLOSED, Conn, Listener, Ping, Stack, State, TcpSettings, Udp
from smolmix_sync.reactor import _originals
from smolmix_sync.reactor._originals import allocate_lock, os_error
from smolmix_sync.reactor.resolver import ResolverConfig

if TYPE_CHECKING:
    from smolmix_sync.reactor.lookup import Resolver
    from smolmix_sync.reactor.loop import ReactorLoop, Timer

__all__ = ["Device", "Owner", "Waiting"]

#: How long output may wait for the shaper before timers are looked at anyway: with output ready, the stack's
#: next deadline is in the past and hides the others.
_TIMER_GRAIN = 0.010


class Owner(Protocol):
    """Who is told of the events of a stack object."""

    def on_event(self, mask: int) -> None:
        """Look at the object; *mask* is a hint (``netstack.events``)."""
        ...


class Waiting(Protocol):
    """Who waits for the device to come up."""

    def on_up(self) -> None:
        """Proceed."""
        ...

    def on_down(self, errno: int) -> None:
        """Give up."""
        ...


class Device:
    """Owns a stack and serves the flows bound to it.

    Args:
        loop: the reactor.
        stack: a stack to be up with at once; None: down until ``set_up``.
        connect_timeout: seconds an operation without a timeout waits for the device to come up.
        resolver: settings of the name resolver of this device.

    Attributes:
        on_output: called in the reactor when the stack has packets to send; with None they are pulled and
            dropped (a stack that is all loopback).
        ipv6: whether AF_INET6 connects are tried (design.md decision 12a); False gives ENETUNREACH at once.
        warn_plaintext: whether connects to ports of clear-text protocols are logged.
        dropped: packets that came while there was no stack.
    """

    def __init__(
        self,
        loop: ReactorLoop,
        stack: Stack | None = None,
        *,
        connect_timeout: float = 60.0,
        resolver: ResolverConfig | None = None,
    ) -> None:
        self.loop = loop
        self.stack: Stack | None = None
        self.connect_timeout = connect_timeout
        self.on_output: Callable[[], None] | None = None
        self.ipv6 = True
        self.warn_plaintext = False
        self.dropped = 0
        self._closed = 0
        self._lost = 0
        self._owners: dict[object, Owner] = {}
        self._orphans: set[Conn | Udp] = set()
        self._waiting: dict[Waiting, Timer] = {}
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._kicked = False
        self._resolver: Resolver | None = None
        self._resolver_config = resolver or ResolverConfig()
        loop.at_stop(self.close)
        if stack is not None:
            loop.call(self.set_up, stack)

    @property
    def resolver(self) -> Resolver:
        """The name resolver over this device. Any thread."""
        if self._resolver is None:
            from smolmix_sync.reactor.lookup import Resolver

            self._resolver = Resolver(self, self._resolver_config)
        return self._resolver

    # --- any thread ---

    @property
    def up(self) -> bool:
        """Whether there is a stack."""
        return self.stack is not None

    @property
    def in_use(self) -> bool:
        """Whether a socket is open on it, waits for it, or still has data to bring home (reactor)."""
        return bool(self._owners or self._waiting or self._unfinished())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Our addresses in the tunnel; empty while it is not up."""
        stack = self.stack
        return () if stack is None else tuple(one for one in (stack.v4, stack.v6) if one)

    @property
    def closed(self) -> int:
        """The errno it was closed with, 0 while it is in use; ENETDOWN in a forked child."""
        return self._closed or (0 if self.loop.running else _errno.ENETDOWN)

    def check(self) -> None:
        """Raise the OSError of a device that is closed, or of another process."""
        if self.closed:
            raise os_error(self.closed)

    def wait_up(self, timeout: float | None) -> None:
        """Block the calling thread until the device is up (not cooperative; not in the reactor).

        Raises:
            OSError: ENETDOWN when *timeout* (at most, and for None, ``connect_timeout``) is over or it was closed.
        """
        self.check()
        if self.up:
            return
        limit = self.connect_timeout if timeout is None else min(timeout, self.connect_timeout)
        if limit <= 0:
            raise os_error(_errno.ENETDOWN, "the tunnel is not up")
        waiter = _Blocked()
        self.loop.post(self.when_up, waiter, limit)
        waiter.wait(limit + 1.0)
        if waiter.errno:
            raise os_error(waiter.errno, "the tunnel is not up")

    # --- waiting for the stack (reactor) ---

    def when_up(self, waiting: Waiting, timeout: float | None = None) -> None:
        """Call ``waiting.on_up()`` once there is a stack (now, if there is), or ``on_down`` after *timeout*.

        A device that was up and was lost makes nobody wait: ``on_down`` comes at once, until the next ``set_up``.
        """
        if self.stack is not None:
            waiting.on_up()
        elif self._closed or self._lost:
            waiting.on_down(self._closed or self._lost)
        else:
            limit = self.connect_timeout if timeout is None else timeout
            self._waiting[waiting] = self.loop.call_later(limit, self._gave_up, waiting)

    def stop_waiting(self, waiting: Waiting) -> None:
        """Take back ``when_up``."""
        timer = self._waiting.pop(waiting, None)
        if timer is not None:
            timer.cancel()

    def _gave_up(self, waiting: Waiting) -> None:
        if self._waiting.pop(waiting, None) is not None:
            waiting.on_down(_errno.ENETDOWN)

    # --- life (reactor) ---

    def set_up(self, stack: Stack) -> None:
        """Serve *stack* from now on; what waited proceeds. A stack that is there already must be down first."""
        if self._closed:
            raise os_error(self._closed)
        assert self.stack is None, "set_down first"
        self.stack = stack
        self._lost = 0
        waiting, self._waiting = self._waiting, {}
        for one, timer in waiting.items():
            timer.cancel()
            one.on_up()
        self.kick()

    def set_down(self, errno: int = _errno.ENETDOWN) -> None:
        """End every flow with *errno* and drop the stack; new connects get it too, until the next ``set_up``."""
        stack = self.stack
        if stack is None:
            return
        self._lost = errno
        stack.shutdown(errno)
        self._dispatch(stack)
        self.stack = None
        for owner in list(self._owners.values()):  # an owner the stack had no event for
            owner.on_event(CLOSED)
        self._owners.clear()
        self._orphans.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self, errno: int = _errno.ENETDOWN) -> None:
        """``set_down`` for good: waiting and later operations fail with *errno*."""
        self._closed = errno
        self.loop.not_at_stop(self.close)
        self.set_down(errno)
        waiting, self._waiting = self._waiting, {}
        for one, timer in waiting.items():
            timer.cancel()
            one.on_down(errno)

    # --- below: packets (reactor) ---

    def receive_packet(self, packet: bytes) -> None:
        """Take one IP packet from the exit."""
        if self.stack is None:
            self.dropped += 1
            return
        self.stack.receive_data(packet, self.loop.now())
        self.kick()

    def data_to_send(self, room: int | None = None) -> list[bytes]:
        """Pull IP packets; arguments as for ``Stack.data_to_send``."""
        stack = self.stack
        if stack is None:
            return []
        packets = stack.data_to_send(self.loop.now(), room)
        if packets:
            self.kick()  # room in send buffers, timers to arm
        return packets

    def pending(self) -> tuple[int, int]:
        """Return octets waiting to be pulled: (urgent, bulk)."""
        return (0, 0) if self.stack is None else self.stack.pending()

    # --- above: stack objects (reactor) ---

    def require_stack(self) -> Stack:
        """Return the stack; raises ENETDOWN when there is none."""
        if self.stack is None:
            raise os_error(self._closed or _errno.ENETDOWN)
        return self.stack

    def tcp_settings(self) -> TcpSettings:
        """Return a copy of the stack's default settings."""
        return copy.copy(self.require_stack().config.tcp)

    def own(self, thing: Conn | Listener | Udp | Ping, owner: Owner) -> None:
        """Have *owner* told of the events of *thing*."""
        self._owners[thing] = owner

    def disown(self, thing: Conn | Listener | Udp | Ping, *, orphan: bool = False) -> None:
        """Stop telling.

        Args:
            thing: what ``own`` was given.
            orphan: it still has data to bring home; ``flush`` waits for it.
        """
        self._owners.pop(thing, None)
        if orphan and isinstance(thing, (Conn, Udp)):
            self._orphans.add(thing)

    def kick(self) -> None:
        """Look at the stack soon: after any command that may have changed its output or timers."""
        if not self._kicked:
            self._kicked = True
            self.loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._kicked = False
        stack = self.stack
        if stack is None:
            return
        now = self.loop.now()
        deadline = stack.next_deadline()
        if deadline is not None and deadline <= now:
            stack.handle_deadline(now)
        self._dispatch(stack)
        if self.stack is not stack:
            return
        deadline = stack.next_deadline()
        if deadline is None:
            return
        if deadline <= now:
            if self.on_output is not None:
                self.on_output()
            else:
                while stack.data_to_send(now):
                    pass
            deadline = stack.next_deadline()
            if deadline is None or self._kicked:
                return
            deadline = max(deadline, now + _TIMER_GRAIN)
        if self._timer is not None:
            if self._timer_at <= deadline:
                return  # it fires earlier, and arms again
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.loop.call_later(deadline - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._serve()

    def _dispatch(self, stack: Stack) -> None:
        for thing, mask in stack.events():
            owner = self._owners.get(thing)
            if mask & CLOSED:
                self._owners.pop(thing, None)
                self._orphans.discard(thing)
            if owner is not None:
                owner.on_event(mask)

    # --- the end of the process ---

    def flush(self, timeout: float) -> bool:
        """Wait until the data of closed sockets is acknowledged (application thread).

        Returns:
            Whether all of it was.
        """
        until = self.loop.now() + timeout
        if not self.loop.running:
            return False
        self.loop.call(self._finish_all)
        while True:
            if not self.loop.running or not self.loop.call(self._unfinished):
                return self.loop.running
            if self.loop.now() >= until:
                return False
            _originals.pause(0.01)

    def _finish_all(self) -> None:
        self.loop.closes.sweep()
        for owner in list(self._owners.values()):
            finish = getattr(owner, "finish", None)
            if finish is not None:
                finish()
        self.kick()

    def _unfinished(self) -> bool:
        if self.stack is None:
            return False
        over = (State.TIME_WAIT, State.CLOSED, State.FIN_WAIT_2)
        conns = [one for one in self._orphans if isinstance(one, Conn)]
        conns += [one for one in self._owners if isinstance(one, Conn)]
        return any(one.state not in over and one.unacked() for one in conns) or any(self.stack.pending())


class _Blocked:
    """An application thread that waits for the device."""

    def __init__(self) -> None:
        self._done = allocate_lock()
        self._done.acquire()
        self.errno = _errno.ENETDOWN

    def on_up(self) -> None:
        self.errno = 0
        self._done.release()

    def on_down(self, errno: int) -> None:
        self.errno = errno
        self._done.release()

    def wait(self, timeout: float) -> None:
        self._done.acquire(timeout=timeout)
