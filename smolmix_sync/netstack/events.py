"""What the owner of a stack is told, and how repeated news is coalesced.

An event is a pair ``(object, mask)``. The mask says what changed since the
object was last reported; the object itself holds the state, so a missed or
merged event never loses information: ask ``readable()``, ``writable()``,
``eof()`` and ``error``.

Source: spec/netstack.md section 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from smolmix_sync.netstack.connection import Conn
    from smolmix_sync.netstack.listener import Incoming, Listener
    from smolmix_sync.netstack.ping import Ping
    from smolmix_sync.netstack.udp import Datagram, Udp

    StackObject: TypeAlias = Conn | Listener | Incoming | Udp | Datagram | Ping

__all__ = ["CLOSED", "CONNECTED", "ERROR", "HUP", "INCOMING", "READABLE", "WRITABLE", "EventQueue"]

CONNECTED = 1
"""The handshake of an active open finished: the connection may be used."""
READABLE = 2
"""Data, a datagram, an echo reply or (Listener) a connection waits."""
WRITABLE = 4
"""The send buffer has room again."""
HUP = 8
"""The peer's FIN was reached: nothing will become readable after what is there."""
ERROR = 16
"""``error`` was set: a connection is dead, a datagram socket has a pending error."""
INCOMING = 32
"""``any_address`` only: an Incoming to accept or refuse, or a Datagram to any destination."""
CLOSED = 64
"""The connection left the table; no more events follow. Data already received stays readable."""


class EventQueue:
    """Objects with news, in the order of their first unreported change.

    Bounded by the number of live objects: a second change of an object that is
    still waiting only adds bits to its mask.
    """

    __slots__ = ("_masks",)

    def __init__(self) -> None:
        self._masks: dict[StackObject, int] = {}

    def add(self, obj: StackObject, mask: int) -> None:
        """Report *mask* for *obj*, merged with what is already waiting."""
        masks = self._masks
        masks[obj] = masks.get(obj, 0) | mask

    def pop(self) -> tuple[StackObject, int] | None:
        """Take the oldest report, or None."""
        masks = self._masks
        if not masks:
            return None
        obj = next(iter(masks))
        return obj, masks.pop(obj)
