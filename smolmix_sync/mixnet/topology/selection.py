"""Whom a client chooses: its entry gateway, the URL to reach it, its exit.

Source: spec/topology.md sections 8 and 9; spec/gateway.md section 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.errors import NoExit, TopologyError
from smolmix_sync.mixnet.topology.chance import choose, weighted_order
from smolmix_sync.mixnet.topology.node import Node
from smolmix_sync.mixnet.topology.topology import Topology
from smolmix_sync.nodeversion import IPR_V9_RELEASE, at_least, ipr_version_for

__all__ = [
    "MINIMUM_PERFORMANCE",
    "Exit",
    "choose_by_latency",
    "choose_exits",
    "choose_gateway",
    "entry_candidates",
    "entry_urls",
    "explicit_exit",
    "latency_probe_url",
]

#: Below this percentage real clients do not use a node.
MINIMUM_PERFORMANCE: Final = 50


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def entry_urls(
    node: Node, *, force_tls: bool = False, no_hostname: bool = False, prefer_ipv6: bool = False
) -> list[str]:
    """Return the URLs to try for a gateway's websocket, at most two; none if it has no such entry.

    IPv6 literals are bracketed, which the reference forgets.
    """
    entry = node.entry
    if entry is None:
        return []
    if force_tls:
        if entry.hostname is None or entry.clients_wss_port is None:
            return []
        return [f"wss://{_bracket(entry.hostname)}:{entry.clients_wss_port}"]
    hosts = list(entry.ip_addresses)
    if prefer_ipv6:
        hosts.sort(key=lambda ip: ":" not in ip)
    if entry.hostname is not None and not no_hostname:
        hosts.insert(0, entry.hostname)
    return [f"ws://{_bracket(host)}:{entry.clients_ws_port}" for host in hosts[:2]]


def latency_probe_url(node: Node) -> str | None:
    """Return the URL to measure a gateway by: wss if it has that, else ws."""
    urls = entry_urls(node, force_tls=True) or entry_urls(node)
    return urls[0] if urls else None


def entry_candidates(
    nodes: Iterable[Node],
    *,
    force_tls: bool = False,
    minimum_performance: int = MINIMUM_PERFORMANCE,
    ignore_declared_mixnode: bool = True,
) -> list[Node]:
    """Return the gateways a client may enter by."""
    return [
        node
        for node in nodes
        if node.supported_roles.mixnet_entry
        and node.performance >= minimum_performance
        and (ignore_declared_mixnode or not node.supported_roles.mixnode)
        and entry_urls(node, force_tls=force_tls)
    ]


def choose_gateway(
    nodes: Iterable[Node],
    urandom: Callable[[int], bytes],
    *,
    identity: bytes | None = None,
    exclude: Collection[bytes] = (),
    force_tls: bool = False,
    minimum_performance: int = MINIMUM_PERFORMANCE,
    ignore_declared_mixnode: bool = True,
) -> Node:
    """Return the entry gateway: the one asked for, else a uniformly random one.

    Args:
        nodes: a :class:`Topology`, or any nodes.
        urandom: source of randomness.
        identity: the gateway to use and no other.
        exclude: identities of gateways that turned out useless.
        force_tls: only gateways with a host name and a wss port.
        minimum_performance: whole percent.
        ignore_declared_mixnode: also take gateways that declare to be mix nodes.

    Raises:
        TopologyError: no gateway fits.
    """
    known = list(nodes)
    if identity is not None:
        known = [node for node in known if node.identity == identity]
        if not known:
            raise TopologyError(f"no gateway with id {base58_encode(identity)}")
        minimum_performance = min(minimum_performance, known[0].performance)
        ignore_declared_mixnode = True
    candidates = [
        node
        for node in entry_candidates(
            known,
            force_tls=force_tls,
            minimum_performance=minimum_performance,
            ignore_declared_mixnode=ignore_declared_mixnode,
        )
        if node.identity not in exclude
    ]
    if candidates:
        return choose(candidates, urandom)
    if identity is not None:
        missing = " by wss" if force_tls else ""
        raise TopologyError(f"the gateway {base58_encode(identity)} does not accept clients{missing}")
    raise TopologyError("no wss gateways are available" if force_tls else "no gateways are available")


def choose_by_latency(measured: Sequence[tuple[Node, float]], urandom: Callable[[int], bytes]) -> Node:
    """Return a gateway with probability proportional to 1/seconds of its measured round trip.

    Raises:
        TopologyError: none was measured.
    """
    weights = [round(1e9 / max(seconds, 1e-6)) for _, seconds in measured]
    order = weighted_order([node for node, _ in measured], weights, urandom)
    if not order:
        raise TopologyError("no gateway answered a ping")
    return order[0]


@dataclass(frozen=True, slots=True)
class Exit:
    """An IP packet router to try, and the protocol version to try with it first.

    *node* is its gateway, None if the topology does not say.
    """

    recipient: Recipient
    ipr_version: int
    node: Node | None = None


def _is_exit(node: Node, topology: Topology, minimum_performance: int) -> bool:
    """Tell whether packets can reach the node's router, and it can be expected to understand us."""
    return (
        node.ipr is not None
        and node.exit_ipr
        and node.performance >= minimum_performance
        and topology.gateway(node.ipr.gateway) is not None
        and at_least(node.build_version, IPR_V9_RELEASE) is not False
    )


def choose_exits(
    topology: Topology,
    urandom: Callable[[int], bytes],
    *,
    exclude: Collection[bytes] = (),
    minimum_performance: int = MINIMUM_PERFORMANCE,
) -> list[Exit]:
    """Return the exits to try, best guess first: weighted by percent, those that speak version 10 before others.

    Nodes whose version cannot be read come last; *exclude* has gateway identities of exits found dead.

    Raises:
        NoExit: none fits.
    """
    candidates = [
        node
        for node in topology
        if node.identity not in exclude and _is_exit(node, topology, minimum_performance)
    ]
    if not candidates:
        raise NoExit("no available gateway has an IP packet router that can be reached")
    order = weighted_order(candidates, [node.performance for node in candidates], urandom)
    order.sort(key=_preference)
    return [
        Exit(node.ipr, ipr_version_for(node.build_version), node) for node in order if node.ipr is not None
    ]


def _preference(node: Node) -> int:
    if ipr_version_for(node.build_version) == 10:
        return 0
    return 1 if at_least(node.build_version, IPR_V9_RELEASE) else 2


def explicit_exit(recipient: Recipient, topology: Topology) -> Exit:
    """Return the exit at an address the user gave.

    Raises:
        NoExit: its gateway is not in the topology, so nothing can be sent to it.
    """
    node = topology.gateway(recipient.gateway)
    if node is None:
        raise NoExit(f"the exit's gateway {base58_encode(recipient.gateway)} is not in the topology")
    return Exit(recipient, ipr_version_for(node.build_version), node)
