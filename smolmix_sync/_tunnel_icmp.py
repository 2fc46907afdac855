"""ICMP echo through a tunnel: what ``ping`` does, for programs.

Source: design.md section 6 (``icmp_socket``); RFC 792, RFC 4443.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from smolmix_sync.errors import NetworkDown
from smolmix_sync.reactor.signals import Signal, Waiter

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device

__all__ = ["Echo", "IcmpSocket"]

#: Ours: requests whose answer is still waited for; older ones have no round trip.
_MAX_WAITING = 1024


@dataclass(frozen=True, slots=True)
class Echo:
    """One answer.

    Attributes:
        source: who answered.
        seq: number of the request.
        payload: what came back; equal to what was sent.
        rtt: seconds since the request; None if that is too long ago.
    """

    source: str
    seq: int
    payload: bytes
    rtt: float | None


class IcmpSocket:
    """Sends echo requests from an identifier of its own and receives their answers; a context manager.

    Made by ``Tunnel.icmp_socket()``. One thread sends and receives at a time. Exits carry ICMP for the addresses
    their policy allows; a lost request or answer is lost, as everywhere.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._seq = 0
        self._signal = Signal()
        self._waiter: Waiter | None = self._signal.waiter()
        self._waiter.__enter__()
        try:
            self._echoes: _Echoes = device.loop.call(_Echoes, device, self._waiter.set)
        except BaseException:
            self.close()
            raise

    def send(self, host: str, payload: bytes = b"") -> int:
        """Send one request; return its number.

        Args:
            host: a name or an address.
            payload: comes back in the answer; 1400 octets at most.

        Raises:
            OSError: EMSGSIZE, ENETUNREACH (IPv6 behind an exit without), ENETDOWN, or no such name.
        """
        self._check()
        address = self._device.resolver.lookup(host)[0]
        self._seq = (self._seq + 1) & 0xFFFF
        self._device.loop.call(self._echoes.send, address, self._seq, bytes(payload))
        return self._seq

    def recv(self, timeout: float | None = None) -> Echo:
        """Return the next answer.

        Args:
            timeout: seconds; None waits for as long as the tunnel is up.

        Raises:
            TimeoutError: none came in time.
            OSError: an ICMP error came instead (EHOSTUNREACH ...), or ENETDOWN.
        """
        waiter = self._check()
        loop = self._device.loop
        until = None if timeout is None else loop.now() + timeout
        while True:
            if self._echoes.answers:
                answer = self._echoes.answers.popleft()
                if isinstance(answer, int):
                    raise OSError(answer, os.strerror(answer))
                return answer
            if self._echoes.lost:
                raise NetworkDown
            left = 3600.0 if until is None else until - loop.now()
            if left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, f"no echo in {timeout:g} s")
            waiter.wait(left)

    def _check(self) -> Waiter:
        if self._waiter is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._waiter

    def close(self) -> None:
        """Release it; any number of times."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.__exit__(None, None, None)
            echoes = getattr(self, "_echoes", None)
            if echoes is not None and self._device.loop.running:
                self._device.loop.call(echoes.close)

    def __enter__(self) -> IcmpSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Echoes:
    """The reactor's half; made, told and closed in its thread. Errors stand among the answers as numbers."""

    def __init__(self, device: Device, wake: Callable[[], object]) -> None:
        self.answers: deque[Echo | int] = deque(maxlen=256)
        self.lost = False
        self._device = device
        self._wake = wake
        self._sent: dict[int, float] = {}
        self._ping = device.require_stack().ping()
        device.own(self._ping, self)

    def send(self, address: str, seq: int, payload: bytes) -> None:
        if self.lost:
            raise NetworkDown
        self._ping.send(address, seq, payload)
        self._sent[seq] = self._device.loop.now()
        while len(self._sent) > _MAX_WAITING:
            del self._sent[next(iter(self._sent))]
        self._device.kick()

    def on_event(self, mask: int) -> None:
        while (reply := self._ping.recv()) is not None:
            sent = self._sent.pop(reply.seq, None)
            rtt = None if sent is None else reply.received_at - sent
            self.answers.append(reply.error or Echo(reply.addr, reply.seq, reply.payload, rtt))
        self.lost = self.lost or not self._device.up
        self._wake()

    def close(self) -> None:
        if not self.lost:
            self._device.disown(self._ping)
            self._ping.close()
