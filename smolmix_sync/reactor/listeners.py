"""Listeners: connections the stack accepted travel to the application as descriptors.

One record per connection, with the new socket attached: timeouts, EAGAIN, select and several processes that accept
on one inherited listener work as in the kernel.

Source: spec/sockets.md section 7.
"""

from __future__ import annotations

import _socket
import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from smolmix_sync.netstack import CLOSED, ERROR, Conn, Listener
from smolmix_sync.reactor._originals import posix_close
from smolmix_sync.reactor.flow import (
    ACCEPT_RECORD,
    AF_INET6,
    SOCK_STREAM,
    Flow,
    FlowState,
    by_fd,
    create,
    forget,
    pack_block,
    present,
    unmapped,
)
from smolmix_sync.reactor.pump import StreamPump
from smolmix_sync.reactor.settings import apply_options

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import Timer, Watcher

__all__ = ["ListenPump", "listen"]

_LINGER = (int(_socket.SOL_SOCKET), int(_socket.SO_LINGER))
#: Ours: seconds until a connection that found no descriptor is tried again.
_RETRY = 0.1


def listen(
    device: Device, flow: Flow, backlog: int, pair: Callable[[], tuple[int, Flow]] | None = None
) -> None:
    """Make *flow* a listener, or change the backlog of one.

    Args:
        device: has the stack.
        flow: of the listening socket.
        backlog: connections that may wait for accept().
        pair: makes the descriptor and flow of an accepted connection, or raises OSError to let the peer's wait;
            None makes those of this process.

    Raises:
        OSError: what ``Stack.listen`` raises; ENETDOWN when the device is not up.
    """
    if isinstance(flow.pump, ListenPump):
        flow.pump.set_backlog(backlog)
    elif flow.end is not None:
        ListenPump(device, flow, backlog, pair).open()


class ListenPump:
    """Hands accepted connections to the application."""

    __slots__ = ("_backlog", "_device", "_held", "_listener", "_pair", "_retry", "_writer", "flow")

    def __init__(
        self, device: Device, flow: Flow, backlog: int, pair: Callable[[], tuple[int, Flow]] | None
    ) -> None:
        self.flow = flow
        self._device = device
        self._backlog = max(1, backlog)
        self._pair = pair or self._own_pair
        self._retry: Timer | None = None
        self._listener: Listener | None = None
        self._held: Conn | None = None
        self._writer: Watcher | None = None

    def open(self) -> None:
        """Ask the stack for the port."""
        flow, device = self.flow, self._device
        assert flow.end is not None
        stack = device.require_stack()
        address = flow.laddr or present(flow.family, "0.0.0.0" if flow.family != AF_INET6 else "::", 0)
        host = unmapped(address[0])
        v6only = bool(flow.options.get((_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY)))
        self._listener = stack.listen(
            None if host == "::" and not v6only else host,
            address[1],
            self._backlog,
            settings=apply_options(device.tcp_settings(), flow.options),
            v6only=v6only,
        )
        flow.device = device
        flow.pump = self
        flow.laddr = (address[0], self._listener.local[1], *address[2:])
        flow.state = FlowState.LISTEN
        device.own(self._listener, self)
        end = flow.end.fileno()
        self._writer = device.loop.watch_write(end, self._deliver)
        device.loop.closes.add(end, self._release)
        device.kick()

    def set_backlog(self, backlog: int) -> None:
        """Apply a second listen()."""
        self._backlog = max(1, backlog)
        if self._listener is not None:
            self._listener.backlog = self._backlog

    def on_event(self, mask: int) -> None:
        """Look at the listener."""
        if mask & (ERROR | CLOSED):
            self.stop(errno.ENETDOWN)
        else:
            self._deliver()

    def _deliver(self) -> None:
        listener, writer = self._listener, self._writer
        if listener is None or writer is None:
            return
        while True:
            conn = self._held or listener.accept()
            self._held = None
            if conn is None:
                writer.stop()
                return
            try:
                fd, flow = self._pair()
            except (
                OSError
            ):  # out of descriptors, or of what this client may have: the peer's connection waits
                self._held = conn
                writer.stop()
                if self._retry is None:
                    self._retry = self._device.loop.call_later(_RETRY, self._try_again)
                return
            if not self._hand_over(conn, fd, flow):
                self._held = conn
                writer.start()
                return

    def _try_again(self) -> None:
        self._retry = None
        self._deliver()

    def _own_pair(self) -> tuple[int, Flow]:
        fd, flow = create(self.flow.family, SOCK_STREAM, 0, self.flow.port)
        by_fd.pop(fd, None)  # our copy of the application's end is closed at once
        flow.fd = -1
        return fd, flow

    def _hand_over(self, conn: Conn, fd: int, flow: Flow) -> bool:
        """Send *conn* to the application as a socket; False when its queue is full."""
        listening, device = self.flow, self._device
        assert listening.end is not None
        flow.options.update((key, value) for key, value in listening.options.items() if key != _LINGER)
        flow.laddr = present(flow.family, *conn.local)
        flow.raddr = present(flow.family, *conn.remote)
        flow.state = FlowState.ESTABLISHED
        record = ACCEPT_RECORD.pack(pack_block(flow.raddr), pack_block(flow.laddr), flow.cookie)
        # Registered and served before the application can see it.
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))]
        try:
            listening.end.sendmsg([record], rights, _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            posix_close(fd)
            forget(flow)
            return False
        except OSError:  # shut down or closed
            posix_close(fd)
            forget(flow)
            conn.abort()
            device.kick()
            return True
        posix_close(fd)
        StreamPump(device, flow).adopt(conn)
        return True

    def stop(self, number: int = 0) -> None:
        """Listen no more (the application shut the socket down, or the stack is gone); accept() ends."""
        flow, listener = self.flow, self._listener
        self._listener = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        held, self._held = self._held, None
        if held is not None:
            held.abort()
        if listener is not None:
            self._device.disown(listener)
            listener.close()
        flow.error = number
        flow.state = FlowState.DEAD if number else FlowState.NEW
        if flow.end is not None:
            try:
                flow.end.shutdown(_socket.SHUT_WR)
            except OSError:
                pass
        self._device.kick()

    def _release(self) -> None:
        """The application closed it."""
        self.stop()
        self.flow.pump = None
        forget(self.flow)

    def option_changed(self, key: tuple[int, int]) -> None:
        """Options set on a listener hold for what it accepts from now on."""
        if self._listener is not None:
            apply_options(self._listener.settings, {key: self.flow.options[key]})
