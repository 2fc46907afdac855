"""Turns IP packets into IP Packet Router messages, and back; sans-IO.

``client`` is the session of a tunnel and ``events`` what it tells; ``router`` is the exit's
side for localnet and ``policy`` where that lets packets go. ``codec`` bundles packets, ``lp``
frames messages; ``requests``, ``responses`` and, for versions 6 and 7, ``legacy`` are the
messages themselves in the encoding of ``bincode``.

Source: spec/ipr.md.
"""

from __future__ import annotations

from smolmix_sync.ipr.client import IprClient, IprClientConfig, IprClientStats, IprState
from smolmix_sync.ipr.policy import ExitPolicy
from smolmix_sync.ipr.router import IpPacketRouter, RouterConfig, RouterStats
from smolmix_sync.ipr.values import IpPair
from smolmix_sync.ipr.version import CLIENT_MTU_FALLBACK

__all__ = [
    "CLIENT_MTU_FALLBACK",
    "ExitPolicy",
    "IpPacketRouter",
    "IpPair",
    "IprClient",
    "IprClientConfig",
    "IprClientStats",
    "IprState",
    "RouterConfig",
    "RouterStats",
]
