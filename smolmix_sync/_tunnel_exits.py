"""The exits of the network: listed as the directory has them, probed end to end, and the best of them.

A probe is a tunnel of its own to that exit: what it says is what a program would have found.

Source: design.md decisions 7 and 14; research/peers.md section 3 (exits that the directory praises and that are dead).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import NoExit, SmolmixError, TopologyError
from smolmix_sync.reactor.directory import DirectoryClient
from smolmix_sync.reactor.exitmemory import ExitMemory, exit_memory_path
from smolmix_sync.reactor.loop import shared_loop
from smolmix_sync.reactor.signals import Signal
from smolmix_sync.tunnel import Tunnel

__all__ = ["ExitInfo", "Probe", "best_ipr", "list_exits"]

#: Ours: exits probed at the same time; each has the traffic of a tunnel.
_AT_ONCE = 4
#: Ours: how many exits :func:`best_ipr` compares.
_CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one tunnel to one exit.

    Attributes:
        ready: seconds from nothing to an answer through the exit; None if none came.
        rtt: seconds there and back of one ICMP echo to the resolver; None if there was no echo.
        ipv6: whether an answer came over IPv6.
        error: why there was none.
    """

    ready: float | None = None
    rtt: float | None = None
    ipv6: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """One exit.

    Attributes:
        address: its Nym address, for ``ipr_address``.
        gateway: identity key of its gateway, base58.
        performance: percent, as the directory says.
        version: of the node's software, None if unknown.
        ipr_version: the protocol that will be spoken first.
        country: as the node's operator declares it, None if not.
        quarantined: seconds for which it is tried last, 0.0 if it is in good standing.
        reason: what it failed with last.
        probe: set by a probe.
    """

    address: Recipient
    gateway: str
    performance: int
    version: str | None
    ipr_version: int
    country: str | None = None
    quarantined: float = 0.0
    reason: str = ""
    probe: Probe | None = None


def list_exits(
    config: TunnelConfig | None = None,
    *,
    probe: bool = False,
    limit: int | None = None,
    on_probe: Callable[[ExitInfo], object] | None = None,
    **options: Any,
) -> list[ExitInfo]:
    """Return the exits in the order in which a tunnel would try them.

    Args:
        config: complete settings; None merges :meth:`TunnelConfig.load` with *options*.
        probe: open a tunnel to each of them, and remember what failed.
        limit: return at most so many.
        on_probe: called with every result as it comes, in a thread.
        options: single settings, by field name.

    Raises:
        TopologyError: the directory cannot be had.
        NoExit: it has none that fits.
    """
    settings = TunnelConfig.load(**options) if config is None else config.replace(**options)
    memory = ExitMemory(exit_memory_path(settings))
    found = _known(settings, memory)[:limit]
    if not probe:
        return found

    def one(info: ExitInfo) -> ExitInfo:
        result = _probe(settings, info)
        if result.ready is not None:
            memory.worked(info.address)
        else:
            memory.failed(info.address, result.error)
        probed = dataclasses.replace(info, probe=result)
        if on_probe is not None:
            on_probe(probed)
        return probed

    with ThreadPoolExecutor(_AT_ONCE, "smolmix-probe") as pool:
        return list(pool.map(one, found))


def best_ipr(
    config: TunnelConfig | None = None, *, probe: bool = True, candidates: int = _CANDIDATES, **options: Any
) -> Recipient:
    """Return the address of the best exit, for ``ipr_address``.

    Args:
        config, options: as for :func:`list_exits`.
        probe: compare *candidates* exits by a tunnel to each, and take the one with the shortest round trip; False takes
            the directory's word (the highest performance, of those not in quarantine).
        candidates: how many are compared.

    Raises:
        NoExit: none answered.
        TopologyError: the directory cannot be had.
    """
    if not probe:
        known = list_exits(config, **options)
        return max(known, key=lambda info: (not info.quarantined, info.performance)).address
    found = list_exits(config, probe=True, limit=candidates, **options)
    answered = [info for info in found if info.probe is not None and info.probe.ready is not None]
    if not answered:
        raise NoExit(f"none of {len(found)} exits answered: {_first_error(found)}")
    return min(answered, key=_quality).address


def _quality(info: ExitInfo) -> tuple[float, float]:
    assert info.probe is not None
    assert info.probe.ready is not None
    return (info.probe.rtt if info.probe.rtt is not None else 60.0, info.probe.ready)


def _first_error(found: Sequence[ExitInfo]) -> str:
    return next((info.probe.error for info in found if info.probe is not None), "there are none")


def _known(config: TunnelConfig, memory: ExitMemory) -> list[ExitInfo]:
    """Ask the directory, in the reactor."""
    loop, done = shared_loop(), Signal()
    result: list[list[ExitInfo]] = []
    failure: list[SmolmixError] = []
    over: list[bool] = []

    with done.waiter() as waiter:

        def run() -> None:
            try:
                client = DirectoryClient(config)
                client.refresh(loop.now())
                result.append(_described(client, memory))
            except SmolmixError as error:
                failure.append(error)
            finally:
                over.append(True)
                waiter.set()

        loop.call(loop.spawn, run)
        until = loop.now() + config.connect_timeout
        while not over and (left := until - loop.now()) > 0:
            waiter.wait(left)
    if failure:
        raise failure[0]
    if not result:
        raise TopologyError(f"the directory did not answer within {config.connect_timeout:g} s")
    return result[0]


def _described(client: DirectoryClient, memory: ExitMemory) -> list[ExitInfo]:
    now = time.time()
    bad = memory.known(now)
    found = []
    for choice in client.exits():
        node, remembered = choice.node, bad.get(str(choice.recipient))
        found.append(
            ExitInfo(
                choice.recipient,
                base58_encode(choice.recipient.gateway),
                node.performance if node is not None else 0,
                node.build_version if node is not None else None,
                choice.ipr_version,
                node.location if node is not None else None,
                max(0.0, remembered.until - now) if remembered is not None else 0.0,
                remembered.reason if remembered is not None else "",
            )
        )
    return sorted(found, key=lambda info: info.quarantined > 0)


def _probe(config: TunnelConfig, info: ExitInfo) -> Probe:
    began = time.monotonic()
    settings = config.replace(
        ipr_address=str(info.address),
        client_id=None,
        pcap=None,
        connect_timeout=max(10.0, config.ipr_timeout),
    )
    try:
        with Tunnel(settings) as tunnel:
            ready = time.monotonic() - began
            try:
                rtt: float | None = tunnel.ping(config.primary_dns, 10.0)
            except OSError:
                rtt = None
            return Probe(ready, rtt, tunnel.device.ipv6)
    except OSError as error:
        return Probe(error=str(error))
