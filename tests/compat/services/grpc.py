"""A gRPC server with TLS."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import python_server

PROGRAM = Path(__file__).parents[1] / "servers" / "grpc_matrix.py"


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run the server in a process of its own."""
    ca, pem = credentials("grpc", address, folder)
    with python_server(PROGRAM, address, pem) as port:
        yield {
            "port": port, "ca": ca, "server": "grpcio",
            "version": importlib.metadata.version("grpcio"),
        }  # fmt: skip
