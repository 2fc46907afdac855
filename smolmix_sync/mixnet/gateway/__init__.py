"""The client-to-gateway websocket protocol, both sides, without the websocket (spec/gateway.md)."""

from __future__ import annotations

from smolmix_sync.mixnet.gateway.client import ClientCounters, ClientSettings, ClientState, GatewayClient
from smolmix_sync.mixnet.gateway.clients import ClientRecord, ClientTable
from smolmix_sync.mixnet.gateway.events import (
    Authenticated,
    BandwidthChanged,
    ClientAuthenticated,
    ClientEvent,
    ClientForgotten,
    ClientRegistered,
    ForgetAcknowledged,
    ForwardPacket,
    GatewayRefused,
    MustWait,
    OutOfBandwidth,
    PingWanted,
    ProbeFinished,
    Pushed,
    Refusal,
    Registered,
    RememberAcknowledged,
    ServerEvent,
    SessionClosed,
    SessionRemembered,
)
from smolmix_sync.mixnet.gateway.server import GatewayServerSession, ServerSettings, ServerState

__all__ = [
    "Authenticated",
    "BandwidthChanged",
    "ClientAuthenticated",
    "ClientCounters",
    "ClientEvent",
    "ClientForgotten",
    "ClientRecord",
    "ClientRegistered",
    "ClientSettings",
    "ClientState",
    "ClientTable",
    "ForgetAcknowledged",
    "ForwardPacket",
    "GatewayClient",
    "GatewayRefused",
    "GatewayServerSession",
    "MustWait",
    "OutOfBandwidth",
    "PingWanted",
    "ProbeFinished",
    "Pushed",
    "Refusal",
    "Registered",
    "RememberAcknowledged",
    "ServerEvent",
    "ServerSettings",
    "ServerState",
    "SessionClosed",
    "SessionRemembered",
]
