"""The end of the process: what was written is brought home first, at exit and at SIGTERM.

Source: spec/sockets.md section 14; design.md section 8a.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from smolmix_sync.reactor import provider
from smolmix_sync.reactor._originals import get_ident

__all__ = ["flush_all", "handle_sigterm"]

_LOG = logging.getLogger("smolmix_sync.monkey")

#: Seconds for a device without settings of its own; the default of ``exit_flush``.
_EXIT_FLUSH = 10.0


def handle_sigterm() -> Callable[[], object] | None:
    """Have SIGTERM, where the program leaves it alone, bring written data home before it ends the process.

    The kernel would deliver what was written before a kill; a stack within the process dies with it.

    Returns:
        What takes the handler away again; None where there is none of ours.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None
    signal.signal(signal.SIGTERM, _terminated)
    _hook_forks()

    def undo() -> None:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is _terminated
        ):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return undo


#: By thread, the signal mask from before a fork that is under way.
_fork_masks: dict[int, Any] = {}


@functools.cache  # hooks are for good
def _hook_forks() -> None:
    os.register_at_fork(
        before=_hold_sigterm, after_in_parent=_release_sigterm, after_in_child=_default_sigterm
    )


def _hold_sigterm() -> None:
    """Have SIGTERM wait: the interpreter forgets signals that reach a child before it is set up."""
    _fork_masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release_sigterm() -> None:
    mask = _fork_masks.pop(get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _default_sigterm() -> None:
    """A forked child dies of SIGTERM at once, as those who start workers expect."""
    if signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release_sigterm()


def _terminated(number: int, frame: object) -> None:
    """Flush, then end as if nobody had handled the signal; a second SIGTERM does not wait."""
    signal.signal(number, signal.SIG_DFL)
    try:
        flush_all()
    finally:
        os.kill(os.getpid(), number)


def flush_all() -> None:
    """Wait until the data of closed sockets is acknowledged, at most ``exit_flush`` seconds for each tunnel.

    Holds the thread, as at the process' end: the reactor has one of its own.
    """
    known: dict[Any, float] = {}
    tunnels = sys.modules.get("smolmix_sync.tunnel")
    for tunnel in list(tunnels._tunnels) if tunnels is not None else ():
        known[tunnel.device] = tunnel.config.exit_flush
    port = provider.peek()
    if port is not None:
        known.setdefault(port.device, _EXIT_FLUSH)
    for device, limit in known.items():
        flush = getattr(device, "flush", None)
        if flush is None:  # a daemon's: the data is with it already
            continue
        try:
            flush(limit)
        except OSError as problem:
            _LOG.debug("flush: %s", problem)
