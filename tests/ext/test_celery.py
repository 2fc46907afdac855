"""Real Celery workers with a real Redis, whose tasks fetch through localnet."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.celery_project import Project, needs_redis, redis_server

pytest.importorskip("celery")

from smolmix_sync.daemon import attach
from smolmix_sync.ext import celery as over_mixnet
from smolmix_sync.localnet import LocalNet


def an_app(**conf: Any) -> Any:
    return SimpleNamespace(conf=conf)


# --- without a worker ---


def installed(app: Any, **options: Any) -> Any:
    arguments: dict[str, Any] = {
        "mode": "daemon", "path": Path("/nowhere"), "isolate": None, "direct": (), "resolve_broker": False,
        "start_timeout": 1.0, "daemon_arguments": (), "options": {},
    }  # fmt: skip
    return over_mixnet.Installed(app, **{**arguments, **options})


def test_eventlet_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(ValueError, match="-P gevent or -P threads"):
        installed(an_app()).start("eventlet")


def test_worker_that_cannot_be_covered_does_not_start() -> None:
    with pytest.raises(SystemExit, match="not started: eventlet"):
        installed(an_app())._on_worker_init(sender=SimpleNamespace(pool_cls="eventlet"))


@pytest.mark.parametrize(
    ("url", "entries"),
    [
        ("redis://127.0.0.1:6379/0", []),
        ("redis://localhost/0", []),
        ("redis://:secret@192.0.2.7:6380/1", ["192.0.2.7:6380"]),
        ("amqp://user:secret@192.0.2.8//", ["192.0.2.8:5672"]),
        ("redis://192.0.2.1:1/0;redis://192.0.2.2:2/0", ["192.0.2.1:1", "192.0.2.2:2"]),
        ("redis+socket:///run/redis.sock", []),
        ("memory://", []),
    ],
)
def test_broker_stays_direct_by_its_address(url: str, entries: list[str]) -> None:
    assert installed(an_app(broker_url=url))._broker_addresses() == entries


def test_broker_known_by_a_name_is_refused_unless_told_to_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app(broker_url="redis://:secret@broker:6379/0")
    with pytest.raises(ValueError, match="resolve_broker") as caught:
        installed(app)._broker_addresses()
    assert "secret" not in str(caught.value)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", ("192.0.2.9", 0))])
    assert installed(app, resolve_broker=True)._broker_addresses() == ["192.0.2.9:6379"]
    assert app.conf["broker_url"] == "redis://:secret@192.0.2.9:6379/0"


def test_arguments_that_do_not_fit_are_refused() -> None:
    for options in ({"mode": "thread"}, {"isolate": "request"}):
        with pytest.raises(ValueError, match=next(iter(options)) + "|isolate"):
            over_mixnet.install(an_app(), **options)


def test_what_is_worth_another_try_covers_tunnel_and_http_libraries() -> None:
    import requests

    from smolmix_sync.errors import TunnelNotReady

    for error in (
        TunnelNotReady("x"), ConnectionResetError(104, "x"), TimeoutError("x"), socket.gaierror(-3, "x"),
        requests.ConnectionError("x"),
    ):  # fmt: skip
        assert isinstance(error, over_mixnet.RETRY_FOR)
    assert not isinstance(ValueError("x"), over_mixnet.RETRY_FOR)
    assert not isinstance(FileNotFoundError(2, "x"), over_mixnet.RETRY_FOR)


def test_exceptions_survive_the_way_back_to_the_caller() -> None:
    import smolmix_sync

    for name in ("TunnelNotReady", "TunnelClosed", "SetupTimeout", "ExitPolicyError", "NoExit"):
        error = getattr(smolmix_sync, name)("why")
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.args, str(copy)) == (type(error), error.args, "why")


# --- with workers ---


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield f"redis://127.0.0.1:{server.port}"


databases = itertools.count()


@pytest.fixture
def project(broker: str, net: LocalNet, tmp_path: Path) -> Iterator[Callable[..., Project]]:
    made: list[Project] = []

    def make(**install: Any) -> Project:
        made.append(Project(f"{broker}/{next(databases) % 16}", net.environment(), tmp_path, **install))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("daemon", "prefork"), ("daemon", "gevent"), ("own", "threads"), ("parent", "prefork"),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (
                ("daemon", "threads"), ("daemon", "solo"), ("own", "gevent"), ("own", "solo"), ("own", "prefork")
            )
        ),
    ],
)  # fmt: skip
def test_every_task_of_a_batch_comes_back(project: Callable[..., Project], mode: str, pool: str) -> None:
    one = project(mode=mode)
    worker = one.worker(pool, 2 if (mode, pool) == ("own", "prefork") else 4)
    results = one.collect([one.send("fetch", 2000 + number) for number in range(30)])
    assert [size for size, _, _ in results] == [2000 + number for number in range(30)]
    pids = {pid for _, pid, _ in results}
    assert (worker.pid in pids) == (pool != "prefork")
    if pool == "prefork" and mode != "parent":
        assert {threads for _, _, threads in results} == {1}, "the prefork parent must not have threads"
    if mode != "own":  # tunnels of the worker's processes log; the daemon prints in another way
        tunnels = one.log(1_000_000).count("exit: choosing an exit")
        assert tunnels == (1 if mode == "parent" else 0), "tasks must use the shared tunnel"
    worker.terminate()
    assert worker.wait(25) == 0


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", pytest.param("gevent", marks=pytest.mark.long)])
def test_children_and_a_worker_killed_in_the_middle_lose_no_task(
    project: Callable[..., Project], pool: str
) -> None:
    one = project(mode="daemon")
    first = one.worker("prefork", 3)
    results = [one.send("fetch", 20_000 + number) for number in range(30)]
    for _ in range(2):
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        time.sleep(0.7)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(5)
    one.worker(pool, 3)
    assert [size for size, *_ in one.collect(results)] == [20_000 + number for number in range(30)]


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_daemon_killed_in_the_middle_is_replaced_and_no_task_is_lost(
    project: Callable[..., Project], pool: str
) -> None:
    one = project(mode="daemon")
    one.worker(pool, 3)
    results = [one.send("fetch", 60_000 + number) for number in range(30)]
    time.sleep(1.5)
    first = attach(one.socket).status()["pid"]
    os.kill(first, signal.SIGKILL)
    assert [size for size, *_ in one.collect(results)] == [60_000 + number for number in range(30)]
    assert attach(one.socket).status()["pid"] != first


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
def test_soft_time_limit_interrupts_a_blocked_socket(project: Callable[..., Project]) -> None:
    one = project(mode="daemon")
    one.worker("prefork", 2)
    assert one.collect([one.send("hang")]) == ["interrupted"]
    assert one.collect([one.send("fetch", 10)])[0][0] == 10


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_hard_limit_and_revocation_end_blocked_sockets_and_the_worker_goes_on(
    project: Callable[..., Project], pool: str
) -> None:
    from celery.exceptions import TaskRevokedError, TimeLimitExceeded

    one = project(mode="daemon")
    one.worker(pool, 2)
    killed, revoked = one.send("hang_until_killed"), one.send("hang_for_ever")
    time.sleep(1.5)
    one.app.control.revoke(revoked.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=30)
    with pytest.raises(TimeLimitExceeded):
        killed.get(timeout=30)
    assert one.collect([one.send("fetch", 10)])[0][0] == 10


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("daemon", "prefork"),
        pytest.param("own", "prefork", marks=pytest.mark.long),
        pytest.param("own", "threads", marks=pytest.mark.long),
    ],
)
def test_warm_shutdown_lets_running_tasks_end(project: Callable[..., Project], mode: str, pool: str) -> None:
    one = project(mode=mode)
    worker = one.worker(pool, 2)
    assert one.collect([one.send("fetch", 10)])[0][0] == 10  # the tunnel is up
    results = [one.send("slow", 4.0) for _ in range(2)]
    time.sleep(1.5)
    worker.terminate()
    assert one.collect(results, 40) == [5000, 5000]
    assert worker.wait(25) == 0


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("own", "prefork"),
        pytest.param("own", "threads", marks=pytest.mark.long),
        pytest.param("own", "gevent", marks=pytest.mark.long),
        pytest.param("parent", "prefork", marks=pytest.mark.long),
        pytest.param("daemon", "prefork", marks=pytest.mark.long),
    ],
)
def test_what_closed_sockets_have_still_to_send_is_sent_before_a_worker_ends(
    project: Callable[..., Project], net: LocalNet, mode: str, pool: str
) -> None:
    def arrived() -> int:
        return sum(counters.get("relayed_in", 0) for counters in net.stats().values())

    one = project(mode=mode)
    worker = one.worker(pool, 2)
    one.collect([one.send("fetch", 10)])  # the tunnel is up
    before = arrived()
    one.collect([one.send("leave", 300_000)])
    worker.terminate()
    assert worker.wait(30) == 0
    limit = time.monotonic() + (20 if mode == "daemon" else 2)
    while arrived() - before < 300_000:
        assert time.monotonic() < limit, arrived() - before
        time.sleep(0.1)


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("own", "prefork"),
        pytest.param("own", "threads", marks=pytest.mark.long),
        pytest.param("parent", "prefork", marks=pytest.mark.long),
    ],
)
def test_worker_without_a_network_starts_and_its_tasks_fail_as_tunnels_do(
    project: Callable[..., Project], mode: str, pool: str
) -> None:
    one = project(mode=mode)
    one.environment["NYM_API"] = one.environment["SMOLMIX_NYM_API"] = "http://127.0.0.1:9/api"
    began = time.monotonic()
    one.worker(pool, 2)
    assert time.monotonic() - began < 45, one.log()
    assert "UP message" not in one.log(100_000), (
        "Celery gives up children that do not report within 4 seconds"
    )
    told = one.collect([one.send("fail_to_connect")], 60)[0]
    assert told.startswith(("ENETDOWN", "ETIMEDOUT", "None")), told
    assert "OSError" in told


@needs_redis
@pytest.mark.interop
@pytest.mark.slow
def test_two_workers_share_one_daemon_and_tasks_can_have_identities_of_their_own(
    project: Callable[..., Project],
) -> None:
    one = project(mode="daemon", isolate="task")
    one.worker("prefork", 2)
    one.worker("threads", 2)
    results = one.collect([one.send("own_address") for _ in range(3)])
    assert len(set(results)) == 3
    told = attach(one.socket).status()
    assert told["tunnels"] == 4
