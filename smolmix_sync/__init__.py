"""Blocking Python sockets over the Nym mixnet.

Everything is loaded on first use: importing the package starts nothing and loads
neither gevent nor cryptography. It does keep the C originals of the socket module,
so that the reactor has real sockets whatever is patched later.

Source: design.md sections 3 and 6.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from smolmix_sync._version import __version__
from smolmix_sync.reactor import _originals as _originals  # captured before anything can be patched

if TYPE_CHECKING:
    from smolmix_sync._tunnel_exits import ExitInfo, best_ipr, list_exits
    from smolmix_sync.address import Recipient
    from smolmix_sync.client import IpMixStream, MixnetClient
    from smolmix_sync.config import TunnelConfig
    from smolmix_sync.daemon import AttachedTunnel, attach
    from smolmix_sync.errors import (
        ExitPolicyError,
        GatewayAuthError,
        GatewayBandwidthError,
        GatewayError,
        IprDenied,
        IprError,
        LeakBlocked,
        NetworkDown,
        NoExit,
        SetupTimeout,
        SmolmixError,
        TopologyError,
        TunnelClosed,
        TunnelError,
        TunnelFailed,
        TunnelNotReady,
    )
    from smolmix_sync.fronts import Forward, HttpProxy, SocksServer, forward
    from smolmix_sync.http import Response, fetch
    from smolmix_sync.http import fetch as mix_fetch
    from smolmix_sync.http.ws import MixWebSocketApp, websocket
    from smolmix_sync.http.ws import websocket as mix_websocket
    from smolmix_sync.monkey import Patch, get_original, is_patched, patch_all, unpatch_all
    from smolmix_sync.socket import MixSocket
    from smolmix_sync.tunnel import (
        IpPair,
        Tunnel,
        TunnelBuilder,
        TunnelState,
        TunnelStats,
        connect,
        disconnect,
        get_tunnel,
        get_tunnel_state,
        isolate,
        mix_dns,
        mix_resolve,
        resolve,
        set_debug,
        setup_mix_tunnel,
    )

#: Public name -> the module that has it; loaded by ``__getattr__`` on first use.
_WHERE = {
    **dict.fromkeys(("ExitInfo", "best_ipr", "list_exits"), "_tunnel_exits"),
    **dict.fromkeys(("Recipient",), "address"),
    **dict.fromkeys(("IpMixStream", "MixnetClient"), "client"),
    **dict.fromkeys(("TunnelConfig",), "config"),
    **dict.fromkeys(("AttachedTunnel", "attach"), "daemon"),
    **dict.fromkeys(
        (
            "ExitPolicyError", "GatewayAuthError", "GatewayBandwidthError", "GatewayError", "IprDenied", "IprError",
            "LeakBlocked", "NetworkDown", "NoExit", "SetupTimeout", "SmolmixError", "TopologyError", "TunnelClosed",
            "TunnelError", "TunnelFailed", "TunnelNotReady",
        ),
        "errors",
    ),
    **dict.fromkeys(("Forward", "HttpProxy", "SocksServer", "forward"), "fronts"),
    **dict.fromkeys(("Response", "fetch", "mix_fetch"), "http"),
    **dict.fromkeys(("MixWebSocketApp", "mix_websocket", "websocket"), "http.ws"),
    **dict.fromkeys(("Patch", "get_original", "is_patched", "patch_all", "unpatch_all"), "monkey"),
    **dict.fromkeys(("MixSocket",), "socket"),
    **dict.fromkeys(
        (
            "IpPair", "Tunnel", "TunnelBuilder", "TunnelState", "TunnelStats", "connect", "disconnect", "get_tunnel",
            "get_tunnel_state", "isolate", "mix_dns", "mix_resolve", "resolve", "set_debug", "setup_mix_tunnel",
        ),
        "tunnel",
    ),
}  # fmt: skip

__all__ = [
    "AttachedTunnel",
    "ExitInfo",
    "ExitPolicyError",
    "Forward",
    "GatewayAuthError",
    "GatewayBandwidthError",
    "GatewayError",
    "HttpProxy",
    "IpMixStream",
    "IpPair",
    "IprDenied",
    "IprError",
    "LeakBlocked",
    "MixSocket",
    "MixWebSocketApp",
    "MixnetClient",
    "NetworkDown",
    "NoExit",
    "Patch",
    "Recipient",
    "Response",
    "SetupTimeout",
    "SmolmixError",
    "SocksServer",
    "TopologyError",
    "Tunnel",
    "TunnelBuilder",
    "TunnelClosed",
    "TunnelConfig",
    "TunnelError",
    "TunnelFailed",
    "TunnelNotReady",
    "TunnelState",
    "TunnelStats",
    "__version__",
    "attach",
    "best_ipr",
    "connect",
    "disconnect",
    "fetch",
    "forward",
    "get_original",
    "get_tunnel",
    "get_tunnel_state",
    "is_patched",
    "isolate",
    "list_exits",
    "mix_dns",
    "mix_fetch",
    "mix_resolve",
    "mix_websocket",
    "patch_all",
    "resolve",
    "set_debug",
    "setup_mix_tunnel",
    "unpatch_all",
    "websocket",
]


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{where}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
