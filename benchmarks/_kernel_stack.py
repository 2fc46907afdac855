"""A stand-in for the userspace TCP/IP stack whose connections are kernel sockets.

It takes the place of ``netstack.Stack`` in a ``Device``, so that a benchmark sees what the socket layer itself
costs (the pair, the pump, the reactor), without TCP in Python beneath it and without a mixnet.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from smolmix_sync.netstack import CLOSED, CONNECTED, ERROR, READABLE, WRITABLE, StackConfig, State
from smolmix_sync.reactor import provider
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import shared_loop

#: Stands for this host: sockets would reach a loopback address without the tunnel.
HOST = "198.51.100.2"
_CHUNK = 262144


class KernelStack:
    """Opens kernel connections over loopback, whatever the address."""

    def __init__(self) -> None:
        self.v4, self.v6 = "198.51.100.1", None
        self.config = StackConfig()
        self.device: Device | None = None
        self._news: dict[Any, int] = {}

    def report(self, connection: KernelConnection, mask: int) -> None:
        """Let the device tell the connection's owner."""
        self._news[connection] = self._news.get(connection, 0) | mask
        assert self.device is not None
        self.device.kick()

    def events(self) -> Iterator[tuple[Any, int]]:
        """Take the news."""
        while self._news:
            connection = next(iter(self._news))
            yield connection, self._news.pop(connection)

    def connect(self, addr: str, port: int, now: float, **_: Any) -> KernelConnection:
        """Begin to connect."""
        assert self.device is not None
        return KernelConnection(self, self.device.loop, addr, port)

    def next_deadline(self) -> None:
        """Return no deadline: the kernel keeps the timers."""

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        """Return no packets: the kernel sends them."""
        return []

    def pending(self) -> tuple[int, int]:
        """Return nothing waiting."""
        return 0, 0

    def shutdown(self, number: int) -> None:
        """End: the owners are told by the device."""


class KernelConnection:
    """One connection, with the face of ``netstack.Conn`` that a ``StreamPump`` uses."""

    def __init__(self, stack: KernelStack, loop: Any, addr: str, port: int) -> None:
        self._stack = stack
        self.remote, self.local = (addr, port), (stack.v4, 0)
        self.settings = stack.config.tcp
        self.error = 0
        self.state = State.SYN_SENT
        self._out, self._in = bytearray(), memoryview(b"")
        self._ended = self._shut = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect_ex(("127.0.0.1", port))
        self._reader = loop.watch_read(self._socket.fileno(), self._on_readable)
        self._writer = loop.watch_write(self._socket.fileno(), self._on_writable)
        self._writer.start()

    def _on_readable(self) -> None:
        try:
            self._in = memoryview(self._socket.recv(_CHUNK))
        except OSError as problem:
            self._fail(problem.errno or 104)
            return
        self._ended = not self._in
        self._reader.stop()
        self._stack.report(self, READABLE)

    def _on_writable(self) -> None:
        if self.state is State.SYN_SENT:
            self.error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if self.error:
                self._fail(self.error)
                return
            self.state = State.ESTABLISHED
            self.local = (self.local[0], self._socket.getsockname()[1])
            self._reader.start()
            self._stack.report(self, CONNECTED)
        if self._out:
            self._send_out()
        if not self._out:
            self._writer.stop()
            self._stack.report(self, WRITABLE)
            if self._shut:
                self._socket.shutdown(socket.SHUT_WR)

    def _send_out(self) -> None:
        try:
            del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError as problem:
            self._fail(problem.errno or 104)

    def _fail(self, number: int) -> None:
        self.error = number
        self._reader.stop()
        self._writer.stop()
        self._stack.report(self, ERROR | CLOSED)

    def readable(self) -> int:
        """Return octets to take."""
        return len(self._in)

    def recv(self, limit: int) -> memoryview:
        """Take them."""
        data, self._in = self._in[:limit], self._in[limit:]
        if not self._in and not self._ended:
            self._reader.start()
        return data

    def eof(self) -> bool:
        """Tell whether the peer has finished."""
        return self._ended and not self._in

    def writable(self) -> int:
        """Return the room."""
        return _CHUNK - len(self._out)

    def unacked(self) -> int:
        """Return what is not with the kernel yet."""
        return len(self._out)

    def send(self, data: bytes) -> int:
        """Send at once what the kernel takes, the rest later."""
        taken = 0
        if not self._out:
            with contextlib.suppress(BlockingIOError):
                taken = self._socket.send(data)
        if taken < len(data):
            self._out += memoryview(data)[taken:]
            self._writer.start()
        return len(data)

    def shutdown_write(self) -> None:
        """Finish our direction after what waits."""
        self._shut = True
        if not self._out:
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection."""
        self._reader.close()
        self._writer.close()
        self._socket.close()
        self.state = State.CLOSED
        self._stack.report(self, CLOSED)

    abort = close

    def shutdown_read(self) -> None:
        """Change nothing: only ``close`` follows."""

    def settings_changed(self) -> None:
        """Change nothing."""

    def info(self) -> dict[str, Any]:
        """Return nothing to tell."""
        return {}


@contextlib.contextmanager
def kernel_device() -> Iterator[Device]:
    """Install a default tunnel whose stack is a :class:`KernelStack`, for the block."""
    loop = shared_loop()
    stack = KernelStack()
    device = Device(loop)
    stack.device = device
    port = provider.DevicePort(device)
    before = provider.install(lambda: port)
    loop.call(device.set_up, stack)
    try:
        yield device
    finally:
        provider.install(before)
        loop.call(device.close)
