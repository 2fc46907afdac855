"""The pumps between the reactor end of a socket pair and the stack: TCP streams, listeners and UDP.

Source: spec/sockets.md sections 3 to 5 and 7.
"""

from __future__ import annotations

__all__: list[str] = []
