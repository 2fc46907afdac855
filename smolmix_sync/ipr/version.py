"""Which version of the IPR protocol to speak to which node.

Source: nym-ip-packet-requests 1.21.6; spec/ipr.md section 9; design.md decision 7.
"""

from __future__ import annotations

import re

__all__ = ["CLIENT_MTU_FALLBACK", "VERSIONS", "best_supported_version", "choose_version"]

# From the specification.
VERSIONS = (6, 7, 8, 9, 10)
CLIENT_MTU_FALLBACK = 1420

_FIRST_NODE_WITH = ((10, (1, 37, 0)), (9, (1, 30, 0)))
_SEMVER = re.compile(
    r"v?(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII
)


def best_supported_version(node_version: str) -> int | None:
    """Return the newest version that a node of build *node_version* serves, or None.

    None means that the node is older than v9, or that *node_version* is no semantic
    version. A pre-release ranks below its release, as semantic versioning has it.
    """
    match = _SEMVER.fullmatch(node_version.strip())
    if match is None:
        return None
    release = (int(match[1]), int(match[2]), int(match[3]))
    is_release = match[4] is None
    for version, first in _FIRST_NODE_WITH:
        if release > first or (release == first and is_release):
            return version
    return None


def choose_version(node_version: str | None) -> int:
    """Return the version to connect with: v10 where the directory says so, else v9 at once.

    An unknown build gets v9: exits drop unknown versions silently, and finding out costs
    the v10 time-out.
    """
    return 10 if node_version is not None and best_supported_version(node_version) == 10 else 9
