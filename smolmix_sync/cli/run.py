"""``smolmix-sync run script.py args...``: somebody's script, unchanged, through the tunnel."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import runpy
import sys
import traceback
from collections.abc import Iterable

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say
from smolmix_sync.errors import LeakBlocked

__all__ = ["add_arguments", "patch", "run", "run_program"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser)
    parser.add_argument(
        "--direct", action="append", default=[], metavar="CIDR[:PORT]",
        help="a destination outside the tunnel, decided before connecting (loopback always is one)",
    )  # fmt: skip
    parser.add_argument(
        "--no-strict", action="store_true",
        help="no seccomp filter: C libraries and child processes then reach the network past the tunnel",
    )  # fmt: skip
    parser.add_argument(
        "--children", action="store_true",
        help="Python programs that the program starts are patched too and use its tunnel; others stay without network",
    )  # fmt: skip
    parser.add_argument(
        "--socket", metavar="PATH",
        help="serve the tunnel at PATH while the program runs, as the daemon does: `status --socket PATH` shows it",
    )  # fmt: skip
    parser.add_argument(
        "-m", dest="module", action="store_true", help="the program is a module name, as in python -m"
    )
    parser.add_argument("program", help="path of the script, or the module with -m")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="the program's own arguments")


def run(arguments: argparse.Namespace) -> int:
    """Start the tunnel, patch this process, run the program as ``__main__``; return its exit code."""
    import smolmix_sync

    if not arguments.module and not os.path.exists(arguments.program):
        say(f"smolmix-sync run: no such file: {arguments.program}")
        return 2
    with network(arguments):
        # A daemon named by the environment is the tunnel of every process under it, of this one too.
        by_daemon = bool(os.environ.get("SMOLMIX_DAEMON")) and not arguments.localnet
        tunnel = _daemon_answers() if by_daemon else open_tunnel(arguments)
        if not tunnel:
            return 1
        served = contextlib.ExitStack()
        try:
            if arguments.socket and not by_daemon:
                served.enter_context(
                    importlib.import_module("smolmix_sync.daemon").DaemonServer(arguments.socket, tunnel)
                )
            if not patch(
                ("loopback", *arguments.direct), strict=not arguments.no_strict, children=arguments.children
            ):
                return 1
            return run_program(arguments.program, arguments.args, module=arguments.module)
        except OSError as error:
            say(f"smolmix-sync run: {error.strerror}: {arguments.socket}")
            return 1
        finally:
            served.close()
            smolmix_sync.disconnect()


def patch(direct: Iterable[str] = ("loopback",), *, strict: bool = True, children: bool = False) -> bool:
    """Patch this process until it ends, under the seccomp filter if *strict*; say so and return False if refused.

    Args:
        direct: what goes past the tunnel.
        strict: with the filter; without, C libraries may be imported and started programs use the network.
        children: Python programs that it starts are patched as well.
    """
    import smolmix_sync

    if not strict:
        kept = "C libraries are" if children else "C libraries and child processes are"
        say(f"smolmix-sync: --no-strict: {kept} NOT kept inside the tunnel")
    try:
        smolmix_sync.patch_all(
            direct=direct, strict=True if strict else "auto", allow=() if strict else ("*",),
            children="patch" if children else "deny" if strict else "allow",
        )  # fmt: skip
    except LeakBlocked as refused:
        say(f"smolmix-sync: {refused} (--no-strict runs the program without this protection)")
        return False
    return True


def _daemon_answers() -> bool:
    import smolmix_sync

    # The program's folder is about to be the first on sys.path: what we load must not be found there.
    importlib.import_module("smolmix_sync.tunnel")
    try:
        smolmix_sync.attach().wait_ready(fail_fast=True)
    except OSError as error:
        say(f"smolmix-sync: no tunnel by the daemon: {error}")
        return False
    return True


def run_program(program: str, args: list[str], *, module: bool = False) -> int:
    """Run *program* in this process the way ``python program args...`` would; return its exit code.

    ``sys.argv`` and ``sys.path[0]`` are what the program expects, and are put back afterwards. A traceback is
    printed where Python would print it.
    """
    argv, path = sys.argv, list(sys.path)
    sys.argv = [program, *args]
    sys.path.insert(0, os.getcwd() if module else os.path.dirname(os.path.abspath(program)))
    try:
        if module:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        return _exit_code(end)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.argv, sys.path[:] = argv, path
        sys.stdout.flush()
    return 0


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    say(str(end.code))
    return 1
