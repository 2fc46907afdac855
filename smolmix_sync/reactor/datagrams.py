"""UDP between the pair and the stack: one packet of the pair is an address block and a payload.

Everything runs in the reactor thread.

Source: spec/sockets.md section 7.
"""

from __future__ import annotations

import _socket
import errno
from typing import TYPE_CHECKING

from smolmix_sync.netstack import ERROR, Udp
from smolmix_sync.reactor.flow import (
    BLOCK,
    UDP_MAX_PAYLOAD,
    Address,
    Flow,
    forget,
    pack_block,
    pack_error,
    present,
    unmapped,
    unpack_block,
)
from smolmix_sync.reactor.pump import hung_up

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import Watcher

__all__ = ["DatagramPump", "open_datagrams"]

_NOSIGNAL = int(_socket.MSG_NOSIGNAL)
_RECORD = BLOCK.size + UDP_MAX_PAYLOAD + 1
# Ours: datagrams taken from the application in one go, so that one sender does not hold the reactor.
_BATCH = 64


def open_datagrams(device: Device, flow: Flow) -> None:
    """Serve a UDP flow; idempotent. While the device is not up, datagrams wait in the pair.

    Raises:
        OSError: the stack refused the port (only when the device is up).
    """
    if flow.pump is None and flow.end is not None:
        DatagramPump(device, flow).open()


