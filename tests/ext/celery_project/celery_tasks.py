"""A Celery program as somebody might have it; the line with ``install`` is all that is ours."""

from __future__ import annotations

import errno
import json
import os
import socket
import urllib.request
from typing import Any

from celery import Celery

from smolmix_sync.ext import celery as over_mixnet

app = Celery("fetches", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    # Nothing of a killed worker is lost, and it comes back soon: docs/recipes.rst has the reasons.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_transport_options={
        "visibility_timeout": 15,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 5,
        "polling_interval": 3,
    },
    worker_prefetch_multiplier=2,
)
installed = over_mixnet.install(
    app, **json.loads(os.environ["INSTALL"]), start_timeout=40, daemon_arguments=["--exit-idle", "8"]
)


@app.task(autoretry_for=over_mixnet.RETRY_FOR, retry_backoff=1, retry_backoff_max=4, max_retries=8)
def fetch(size: int) -> tuple[int, int, int]:
    """Return how many octets came, who fetched them, and how many threads the parent has."""
    with urllib.request.urlopen(f"http://www.localnet/bytes/{size}", timeout=30) as answer:
        body = answer.read()
    return len(body), os.getpid(), len(os.listdir(f"/proc/{os.getppid()}/task"))


@app.task(soft_time_limit=2, time_limit=20)
def hang() -> str:
    """Wait for an answer that does not come, until the soft limit."""
    from celery.exceptions import SoftTimeLimitExceeded

    with socket.create_connection(("echo.localnet", 7), timeout=30) as sock:
        try:
            sock.recv(1)
        except SoftTimeLimitExceeded:
            return "interrupted"
    return "answered"


def wait_for_ever() -> None:
    with socket.create_connection(("echo.localnet", 7)) as sock:
        sock.recv(1)


@app.task(time_limit=4)
def hang_until_killed() -> None:
    """Wait without a soft limit."""
    wait_for_ever()


@app.task
def hang_for_ever() -> None:
    """Wait until the task is revoked."""
    wait_for_ever()


@app.task
def slow(seconds: float) -> int:
    """Fetch something that takes its time."""
    with urllib.request.urlopen(f"http://www.localnet/drip/5000/{seconds}", timeout=60) as answer:
        return len(answer.read())


@app.task
def leave(size: int) -> None:
    """Send something, close, and do not wait until it is gone."""
    with socket.create_connection(("echo.localnet", 9), timeout=60) as sock:
        sock.sendall(bytes(size))


@app.task
def fail_to_connect() -> str:
    """Return what a connect without a tunnel raises."""
    try:
        socket.create_connection(("198.51.100.13", 7), timeout=10)
    except OSError as error:
        return f"{errno.errorcode.get(error.errno or 0)} {type(error).__mro__}"
    return "connected"


@app.task
def own_address() -> str:
    """Return the address that the tunnel has given us."""
    with socket.create_connection(("echo.localnet", 7), timeout=60) as sock:
        return str(sock.getsockname()[0])


@app.task
def fail(name: str) -> Any:
    """Raise an exception of the tunnel."""
    import smolmix_sync

    raise getattr(smolmix_sync, name)("as it was")
