"""Header fields: repeated ones kept, names compared without case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

__all__ = ["HeaderInput", "Headers", "merged"]

HeaderInput = Mapping[str, str | None] | Iterable[tuple[str, str | None]] | None


class Headers(Mapping[str, str]):
    """The fields of a message in their order.

    As a mapping, a name that is repeated gives its values joined with ``", "``; :meth:`get_all` and
    :attr:`pairs` keep them apart, as ``Set-Cookie`` needs it.
    """

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        #: Every field as received: (name, value).
        self.pairs: list[tuple[str, str]] = list(pairs)

    def get_all(self, name: str) -> list[str]:
        """Return the values of every field called *name*."""
        wanted = name.lower()
        return [value for key, value in self.pairs if key.lower() == wanted]

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.lower() for key, _ in self.pairs))

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self.pairs})

    def __repr__(self) -> str:
        return f"Headers({self.pairs!r})"


def merged(floor: Iterable[tuple[str, str]], given: HeaderInput) -> list[tuple[str, str]]:
    """Return *floor* overridden by *given*; a value of None takes a field away."""
    own = list(given.items()) if isinstance(given, Mapping) else list(given or ())
    named = {name.lower() for name, _ in own}
    return [
        *((name, value) for name, value in floor if name.lower() not in named),
        *((name, value) for name, value in own if value is not None),
    ]
