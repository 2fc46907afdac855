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
from smolmix_sync.netstack import Conn, Stack, Udp
from smolmix_sync.reactor.loop import ReactorLoop

__all__ = ["probe_exit"]

#: Ours: how often an unanswered question is asked again, and when TCP is tried beside it.
_ASK_AGAIN = 2.0
_TCP_AFTER = 1.0
_LOOK = 0.02


def _question() -> bytes:
    """Return a DNS query for the name servers of the root: everybody asks it, and it names nobody."""
    return os.urandom(2) + bytes.fromhex("0100000100000000000000 0002 0001".replace(" ", ""))


def probe_exit(
    stack: Stack,
    config: TunnelConfig,
    loop: ReactorLoop,
    wake: Callable[[], object],
    until: float,
    check: Callable[[], None],
) -> None:
    """Return as soon as anything has come back; blocks the calling greenlet, which drives *stack* meanwhile.

    Args:
        stack: the new stack; its packets are exchanged by the bridge.
        config: names the resolvers.
        loop: the clock.
        wake: tells the shaper that the stack has output.
        until: when to give up.
        check: raises when going on makes no sense.

    Raises:
        NoExit: nothing came back in time.
    """
    resolvers = [config.primary_dns, config.fallback_dns]
    udp = stack.udp()
    conn: Conn | None = None
    begin = loop.now()
    asked_at = begin - _ASK_AGAIN
    try:
        while True:
            now = loop.now()
            if now >= until:
                raise NoExit("probe: the exit gave addresses, but nothing comes back through it")
            check()
            if now - asked_at >= _ASK_AGAIN:
                asked_at = now
                for resolver in resolvers:
                    with contextlib.suppress(OSError):
                        udp.sendto(_question(), resolver, 53)
            if conn is None and now - begin >= _TCP_AFTER:
                with contextlib.suppress(OSError):
                    conn = stack.connect(resolvers[0], 53, now)
            deadline = stack.next_deadline()
            if deadline is not None and deadline <= now:
                stack.handle_deadline(now)
            wake()
            for _ in stack.events():
                pass
            if _answered(udp, conn):
                return
            gevent.sleep(_LOOK)
    finally:
        udp.close()
        if conn is not None:
            conn.abort()
        for _ in stack.events():
            pass


def _answered(udp: Udp, conn: Conn | None) -> bool:
    if udp.readable():
        return True
    # A reset has crossed the exit as well as an answer has; our own timers have not.
    return conn is not None and (conn.writable() > 0 or conn.error == errno.ECONNREFUSED)
