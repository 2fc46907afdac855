"""A websocket server of the wsproto library that echoes, plain and over TLS."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import python_server

PROGRAM = Path(__file__).parents[1] / "servers" / "websocket_echo.py"


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run the server in a process of its own."""
    ca, pem = credentials("websocket", address, folder)
    with python_server(PROGRAM, address, pem) as (port, tls_port):
        yield {
            "port": port, "tls_port": tls_port, "ca": ca, "server": "wsproto",
            "version": importlib.metadata.version("wsproto"),
        }  # fmt: skip
