"""The standard library's XML-RPC server, plain and over TLS."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import end_with_us

PROGRAM = Path(__file__).parents[1] / "servers" / "xmlrpc_methods.py"


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run the server in a process of its own."""
    ca, pem = credentials("xmlrpc", address, folder)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), address, pem], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        preexec_fn=end_with_us,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        try:
            port, tls_port = json.loads(process.stdout.readline())
            yield {
                "port": port, "tls_port": tls_port, "ca": ca, "server": "xmlrpc.server of CPython",
                "version": platform.python_version(),
            }  # fmt: skip
        finally:
            process.terminate()
