"""Versions of node software, and which IP packet router protocol they speak.

Source: nym-ip-packet-requests 1.21.6; spec/ipr.md section 9; spec/topology.md section 9; design.md decision 7; semver 2.0.0.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["IPR_V9_RELEASE", "IPR_V10_RELEASE", "at_least", "best_ipr_version", "ipr_version_for"]

#: The first node releases whose router speaks version 9 on a stream, and version 10.
IPR_V9_RELEASE: Final = (1, 30, 0)
IPR_V10_RELEASE: Final = (1, 37, 0)

_NUMBER = r"(0|[1-9]\d{0,9})"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_SEMVER = re.compile(
    rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-({_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?", re.ASCII
)


def at_least(version: str | None, release: tuple[int, int, int]) -> bool | None:
    """Tell whether a version is *release* or later; None if it is no semantic version.

    A pre-release comes before its release; a leading v and blanks around it do no harm.
    """
    match = _SEMVER.fullmatch((version or "").strip())
    if match is None:
        return None
    major, minor, patch, pre = match.groups()
    numbers = (int(major), int(minor), int(patch))
    return numbers > release or (numbers == release and pre is None)


def best_ipr_version(version: str | None) -> int | None:
    """Return the newest router protocol a node of this version serves; None if it is older than 9, or unknown."""
    if at_least(version, IPR_V10_RELEASE):
        return 10
    return 9 if at_least(version, IPR_V9_RELEASE) else None


def ipr_version_for(version: str | None) -> int:
    """Return the router protocol to try first with a node of this version.

    An unknown version gets 9: exits drop what they do not know in silence, and finding out costs the time-out of 10.
    """
    return best_ipr_version(version) or 9
