"""Where an exit lets packets go: the exit policy, and the addresses that are nobody's to reach.

Source: common/exit-policy; service-providers/ip-packet-router/src/request_filter; spec/ipr.md
section 7 ("Filter").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ExitPolicy", "PolicyRule", "is_global"]

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# From the specification, with the exceptions that IANA makes inside the blocks.
_NOT_GLOBAL = _networks(
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
    *("203.0.113.0/24", "240.0.0.0/4"),
    *("::/128", "::1/128", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2002::/16"),
    *("2001:db8::/32", "fc00::/7", "fe80::/10"),
)
_GLOBAL_AFTER_ALL = _networks(
    *("192.0.0.9/32", "192.0.0.10/32"),
    *("2001:1::1/128", "2001:1::2/128", "2001:3::/32", "2001:4:112::/48", "2001:20::/28", "2001:30::/28"),
)


def is_global(host: str) -> bool:
    """Tell whether the address *host* is on the public internet, as an exit sees it.

    Raises:
        ValueError: *host* is no IP address.
    """
    address = ipaddress.ip_address(host)
    if any(address in network for network in _GLOBAL_AFTER_ALL):
        return True
    return not any(address in network for network in _NOT_GLOBAL)


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One line of an exit policy; ``network`` None is any address, of ``family`` if that is set."""

    accept: bool
    network: _Network | None
    family: int | None
    first_port: int
    last_port: int

    def matches(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bool:
        """Tell whether this line decides about *address* and *port*; port 0 matches any range."""
        if self.family is not None and address.version != self.family:
            return False
        if self.network is not None and address not in self.network:
            return False
        return port == 0 or self.first_port <= port <= self.last_port

    @classmethod
    def parse(cls, line: str) -> PolicyRule:
        """Read ``accept|reject|accept6|reject6 ADDRESS[/BITS]:PORT``.

        ADDRESS is an IPv4 address, an IPv6 address in brackets, or ``*``; PORT is a number, a
        range ``lo-hi`` or ``*``.

        Raises:
            ValueError: *line* does not read so.
        """
        action, _, pattern = line.strip().partition(" ")
        host, colon, ports = pattern.strip().rpartition(":")
        if action not in ("accept", "reject", "accept6", "reject6") or not colon:
            raise ValueError(f"not a line of an exit policy: {line!r}")
        family = 6 if action.endswith("6") else None
        network = None
        if host != "*":
            network = ipaddress.ip_network(host.replace("[", "").replace("]", ""), strict=False)
        low, dash, high = ("1", "-", "65535") if ports == "*" else ports.partition("-")
        first, last = int(low), int(high if dash else low)
        if not 0 < first <= last < 65536:
            raise ValueError(f"not a port range: {line!r}")
        return cls(action.startswith("accept"), network, family, first, last)


class ExitPolicy:
    """A callable for :class:`~smolmix_sync.ipr.router.IpPacketRouter`: torrc lines, first match wins.

    Args:
        rules: in order; what none of them matches is refused.
        allow_local: do not refuse addresses that are not global before looking at the rules.
    """

    __slots__ = ("_allow_local", "_rules")

    def __init__(self, rules: Iterable[PolicyRule], *, allow_local: bool = False) -> None:
        self._rules = tuple(rules)
        self._allow_local = allow_local

    @classmethod
    def parse(cls, text: str, *, allow_local: bool = False) -> ExitPolicy:
        """Read a policy file: one rule a line, empty lines and ``#`` comments left out.

        Raises:
            ValueError: a line does not read as a rule.
        """
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        return cls((PolicyRule.parse(line) for line in lines if line), allow_local=allow_local)

    def __call__(self, host: str, port: int) -> bool:
        """Tell whether a packet to *host* and *port* (0 if none) may go out."""
        if not self._allow_local and not is_global(host):
            return False
        address = ipaddress.ip_address(host)
        for rule in self._rules:
            if rule.matches(address, port):
                return rule.accept
        return False
