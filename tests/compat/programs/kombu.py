"""kombu over Redis with TLS: a queue, a consumer on the connection's own poll, a timeout."""

from __future__ import annotations

import uuid
from typing import Any

import kombu

SERVICES = ("redis",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Send and receive messages."""
    server = services["redis"]
    name = str(uuid.uuid4())
    received: list[Any] = []

    def take(body: Any, message: Any) -> None:
        received.append(body)
        message.ack()

    with kombu.Connection(
        f"rediss://{server['host']}:{server['port']}/0",
        password=server["password"],
        ssl={"ssl_ca_certs": server["ca"], "ssl_cert_reqs": "required"},
    ) as connection:
        queue = kombu.Queue(name, kombu.Exchange(name, type="direct"), routing_key=name, auto_delete=True)
        producer = connection.Producer()
        with connection.Consumer(queue, callbacks=[take]):
            for number in range(2):
                producer.publish(
                    {"number": number, "text": "ünï" * 1000}, exchange=queue.exchange, routing_key=name
                )
            while len(received) < 2:
                connection.drain_events(timeout=20)
            late = False
            try:
                connection.drain_events(timeout=0.2)
            except TimeoutError:
                late = True
            assert late
    assert received == [{"number": number, "text": "ünï" * 1000} for number in range(2)]
    return "two messages through a queue over TLS, and no third one"
