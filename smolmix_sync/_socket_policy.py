"""Where a destination may go: through the tunnel, directly to the kernel, or nowhere.

Decided before connecting, never as a reaction to a failure. The functions are pure; :data:`active` holds the
policy of the process, which ``patch_all`` replaces.

Source: spec/sockets.md section 9; design.md decision 12.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from smolmix_sync.reactor.flow import AF_INET6, unmapped

__all__ = ["DirectRule", "Policy", "Verdict", "active", "is_loopback", "parse_direct", "set_active"]

_LOG = logging.getLogger("smolmix_sync.socket")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Resolver ports: a stub resolver behind one would forward in clear. 53 is redirected into the tunnel.
#: Source: spec/sockets.md section 9.
RESOLVER_PORTS = frozenset({53, 853, 5353, 5355})

#: What may become of loopback: the kernel's, inside the stack, nothing.
LOOPBACK_MODES = ("bypass", "mix", "deny")

_LOOPBACK = tuple(ipaddress.ip_network(text) for text in ("127.0.0.0/8", "::1/128"))

#: Not on the internet: an exit rejects them, the kernel would reach the neighbours.
_CLOSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
        "224.0.0.0/4", "240.0.0.0/4", "::/128", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip


class Verdict(enum.Enum):
    """What happens to a destination."""

    TUNNEL = "tunnel"
    DIRECT = "direct"
    RESOLVER = "resolver"
    """To the resolver inside the tunnel instead."""
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class DirectRule:
    """A network, and perhaps one port of it, that goes to the kernel."""

    network: Network
    port: int | None = None

    def matches(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bool:
        """Tell whether the rule covers a destination."""
        return address in self.network and self.port in (None, port)


def parse_direct(entry: str) -> DirectRule:
    """Read ``cidr``, ``cidr:port``, ``[v6cidr]:port`` or a plain address in place of the cidr.

    Raises:
        ValueError: not of that form; names are refused, because who they are is decided elsewhere.
    """
    text = entry.strip()
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if rest and not rest.startswith(":"):
            raise ValueError(f"direct: {entry!r} is not [network]:port")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        network = ipaddress.ip_network(host, strict=False)
        number = int(port) if port else None
        if number is not None and not 0 < number < 65536:
            raise ValueError
    except ValueError:
        raise ValueError(f"direct: {entry!r} is not a network or network:port") from None
    return DirectRule(network, number)


@dataclass(frozen=True)
class Policy:
    """What may leave beside the tunnel.

    Attributes:
        loopback: ``bypass`` (the kernel), ``mix`` (inside the stack) or ``deny``.
        direct: further networks for the kernel.
        listen: what a listener on the wildcard address becomes: ``loopback`` (a kernel listener there), ``mix``
            (in the stack) or ``deny``.
        strict: kernel sockets are made by the reactor thread, because the application's may not (seccomp).
    """

    loopback: str = "bypass"
    direct: tuple[DirectRule, ...] = ()
    listen: str = "loopback"
    strict: bool = False
    _logged: set[DirectRule] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def make(
        cls,
        direct: Iterable[str] = ("loopback",),
        listen: str = "loopback",
        *,
        loopback: str | None = None,
        strict: bool = False,
    ) -> Policy:
        """Build a policy from the arguments of ``patch_all``.

        Raises:
            ValueError: an entry of *direct*, *listen* or *loopback* makes no sense.
        """
        if isinstance(direct, str):
            direct = (direct,)
        entries = list(direct)
        if listen not in ("loopback", "mix", "deny"):
            raise ValueError(f"listen: {listen!r} is not loopback, mix or deny")
        if loopback not in (None, *LOOPBACK_MODES):
            raise ValueError(f"loopback: {loopback!r} is not {', '.join(LOOPBACK_MODES)} or None")
        rules = tuple(parse_direct(entry) for entry in entries if entry != "loopback")
        return cls(loopback or ("bypass" if "loopback" in entries else "deny"), rules, listen, strict)

    def destination(self, host: str, port: int, own: tuple[str, ...] = ()) -> Verdict:
        """Decide on a numeric destination.

        Args:
            host: address text.
            port: its port.
            own: our addresses in the tunnel, which are reachable whatever network they are from.
        """
        if host in own and not is_loopback(host):
            return Verdict.TUNNEL
        return _destination(self, unmapped(host).partition("%")[0], port)

    def log_direct(self, host: str, port: int) -> None:
        """Mention every rule that lets something past the tunnel, once."""
        address = ipaddress.ip_address(unmapped(host).partition("%")[0])
        for rule in self.direct:
            if rule not in self._logged and rule.matches(address, port):
                self._logged.add(rule)
                _LOG.warning("direct: %s port %s goes to the kernel", rule.network, rule.port or "any")

    def __hash__(self) -> int:
        return hash((self.loopback, self.direct, self.listen, self.strict))


@functools.lru_cache(maxsize=1024)
def _destination(policy: Policy, host: str, port: int) -> Verdict:
    address = ipaddress.ip_address(host)
    if address.is_unspecified or any(address in network for network in _LOOPBACK):
        if port in RESOLVER_PORTS:
            return Verdict.RESOLVER if port == 53 else Verdict.DENY
        # A network alone does not open loopback that is denied, a port of it does.
        if policy.loopback == "deny" and any(
            rule.port and rule.matches(address, port) for rule in policy.direct
        ):
            return Verdict.DIRECT
        return {"bypass": Verdict.DIRECT, "mix": Verdict.TUNNEL}.get(policy.loopback, Verdict.DENY)
    if any(rule.matches(address, port) for rule in policy.direct):
        return Verdict.DENY if port in RESOLVER_PORTS else Verdict.DIRECT
    if any(address in network for network in _CLOSED):
        return Verdict.DENY
    return Verdict.TUNNEL


@functools.lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Tell whether address text is a loopback address (mapped ones too), not the wildcard."""
    address = ipaddress.ip_address(unmapped(host).partition("%")[0])
    return any(address in network for network in _LOOPBACK)


def is_wildcard(host: str) -> bool:
    """Tell whether address text is the unspecified address."""
    return host in ("0.0.0.0", "::", "::ffff:0.0.0.0")


def loopback_of(family: int) -> str:
    """Return the loopback address of an address family."""
    return "::1" if family == AF_INET6 else "127.0.0.1"


#: Ports whose protocols say everything in the clear, until STARTTLS at best.
PLAINTEXT_PORTS = {
    21: "ftp", 23: "telnet", 25: "smtp", 80: "http", 110: "pop3", 119: "nntp", 143: "imap", 389: "ldap", 1883: "mqtt",
    3306: "mysql", 5432: "postgresql", 6379: "redis", 11211: "memcached",
}  # fmt: skip
_warned: set[int] = set()


def warn_plaintext(port: int) -> None:
    """Mention, once per port, that the exit can read what a connection carries. Not where it goes: logs are kept."""
    name = PLAINTEXT_PORTS.get(port)
    if name is not None and port not in _warned:
        _warned.add(port)
        _LOG.warning("port %d (%s): the exit and whoever is behind it can read this connection", port, name)


active = Policy()


def set_active(policy: Policy) -> Policy:
    """Replace the policy of the process; return the one before."""
    global active
    before, active = active, policy
    return before
