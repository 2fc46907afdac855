"""Redis with TLS and a password."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import find_program, free_port, listens, running, version_of

_PASSWORD = "correct horse"


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server that keeps nothing."""
    program = find_program("redis-server")
    ca, pem = credentials("redis", address, folder)
    port = free_port(address)
    settings = {
        "bind": address, "port": "0", "tls-port": str(port), "tls-cert-file": pem, "tls-key-file": pem,
        "tls-auth-clients": "no", "requirepass": _PASSWORD, "save": "", "dir": str(folder),
    }  # fmt: skip
    command = [program]
    for name, value in settings.items():
        command += [f"--{name}", value]
    with running(command, folder, lambda: listens(address, port)):
        yield {
            "host": address, "port": port, "user": "default", "password": _PASSWORD, "ca": ca,
            "version": version_of(program, "--version"),
        }  # fmt: skip
