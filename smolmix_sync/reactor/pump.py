"""Pumps: what serves a flow in the reactor, between the socket pair and the stack.

``StreamPump`` is TCP; ``datagrams`` and ``listeners`` hold the others. The stack's own buffers are the queues: a
pump holds at most one chunk that did not fit into the pair. Everything runs in the reactor thread.

Source: spec/sockets.md sections 3 to 5.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
from typing import TYPE_CHECKING, Protocol

from smolmix_sync.netstack import CLOSED, CONNECTED, ERROR, Conn, State
from smolmix_sync.reactor import _originals
from smolmix_sync.reactor._originals import CSocket, posix_close
from smolmix_sync.reactor.flow import (
    Address,
    Flow,
    FlowState,
    by_fd,
    cookie_of,
    discard,
    forget,
    present,
    release_local,
    unmapped,
)
from smolmix_sync.reactor.settings import SO_LINGER, apply_option, apply_options

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import Watcher

__all__ = ["Pump", "StreamPump", "hung_up", "open_stream"]

# Ours: one read from the application; more only makes the stack's copy longer.
_FROM_APP = 262144
# Ours: one write to it; the pair takes about twice this before it is full.
_TO_APP = 65536

_NOSIGNAL = int(_socket.MSG_NOSIGNAL)
_NOWAIT = int(_socket.MSG_DONTWAIT) | _NOSIGNAL


class Pump(Protocol):
    """What serves a flow."""

    flow: Flow

    def option_changed(self, key: tuple[int, int]) -> None:
        """Act on a stored option."""
        ...


def hung_up(end: _socket.socket) -> bool:
    """Tell whether the other end of the pair is closed, not only half."""
    return bool(_originals.wait_fd(end.fileno(), 0, 0) & (select.POLLHUP | select.POLLERR))


def open_stream(device: Device, flow: Flow, address: Address) -> None:
    """Connect *flow* to *address* when the device is up; its state and its descriptor tell the outcome."""
    if flow.end is not None:
        StreamPump(device, flow).connect(address)


class StreamPump:
    """Carries one TCP connection between the pair and the stack.

    Attributes:
        flow: what the application sees.
    """

    __slots__ = (
        "_address",
        "_app_eof",
        "_app_hup",
        "_conn",
        "_device",
        "_fin_shown",
        "_paused",
        "_read_shut",
        "_reader",
        "_reset",
        "_rx",
        "_writer",
        "flow",
    )

    def __init__(self, device: Device, flow: Flow) -> None:
        self.flow = flow
        self._device = device
        self._conn: Conn | None = None
        self._address: Address = ("", 0)
        self._reader: Watcher | None = None
        self._writer: Watcher | None = None
        self._rx: memoryview | None = None
        self._paused = False
        self._app_eof = False
        self._app_hup = False
        self._read_shut = False
        self._fin_shown = False
        self._reset = 0
        flow.device = device
        flow.pump = self

    # --- opening ---

    def connect(self, address: Address) -> None:
        """Begin the active open, or wait for the device."""
        self._address = address
        self._watch_close()
        self._device.when_up(self)

    def on_up(self) -> None:
        """Ask the stack for the connection."""
        flow, device = self.flow, self._device
        stack = device.require_stack()
        host = unmapped(self._address[0])
        if ":" in host and not device.ipv6:
            self._failed(errno.ENETUNREACH)
            return
        local = unmapped(flow.laddr[0]) if flow.laddr is not None else ""
        try:
            self._conn = stack.connect(
                host,
                self._address[1],
                device.loop.now(),
                local_address=None if local in ("", "0.0.0.0", "::", "127.0.0.1", "::1") else local,
                local_port=flow.laddr[1] if flow.laddr is not None else 0,
                settings=apply_options(device.tcp_settings(), flow.options),
            )
        except OSError as problem:
            self._failed(problem.errno or errno.EIO)
            return
        device.own(self._conn, self)
        device.kick()

    def on_down(self, errno: int) -> None:
        """The device did not come up in time."""
        self._failed(errno)

    def adopt(self, conn: Conn) -> None:
        """Serve a connection a listener accepted."""
        self._conn = conn
        self._device.own(conn, self)
        self._run()
        self.on_event(0)  # it may have data already

    def _failed(self, number: int) -> None:
        """Show the failure and let the application try again on the same socket."""
        flow = self.flow
        self._drop_conn()
        filling = self._take_junk()
        flow.pump = None
        flow.error = number
        if not flow.bound:
            flow.laddr = None
        flow.raddr = None
        flow.state = FlowState.FAILED  # from here on the application may connect again
        self._drain_junk(filling)

    def _established(self) -> None:
        flow, conn = self.flow, self._conn
        assert conn is not None
        flow.laddr = present(flow.family, *conn.local)
        if flow.raddr is None:
            flow.raddr = present(flow.family, *conn.remote)
        flow.state = FlowState.ESTABLISHED
        self._unwatch_close()
        # The filling first: it is in front of whatever the application wrote meanwhile.
        self._drain_junk()
        self._run()

    def _take_junk(self) -> int:
        """Return the count of filling and begin the next one at zero.

        Taken before the application can connect again: it may be in its next connect, filling anew, while the
        reactor still reads what the last one filled.
        """
        left, self.flow.junk = self.flow.junk, 0
        return left

    def _drain_junk(self, left: int | None = None) -> None:
        assert self.flow.end is not None
        discard(self.flow.end, self._take_junk() if left is None else left)

    def _run(self) -> None:
        loop, end = self._device.loop, self.flow.end
        assert end is not None
        self._reader = loop.watch_read(end.fileno(), self._on_app_readable)
        self._writer = loop.watch_write(end.fileno(), self._to_app)
        self._reader.start()

    # --- application to network ---

    def _on_app_readable(self) -> None:
        flow, conn = self.flow, self._conn
        assert flow.end is not None
        assert conn is not None
        if self._reset:
            self._pause()
            return
        room = conn.writable()
        if room <= 0:
            self._pause()
            return
        try:
            data = flow.end.recv(min(room, _FROM_APP))
        except BlockingIOError:
            return
        except OSError:  # the application closed with unread data: TCP resets
            self._abort()
            return
        if data:
            try:
                conn.send(data)
            except OSError:  # the connection died; its event is on the way
                self._pause()
                return
            self._device.kick()
            if conn.writable() <= 0:
                self._pause()
            return
        self._app_eof = True
        self._reader_stop()
        if self._app_hup or self._fin_shown or hung_up(flow.end):
            self._app_closed()
        else:
            conn.shutdown_write()
            self._device.kick()
            self._watch_close()

    def _pause(self) -> None:
        """Stop reading; a close must be seen all the same, or two paused peers wait for each other for ever."""
        self._reader_stop()
        if not self._paused:
            self._paused = True
            self._watch_close()

    def _resume(self) -> None:
        if self._paused and not self._reset and self._conn is not None and self._conn.writable() > 0:
            self._paused = False
            if not self._app_hup:
                self._unwatch_close()
            if self._reader is not None:
                self._reader.start()

    def _on_hup(self) -> None:
        """The application's last copy was closed while nobody read from it (spec section 3, pause rule)."""
        flow, conn = self.flow, self._conn
        assert flow.end is not None
        if conn is None or flow.state is FlowState.CONNECTING:
            self._device.stop_waiting(self)
            if conn is not None:
                conn.abort()
            self._release()
        elif self._paused and not self._app_eof:
            lost = flow.end.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR) == errno.ECONNRESET
            if lost or self._undelivered() or self._reset:
                self._abort()
            else:
                self._app_hup = True  # what it wrote is still read and sent, then FIN
        else:
            self._app_closed()

    def _undelivered(self) -> bool:
        return self._rx is not None or (self._conn is not None and self._conn.readable() > 0)

    def _app_closed(self) -> None:
        """Everything the application wrote was read, and it is gone: FIN, or RST if it left data unread."""
        conn = self._conn
        assert conn is not None
        linger = self.flow.options.get(SO_LINGER)
        if linger is not None:
            apply_option(conn.settings, SO_LINGER, linger)  # its command may still be in the queue
        if self._rx is not None:
            conn.abort()
            self._release()
            return
        conn.close()  # resets by itself over unread data, or with SO_LINGER (1, 0)
        if self._fin_shown:
            self._part()
        else:
            self._release(orphan=True)

    def _part(self) -> None:
        """Both directions have ended: the stack goes on alone.

        The application may still hold its end. With both directions shut down the kernel shows HUP for that as
        for a close, so the flow stays known (getpeername: ENOTCONN) until its descriptor is used again.
        """
        flow, conn = self.flow, self._conn
        self._stop_watching()
        self._conn = None
        if conn is not None:
            self._device.disown(conn, orphan=True)
        flow.state = FlowState.DEAD
        flow.pump = None
        release_local(flow)
        end, flow.end = flow.end, None
        if end is not None:
            end.close()
        self._device.kick()

    def _abort(self) -> None:
        if self._conn is not None:
            self._conn.abort()
        self._release()

    # --- network to application ---

    def on_event(self, mask: int) -> None:
        """Look at the connection; see ``netstack.events``."""
        flow, conn = self.flow, self._conn
        if conn is None or flow.end is None:
            return
        if flow.state is FlowState.CONNECTING:
            if conn.error or mask & (ERROR | CLOSED):
                self._failed(conn.error or errno.ECONNREFUSED)
                return
            if not mask & CONNECTED:
                return
            self._established()
        if conn.error or mask & ERROR:
            self._reset = conn.error or errno.ECONNRESET
        self._to_app()
        if flow.end is None:
            return
        self._resume()
        if conn.state in (State.TIME_WAIT, State.CLOSED) and not self._reset:
            flow.state = FlowState.DEAD

    def _to_app(self) -> None:
        flow, conn = self.flow, self._conn
        assert conn is not None
        end = flow.end
        if end is None or self._writer is None:
            return
        took = False
        while True:
            if self._rx is None:
                if not conn.readable():
                    break
                if self._app_hup:  # data for nobody
                    self._abort()
                    return
                self._rx = memoryview(conn.recv(_TO_APP))
                took = True
            if self._read_shut:
                self._rx = None
                continue
            try:
                sent = end.send(self._rx, _NOSIGNAL)
            except BlockingIOError:
                self._writer.start()
                if took:
                    self._device.kick()  # the window opened by what was taken
                return
            except OSError:
                if hung_up(end):
                    self._writer.stop()
                    if self._app_eof or self._paused:
                        self._abort()
                    else:
                        # What it wrote before is still in the pair; the reader takes it, then finds the end
                        # and, with data undelivered, resets.
                        self._resume()
                    return
                self._read_shut = True  # SHUT_RD: acknowledge and discard
                conn.shutdown_read()
                continue
            self._rx = self._rx[sent:] if sent < len(self._rx) else None
        self._writer.stop()
        if took:
            self._device.kick()
        if self._reset:
            self._inject_reset()
        elif not self._fin_shown and conn.eof():
            self._fin_shown = True
            self._shutdown_end()
            if self._app_eof:
                self._app_closed()

    def _shutdown_end(self) -> None:
        assert self.flow.end is not None
        try:
            self.flow.end.shutdown(_socket.SHUT_WR)
        except OSError:
            pass

    def _inject_reset(self) -> None:
        """Make the kernel report the reset: close our end over an octet it has not read.

        No shutdown before the close: a blocked reader would wake with a plain end of file.
        """
        flow = self.flow
        flow.state = FlowState.DEAD
        flow.error = self._reset
        if _leave_unread(flow):
            if self._reset == errno.ECONNRESET:
                flow.error = 0
        else:
            self._shutdown_end()
        self._stop_watching()
        self._drop_conn()
        end, flow.end = flow.end, None
        flow.pump = None
        release_local(flow)
        if end is not None:
            end.close()

    # --- the rest ---

    def option_changed(self, key: tuple[int, int]) -> None:
        """Act on an option set after the connect."""
        conn = self._conn
        value = self.flow.options.get(key)
        if conn is not None and value is not None and apply_option(conn.settings, key, value):
            conn.settings_changed()
            self._device.kick()

    @property
    def over(self) -> bool:
        """Whether both sides have finished (any thread)."""
        conn = self._conn
        return conn is None or conn.state in (State.TIME_WAIT, State.CLOSED)

    def info(self) -> dict[str, int | float | str]:
        """Return the connection's counters, empty before there is one."""
        return {} if self._conn is None else self._conn.info()

    def finish(self) -> None:
        """The process ends: send what the application wrote, then FIN, as the kernel would."""
        if self._conn is None or self.flow.state is not FlowState.ESTABLISHED or self._app_eof:
            return
        while self._reader is not None and not self._paused and not self._app_eof:
            assert self.flow.end is not None
            if not _originals.wait_fd(self.flow.end.fileno(), select.POLLIN, 0):
                self._app_eof = True
                self._reader_stop()
                self._conn.shutdown_write()
                return
            self._on_app_readable()

    def _watch_close(self) -> None:
        assert self.flow.end is not None
        self._device.loop.closes.add(self.flow.end.fileno(), self._on_hup)

    def _unwatch_close(self) -> None:
        if self.flow.end is not None:
            self._device.loop.closes.remove(self.flow.end.fileno())

    def _reader_stop(self) -> None:
        if self._reader is not None:
            self._reader.stop()

    def _stop_watching(self) -> None:
        for watcher in (self._reader, self._writer):
            if watcher is not None:
                watcher.close()
        self._reader = self._writer = None
        self._unwatch_close()

    def _drop_conn(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            self._device.disown(conn)

    def _release(self, *, orphan: bool = False) -> None:
        """Give the flow up: nobody holds the application's end any more."""
        self._stop_watching()
        conn, self._conn = self._conn, None
        if conn is not None:
            self._device.disown(conn, orphan=orphan)
        self._rx = None
        self.flow.pump = None
        forget(self.flow)
        self._device.kick()


def _leave_unread(flow: Flow) -> bool:
    """Leave an octet in our receive queue, written through the application's own descriptor.

    Returns:
        False when no descriptor of it is here (passed to another process), or it has shut down writing.
    """
    candidates = [flow.fd, *(fd for fd, other in list(by_fd.items()) if other is flow and fd != flow.fd)]
    for fd in candidates:
        try:
            copy = CSocket(flow.family, flow.type, flow.proto, os.dup(fd))
        except OSError:
            continue
        try:
            if cookie_of(copy) != flow.cookie:
                continue  # the number belongs to somebody else now
            copy.send(b"\0", _NOWAIT)
            return True
        except BlockingIOError:
            return True  # it is full of what we have not read
        except OSError:
            # Shut down for writing: what is unread serves as well.
            if flow.end is not None and _unread(flow.end):
                return True
            continue
        finally:
            posix_close(copy.detach())
    return False


def _unread(end: _socket.socket) -> bool:
    try:
        return bool(end.recv(1, int(_socket.MSG_PEEK) | _NOWAIT))
    except OSError:
        return False
