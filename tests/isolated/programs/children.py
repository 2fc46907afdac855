"""The default for programs that are started: no internet sockets, while this process and its forks keep theirs."""

# ruff: noqa: E402 - the order of imports is what is tested
from __future__ import annotations

import os
import sys

import _order

_order.PATCH.__exit__(None, None, None)
import smolmix_sync

captured_system, captured_spawn = os.system, os.posix_spawn
GEVENT = _order.ORDER in ("gevent-first", "smolmix-first")

import asyncio
import multiprocessing
import socket
import subprocess
from typing import Any

#: Exits with 0 where a kernel socket can be made, with 7 where it is refused.
PROBE = (
    "import _socket, errno, sys\n"
    "try: _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)\n"
    "except PermissionError: sys.exit(7)\n"
)
COMMAND = [sys.executable, "-S", "-c", PROBE]
LINE = f"'{sys.executable}' -S -c '{PROBE}'"


def in_fork(action: Any) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def by_asyncio() -> int:
    process = await asyncio.create_subprocess_exec(*COMMAND)
    return await process.wait()


def codes() -> dict[str, int]:
    """Start the probe in every way there is."""
    found = {
        "run": subprocess.run(COMMAND, check=False).returncode,
        "shell": subprocess.run(LINE, shell=True, check=False).returncode,
        "env": subprocess.run(COMMAND, env={"A": "b"}, check=False).returncode,
        "session": subprocess.run(COMMAND, start_new_session=True, check=False).returncode,
        "system": os.waitstatus_to_exitcode(os.system(LINE)),
        "spawnv": os.spawnv(os.P_WAIT, sys.executable, COMMAND),
        "spawnlpe": os.spawnlpe(os.P_WAIT, sys.executable, *COMMAND, {"PATH": os.environ.get("PATH", "")}),
        "popen": os.waitstatus_to_exitcode(os.popen(LINE).close() or 0),
        "exec": in_fork(lambda: os.execv(sys.executable, COMMAND)),
        "execvpe": in_fork(lambda: os.execvpe(sys.executable, COMMAND, dict(os.environ))),
        "posix_spawn": os.waitstatus_to_exitcode(
            os.waitpid(os.posix_spawn(sys.executable, COMMAND, dict(os.environ)), 0)[1]
        ),
    }
    if not GEVENT:
        found["preexec"] = subprocess.run(COMMAND, preexec_fn=os.getpid, check=False).returncode
        found["asyncio"] = asyncio.run(by_asyncio())
    return found


def kernel_socket() -> None:
    smolmix_sync.get_original("socket", "socket")(socket.AF_INET, socket.SOCK_STREAM).close()


def main() -> None:
    free = codes()
    assert set(free.values()) == {0}, free
    for _ in range(2):
        with smolmix_sync.patch_all():
            kept = codes()
            assert set(kept.values()) == {7}, kept
            kernel_socket()
            assert in_fork(lambda: (kernel_socket(), os._exit(5))) == 5, (
                "a forked child is no program that is started"
            )
            for captured, arguments in (
                (captured_system, (LINE,)), (captured_spawn, (sys.executable, COMMAND, dict(os.environ))),
            ):  # fmt: skip
                try:
                    captured(*arguments)
                except smolmix_sync.LeakBlocked:
                    continue
                raise AssertionError(f"{captured} started a program")
            missing = None
            try:
                os.execv("/nonexistent/program", ["x"])
            except FileNotFoundError as problem:
                missing = problem
            assert missing is not None
            try:
                subprocess.run(["/nonexistent/program"], check=False)
            except FileNotFoundError:
                pass
            kernel_socket()
            if not GEVENT:
                context = multiprocessing.get_context("spawn")
                process = context.Process(target=kernel_socket)
                process.start()
                process.join(30)
                assert process.exitcode == 1, "a spawned worker has no network of its own"
        assert codes() == free

    with smolmix_sync.patch_all(children="allow"):
        assert codes() == free
    with smolmix_sync.patch_all(strict=False):
        assert codes() == free
    _order.done()


if __name__ == "__main__":  # a spawned worker imports this file
    main()
