"""Settings of a tunnel collected by chained calls.

Source: design.md section 6 (the seeds' builder).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig
from smolmix_sync.reactor.report import Progress, TunnelState

if TYPE_CHECKING:
    from smolmix_sync.tunnel import Tunnel

__all__ = ["TunnelBuilder"]


class TunnelBuilder:
    """Collects settings by chained calls; every field of :class:`TunnelConfig` is a method.

    ``Tunnel.builder().ipr_address(a).profile("high-traffic").build()``
    """

    def __init__(self, tunnel_class: type[Tunnel] | None = None) -> None:
        self._class: type[Tunnel] = tunnel_class or importlib.import_module("smolmix_sync.tunnel").Tunnel
        self._options: dict[str, Any] = {}

    def config(self, config: TunnelConfig) -> TunnelBuilder:
        """Start from *config*; settings given by other calls change it."""
        self._options["config"] = config
        return self

    def on_progress(self, callback: Callable[[Progress], object]) -> TunnelBuilder:
        """Call *callback* with every step."""
        self._options["on_progress"] = callback
        return self

    def on_state(self, callback: Callable[[TunnelState, str], object]) -> TunnelBuilder:
        """Call *callback* with every change of state."""
        self._options["on_state"] = callback
        return self

    def __getattr__(self, name: str) -> Callable[[object], TunnelBuilder]:
        if name not in TunnelConfig.__dataclass_fields__:
            raise AttributeError(f"TunnelBuilder has no setting {name!r}")

        def set_option(value: object) -> TunnelBuilder:
            self._options[name] = str(value) if isinstance(value, Recipient) else value
            return self

        return set_option

    def build(self, *, wait: bool = True) -> Tunnel:
        """Make the tunnel; see :class:`Tunnel`."""
        return self._class(wait=wait, **self._options)
