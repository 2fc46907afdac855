"""Doors into a tunnel for programs that are not Python: SOCKS5, HTTP proxy, forwarded ports.

Each front listens on a kernel socket, on loopback unless it has a password, and carries connections with half
closes, back-pressure and resets as they are.

Source: design.md section 3; issue 8 part 4.
"""

from __future__ import annotations

from smolmix_sync.fronts.forwarding import Forward, forward
from smolmix_sync.fronts.httpproxy import HttpProxy
from smolmix_sync.fronts.server import Front
from smolmix_sync.fronts.socks5 import SocksServer

__all__ = ["Forward", "Front", "HttpProxy", "SocksServer", "forward"]
