"""Pumps, where the socket tests cannot hold a moment still."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from smolmix_sync.reactor.pump import StreamPump


def test_filling_of_the_next_connect_is_left_to_the_next_connect() -> None:
    class End:
        """The application connects again, and fills anew, while the reactor is between two reads."""

        def __init__(self) -> None:
            self.held = 100

        def recv(self, most: int) -> bytes:
            count = min(60, most, self.held)
            if self.held == 100:
                flow.junk = 70
                self.held += 70
            self.held -= count
            return bytes(count)

    end = End()
    flow: Any = SimpleNamespace(end=end, junk=100)
    pump = StreamPump.__new__(StreamPump)
    pump.flow = flow
    pump._drain_junk()
    assert (flow.junk, end.held) == (70, 70)
