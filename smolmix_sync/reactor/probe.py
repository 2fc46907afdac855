"""The end-to-end probe: READY means that something came back through the exit.

A DNS question over UDP to both resolvers, and a TCP handshake with the first one's port 53 in case the
exit or a network behind it drops UDP. Any answer will do, a refusal included: it has been to the other side.

Source: design.md decision 14.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

import gevent

from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import NoExit
from smolmix_sync.netstack import Conn, Stack, State, Udp
from smolmix_sync.reactor.loop import ReactorLoop

__all__ = ["IPV6_RESOLVER", "ExitProbe"]

#: Ours: a resolver to ask over IPv6, to learn whether the exit has that (the address of 1.1.1.1's operator).
IPV6_RESOLVER = "2606:4700:4700::1111"


#: Ours: how often an unanswered question is asked again, and when TCP is tried beside it.
_ASK_AGAIN = 2.0
_TCP_AFTER = 1.0
_LOOK = 0.02


def _question() -> bytes:
    """Return a DNS query for the name servers of the root: everybody asks it, and it names nobody."""
    return os.urandom(2) + bytes.fromhex("0100000100000000000000 0002 0001".replace(" ", ""))


class ExitProbe:
    """Questions through a new exit; reactor greenlets.

    Args:
        stack: the new stack; its packets are exchanged by the bridge.
        config: names the resolvers.
        loop: the clock.
        wake: tells the shaper that the stack has output.
    """

    def __init__(
        self, stack: Stack, config: TunnelConfig, loop: ReactorLoop, wake: Callable[[], object]
    ) -> None:
        self._stack = stack
        self._resolvers = [config.primary_dns, config.fallback_dns]
        self._loop = loop
        self._wake = wake
        self._v4 = stack.udp()
        self._v6 = stack.udp("::", v6only=True)
        self._conn: Conn | None = None

    def run(self, until: float, check: Callable[[], None]) -> None:
        """Return as soon as anything has come back; blocks the greenlet, which drives the stack meanwhile.

        Args:
            until: when to give up.
            check: raises when going on makes no sense.

        Raises:
            NoExit: nothing came back in time.
        """
        begin = self._loop.now()
        asked_at = begin - _ASK_AGAIN
        while not self._answered():
            now = self._loop.now()
            if now >= until:
                raise NoExit("probe: the exit gave addresses, but nothing comes back through it")
            check()
            if now - asked_at >= _ASK_AGAIN:
                asked_at = now
                self.ask()
                self._send(self._v6, IPV6_RESOLVER)
            if self._conn is None and now - begin >= _TCP_AFTER:
                self._knock()
            self._drive(now)
            gevent.sleep(_LOOK)
        # An exit with IPv6 answers that question at about the same time: worth a moment.
        patience = self._loop.now() + min(0.25, self._loop.now() - begin)
        while not self.ipv6_works and self._loop.now() < patience:
            self._drive(self._loop.now())
            gevent.sleep(_LOOK)

    def _drive(self, now: float) -> None:
        deadline = self._stack.next_deadline()
        if deadline is not None and deadline <= now:
            self._stack.handle_deadline(now)
        self._wake()
        for _ in self._stack.events():
            pass

    def ask(self, *, tcp: bool = False) -> None:
        """Send the question to both resolvers, with *tcp* a handshake as well."""
        for resolver in self._resolvers:
            self._send(self._v4, resolver)
        if tcp:
            self._knock()

    def _knock(self) -> None:
        with contextlib.suppress(OSError):
            self._conn = self._stack.connect(self._resolvers[0], 53, self._loop.now())

    @staticmethod
    def _send(udp: Udp, resolver: str) -> None:
        with contextlib.suppress(OSError):
            udp.sendto(_question(), resolver, 53)

    @property
    def ipv6_works(self) -> bool:
        """Whether something came back over IPv6."""
        return self._v6.readable() > 0

    def _answered(self) -> bool:
        if self._v4.readable() or self.ipv6_works:
            return True
        # A reset has crossed the exit as well as an answer has; our own timers have not.
        conn = self._conn
        if conn is None or conn.state is State.SYN_SENT:
            return False
        return conn.state is not State.CLOSED or conn.error == errno.ECONNREFUSED

    def close(self) -> None:
        """Leave nothing of the questions in the stack."""
        self._v4.close()
        self._v6.close()
        if self._conn is not None:
            self._conn.abort()
