"""Prometheus metrics of a tunnel: register a :class:`TunnelCollector`, or let ``smolmix-sync daemon --web`` serve them.

Needs prometheus-client (``pip install smolmix-sync[metrics]``). No label tells where anything went.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from smolmix_sync.tunnel import Tunnel

__all__ = ["TunnelCollector", "collector_of", "exposition"]

#: Counters of ``TunnelStats`` that only grow, with what they count.
_COUNTERS = {
    "packets_sent": "Sphinx packets with content sent, retransmissions included",
    "cover_sent": "Sphinx packets of cover traffic sent",
    "retransmissions": "Sphinx packets sent again",
    "acks_received": "acknowledgements received",
    "messages_received": "mixnet messages received",
    "surbs_sent": "reply SURBs sent",
    "surbs_used": "reply SURBs that came back with an answer",
    "ip_packets_sent": "IP packets sent to the exit",
    "ip_packets_received": "IP packets received from the exit",
    "tcp_retransmissions": "TCP segments sent again to this exit",
    "reconnects": "gateway links lost and found again",
    "slots_blocked": "send slots lost because the link was slow",
}
#: What goes up and down.
_GAUGES = {
    "uptime": ("uptime_seconds", "seconds since the tunnel became READY"),
    "surbs_at_exit": ("surbs_at_exit", "reply SURBs the exit is thought to hold"),
    "send_backlog": ("send_backlog", "frames waiting for the gateway"),
    "bandwidth": ("bandwidth_bytes", "octets left at the gateway"),
    "rtt": ("rtt_seconds", "round trip to the exit"),
}


class TunnelCollector:
    """A collector for a prometheus-client registry.

    Args:
        source: returns what ``smolmix-sync status --json`` shows: at least ``ready`` and ``stats``.
    """

    def __init__(self, source: Callable[[], Mapping[str, Any]]) -> None:
        self._source = source

    def collect(self) -> Iterator[Any]:
        """Yield the metrics as of now; a tunnel that cannot be asked is one that is not ready."""
        try:
            told = self._source()
        except OSError:
            told = {"ready": False, "stats": {}}
        yield GaugeMetricFamily("smolmix_ready", "whether the tunnel is READY", float(bool(told["ready"])))
        if "flows" in told:
            yield GaugeMetricFamily("smolmix_sockets", "open sockets", told["flows"])
        stats = told.get("stats", {})
        for name, text in _COUNTERS.items():
            if name in stats:
                yield CounterMetricFamily(f"smolmix_{name}", text, stats[name])
        for name, (metric, text) in _GAUGES.items():
            if stats.get(name) is not None:
                yield GaugeMetricFamily(f"smolmix_{metric}", text, stats[name])
        dropped = CounterMetricFamily(
            "smolmix_dropped", "bad or unexpected input, by reason", labels=["reason"]
        )
        for reason, count in stats.get("dropped", {}).items():
            dropped.add_metric([reason], count)
        yield dropped


def collector_of(tunnel: Tunnel) -> TunnelCollector:
    """Return a collector for a tunnel of this process: ``REGISTRY.register(collector_of(tunnel))``."""

    def source() -> Mapping[str, Any]:
        stats = tunnel.stats()
        return {"ready": stats.state == "READY", "stats": dataclasses.asdict(stats)}

    return TunnelCollector(source)


def exposition(source: Callable[[], Mapping[str, Any]]) -> bytes:
    """Return the metrics of *source* in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(TunnelCollector(source))
    return generate_latest(registry)
