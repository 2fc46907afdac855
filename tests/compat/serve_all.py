"""A localnet and the real servers behind its exit, until standard input ends; prints one JSON object.

usage: serve_all.py FOLDER [--address ADDRESS] [SERVICE...]

Every server listens on 127.0.0.1 and is reached through the exit by a name of its own, ``SERVICE.localnet`` unless the
service gives another as ``host``, at the same port: every detail called ``port`` or ``something_port``, and every one
of the list ``ports``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from smolmix_sync.localnet import LocalNet
from smolmix_sync.localnet.__main__ import describe

SERVICES = Path(__file__).parent / "services"
LOOPBACK = "127.0.0.1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", default=LOOPBACK, help="what the network's nodes bind")
    parser.add_argument("services", nargs="*", metavar="service")
    arguments = parser.parse_args()
    names = arguments.services or sorted(path.stem for path in SERVICES.glob("*.py"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        details = start(names, arguments.folder, stack)
        net = stack.enter_context(
            LocalNet(set_default=False, address=arguments.address, allow=allowed(details), hop_delay=0.005)
        )
        print(json.dumps({**describe(net), "services": details}), flush=True)
        sys.stdin.read()
    return 0


def start(names: list[str], folder: Path, stack: contextlib.ExitStack) -> dict[str, dict[str, Any]]:
    """Start the servers, all at the same time; return their details by name."""

    def enter(name: str) -> dict[str, Any]:
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        own.chmod(0o755)  # servers that change their user
        running = load(name).serve(own, LOOPBACK)
        found: dict[str, Any] = running.__enter__()
        stack.push(running)
        host = found.get("host", LOOPBACK)
        return {**found, "host": f"{name}.localnet" if host == LOOPBACK else host}

    # Its threads stay until the end: the kernel would end the servers with the thread that started them (PDEATHSIG).
    pool = stack.enter_context(ThreadPoolExecutor(4))
    futures = {name: pool.submit(enter, name) for name in names}
    return {name: future.result() for name, future in futures.items()}


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"service_{name}", SERVICES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def allowed(details: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Return the destinations behind the exit: the same port of 127.0.0.1."""
    found = {}
    for detail in details.values():
        ports = [value for key, value in detail.items() if key == "port" or key.endswith("_port")]
        for port in (*ports, *detail.get("ports", ())):
            found[f"{detail['host']}:{port}"] = port
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # support
    sys.exit(main())
