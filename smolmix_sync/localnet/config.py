"""What a localnet is made of: its switches, its nodes, and the hosts behind its exit.

`LocalNetConfig` is what the caller chooses. The supervisor turns it into a plan
(keys, ports) and hands each node process its part as JSON over a pipe; nothing
secret is written to disk.

Source: design.md decisions 17 to 18; spec topology.md part 10 for the minimum
that clients need.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DEFAULT_EXIT_POLICY",
    "LOCALNET_V4",
    "LOCALNET_V6",
    "RESOLVER_ADDRESSES",
    "Behaviour",
    "Host",
    "LocalNetConfig",
    "build_hosts",
    "node_names",
]

#: Where the names of a localnet live: documentation nets, so that nothing real can be meant.
LOCALNET_V4 = ipaddress.IPv4Network("198.51.100.0/24")
LOCALNET_V6 = ipaddress.IPv6Network("2001:db8:6e79::/48")

#: Public resolvers that the exit answers for with localnet's own DNS server.
RESOLVER_ADDRESSES = (
    "1.1.1.1",
    "1.0.0.1",
    "8.8.8.8",
    "8.8.4.4",
    "9.9.9.9",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
)

#: torrc style, first match wins; ICMP, having no port, matches any range, so what is accepted comes first.
#: Public exits also refuse port 25; localnet's mail sink needs it.
DEFAULT_EXIT_POLICY = """\
reject 198.51.100.66/32:*
reject6 2001:db8:6e79::42/128:*
accept *:1-6880
accept *:7000-65535
reject *:*
"""


class Behaviour:
    """How a host behind the exit answers; the values travel in JSON."""

    SERVICE = "service"  #: listed ports reach a loopback service, the others are closed
    CLOSED = "closed"  #: every port answers with a reset or ICMP port unreachable
    UNREACHABLE = "unreachable"  #: the exit answers with ICMP host unreachable
    SILENT = "silent"  #: everything to it is dropped without an answer


@dataclass(frozen=True)
class Host:
    """One name behind the exit.

    Attributes:
        name: the DNS name, without a trailing dot.
        addresses: what A and AAAA queries answer.
        behaviour: one of `Behaviour`.
        tcp: destination port to the name of a service (``http``) or a loopback port number.
        udp: the same for datagrams.
        in_dns: false for addresses that have no name of their own, such as 1.1.1.1.
    """

    name: str
    addresses: tuple[str, ...]
    behaviour: str = Behaviour.SERVICE
    tcp: Mapping[int, str | int] = field(default_factory=dict)
    udp: Mapping[int, str | int] = field(default_factory=dict)
    in_dns: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Host:
        """Read what `to_json` wrote, after JSON made texts of the port numbers."""
        ports = {
            kind: {int(port): service for port, service in data[kind].items()} for kind in ("tcp", "udp")
        }
        return cls(data["name"], tuple(data["addresses"]), data["behaviour"], **ports, in_dns=data["in_dns"])


@dataclass(frozen=True)
class LocalNetConfig:
    """Every switch of a localnet.

    Attributes:
        address: the IP address all nodes bind and announce; a veth address lets
            another network namespace use the network. Services behind the exit
            always stay on 127.0.0.1.
        ports: fixed ports by node and listener (``{"nym-api.http": 8000,
            "entry.ws": 9000, "mix1.mix": 1789}``); the others are chosen.
        hop_delay: mean delay per hop in seconds that localnet's own sender (the exit)
            uses and that `LocalNet` sets for the client.
        drop: fraction of Sphinx packets a node drops, by node name: ``{"mix2": 0.05}``.
        ipr_versions: versions of the IPR protocol the exit answers.
        build_version: nym-node version in the directory; from 1.37.0 clients speak v10.
        mtu: the largest IP packet between exit and client.
        enforce_tickets: refuse the free bandwidth claim, as a gateway enforcing zk-nyms does.
        wrong_key: nodes that nym-api announces with a Sphinx key that is not theirs.
        allow: further destinations, ``{"git.localnet:22": 2222}``: name or IP literal
            and port to a port on 127.0.0.1.
        exit_policy: torrc style lines; see `DEFAULT_EXIT_POLICY`.
        capture_dir: an existing directory where nodes write the octets of every link.
        hostname: announced for the gateways' websockets; clients that force TLS need one.
        frame_version: version of mix frames that nodes send, 7 or 8.
        noise: nodes announce a Noise key and speak Noise to each other, as nym-node does unless it is told
            otherwise. Clients see no difference. Without it, links carry frames that a test can read or write.
        surb_buffer: SURBs the exit wants beyond its minimum of 10, as the real one.
        rotation_id: the key rotation in force; at least 1.
        state_dir: where ca.pem, network.json and the control socket go; a new
            directory under the system's temporary one by default.
        log_level: of the node processes, on stderr.
    """

    address: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=dict)
    hop_delay: float = 0.015
    drop: Mapping[str, float] = field(default_factory=dict)
    ipr_versions: tuple[int, ...] = (8, 9, 10)
    build_version: str = "1.37.0"
    mtu: int = 1420
    exits: int = 1
    mixes_per_layer: int = 1
    enforce_tickets: bool = False
    wrong_key: tuple[str, ...] = ()
    allow: Mapping[str, int] = field(default_factory=dict)
    exit_policy: str = DEFAULT_EXIT_POLICY
    capture_dir: str | None = None
    hostname: str | None = None
    frame_version: int = 8
    noise: bool = True
    surb_buffer: int = 50
    rotation_id: int = 1
    state_dir: str | None = None
    log_level: str = "WARNING"

    def __post_init__(self) -> None:
        ipaddress.ip_address(self.address)
        names = node_names(self)
        for name, fraction in self.drop.items():
            if name not in names or not 0 <= fraction <= 1:
                raise ValueError(f"drop: {name}: {fraction} is not a node of this network and a fraction")
        for name in self.wrong_key:
            if name not in names:
                raise ValueError(f"wrong_key: no node {name}")
        for name in self.ports:
            node, _, listener = name.partition(".")
            if node not in (*names, "nym-api", "services") or not listener:
                raise ValueError(f"ports: {name} is no listener of this network")
        if self.frame_version not in (7, 8):
            raise ValueError("frame_version is 7 or 8")
        if self.rotation_id < 1:
            raise ValueError("rotation_id starts at 1: 0 means unknown on the wire")
        if self.exits < 1 or self.mixes_per_layer < 1:
            raise ValueError("a network needs an exit and a mix node in every layer")
        if not set(self.ipr_versions) <= {6, 7, 8, 9, 10}:
            raise ValueError("ipr_versions are between 6 and 10")
        for destination in self.allow:
            parse_destination(destination)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the supervisor's pipe."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LocalNetConfig:
        """Read what `to_json` wrote."""
        values = dict(data)
        for name in ("ipr_versions", "wrong_key"):
            values[name] = tuple(values[name])
        return cls(**values)


def node_names(config: LocalNetConfig) -> tuple[str, ...]:
    """Return the names of the Sphinx nodes: ``entry``, ``mix1`` to ``mix3``, ``exit``.

    With more than one node per layer the second of layer 2 is ``mix2b``, and
    further exits are ``exit2``, ``exit3``.
    """
    mixes = [
        f"mix{layer}{'' if copy == 0 else chr(ord('a') + copy)}"
        for layer in (1, 2, 3)
        for copy in range(config.mixes_per_layer)
    ]
    exits = ["exit" if number == 1 else f"exit{number}" for number in range(1, config.exits + 1)]
    return ("entry", *mixes, *exits)


def parse_destination(text: str) -> tuple[str, int]:
    """Split ``name:port``, ``address:port`` or ``[v6]:port``."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"not name:port: {text!r}")
    return host.strip("[]").lower().rstrip("."), int(port)


