"""Names over the tunnel: a sans-IO resolver core and its driver over a device's stack.

Source: spec/sockets.md section 8; design.md decision 13.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device

__all__ = ["Resolver", "ResolverConfig"]


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """Settings of a resolver.

    Attributes:
        primary: server asked first.
        fallback: server asked when the first fails.
        timeout: seconds for one attempt at one server.
        hosts: names answered without a query.
    """

    primary: str = "1.1.1.1"
    fallback: str = "8.8.8.8"
    timeout: float = 30.0
    hosts: dict[str, list[str]] = field(default_factory=dict)


class Resolver:
    """Looks names up through one device; the methods may be called in any thread but the reactor's."""

    def __init__(self, device: Device, config: ResolverConfig) -> None:
        raise NotImplementedError

    def lookup(self, host: str, family: int = 0, timeout: float | None = None) -> list[str]:
        """Return the addresses of *host*, A before AAAA; blocks.

        Raises:
            smolmix_sync.dns.NameResolutionError (a gaierror): no such name, or no answer.
        """
        raise NotImplementedError
