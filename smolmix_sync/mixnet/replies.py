"""What we keep about the SURBs we gave away: the keys of the replies, and an estimate of what is left of them.

Source: spec/message-layer.md section 12.2; common/client-core/surb-storage, design.md section 7.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from smolmix_sync.address import Recipient
from smolmix_sync.crypto import Secret
from smolmix_sync.mixnet.message import SENDER_TAG_SIZE
from smolmix_sync.mixnet.settings import TrafficSettings

__all__ = ["ReplyKey", "ReplyKeys", "SenderTags"]


@dataclass(slots=True)
class ReplyKey(Secret):
    """The key that one reply will be encrypted with.

    Attributes:
        key: AES-128 key.
        recipient: whom the SURB was given to.
        number: how many SURBs that recipient had been given before.
        sent_at: when.
    """

    key: bytes = field(repr=False)
    recipient: Recipient
    number: int
    sent_at: float


@dataclass(slots=True)
class _Stock:
    """What one recipient holds of our SURBs, as far as we can tell.

    Peers use the SURB first that reached them first, and messages overtake each other by a few seconds at most.
    So when a SURB comes back, those given a few seconds before it are used, in flight or lost. Those that do not
    come back within a few more seconds never will; counting them as stock would starve the peer in the end.
    """

    given: int = 0
    unused: dict[int, float] = field(default_factory=dict)  # number: when it was given, ascending
    newest_used: float = float("-inf")  # when the youngest SURB that came back was given
    marks: deque[tuple[float, float]] = field(
        default_factory=lambda: deque(maxlen=256)
    )  # (when, newest_used then)

    def use(self, number: int, sent_at: float, now: float) -> None:
        self.unused.pop(number, None)
        if sent_at > self.newest_used:
            self.newest_used = sent_at
            # A mark per tenth of a second is enough, and bounds the queue.
            if self.marks and now - self.marks[-1][0] < 0.1:
                self.marks[-1] = (self.marks[-1][0], sent_at)
            else:
                self.marks.append((now, sent_at))

    def settle(self, now: float, patience: float) -> None:
        """Take for lost what was passed over for longer than *patience*."""
        passed = None
        while self.marks and self.marks[0][0] <= now - patience:
            passed = self.marks.popleft()[1]
        if passed is None:
            return
        while self.unused:
            number, sent_at = next(iter(self.unused.items()))
            if sent_at >= passed - patience:
                break
            del self.unused[number]


class ReplyKeys(Secret):
    """The reply keys by digest, oldest first, and the stock of every recipient."""

    __slots__ = ("_config", "_keys", "_stocks")

    def __init__(self, config: TrafficSettings) -> None:
        self._config = config
        self._keys: OrderedDict[bytes, ReplyKey] = OrderedDict()
        self._stocks: OrderedDict[Recipient, _Stock] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, digest: bytes, key: bytes, recipient: Recipient, now: float) -> None:
        """Remember the key of a SURB; call it before the SURB can leave."""
        stock = self._stocks.get(recipient)
        if stock is None:
            stock = self._stocks[recipient] = _Stock()
            if len(self._stocks) > self._config.max_recipients:
                self._stocks.popitem(last=False)
        else:
            self._stocks.move_to_end(recipient)
        self._keys[digest] = ReplyKey(key, recipient, stock.given, now)
        stock.unused[stock.given] = now
        stock.given += 1
        if len(self._keys) > self._config.max_reply_keys:
            self._forget_oldest()

    def pop(self, digest: bytes, now: float) -> ReplyKey | None:
        """Return the key a reply refers to, which works once; None if it is not a reply to us."""
        entry = self._keys.pop(digest, None)
        if entry is not None:
            stock = self._stocks.get(entry.recipient)
            if stock is not None:
                stock.use(entry.number, entry.sent_at, now)
        return entry

    def outstanding(self, recipient: Recipient, now: float) -> int:
        """Estimate how many of the SURBs given to *recipient* it can still use."""
        stock = self._stocks.get(recipient)
        if stock is None:
            return 0
        stock.settle(now, self._config.surb_spent_after)
        return len(stock.unused)

    def discount(self, recipient: Recipient | None = None) -> None:
        """Count no SURB given so far, to *recipient* or to anybody, as stock. Replies still work."""
        for holder, stock in self._stocks.items():
            if recipient is None or holder == recipient:
                stock.unused.clear()
                stock.marks.clear()

    def forget(self, recipient: Recipient) -> None:
        """Drop the keys and the stock of *recipient*."""
        self._stocks.pop(recipient, None)
        for digest in [digest for digest, entry in self._keys.items() if entry.recipient == recipient]:
            del self._keys[digest]

    def next_deadline(self) -> float | None:
        """Return when the oldest key has to go."""
        if not self._keys:
            return None
        return next(iter(self._keys.values())).sent_at + self._config.reply_key_age

    def handle_deadline(self, now: float) -> None:
        """Drop the keys that are too old."""
        while self._keys and next(iter(self._keys.values())).sent_at + self._config.reply_key_age <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, entry = self._keys.popitem(last=False)
        stock = self._stocks.get(entry.recipient)
        if stock is not None:
            stock.unused.pop(entry.number, None)


class SenderTags:
    """Our pseudonym at every recipient: random, one per recipient, kept as long as we run.

    Source: spec/message-layer.md section 4.4.
    """

    __slots__ = ("_limit", "_tags", "_urandom")

    def __init__(self, limit: int, urandom: Callable[[int], bytes]) -> None:
        self._limit = limit
        self._urandom = urandom
        self._tags: OrderedDict[Recipient, bytes] = OrderedDict()

    def __contains__(self, recipient: object) -> bool:
        return recipient in self._tags

    def of(self, recipient: Recipient) -> bytes:
        """Return the tag for *recipient*, drawing it at the first use."""
        tag = self._tags.get(recipient)
        if tag is None:
            tag = self._tags[recipient] = self._urandom(SENDER_TAG_SIZE)
            if len(self._tags) > self._limit:
                self._tags.popitem(last=False)
        else:
            self._tags.move_to_end(recipient)
        return tag

    def forget(self, recipient: Recipient) -> None:
        """Drop the tag: to *recipient* we are somebody else from now on."""
        self._tags.pop(recipient, None)
