"""What a tunnel knows about itself: addresses, exit, gateway, counters.

Source: design.md section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.errors import TunnelNotReady
from smolmix_sync.reactor.report import TunnelState, TunnelStats

if TYPE_CHECKING:
    from smolmix_sync.reactor.session import IpPair, TunnelSession
    from smolmix_sync.reactor.shaper import SendRecord

__all__ = ["TunnelFacts"]

_T = TypeVar("_T")


class TunnelFacts:
    """The properties of :class:`smolmix_sync.tunnel.Tunnel` that tell and change nothing."""

    _session: TunnelSession

    @property
    def state(self) -> TunnelState:
        """Where it stands."""
        raise NotImplementedError

    @property
    def reason(self) -> str:
        """One sentence why it stands there."""
        raise NotImplementedError

    def _check_process(self) -> None:
        raise NotImplementedError

    def _call(self, fn: Callable[..., _T], *args: Any) -> _T:
        raise NotImplementedError

    def stats(self) -> TunnelStats:
        """Return the counters."""
        return self._call(self._session.stats)

    def trace_sends(self, callback: Callable[[SendRecord], object] | None) -> None:
        """Call *callback*, in the reactor, with every packet handed to the gateway from now on; None ends that.

        For measurements: it must be quick. It ends with the tunnel's identity.

        Raises:
            TunnelNotReady: there is no link yet.
        """
        shaper = self._known(self._session.mix).shaper
        self._call(setattr, shaper, "trace", callback)

    @property
    def allocated_ips(self) -> IpPair:
        """The addresses the exit gave us.

        Raises:
            TunnelNotReady: there are none now.
        """
        return self._known(self._session.ips)

    @property
    def nym_address(self) -> Recipient:
        """Our own address in the mixnet.

        Raises:
            TunnelNotReady: there is none yet.
        """
        mix = self._session.mix
        core = mix.core if mix is not None else None
        return self._known(core.address if core is not None else None)

    @property
    def exit(self) -> Recipient:
        """The address of the exit in use (or used last).

        Raises:
            TunnelNotReady: there is none yet.
        """
        return self._known(self._session.exit)

    @property
    def gateway(self) -> str:
        """The identity key of the entry gateway, base58.

        Raises:
            TunnelNotReady: there is none yet.
        """
        return base58_encode(self.nym_address.gateway)

    @property
    def mtu(self) -> int:
        """The largest IP packet the exit takes."""
        return self._session.mtu

    def _known(self, value: _T | None) -> _T:
        self._check_process()
        if value is None:
            raise TunnelNotReady(f"the tunnel is {self.state.value}: {self.reason}")
        return value

    @property
    def layers(self) -> tuple[int, ...]:
        """How many nodes each of the three mix layers has; empty while there is no topology."""
        mix = self._session.mix
        topology = mix.core.topology if mix is not None and mix.core is not None else None
        return () if topology is None else tuple(len(topology.layer(number)) for number in (1, 2, 3))
