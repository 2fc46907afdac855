"""Tasks whose traffic goes through the mixnet; the second import and ``install`` are the difference."""

import os
import urllib.request

from celery import Celery

from smolmix_sync.ext import celery as over_mixnet

app = Celery("examples", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    beat_schedule={
        "look every five seconds": {"task": "tasks.fetch", "schedule": 5.0, "args": ("http://www.localnet/",)}
    },
)
over_mixnet.install(app, mode="daemon")


@app.task(autoretry_for=over_mixnet.RETRY_FOR, retry_backoff=True, max_retries=5)
def fetch(url: str) -> int:
    """Return how many octets a URL has."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return len(answer.read())
