"""``smolmix-sync leaktest script.py``: the proof, on the user's own program, that nothing goes past the tunnel.

The program runs under ``smolmix-sync run`` in a network namespace of its own, where every packet it sends outside the
tunnel ends in a meter (``leakmeter``). The tunnel is handed in from here over AF_UNIX. Works as
root, and for everybody else where the kernel lets users make namespaces.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say

__all__ = ["add_arguments", "run"]

#: Ours: the exit code where no namespace can be made; nothing was tested.
_CANNOT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser, json_option=False)
    parser.add_argument(
        "--control", action="store_true",
        help="run the program without the tunnel as well: its packets must show up in the count",
    )  # fmt: skip
    parser.add_argument(
        "--no-strict",
        action="store_true",
        help="run it without the seccomp filter: what then leaks is counted",
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("program", help="path of the script")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="the program's own arguments")


def run(arguments: argparse.Namespace) -> int:
    """Run the program and count; 0 if nothing leaked, 1 if something did or did not work, 3 if nothing can be tested."""
    import smolmix_sync
    from smolmix_sync.daemon import DaemonServer, Limits

    if not os.path.exists(arguments.program):
        say(f"smolmix-sync leaktest: no such file: {arguments.program}")
        return 2
    namespace = _namespace_command()
    if namespace is None:
        return _CANNOT
    os.environ.pop("SMOLMIX_DAEMON", None)
    with network(arguments), tempfile.TemporaryDirectory(prefix="smolmix-") as folder:
        tunnel = open_tunnel(arguments)
        if tunnel is None:
            return 1
        path = Path(folder) / "daemon.sock"
        server = DaemonServer(path, tunnel, mode=0o600, limits=Limits())
        try:
            server.start()
            program = [arguments.program, *arguments.args]
            through = [sys.executable, "-m", "smolmix_sync", "run"]
            through += ["--no-strict"] if arguments.no_strict else []
            found = {"tunnel": _metered(namespace, [*through, *program], {"SMOLMIX_DAEMON": str(path)})}
            if arguments.control:
                found["control"] = _metered(namespace, [sys.executable, *program], {})
        finally:
            server.stop()
            smolmix_sync.disconnect()
    if arguments.json:
        json.dump(found, sys.stdout, indent=2)
        print()
    return _verdict(found)


def _namespace_command() -> list[str] | None:
    """Return the command that enters a new network namespace; None, with the reason printed, if there is none."""
    for needed, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(needed) is None:
            say(f"smolmix-sync leaktest: the command {needed} is missing (Debian: apt install {package})")
            return None
    choices = [["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]]
    for command in choices if os.geteuid() == 0 else choices[1:]:
        tried = [*command, "ip", "link", "add", "t0", "type", "veth", "peer", "name", "t1"]
        done = subprocess.run(tried, capture_output=True, check=False, timeout=20)
        if done.returncode == 0:
            return command
    say(
        "smolmix-sync leaktest: this machine lets nobody make a network namespace here "
        f"({done.stderr.decode(errors='replace').strip()}); run it as root, or allow user namespaces"
    )
    return None


def _metered(namespace: list[str], command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run *command* under the meter; return its report."""
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [*namespace, sys.executable, "-m", "smolmix_sync.cli.leakmeter", str(writer), *command],
            env={**os.environ, **environment},
            pass_fds=(writer,),
        )
    finally:
        os.close(writer)
    with open(reader) as report:
        text = report.read()
    process.wait()
    told: dict[str, Any] = (
        json.loads(text) if text else {"error": "the meter ended without a report", "code": 1}
    )
    return told


def _verdict(found: dict[str, dict[str, Any]]) -> int:
    """Print a line for each run and the result."""
    for name, told in found.items():
        if "error" in told or not told.get("calibrated"):
            say(f"{name}: not measured: {told.get('error', 'the meter did not see its own test packet')}")
            return _CANNOT
        say(f"{name}: {told['leaks']} packets outside, {told['local']} on loopback, exit code {told['code']}")
        for example in told["examples"]:
            say(f"  {example}")
        if told["lost"]:
            say(f"  {told['lost']} packets came too fast to be counted")
    through, control = found["tunnel"], found.get("control")
    if control is not None and not control["leaks"]:
        say("the program sends nothing without the tunnel either: this run proves nothing")
        return 1
    if through["leaks"] or through["lost"]:
        say("LEAK: the program reached the network past the tunnel")
        return 1
    say("no leak: nothing of the program left by any other way than the tunnel")
    if through["code"]:
        say(f"but the program itself failed with exit code {through['code']}")
        return 1
    return 0
