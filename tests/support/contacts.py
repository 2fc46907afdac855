"""Whom the reactor talks to: every address it dials and every name it looks up, outside the tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smolmix_sync.reactor import _real

__all__ = ["Contacts", "recorded_contacts"]


class Contacts:
    """What was dialled and looked up."""

    def __init__(self) -> None:
        self.dialled: list[tuple[str, int]] = []
        self.looked_up: list[str] = []

    def only(self, *known: tuple[str, int]) -> None:
        """Fail if anything but *known* was dialled, or any name was looked up."""
        assert set(self.dialled) <= set(known), set(self.dialled) - set(known)
        assert self.looked_up == []


@contextmanager
def recorded_contacts() -> Iterator[Contacts]:
    """Record for the time of the block."""
    contacts = Contacts()
    connect, lookup = _real.RealSocket.connect, _real._system_lookup

    def connecting(self: Any, address: Any) -> None:
        contacts.dialled.append(tuple(address[:2]))
        connect(self, address)

    def looking(host: bytes, port: int) -> list[Any]:
        contacts.looked_up.append(host.decode())
        return lookup(host, port)

    _real.RealSocket.connect = connecting  # type: ignore[method-assign]
    _real._system_lookup = looking
    try:
        yield contacts
    finally:
        _real.RealSocket.connect = connect  # type: ignore[method-assign]
        _real._system_lookup = lookup
