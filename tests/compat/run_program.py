"""Run one program of the matrix, unmodified, in one order; prints one JSON object.

usage: run_program.py NAME [--order ORDER] [--forward] [--alone] [--facts FILE]

Without ``--facts`` a network and the servers it needs are started for it. ``--alone`` patches nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> int:
    sys.path.insert(0, str(HERE.parent))  # compat
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--order", default="after", help="after, before, gevent-after or gevent-before")
    parser.add_argument("--forward", action="store_true", help="through smolmix_sync.forward()")
    parser.add_argument("--alone", action="store_true", help="without smolmix_sync")
    parser.add_argument("--facts", type=Path, help="what serve_all.py printed")
    arguments = parser.parse_args()
    if arguments.facts is None:
        return with_own_servers(arguments.name, sys.argv[1:])
    services = json.loads(arguments.facts.read_text())["services"]
    began = time.monotonic()
    try:
        did = run(arguments, services)
    except BaseException as error:
        causes, link = [], error
        while link is not None:
            causes.append(f"{type(link).__name__}: {link}")
            link = link.__cause__ or link.__context__  # type: ignore[assignment]
        told = {"error": causes, "traceback": traceback.format_exc()}
    else:
        told = {"did": did}
    print(json.dumps({**told, "seconds": round(time.monotonic() - began, 2)}), flush=True)
    return 1 if "error" in told else 0


def with_own_servers(name: str, words: list[str]) -> int:
    """Start a network on this machine, run the program there."""
    from compat.catalogue import programs

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        command = [sys.executable, str(HERE / "serve_all.py"), folder, *programs()[name].services]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
            assert servers.stdin is not None
            assert servers.stdout is not None
            text = servers.stdout.readline()
            if not text:
                return 1
            facts = Path(folder) / "facts.json"
            facts.write_text(text)
            environment = {**os.environ, **client_environment(json.loads(text)["environment"])}
            again = [sys.executable, __file__, *words, "--facts", str(facts)]
            done = subprocess.run(
                again, env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=False
            )
            servers.stdin.close()
    told = json.loads(done.stdout.splitlines()[-1])
    print(told.pop("traceback", ""), json.dumps(told, indent=2))
    return done.returncode


def client_environment(given: dict[str, str]) -> dict[str, str]:
    """Return the variables that lead to the network; the programs bring their own authorities."""
    return {name: value for name, value in given.items() if name.startswith("SMOLMIX_")}


def run(arguments: argparse.Namespace, services: dict[str, dict[str, Any]]) -> str:
    """Import, patch and call in the order asked for; return what the program says."""
    from compat.catalogue import FORWARD_PORTS, read

    program = read(HERE / "programs" / f"{arguments.name}.py")
    gevent = arguments.order.startswith("gevent")
    if gevent:
        from gevent import monkey

        monkey.patch_all()
    if arguments.order.endswith("before"):
        module = load(program.path)
    if not arguments.alone:
        import smolmix_sync

        smolmix_sync.patch_all(allow=program.forward["allow"] if arguments.forward else ())
    if arguments.order.endswith("after"):
        module = load(program.path)
    if not arguments.forward:
        return str(called(module, services, gevent))
    service = services[program.forward["service"]]
    port = service[program.forward["port"]]
    with tempfile.TemporaryDirectory() as folder:
        where: dict[str, Any] = {"listen": FORWARD_PORTS[arguments.order]}
        if "path" in program.forward:
            where = {"path": os.path.join(folder, program.forward["path"])}
        # What a user has to add.
        with smolmix_sync.forward(service["host"], port, **where) as front:
            service["forwarded"] = {"address": front.address, "port": front.port}
            return str(called(module, services, gevent))


def load(path: Path) -> Any:
    """Import the program under a name that no library has."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def called(module: Any, services: dict[str, dict[str, Any]], gevent: bool) -> Any:
    """Call the program; with gevent in a greenlet, beside another that must have its turns."""
    if not gevent:
        return module.main(services)
    import gevent as library

    def tick() -> None:
        while True:
            library.sleep(0.01)
            ticks.append(time.monotonic())

    ticks: list[float] = []
    ticking = library.spawn(tick)
    try:
        return library.spawn(module.main, services).get()
    finally:
        ticking.kill()
        print(f"turns of another greenlet: {len(ticks)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
