"""What every process of a localnet has in common: its life line, its counters, its commands.

The starter hands a process one end of an AF_UNIX socket pair as standard input.
One JSON object per line goes both ways::

    to the process      {"config": {...}}                  first line
                        {"id": 7, "op": "stats", ...}      requests
    from the process    {"ready": {...}} or {"error": "..."}
                        {"id": 7, "ok": ...} or {"id": 7, "error": "..."}
                        {"keep": {key: value}}             what it wants back after a restart

End of file means that the starter is gone: the process ends. On Linux the kernel
kills it as well (PR_SET_PDEATHSIG), for the case that it hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Channel", "Program", "die_with_parent", "main"]

_log = logging.getLogger("smolmix_sync.localnet")

_PR_SET_PDEATHSIG = 1
#: Ours: offline messages and keys of a whole gateway fit; a line beyond it is a bug.
_MAX_LINE = 64 << 20


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel for a signal to this process when the thread that started it ends.

    Args:
        parent: process id of the starter; if it is gone already, this process exits now.
        number: the signal.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class Channel:
    """JSON lines over a stream, with requests that are answered by id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self.closed = asyncio.Event()

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Wrap a connected stream socket; the channel owns it."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MAX_LINE)
        return cls(reader, writer)

    def send(self, message: dict[str, Any]) -> None:
        """Write one message; silently dropped once the other side is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, or None at the end."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            line = b""
        if not line:
            self._end()
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    async def request(self, op: str, timeout: float, **arguments: Any) -> Any:
        """Send a request and wait for its answer, which the owner feeds to `answered`.

        Raises:
            RuntimeError: the other side refused, or is gone.
            TimeoutError: no answer in *timeout* seconds.
        """
        self._last_id += 1
        request_id = self._last_id  # others may be made while this one waits
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        self.send({"id": request_id, "op": op, **arguments})
        try:
            return await asyncio.wait_for(future, timeout)
        finally:
            self._waiting.pop(request_id, None)

    def answered(self, message: dict[str, Any]) -> None:
        """Resolve the request that *message* answers."""
        future = self._waiting.get(message["id"])
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(RuntimeError(message["error"]))
        else:
            future.set_result(message["ok"])

    def _end(self) -> None:
        self.closed.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RuntimeError("the process is gone"))

    def close(self) -> None:
        """Close the stream: the order to end, for the process at the other side."""
        self._writer.close()


class Program:
    """One process of the network.

    Subclasses open their listeners in `start`, count in `counters`, react to
    switches in `apply` and offer commands as coroutine methods ``command_<name>``.

    Args:
        config: the part of the plan that this process gets.
        keep: hands the supervisor values that the next incarnation gets back in ``config["kept"]``.
    """

    def __init__(self, config: dict[str, Any], keep: Callable[[dict[str, Any]], None]) -> None:
        self.config = config
        self.name: str = config["name"]
        self.keep = keep
        self.counters: Counter[str] = Counter()
        self.switches: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open listeners; when this returns the process is ready."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Close what should be closed in an orderly way."""

    def apply(self, switches: dict[str, Any]) -> None:
        """Take new values of switches."""
        self.switches.update(switches)

    def stats(self) -> dict[str, int]:
        """Return the counters."""
        return dict(self.counters)

    def port(self, kind: str) -> int:
        """Return the port that the plan gave this process for *kind*."""
        port: int = self.config["ports"][kind]
        return port

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *coroutine* beside everything else; a failure is logged and counted."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.counters["failed_tasks"] += 1
            _log.error("%s: a task failed", self.name, exc_info=task.exception())

    async def answer(self, message: dict[str, Any]) -> Any:
        """Carry out one request of the supervisor."""
        op = message["op"]
        if op == "stats":
            return self.stats()
        if op == "set":
            self.apply(message["switches"])
            return None
        if op == "command":
            method = getattr(self, f"command_{message['command']}", None)
            if method is None:
                raise ValueError(f"{self.name} has no command {message['command']!r}")
            return await method(**message["arguments"])
        raise ValueError(f"unknown request {op!r}")


async def _serve(program_type: type[Program], channel: Channel, first: dict[str, Any]) -> None:
    config = first["config"]
    if config.get("parent") is not None:
        die_with_parent(config["parent"])
    logging.basicConfig(
        level=config.get("log_level", "WARNING"),
        format=f"%(asctime)s {config['name']} %(levelname)s %(message)s",
    )
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        program = program_type(config, lambda values: channel.send({"keep": values}))
        program.apply(config.get("switches", {}))
        await program.start()
    except Exception as error:
        channel.send({"error": f"{config['name']}: {type(error).__name__}: {error}"})
        _log.exception("%s cannot start", config["name"])
        channel.close()
        return
    channel.send({"ready": True})

    async def requests() -> None:
        while (message := await channel.receive()) is not None:
            try:
                channel.send({"id": message["id"], "ok": await program.answer(message)})
            except Exception as error:
                channel.send({"id": message["id"], "error": f"{type(error).__name__}: {error}"})
        ended.set()

    reader = asyncio.create_task(requests())
    await ended.wait()
    reader.cancel()
    with contextlib.suppress(Exception):
        await asyncio.wait_for(program.stop(), 2.0)
    # What still runs is cancelled when the loop ends; streams would report each cancellation as an error.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)


def main(program_type: type[Program]) -> None:
    """Run *program_type* as this process, configured over standard input."""

    async def run() -> None:
        channel = await Channel.open(socket.socket(fileno=os.dup(0)))
        first = await channel.receive()
        if first is not None:
            await _serve(program_type, channel, first)

    # Standard input stays the life line alone: nothing else may read it, and a stray print must not break it.
    os.dup2(2, 1)
    asyncio.run(run())
    sys.stderr.flush()
    # Tasks were cancelled and sockets closed by the loop; skip the rest for a fast end.
    os._exit(0)
