"""Versions of node software, and which IP packet router protocol they speak.

Source: spec/topology.md section 9; design.md decision 7; semver.org 2.0.0.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["IPR_V9_RELEASE", "IPR_V10_RELEASE", "at_least", "ipr_version_for"]

#: The first node releases whose router speaks version 9 on a stream, and version 10.
IPR_V9_RELEASE: Final = (1, 30, 0)
IPR_V10_RELEASE: Final = (1, 37, 0)

_NUMBER = r"(0|[1-9]\d{0,9})"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_SEMVER = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-({_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?", re.ASCII)


def at_least(version: str | None, release: tuple[int, int, int]) -> bool | None:
    """Tell whether a version is *release* or later; None if it is no semantic version.

    A pre-release comes before its release.
    """
    match = _SEMVER.fullmatch(version or "")
    if match is None:
        return None
    major, minor, patch, pre = match.groups()
    numbers = (int(major), int(minor), int(patch))
    return numbers > release or (numbers == release and pre is None)


def ipr_version_for(version: str | None) -> int:
    """Return the router protocol to try first with a node of this version: 10, or 9 also when unknown."""
    return 10 if at_least(version, IPR_V10_RELEASE) else 9
