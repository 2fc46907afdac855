"""The end of a TLS stream over a daemon's socket.

OpenSSL reads the descriptor itself, and Python's ``SSLSocket.read`` takes a connection that ends without
close_notify for an end of file. In one process a reset is one on the descriptor, also for OpenSSL; over a daemon it
may be an end of file, so the flow has to be asked there as well.

Source: design.md decision 16.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from smolmix_sync.reactor._originals import os_error
from smolmix_sync.reactor.flow import by_fd

__all__ = ["cover"]

_covered: set[type] = set()


def cover(is_remote: Callable[[Any], bool]) -> None:
    """Have the TLS sockets that are loaded ask how their streams ended; any number of times.

    For sockets whose flow is not remote nothing changes, so this is not undone.
    """
    for module in ("ssl", "gevent.ssl"):
        cls = getattr(sys.modules.get(module), "SSLSocket", None)
        # gevent.monkey puts gevent's class under the stdlib's name.
        if cls is not None and "read" in vars(cls) and cls not in _covered:
            _covered.add(cls)
            cls.read = _asking(cls.read, is_remote)
    if "gevent.monkey" in sys.modules:
        cls = sys.modules["gevent.monkey"].get_original("ssl", "SSLSocket") if "ssl" in sys.modules else None
        if cls is not None and cls not in _covered:
            _covered.add(cls)
            cls.read = _asking(cls.read, is_remote)


def _asking(read: Callable[..., Any], is_remote: Callable[[Any], bool]) -> Callable[..., Any]:
    @functools.wraps(read)
    def asking_read(self: Any, len: int = 1024, buffer: Any = None) -> Any:
        flow = by_fd.get(self.fileno())
        if flow is None or not is_remote(flow) or not self.suppress_ragged_eofs:
            return read(self, len, buffer)
        ssl = sys.modules["ssl"]
        self.suppress_ragged_eofs = False
        try:
            return read(self, len, buffer)
        except ssl.SSLError as problem:
            if problem.args[0] != ssl.SSL_ERROR_EOF:
                raise
        except ConnectionResetError:
            # The pair's, which knows less than the daemon.
            number = flow.take_error()
            if number:
                raise os_error(number) from None
            raise
        finally:
            self.suppress_ragged_eofs = True
        number = flow.take_error()
        if number:
            raise os_error(number)
        return 0 if buffer is not None else b""

    return asking_read