def _pair(octet: int) -> tuple[str, str]:
    return str(LOCALNET_V4[octet]), str(LOCALNET_V6[octet])


def build_hosts(config: LocalNetConfig) -> list[Host]:
    """Return every host behind the exit, the allow-list included."""
    web: dict[int, str | int] = {80: "http", 443: "https", 8080: "http", 8443: "https"}
    hosts = [
        Host("echo.localnet", _pair(10), tcp={**web, 7: "tcp-echo", 9: "tcp-discard"}, udp={7: "udp-echo"}),
        Host("www.localnet", _pair(11), tcp=web),
        Host("mail.localnet", _pair(25), tcp={25: "smtp", 587: "smtp", 2525: "smtp"}),
        Host("dns.localnet", _pair(53), tcp={53: "dns"}, udp={53: "dns"}),
        Host("wrong.localnet", _pair(43), tcp={443: "https-wrong"}),
        Host("expired.localnet", _pair(44), tcp={443: "https-expired"}),
        Host("selfsigned.localnet", _pair(45), tcp={443: "https-selfsigned"}),
        Host("reset.localnet", _pair(50), tcp={80: "tcp-reset", 7: "tcp-reset"}),
        Host("closed.localnet", _pair(60), Behaviour.CLOSED),
        Host("unreachable.localnet", _pair(61), Behaviour.UNREACHABLE),
        Host("silent.localnet", _pair(62), Behaviour.SILENT),
        Host("policy.localnet", _pair(66), tcp=web),
        Host("resolver", RESOLVER_ADDRESSES, tcp={53: "dns", 443: "https"}, udp={53: "dns"}, in_dns=False),
    ]
    by_name = {host.name: host for host in hosts}
    next_octet = 100
    for destination, loopback_port in config.allow.items():
        name, port = parse_destination(destination)
        host = by_name.get(name)
        if host is None:
            try:
                addresses: tuple[str, ...] = (str(ipaddress.ip_address(name)),)
                in_dns = False
            except ValueError:
                addresses, in_dns = _pair(next_octet), True
                next_octet += 1
            host = Host(name, addresses, in_dns=in_dns)
        by_name[name] = dataclasses.replace(
            host, tcp={**host.tcp, port: loopback_port}, udp={**host.udp, port: loopback_port}
        )
    return list(by_name.values())
