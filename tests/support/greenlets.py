"""Running code in greenlets of a reactor from a test's thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from smolmix_sync.reactor.loop import ReactorLoop

__all__ = ["in_greenlet", "wait_until"]


def in_greenlet(loop: ReactorLoop, fn: Callable[[], Any], timeout: float = 30.0) -> Any:
    """Run *fn* in a greenlet of the reactor and return or raise what it does."""
    result: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            result.append((fn(), None))
        except BaseException as error:
            result.append((None, error))

    loop.spawn(run)
    wait_until(lambda: result, timeout)
    value, error = result[0]
    if error is not None:
        raise error
    return value


def wait_until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until *condition* is true; fail after *timeout* seconds."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "the condition did not come true"
        time.sleep(0.002)
