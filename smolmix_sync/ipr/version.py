"""Versions of the IPR protocol.

Source: nym-ip-packet-requests 1.21.6; spec/ipr.md section 9.
"""

from __future__ import annotations

__all__ = ["CLIENT_MTU_FALLBACK", "VERSIONS"]

# From the specification.
VERSIONS = (6, 7, 8, 9, 10)
CLIENT_MTU_FALLBACK = 1420
