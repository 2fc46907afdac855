"""microsocks: two SOCKS5 servers, with and without a password."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.servers import find_program, free_port, listens, running


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run both."""
    program = find_program("microsocks")
    open_port, port = free_port(address), free_port(address)
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "microsocks"], capture_output=True, text=True, check=False
    )
    with (
        running([program, "-i", address, "-p", str(open_port)], folder, lambda: listens(address, open_port)),
        running(
            [program, "-i", address, "-p", str(port), "-u", "alice", "-P", "secret"], folder,
            lambda: listens(address, port),
        ),
    ):  # fmt: skip
        yield {
            "port": port, "open_port": open_port, "user": "alice", "password": "secret", "server": "microsocks",
            "version": asked.stdout or "?",
        }  # fmt: skip
