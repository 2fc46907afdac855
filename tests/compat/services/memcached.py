"""memcached, over TCP in the clear."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.servers import find_program, free_port, listens, running, version_of


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server."""
    program = find_program("memcached")
    port = free_port(address)
    command = [program, "-l", address, "-p", str(port), "-U", "0", "-u", "nobody", "-m", "16"]
    with running(command, folder, lambda: listens(address, port)):
        yield {"host": address, "port": port, "version": version_of(program, "--version")}