class DatagramPump:
    """Carries the datagrams of one UDP socket."""

    __slots__ = ("_device", "_gone", "_held", "_peer", "_reader", "_udp", "dropped", "flow")

    def __init__(self, device: Device, flow: Flow) -> None:
        self.flow = flow
        self.dropped = 0
        self._device = device
        self._udp: Udp | None = None
        self._reader: Watcher | None = None
        self._held: tuple[bytes, str, int] | None = None
        self._peer: Address | None = None
        self._gone = False
        flow.device = device
        flow.pump = self

    # --- opening ---

    def open(self) -> None:
        """Begin, or wait for the device."""
        assert self.flow.end is not None
        self._device.loop.closes.add(self.flow.end.fileno(), self._on_hup)
        if self._device.up:
            try:
                self._open_udp()
            except OSError:
                self.flow.pump = None
                raise
        else:
            self._device.when_up(self)

    def _open_udp(self) -> None:
        flow, device = self.flow, self._device
        assert flow.end is not None
        assert flow.laddr is not None
        host = unmapped(flow.laddr[0])
        v6only = bool(flow.options.get((_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY)))
        reuse = any(
            flow.options.get((_socket.SOL_SOCKET, one))
            for one in (_socket.SO_REUSEADDR, _socket.SO_REUSEPORT)
        )
        address: str | None = host
        if host == "0.0.0.0" or (host == "::" and v6only):
            pass
        elif host == "::":
            address = None
        self._udp = device.require_stack().udp(address, flow.laddr[1], v6only=v6only, reuse=reuse)
        device.own(self._udp, self)
        self._reader = device.loop.watch_read(flow.end.fileno(), self._on_app_readable)
        if self._peer is not None:
            self.connect(self._peer)
        self._reader.start()

    def on_up(self) -> None:
        """Proceed with what waited in the pair."""
        try:
            self._open_udp()
        except OSError as problem:
            self._tell(problem.errno or errno.EIO)
            return
        if self._gone:
            self._drain_and_close()

    def on_down(self, errno: int) -> None:
        """Nothing can be sent: say so to whoever waits for an answer."""
        self._tell(errno)
        if self._gone:
            self.release()
            return
        # What waited is lost, as datagrams are; the next one tries again.
        while self._take() is not None:
            pass
        self.flow.pump = None

    def connect(self, address: Address) -> None:
        """Take datagrams from *address* only, and fix the local address; waits for the device if it must."""
        flow, udp = self.flow, self._udp
        self._peer = address
        if udp is None:
            return
        peer = unmapped(address[0])
        udp.connect(peer, address[1])
        stack = self._device.require_stack()
        host = udp.local[0]
        if not host or host in ("0.0.0.0", "::"):
            host = (stack.v6 if ":" in peer else stack.v4) or ""
        if host:
            flow.laddr = present(flow.family, host, udp.local[1])

    # --- application to network ---

    def _on_app_readable(self) -> None:
        for _ in range(_BATCH):
            taken = self._take()
            if taken is None:
                return
            if not self._send(*taken):
                return

    def _take(self) -> tuple[bytes, str, int] | None:
        """Return the next well-formed datagram: payload, host, port."""
        flow = self.flow
        while True:
            assert flow.end is not None
            try:
                record = flow.end.recv(_RECORD)
            except BlockingIOError:
                return None
            except OSError:
                record = b""
            if not record:
                self._app_ended()
                return None
            try:
                kind, host, port = unpack_block(record[: BLOCK.size])
            except ValueError:
                kind = 0
            if not kind:  # somebody wrote to the bare descriptor
                self.dropped += 1
                continue
            return record[BLOCK.size :], host, port

    def _app_ended(self) -> None:
        if self._reader is None:
            return
        self._reader.stop()
        assert self.flow.end is not None
        if self._gone or hung_up(self.flow.end):
            self.release()

    def _send(self, payload: bytes, host: str, port: int) -> bool:
        """Hand one datagram to the stack; False when it has to wait."""
        assert self._udp is not None
        host = unmapped(host)
        if ":" in host and not self._device.ipv6:
            self._tell(errno.ENETUNREACH)
            return True
        try:
            self._udp.sendto(payload, host, port)
        except BlockingIOError:
            self._held = (payload, host, port)
            assert self._reader is not None
            self._reader.stop()
            return False
        except OSError as problem:
            self._tell(problem.errno or errno.EIO)
            return True
        self._device.kick()
        return True

    def _unhold(self) -> None:
        held, self._held = self._held, None
        if held is not None and self._send(*held):
            if self._gone:
                self._drain_and_close()
            elif self._reader is not None:
                self._reader.start()

    # --- network to application ---

    def on_event(self, mask: int) -> None:
        """Look at the socket; see ``netstack.events``."""
        udp, end = self._udp, self.flow.end
        if udp is None or end is None:
            return
        if self._held is not None:
            self._unhold()
            if self._udp is None:
                return
        while (item := udp.recv()) is not None:
            payload, source, _ = item
            record = pack_block(source) + payload
            try:
                end.send(record, _NOSIGNAL)
            except OSError:  # full: the newest is dropped, as in the kernel
                self.dropped += 1
        if mask & ERROR:
            number = udp.take_error()
            if number:
                self._tell(number)
                if number == errno.ENETDOWN:
                    self._lost()

    def _lost(self) -> None:
        """The stack went down: the next use opens again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._udp = None
        self._held = None
        self.flow.pump = None
        if self._gone:
            self.release()

    def _tell(self, number: int) -> None:
        """Deliver an error datagram."""
        end = self.flow.end
        if end is not None:
            try:
                end.send(pack_error(number), _NOSIGNAL)
            except OSError:
                pass

    # --- the end ---

    def _on_hup(self) -> None:
        self._gone = True
        if self._udp is not None:
            if self._held is None:
                self._drain_and_close()
        elif self.flow.pump is not self:
            forget(self.flow)
        # else: the device is not up yet; what was written before the close still goes

    def _drain_and_close(self) -> None:
        """Datagrams queued before the close still leave."""
        while self._udp is not None and (taken := self._take()) is not None:
            if not self._send(*taken):
                return
        if self._udp is not None and self.flow.end is not None:
            self.release()

    def release(self) -> None:
        """Give the socket up; what the stack has queued still leaves."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self.flow.end is not None:
            self._device.loop.closes.remove(self.flow.end.fileno())
        udp, self._udp = self._udp, None
        if udp is not None:
            self._device.disown(udp)
            udp.close()
        self._device.stop_waiting(self)
        self.flow.pump = None
        forget(self.flow)
        self._device.kick()

    def finish(self) -> None:
        """The process ends: send what was written."""
        if self._udp is not None and self._reader is not None:
            self._on_app_readable()

    def option_changed(self, key: tuple[int, int]) -> None:
        """No option of a UDP socket reaches the stack after it was opened."""
