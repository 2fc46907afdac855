"""A real Redis, real Celery workers of the project in tests/ext/celery_project, and a caller."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.servers import end_with_us

from smolmix_sync.daemon import attach

PROJECT = Path(__file__).parents[1] / "ext" / "celery_project"

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@dataclass
class Redis:
    """A running server: its TCP port on its loopback, and its AF_UNIX socket, which has no namespace."""

    port: int
    path: Path


@contextlib.contextmanager
def redis_server(folder: Path, prefix: Sequence[str] = ()) -> Iterator[Redis]:
    """Run a Redis of our own, with *prefix* somewhere else."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Redis(probe.getsockname()[1], folder / "redis.sock")
    with subprocess.Popen(
        [*prefix, "redis-server", "--port", str(server.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder),
         "--unixsocket", str(server.path)],
        stdout=subprocess.DEVNULL,
        preexec_fn=end_with_us,
    ) as process:  # fmt: skip
        for _ in range(100):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(server.path))
                break
            time.sleep(0.05)
        try:
            yield server
        finally:
            process.terminate()
            process.wait(10)


class Project:
    """The test project with its own database of the broker, workers, and a caller.

    Args:
        broker: as the workers see it.
        network: environment variables that lead to the network.
        folder: for the daemon's socket and the logs.
        caller: the broker as this process sees it; None: as the workers do.
        prefix: a command that runs workers elsewhere.
        install: arguments of ``install``.
    """

    def __init__(
        self,
        broker: str,
        network: Mapping[str, str],
        folder: Path,
        *,
        caller: str | None = None,
        prefix: Sequence[str] = (),
        **install: Any,
    ) -> None:
        import celery

        self.socket = folder / "daemon.sock"
        self.folder = folder
        self.prefix = prefix
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")},
            **network,
            "PYTHONPATH": str(PROJECT),
            "BROKER": broker,
            "INSTALL": json.dumps({"path": str(self.socket), **install}),
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        caller = caller or broker
        self.app = celery.Celery("caller", broker=caller, backend=caller, set_as_current=False)

    def worker(self, pool: str, concurrency: int = 4) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it answers."""
        name = f"w{len(self.workers)}@test"
        with open(self.folder / f"{name}.log", "wb") as log:
            self.workers.append(
                subprocess.Popen(
                    [*self.prefix, sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "-P", pool, "-c",
                     str(concurrency), "-n", name, "-l", "INFO", "--without-gossip", "--without-mingle"],
                    cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True, preexec_fn=end_with_us,
                )
            )  # fmt: skip
        limit = time.monotonic() + 60
        while b" ready." not in (self.folder / f"{name}.log").read_bytes():
            assert self.workers[-1].poll() is None, self.log()
            assert time.monotonic() < limit, self.log()
            time.sleep(0.1)
        return self.workers[-1]

    def log(self, octets: int = 3000) -> str:
        """Return the ends of the workers' logs."""
        return "\n".join(path.read_text()[-octets:] for path in self.folder.glob("*.log"))

    def send(self, name: str, *arguments: Any) -> Any:
        """Queue a task of the project."""
        return self.app.send_task(f"celery_tasks.{name}", arguments)

    def collect(self, results: list[Any], timeout: float = 100.0) -> list[Any]:
        """Return what the tasks returned, with the logs if one failed."""
        limit = time.monotonic() + timeout
        try:
            return [result.get(timeout=max(0.1, limit - time.monotonic())) for result in results]
        except Exception as error:
            raise AssertionError(f"{error!r}\n{self.log()}") from error

    def stop(self) -> None:
        """End workers and daemon."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(25)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait(5)
        self.app.close()
        with contextlib.suppress(OSError):
            os.kill(attach(self.socket).status()["pid"], signal.SIGTERM)
