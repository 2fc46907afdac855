"""A whole mixnet on one machine: nym-api, an entry gateway, three mix nodes, an exit and services.

Every node is a process of its own that speaks the real wire protocols on TCP;
this package is the other side of everything that `smolmix_sync.mixnet` and
`smolmix_sync.ipr` do, one file per kind of node. See `LocalNet` to use it and
``python -m smolmix_sync.localnet`` to run it in the foreground; `LocalNode` is one of its nodes
in a network of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smolmix_sync.localnet.config import LocalNetConfig
    from smolmix_sync.localnet.control import ControlError
    from smolmix_sync.localnet.localnet import LocalNet, LocalNetFailed, NodeControl
    from smolmix_sync.localnet.node import LocalNode

__all__ = ["ControlError", "LocalNet", "LocalNetConfig", "LocalNetFailed", "LocalNode", "NodeControl"]

_HOMES = {
    "ControlError": "control",
    "LocalNet": "localnet",
    "LocalNetConfig": "config",
    "LocalNetFailed": "localnet",
    "LocalNode": "node",
    "NodeControl": "localnet",
}


def __getattr__(name: str) -> Any:
    """Load the public names on first use: the node processes need none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
