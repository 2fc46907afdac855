"""Turns IP packets into IP Packet Router messages, and back; sans-IO.

``client`` is the session of a tunnel, ``router`` the exit's side for localnet; ``codec``
bundles packets, ``lp`` frames messages, ``requests``, ``responses`` and ``legacy`` are the
messages themselves in the encoding of ``bincode``.

Source: spec/ipr.md.
"""

from __future__ import annotations

from smolmix_sync.ipr.client import IprClient, IprClientConfig, IprState
from smolmix_sync.ipr.router import IpPacketRouter, RouterConfig
from smolmix_sync.ipr.values import IpPair
from smolmix_sync.ipr.version import best_supported_version, choose_version

__all__ = [
    "IpPacketRouter",
    "IpPair",
    "IprClient",
    "IprClientConfig",
    "IprState",
    "RouterConfig",
    "best_supported_version",
    "choose_version",
]
