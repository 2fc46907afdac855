"""Logging from inside the reactor: records are made in its callback thread.

A handler may block, take a lock that gevent has patched, or open a socket through the tunnel: none of
that may happen in the reactor's own thread.

Source: design.md section 2 (last paragraph).
"""

from __future__ import annotations

import logging
import sys
import traceback

from smolmix_sync.reactor import loop as _loop

__all__ = ["PACKETS", "ReactorLogger", "printable", "set_debug"]

#: The logger of IP packets. Its level is its own: a program that logs everything at DEBUG does not thereby write
#: down where it connects to.
PACKETS = logging.getLogger("smolmix_sync.packets")
PACKETS.setLevel(logging.INFO)

#: Ours: as much of a stranger's text as is told.
_LONGEST = 300

#: What set_debug has added.
_handlers: list[logging.Handler] = []


def set_debug(on: bool = True) -> None:
    """Log the package at DEBUG level, every IP packet of its tunnels included, or stop doing so.

    A program that has set logging up gets the records through its own handlers; for others they are written to
    stderr. Takes effect at once, on tunnels that are open too. The log then has destinations, never contents.
    """
    logger = logging.getLogger("smolmix_sync")
    logger.setLevel(logging.DEBUG if on else logging.NOTSET)
    PACKETS.setLevel(logging.DEBUG if on else logging.INFO)
    while _handlers and not on:
        logger.removeHandler(_handlers.pop())
    has_own = any(not isinstance(one, logging.NullHandler) for one in logger.handlers)
    if on and not has_own and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        _handlers.append(handler)


def printable(text: str) -> str:
    """Return what a stranger wrote as one line of bounded length, fit for logs, errors and terminals."""
    told = "".join(char if char.isprintable() else "?" for char in text[:_LONGEST])
    return told + "..." if len(text) > _LONGEST else told


class ReactorLogger:
    """A logger that can be used in any thread, the reactor's included.

    Args:
        name: of the logger below ``smolmix_sync.``.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"smolmix_sync.{name}")

    def _log(self, level: int, message: str, *arguments: object) -> None:
        for loop in _loop._live:
            if loop.inside():
                loop.defer(self._logger.log, level, message, *arguments)
                return
        self._logger.log(level, message, *arguments)

    def debug(self, message: str, *arguments: object) -> None:
        """Log what only a developer wants to know."""
        self._log(logging.DEBUG, message, *arguments)

    def info(self, message: str, *arguments: object) -> None:
        """Log a step in the life of something."""
        self._log(logging.INFO, message, *arguments)

    def warning(self, message: str, *arguments: object) -> None:
        """Log what somebody should look at."""
        self._log(logging.WARNING, message, *arguments)

    def exception(self, message: str) -> None:
        """Log the exception being handled: a bug of ours."""
        self._log(logging.ERROR, "%s:\n%s", message, traceback.format_exc())
