"""Putting fragments together again, whatever order they come in and whoever made them.

The Rust client has no bounds here; ours are in :class:`~smolmix_sync.mixnet.settings.TrafficSettings`.

Source: spec/message-layer.md section 7.5; common/nymsphinx/chunking/src/reconstruction.rs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.fragments import FragmentHeader
from smolmix_sync.mixnet.settings import TrafficSettings

__all__ = ["Reconstructor"]

# Ours: what an entry costs beside its payload, so that empty fragments count against the memory cap too.
_FRAGMENT_OVERHEAD = 128

_Key = tuple[Hashable, int]


@dataclass(slots=True)
class _FragmentSet:
    total: int
    touched: float
    payloads: dict[int, bytes] = field(default_factory=dict)
    previous: int | None = None
    following: int | None = None
    size: int = 0

    @property
    def complete(self) -> bool:
        return len(self.payloads) == self.total

    def join(self) -> bytes:
        return b"".join([self.payloads[position] for position in range(1, self.total + 1)])


class Reconstructor:
    """Fragment sets that are not complete, and the ids of those that were.

    Sets of different *sources* never mix, so that one peer cannot spoil another's messages.

    Attributes:
        duplicates: fragments of finished sets or of positions that were filled already.
        conflicts: fragments that contradict their set, and messages whose links do.
        expired: sets dropped for their age.
        evicted: sets dropped for lack of room.
    """

    __slots__ = (
        "_bytes",
        "_config",
        "_recent",
        "_sets",
        "_swept",
        "conflicts",
        "duplicates",
        "evicted",
        "expired",
    )

    def __init__(self, config: TrafficSettings) -> None:
        self._config = config
        self._sets: OrderedDict[_Key, _FragmentSet] = OrderedDict()  # least recently touched first
        self._recent: OrderedDict[_Key, None] = OrderedDict()
        self._bytes = 0
        self._swept = float("-inf")
        self.duplicates = 0
        self.conflicts = 0
        self.expired = 0
        self.evicted = 0

    def insert_untrusted(self, source: Hashable, fragment: bytes, now: float) -> bytes | None:
        """Take one decrypted fragment; return the padded message when it is the last one missing.

        Args:
            source: who it came from as far as known; any hashable value.
            fragment: header and payload.
            now: the time.

        Raises:
            WireError: the header is malformed or contradicts earlier fragments of the set.
        """
        header, header_size = FragmentHeader.decode_untrusted(fragment)
        key = (source, header.set_id)
        if key in self._recent:
            self.duplicates += 1
            return None
        buffer = self._sets.get(key)
        if buffer is None:
            buffer = self._sets[key] = _FragmentSet(header.total, now)
        elif buffer.total != header.total:
            self.conflicts += 1
            raise WireError("fragments of one set disagree about its size")
        else:
            buffer.touched = now
            self._sets.move_to_end(key)
        if header.position in buffer.payloads:
            self.duplicates += 1
            return None
        payload = fragment[header_size:]
        buffer.payloads[header.position] = payload
        buffer.size += len(payload) + _FRAGMENT_OVERHEAD
        self._bytes += len(payload) + _FRAGMENT_OVERHEAD
        if header.linked_id is not None:
            if header.position == 1:
                buffer.previous = header.linked_id
            else:
                buffer.following = header.linked_id
        message = self._finish(key, buffer) if buffer.complete else None
        self._make_room()
        return message

    def next_deadline(self) -> float | None:
        """Return when the oldest incomplete set has to go."""
        if not self._sets:
            return None
        oldest = next(iter(self._sets.values())).touched
        return max(oldest + self._config.reassembly_timeout, self._swept + self._config.reassembly_sweep)

    def handle_deadline(self, now: float) -> None:
        """Drop the sets that got no fragment for too long."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return
        self._swept = now
        limit = now - self._config.reassembly_timeout
        while self._sets:
            key, buffer = next(iter(self._sets.items()))
            if buffer.touched > limit:
                break
            self._drop(key)
            self.expired += 1

    @property
    def pending(self) -> int:
        """The number of sets held."""
        return len(self._sets)

    def _drop(self, key: _Key) -> None:
        self._bytes -= self._sets.pop(key).size

    def _remember(self, key: _Key) -> None:
        self._recent[key] = None
        if len(self._recent) > self._config.max_recent_sets:
            self._recent.popitem(last=False)

    def _make_room(self) -> None:
        config = self._config
        while len(self._sets) > config.max_fragment_sets or self._bytes > config.max_reassembly_bytes:
            self._drop(next(iter(self._sets)))
            self.evicted += 1

    def _finish(self, key: _Key, buffer: _FragmentSet) -> bytes | None:
        """Follow the links of a complete set both ways; return the message if every set of it is complete."""
        if buffer.previous is None and buffer.following is None:
            chain = [key]
        else:
            found = self._chain(key)
            if found is None:
                return None
            chain = found
        message = b"".join([self._sets[link].join() for link in chain])
        for link in chain:
            self._drop(link)
            self._remember(link)
        if len(message) > self._config.max_message_size:
            self.conflicts += 1
            raise WireError("message is too long")
        return message

    def _chain(self, key: _Key) -> list[_Key] | None:
        """Return the keys of all sets of a message in order; None if one is missing.

        Raises:
            WireError: the links form a cycle, or two sets disagree; all sets visited are dropped for good.
        """
        source = key[0]
        visited = {key}
        head = key
        while (previous := self._sets[head].previous) is not None:
            step = (source, previous)
            buffer = self._sets.get(step)
            if buffer is None or not buffer.complete:
                return None
            if step in visited or buffer.following != head[1]:
                self._reject(visited | {step})
            visited.add(step)
            head = step
        chain = [head]
        while (following := self._sets[chain[-1]].following) is not None:
            step = (source, following)
            buffer = self._sets.get(step)
            if buffer is None or not buffer.complete:
                return None
            if buffer.previous != chain[-1][1]:
                self._reject(visited | {step})
            visited.add(step)
            chain.append(step)
        return chain

    def _reject(self, keys: set[_Key]) -> None:
        for key in keys:
            self._drop(key)
            self._remember(key)
        self.conflicts += 1
        raise WireError("linked fragment sets contradict each other")
