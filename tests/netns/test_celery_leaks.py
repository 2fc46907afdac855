"""Two hundred tasks in every pool: all come back, and nothing of a worker leaves but through the tunnel."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.celery_project import Project, Redis, needs_redis, redis_server
from support.namespaces import Namespaces, counting, needs_namespaces

pytest.importorskip("celery")
pytest.importorskip("redis")

import redis

from smolmix_sync.daemon import attach

TASKS = 200

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_namespaces, needs_redis]


@pytest.fixture(scope="module")
def server(namespaces: Namespaces, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    folder = tmp_path_factory.mktemp("redis")
    with redis_server(folder, ("ip", "netns", "exec", namespaces.a)) as running:
        yield running


class Watch:
    """What Redis knows of the tasks: how many have results, and how many a worker has and has not finished."""

    def __init__(self, server: Redis) -> None:
        self._client = redis.Redis(unix_socket_path=str(server.path))
        self._client.flushdb()

    def done(self) -> int:
        return sum(1 for _ in self._client.scan_iter("celery-task-meta-*", count=1000))

    def held(self) -> int:
        return int(self._client.hlen("unacked"))

    def until(self, done: int) -> None:
        """Wait until as many tasks are done, and a worker has more of them."""
        limit = time.monotonic() + 120
        while self.done() < done or not self.held():
            assert time.monotonic() < limit, (self.done(), self.held())
            time.sleep(0.05)


def disturb(
    project: Project, watch: Watch, worker: subprocess.Popen[bytes], pool: str, concurrency: int
) -> int:
    """Kill a child, the daemon with its tunnel, and the worker, each in the middle of tasks; start another worker.

    Returns:
        How many tasks the killed worker had.
    """
    if pool == "prefork":
        watch.until(10)
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
    watch.until(20)
    daemon = attach(project.socket).status()["pid"]
    os.kill(daemon, signal.SIGKILL)
    watch.until(watch.done() + 20)  # this worker has started another daemon and goes on
    assert attach(project.socket).status()["pid"] != daemon
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(5)
    held = watch.held()
    project.worker(pool, concurrency)
    return held


def batch(
    namespaces: Namespaces,
    network: dict[str, object],
    server: Redis,
    folder: Path,
    pool: str,
    tasks: int,
    *,
    faults: bool = False,
) -> None:
    environment = network["environment"]
    assert isinstance(environment, dict)
    seen: dict[str, object] = {}
    with counting(namespaces, network, seen, f"127.0.0.1:{server.port}"):
        project = Project(
            f"redis://127.0.0.1:{server.port}/0", environment, folder,
            caller=f"redis+socket://{server.path}?virtual_host=0", prefix=("ip", "netns", "exec", namespaces.a),
            mode="daemon",
        )  # fmt: skip
        watch = Watch(server)
        try:
            concurrency = 1 if pool == "solo" else 4
            worker = project.worker(pool, concurrency)
            results = [project.send("fetch", 1000 + number) for number in range(tasks)]
            if faults:
                assert disturb(project, watch, worker, pool, concurrency) > 0
            sizes = [size for size, *_ in project.collect(results, 60 + 2.0 * tasks)]
        finally:
            project.stop()
    assert sizes == [1000 + number for number in range(tasks)]
    assert seen["lost"] == 0
    assert isinstance(seen["allowed"], int)
    assert seen["allowed"] > 10 * tasks
    assert (seen["other"], seen["queries"]) == (0, 0), seen["examples"]


def test_a_batch_leaves_no_trace_outside_the_tunnel(
    namespaces: Namespaces, network: dict[str, object], server: Redis, tmp_path: Path
) -> None:
    batch(namespaces, network, server, tmp_path, "threads", 20)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_two_hundred_tasks_come_back_after_every_fault_and_none_went_direct(
    namespaces: Namespaces, network: dict[str, object], server: Redis, tmp_path: Path, pool: str
) -> None:
    batch(namespaces, network, server, tmp_path, pool, TASKS, faults=True)
