"""Run one program of the matrix, unmodified, in one order; prints one JSON object.

usage: run_program.py NAME [--order ORDER] [--forward] [--alone] [--facts FILE]

Without ``--facts`` a network and the servers it needs are started for it. ``--alone`` patches nothing of ours.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
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
    turns: list[float] = []
    try:
        did = run(arguments, services, turns)
    except BaseException as error:
        causes, link = [], error
        while link is not None:
            causes.append(f"{type(link).__name__}: {link}")
            link = link.__cause__ or link.__context__  # type: ignore[assignment]
        told = {"error": causes, "traceback": traceback.format_exc()}
    else:
        told = {"did": did}
    if turns:
        told["turns"] = len(turns)
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


def run(arguments: argparse.Namespace, services: dict[str, dict[str, Any]], turns: list[float]) -> str:
    """Import, patch and call in the order asked for; return what the program says.

    With gevent *turns* are the times at which another greenlet had its turn meanwhile.
    """
    from compat.catalogue import FORWARD_PORTS, read

    program = read(HERE / "programs" / f"{arguments.name}.py")
    if arguments.order.startswith("gevent"):
        from gevent import monkey

        monkey.patch_all()
        call = functools.partial(in_greenlet, turns)
    else:
        call = directly
    if arguments.order.endswith("before"):
        module = load(program.path)
    if not arguments.alone:
        import smolmix_sync

        smolmix_sync.patch_all(allow=program.forward["allow"] if arguments.forward else ())
    if arguments.order.endswith("after"):
        module = load(program.path)
    if not arguments.forward:
        return call(module.main, services)
    service = services[program.forward["service"]]
    port = service[program.forward["port"]]
    with tempfile.TemporaryDirectory() as folder:
        where: dict[str, Any] = {"listen": FORWARD_PORTS[arguments.order]}
        if "path" in program.forward:
            where = {"path": os.path.join(folder, program.forward["path"])}
        # What a user has to add.
        with smolmix_sync.forward(service["host"], port, **where) as front:
            service["forwarded"] = {"address": front.address, "port": front.port}
            if program.forward.get("blocks") and call is not directly:
                call = in_pool
            return call(module.main, services)


def load(path: Path) -> Any:
    """Import the program under a name that no library has."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def directly(main: Callable[..., str], services: dict[str, dict[str, Any]]) -> str:
    return main(services)


def in_pool(main: Callable[..., str], services: dict[str, dict[str, Any]]) -> str:
    """Call a program that holds its thread in C, as gevent wants it: the forwarder is a greenlet of the main thread."""
    import gevent

    return gevent.get_hub().threadpool.apply(main, (services,))  # type: ignore[no-any-return]


def in_greenlet(turns: list[float], main: Callable[..., str], services: dict[str, dict[str, Any]]) -> str:
    """Call the program in a greenlet, beside another that counts its turns."""
    import gevent

    def tick() -> None:
        while True:
            gevent.sleep(0.01)
            turns.append(time.monotonic())

    ticking = gevent.spawn(tick)
    try:
        return gevent.spawn(main, services).get()  # type: ignore[no-any-return]
    finally:
        ticking.kill()


if __name__ == "__main__":
    sys.exit(main())
