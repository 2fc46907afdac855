"""The performance of a node: an exact decimal between 0 and 1.

Source: spec/topology.md section 4 (``performance``); cosmwasm ``Decimal``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from smolmix_sync.errors import WireError

__all__ = ["Performance"]

_DIGITS: Final = 18
_ONE: Final = 10**_DIGITS
# More whole digits than this cannot be below 1 unless they are zeros; nobody writes those.
_PATTERN = re.compile(rf"(\d{{1,20}})(?:\.(\d{{1,{_DIGITS}}}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Performance:
    """A share of 1 in units of 10**-18."""

    atomics: int

    def __post_init__(self) -> None:
        if not 0 <= self.atomics <= _ONE:
            raise ValueError("performance is outside 0..1")

    @classmethod
    def parse_untrusted(cls, text: str) -> Performance:
        """Parse a decimal string.

        Raises:
            WireError: no plain decimal of at most 18 fractional digits, or more than 1.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise WireError("performance is not a decimal")
        atomics = int(match[1]) * _ONE + int((match[2] or "").ljust(_DIGITS, "0"))
        if atomics > _ONE:
            raise WireError("performance is more than 1")
        return cls(atomics)

    @classmethod
    def from_percent(cls, percent: int) -> Performance:
        """Return a whole percent as performance."""
        return cls(percent * _ONE // 100)

    @property
    def percent(self) -> int:
        """The whole percent, rounded down."""
        return self.atomics * 100 // _ONE

    def __str__(self) -> str:
        whole, fraction = divmod(self.atomics, _ONE)
        return f"{whole}.{fraction:018}".rstrip("0").rstrip(".")
