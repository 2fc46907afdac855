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

from smolmix_sync.daemon import attach

TASKS = 200

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_namespaces, needs_redis]


@pytest.fixture(scope="module")
def redis(namespaces: Namespaces, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    folder = tmp_path_factory.mktemp("redis")
    with redis_server(folder, ("ip", "netns", "exec", namespaces.a)) as server:
        yield server


def disturb(project: Project, worker: subprocess.Popen[bytes], pool: str, concurrency: int) -> None:
    """Kill a child, the daemon with its tunnel, and the worker, each in the middle of tasks; start another worker."""
    time.sleep(3)
    if pool == "prefork":
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        time.sleep(1)
    os.kill(attach(project.socket).status()["pid"], signal.SIGKILL)
    time.sleep(4)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(5)
    time.sleep(6)  # beyond the visibility timeout: kombu looks for lost messages when a worker starts
    project.worker(pool, concurrency)


def batch(
    namespaces: Namespaces,
    network: dict[str, object],
    redis: Redis,
    folder: Path,
    pool: str,
    tasks: int,
    *,
    faults: bool = False,
) -> None:
    environment = network["environment"]
    assert isinstance(environment, dict)
    seen: dict[str, object] = {}
    with counting(namespaces, network, seen, f"127.0.0.1:{redis.port}"):
        project = Project(
            f"redis://127.0.0.1:{redis.port}/0", environment, folder,
            caller=f"redis+socket://{redis.path}?virtual_host=0", prefix=("ip", "netns", "exec", namespaces.a),
            mode="daemon",
        )  # fmt: skip
        try:
            concurrency = 1 if pool == "solo" else 4
            worker = project.worker(pool, concurrency)
            results = [project.send("fetch", 1000 + number) for number in range(tasks)]
            if faults:
                disturb(project, worker, pool, concurrency)
            sizes = [size for size, *_ in project.collect(results, 60 + 2.0 * tasks)]
        finally:
            project.stop()
    assert sizes == [1000 + number for number in range(tasks)]
    assert seen["lost"] == 0
    assert isinstance(seen["allowed"], int)
    assert seen["allowed"] > 10 * tasks
    assert (seen["other"], seen["queries"]) == (0, 0), seen["examples"]


def test_a_batch_leaves_no_trace_outside_the_tunnel(
    namespaces: Namespaces, network: dict[str, object], redis: Redis, tmp_path: Path
) -> None:
    batch(namespaces, network, redis, tmp_path, "threads", 20)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("pool", "faults"), [("prefork", True), ("threads", True), ("gevent", False), ("solo", False)]
)
def test_two_hundred_tasks_come_back_and_none_went_direct(
    namespaces: Namespaces, network: dict[str, object], redis: Redis, tmp_path: Path, pool: str, faults: bool
) -> None:
    batch(namespaces, network, redis, tmp_path, pool, TASKS, faults=faults)
