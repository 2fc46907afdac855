"""Real servers of other projects, as children of this process; nothing here needs pytest or the package."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "end_with_us",
    "find_program",
    "free_port",
    "free_ports",
    "is_installed",
    "listens",
    "python_server",
    "running",
    "version_of",
]

#: A server that does not answer by then never will.
_START_TIMEOUT = 15.0
_STOP_TIMEOUT = 10.0
#: Where Debian puts servers that users do not call themselves; PostgreSQL's by version, the newest first.
_MORE_FOLDERS = (
    "/usr/sbin", "/usr/local/sbin", "/sbin",
    *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True),
)  # fmt: skip

#: Ports that belong to servers which do not listen yet.
_given: set[int] = set()


def end_with_us() -> None:
    """Have the kernel end a child with the process that starts it, however that ends (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))


def find_program(name: str) -> str:
    """Return the path of a server's program.

    Raises:
        FileNotFoundError: it is not installed.
    """
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_FOLDERS]))
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


def is_installed(name: str) -> bool:
    """Tell whether :func:`find_program` finds it."""
    with contextlib.suppress(FileNotFoundError):
        return bool(find_program(name))
    return False


def version_of(*command: str) -> str:
    """Return the first thing that looks like a version in what *command* prints."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=_START_TIMEOUT,
    )  # fmt: skip
    found = re.search(r"\d+\.\d+[\w.]*", done.stdout)
    return found.group() if found else done.stdout.strip()


def free_port(address: str) -> int:
    """Return a TCP port of *address* that nobody uses, and that this function has not returned before."""
    while True:
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def free_ports(address: str, count: int) -> range:
    """Return *count* TCP ports of *address* in a row that nobody uses, and that the kernel gives to nobody.

    Raises:
        OSError: there is no such row.
    """
    for first in range(20_000, 32_000, count):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind((address, port))
            return range(first, first + count)
    raise OSError(f"no {count} free ports in a row")


def listens(address: str, port: int) -> bool:
    """Tell whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


@contextlib.contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    answers: Callable[[], bool],
    *,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the foreground until the block ends.

    Args:
        command: its program and arguments.
        folder: where its output goes; named in the error if it does not start.
        answers: whether it serves already; asked until it says so.
        user: run it as this user, if this process is root.
        environment: variables beside those of this process.
        stop: the signal that ends it at once.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the end of its output.
    """
    path = folder / f"{Path(command[0]).name}.log"
    as_user = {"user": user, "group": user, "extra_groups": []} if user and os.geteuid() == 0 else {}
    with open(path, "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})}, preexec_fn=end_with_us, **as_user,  # type: ignore[call-overload]
        )  # fmt: skip
    try:
        limit = time.monotonic() + _START_TIMEOUT
        while not answers():
            if process.poll() is not None or time.monotonic() > limit:
                said = path.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{command[0]} does not serve (exit code {process.poll()}):\n{said}")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_TIMEOUT)


@contextlib.contextmanager
def python_server(program: Path, *arguments: str) -> Iterator[Any]:
    """Run a Python server in a process of its own until the block ends; yield the JSON of its first line."""
    process = subprocess.Popen(
        [sys.executable, str(program), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        preexec_fn=end_with_us,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
