"""When to fetch the topology anew, and how long an old one is good.

Source: spec/topology.md section 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from smolmix_sync.mixnet.topology.fetch import Directory

__all__ = [
    "MAX_FAILURES",
    "REFRESH_INTERVAL",
    "RefreshDue",
    "RefreshEvent",
    "TopologyChanged",
    "TopologyCleared",
    "TopologyRefresher",
]

T = TypeVar("T")

#: From the specification: seconds between two rounds, and how many may fail in a row.
REFRESH_INTERVAL: Final = 300.0
MAX_FAILURES: Final = 10


@dataclass(slots=True)
class RefreshDue:
    """Fetch the directory now and report ``succeeded`` or ``failed``."""


@dataclass(slots=True)
class TopologyChanged:
    """A new directory is in force; *rotated* if nodes have new Sphinx keys since the one before."""

    directory: Directory
    rotated: bool


@dataclass(slots=True)
class TopologyCleared:
    """Too many rounds failed: nothing can be sent until one succeeds."""


RefreshEvent = RefreshDue | TopologyChanged | TopologyCleared


class TopologyRefresher:
    """Keeps the last good directory and the schedule; the owner makes the requests.

    After ten failed rounds in a row the directory is still kept, the eleventh clears it.
    """

    def __init__(
        self,
        *,
        interval: float = REFRESH_INTERVAL,
        max_failures: int = MAX_FAILURES,
        refresh: bool = True,
    ) -> None:
        """Create an idle schedule; with *refresh* false the first directory stays for ever."""
        self.interval = interval
        self.max_failures = max_failures
        self.refresh = refresh
        self.directory: Directory | None = None
        self.failures = 0
        self._rotation = 0
        self._deadline: float | None = None
        self._fetching = False
        self._events: deque[RefreshEvent] = deque()

    def start(self, now: float, directory: Directory | None = None) -> None:
        """Begin, with the *directory* fetched at set-up, or by asking for one at once."""
        if directory is None:
            self._deadline = now
            self.handle_deadline(now)
        else:
            self.succeeded(directory, now)

    def stop(self) -> None:
        """Ask for nothing more."""
        self._deadline = None

    def next_deadline(self) -> float | None:
        """Return when ``handle_deadline`` wants to be called."""
        return self._deadline

    def handle_deadline(self, now: float) -> None:
        """Ask for a round if one is due."""
        if self._deadline is None or now < self._deadline:
            return
        self._deadline = None
        if not self._fetching:
            self._fetching = True
            self._events.append(RefreshDue())

    def succeeded(self, directory: Directory, now: float) -> None:
        """Take the directory of a round that went well."""
        older, self.directory = self.directory, directory
        rotated = older is not None and older.topology.key_rotation_id != directory.topology.key_rotation_id
        self.failures = 0
        self._replace_event(TopologyChanged(directory, rotated))
        self._schedule(now)

    def failed(self, now: float) -> None:
        """Count a round that failed, for whatever reason."""
        self.failures += 1
        self._rotation += 1
        if self.failures > self.max_failures and self.directory is not None:
            self.directory = None
            self._replace_event(TopologyCleared())
        self._schedule(now)

    def _replace_event(self, event: TopologyChanged | TopologyCleared) -> None:
        """Queue what happened to the topology; what happened to it before is of no use to anyone."""
        kept = [waiting for waiting in self._events if isinstance(waiting, RefreshDue)]
        if isinstance(event, TopologyChanged):
            earlier = (waiting.rotated for waiting in self._events if isinstance(waiting, TopologyChanged))
            event.rotated = event.rotated or any(earlier)
        self._events = deque([*kept, event])

    def _schedule(self, now: float) -> None:
        self._fetching = False
        wanted = self.refresh or self.directory is None
        self._deadline = now + self.interval if wanted else None

    def rotated_urls(self, urls: Sequence[T]) -> list[T]:
        """Return the API's URLs in the order to try them: each failed round puts the first one last."""
        shift = self._rotation % len(urls) if urls else 0
        return [*urls[shift:], *urls[:shift]]

    def next_event(self) -> RefreshEvent | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None
