"""A gRPC server with TLS."""

from __future__ import annotations

import contextlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import end_with_us

PROGRAM = Path(__file__).parents[1] / "servers" / "grpc_matrix.py"


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run the server in a process of its own."""
    ca, pem = credentials("grpc", address, folder)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), address, pem], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        preexec_fn=end_with_us,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        try:
            yield {
                "port": int(process.stdout.readline()), "ca": ca, "server": "grpcio",
                "version": importlib.metadata.version("grpcio"),
            }  # fmt: skip
        finally:
            process.terminate()
