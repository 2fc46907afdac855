"""The resolver's core, sans-IO: one question from the first query to its answer, and the cache.

A question goes to the primary server by UDP, again after 3, 6 and 12 seconds, by TCP when the answer is truncated, and
to the fallback server when the first is silent or failing; or over HTTPS to both, if so configured. dnspython does
the wire format and is loaded with the first question.

Source: spec/sockets.md section 8; design.md decision 13; RFC 1035, RFC 2308 (negative answers), RFC 5452 (identifiers
and ports), RFC 6891, RFC 7766, RFC 8484.
"""

from __future__ import annotations

import _socket
import ipaddress
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from smolmix_sync.errors import WireError
from smolmix_sync.reactor._originals import gethostname, import_once

__all__ = [
    "Answer",
    "Cache",
    "NameResolutionError",
    "Question",
    "ResolverConfig",
    "Transmit",
    "decode_untrusted",
    "in_order",
    "system_hosts",
]

# From the specifications: RFC 1035 section 3.2.2, RFC 3596.
A = 1
PTR = 12
AAAA = 28

# Ours. When to ask again by UDP, in seconds since the first query: a mixnet round trip is about one second, and
# a resolver's own recursion takes up to two.
_RESEND = (3.0, 6.0, 12.0)
# Ours: answers of one server that leave no room for doubt are at most this large without TCP.
_EDNS_PAYLOAD = 1232
# A query over HTTPS is as long as any other. Source: RFC 8467 section 4.1.
_PADDING = 128
# Ours: links of a CNAME chain followed.
_CHAIN = 16
# Ours: how long an answer is kept at most, whatever its TTL; and a negative one.
_MAX_TTL = 300.0
_MAX_NEGATIVE_TTL = 60.0

EAI_NONAME = int(_socket.EAI_NONAME)
EAI_AGAIN = int(_socket.EAI_AGAIN)
_AF_INET = int(_socket.AF_INET)
_AF_INET6 = int(_socket.AF_INET6)


class NameResolutionError(_socket.gaierror):
    """A name did not resolve inside the tunnel; ``errno`` is EAI_NONAME or EAI_AGAIN."""


def not_found() -> NameResolutionError:
    """Return the error for a name that does not exist."""
    return NameResolutionError(EAI_NONAME, "Name or service not known")


def try_again(reason: str = "") -> NameResolutionError:
    """Return the error for a resolver that did not answer."""
    message = "Temporary failure in name resolution"
    return NameResolutionError(EAI_AGAIN, f"{message} ({reason})" if reason else message)


#: Names of this machine. Source: RFC 6761 section 6.3, and Debian's /etc/hosts.
_LOCAL_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "localhost6", "localhost4"}
)
#: Never asked: mDNS (RFC 6762) and onion services (RFC 7686).
_NEVER_ASKED = (".local", ".onion")


def ascii_name(host: str) -> str:
    """Return a host name in lower case, in IDNA form and without the final dot.

    Raises:
        NameResolutionError: it has no IDNA form.
    """
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise not_found() from None
    return host.removesuffix(".").lower()


def fixed_addresses(
    name: str, family: int, hosts: Mapping[str, list[str]], *, local: bool = True
) -> list[str] | None:
    """Return what is known about a name without asking anybody.

    Args:
        name: from :func:`ascii_name`.
        family: 0, AF_INET or AF_INET6.
        hosts: configured names.
        local: whether this machine's names are answered with loopback, or not at all.

    Returns:
        Addresses; an empty list for a name that must not be asked; None for one that is to be asked.
    """
    try:
        ip = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        pass
    else:
        right = {_AF_INET: 4, _AF_INET6: 6}.get(family, ip.version) == ip.version
        return [str(ip)] if right else []
    configured = hosts.get(name)
    if configured is not None:
        return [one for one in configured if {_AF_INET: ".", _AF_INET6: ":"}.get(family, "") in one]
    if name in _LOCAL_NAMES or name.endswith(".localhost") or (name and name == gethostname().lower()):
        if not local:
            return []
        return {_AF_INET: ["127.0.0.1"], _AF_INET6: ["::1"]}.get(family, ["127.0.0.1", "::1"])
    if "." not in name or name.endswith(_NEVER_ASKED) or len(name) > 253:
        return []
    return None


def system_hosts(path: str = "/etc/hosts") -> dict[str, list[str]]:
    """Return the entries of the machine's hosts file, for ``ResolverConfig.hosts``.

    An entry must be no reason to leave the tunnel: a name that the file gives a loopback address, or none (as lists of
    blocked names do), does not exist here. This machine's own names are not taken from the file.

    Source: hosts(5).
    """
    found: dict[str, list[str]] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            continue
        usable = not (ip.is_loopback or ip.is_unspecified or ip.is_link_local or ip.is_multicast)
        for name in names:
            text = name.lower().rstrip(".")
            if text in _LOCAL_NAMES or text.endswith(".localhost") or text == gethostname().lower():
                continue
            addresses = found.setdefault(text, [])
            if usable and str(ip) not in addresses:
                addresses.append(str(ip))
    return found


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """Settings of a resolver.

    Attributes:
        primary: server asked first, an address.
        fallback: server asked when the first fails; empty for none.
        timeout: seconds for one attempt at one server.
        hosts: names answered without a query: name -> addresses.
        cache_size: answers kept.
        https: ask over HTTPS (port 443 of the same addresses) instead of UDP and TCP.
        ca_file: authorities trusted for it; None is the system's.
    """

    primary: str = "1.1.1.1"
    fallback: str = "8.8.8.8"
    timeout: float = 30.0
    hosts: Mapping[str, list[str]] = field(default_factory=dict)
    cache_size: int = 1024
    https: bool = False
    ca_file: str | None = None

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers in order."""
        return tuple(dict.fromkeys(one for one in (self.primary, self.fallback) if one))


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known about one name and type.

    Attributes:
        records: address texts, or names for PTR; empty when there are none of the type.
        canonical: the name at the end of the CNAME chain, without the final dot.
        expires: when to ask again.
        exists: False for NXDOMAIN.
    """

    records: tuple[str, ...]
    canonical: str
    expires: float
    exists: bool = True


def in_order(answers: Iterable[Answer]) -> list[str]:
    """Return the addresses in the order to try them: of both families in turn, beginning with the first answer's.

    Source: RFC 8305 section 4, with a first address family count of 1.
    """
    rounds = zip_longest(*(answer.records for answer in answers))
    return [record for one in rounds for record in one if record is not None]


@dataclass(frozen=True, slots=True)
class Transmit:
    """A query to send, by UDP from a port of its own; *ident* is its identifier, which only that port may answer."""

    server: str
    payload: bytes
    tcp: bool
    ident: int = -1
    https: bool = False


@dataclass(frozen=True, slots=True)
class _Response:
    ident: int
    question: tuple[str, int]
    rcode: int
    truncated: bool
    records: tuple[str, ...]
    canonical: str
    ttl: float


def load() -> Any:
    """Import dnspython (in an application thread: it takes a while) and return it."""
    import_once(
        "dns.exception",
        "dns.flags",
        "dns.message",
        "dns.name",
        "dns.rcode",
        "dns.rdataclass",
        "dns.rdatatype",
    )
    return sys.modules["dns"]


def decode_untrusted(payload: bytes) -> _Response:
    """Decode a response with one question.

    Raises:
        WireError: it is not one.
    """
    dns = load()
    try:
        message = dns.message.from_wire(payload, ignore_trailing=True)
        if not message.flags & dns.flags.QR or len(message.question) != 1:
            raise WireError("not a response to one question")
        question = message.question[0]
        name, ttl = question.name, _MAX_TTL
        records: tuple[str, ...] = ()
        for _ in range(_CHAIN):
            found = message.get_rrset(message.answer, name, dns.rdataclass.IN, question.rdtype)
            if found is not None:
                records = tuple(
                    one.target.to_text(omit_final_dot=True) if question.rdtype == PTR else one.address
                    for one in found
                )
                ttl = min(ttl, found.ttl)
                break
            alias = message.get_rrset(message.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
            if alias is None:
                break
            ttl = min(ttl, alias.ttl)
            name = alias[0].target
        if not records:
            ttl = min(ttl, _MAX_NEGATIVE_TTL)
            for rrset in message.authority:
                if rrset.rdtype == dns.rdatatype.SOA:
                    ttl = min(ttl, rrset.ttl, rrset[0].minimum)
        return _Response(
            message.id,
            (question.name.to_text(omit_final_dot=True).lower(), int(question.rdtype)),
            int(message.rcode()),
            bool(message.flags & dns.flags.TC),
            records,
            name.to_text(omit_final_dot=True),
            float(ttl),
        )
    except WireError:
        raise
    # dnspython's parsers let several kinds of exception out on malformed input.
    except Exception as problem:
        raise WireError(f"not a DNS message: {type(problem).__name__}") from None


def encode_query(name: str, rdtype: int, ident: int, *, edns: bool = True, pad: int = 0) -> bytes:
    """Encode a query with recursion desired.

    Raises:
        NameResolutionError: *name* cannot be one.
    """
    dns = load()
    try:
        query = dns.message.make_query(
            dns.name.from_text(name), rdtype, use_edns=0 if edns else False, payload=_EDNS_PAYLOAD, pad=pad
        )
    except dns.exception.DNSException:
        raise not_found() from None
    query.id = ident
    return bytes(query.to_wire())


class Question:
    """One question on its way; the face of a core (conventions.md section 3) with transmits for packets.

    Args:
        name: a host name in ASCII, or an address in its in-addr.arpa or ip6.arpa form.
        rdtype: record type number.
        config: servers and time-outs.
        now: seconds.
        urandom: source of the query identifiers.

    Attributes:
        answer: set once there is one.
        failed: set when every server failed.
    """

    def __init__(
        self, name: str, rdtype: int, config: ResolverConfig, now: float, urandom: Callable[[int], bytes]
    ) -> None:
        self.name = name.rstrip(".").lower()
        self.rdtype = rdtype
        self.answer: Answer | None = None
        self.failed = ""
        self.dropped = 0
        self._config = config
        self._urandom = urandom
        self._servers = list(config.servers)
        self._out: list[Transmit] = []
        self._tcp = False
        self._edns = True
        self._idents: set[int] = set()
        self._resends: list[float] = []
        self._deadline: float | None = None
        self._next_server(now, "no server is configured")

    @property
    def done(self) -> bool:
        """Whether there is nothing more to do."""
        return self.answer is not None or bool(self.failed)

    @property
    def server(self) -> str:
        """The server being asked."""
        return self._server

    def _next_server(self, now: float, reason: str) -> None:
        if not self._servers:
            self.failed = reason
            self._deadline = None
            return
        self._server = self._servers.pop(0)
        self._tcp = self._config.https
        self._edns = True
        self._ask(now)

    def _ask(self, now: float) -> None:
        # Whenever the path changes, an answer to an earlier query must not count.
        self._idents.clear()
        self._resends = (
            [] if self._tcp else [now + after for after in _RESEND if after < self._config.timeout]
        )
        self._deadline = now + self._config.timeout
        self._send()

    def _send(self) -> None:
        https = self._config.https
        # Over HTTPS it is 0, for caches (RFC 8484 section 4.1). Else every query has an identifier of its own, and the
        # one before stays good: its answer may be on its way.
        ident = 0 if https else int.from_bytes(self._urandom(2), "big")
        self._idents.add(ident)
        payload = encode_query(
            self.name, self.rdtype, ident, edns=self._edns, pad=_PADDING if https and self._edns else 0
        )
        self._out.append(Transmit(self._server, payload, self._tcp, ident, https))

    def data_to_send(self) -> list[Transmit]:
        """Return the queries to send now."""
        out, self._out = self._out, []
        return out

    def next_deadline(self) -> float | None:
        """Return when to call ``handle_deadline``, None when done."""
        if self.done or self._deadline is None:
            return None
        return min(self._deadline, self._resends[0]) if self._resends else self._deadline

    def handle_deadline(self, now: float) -> None:
        """Ask again, or the next server."""
        if self.done or self._deadline is None:
            return
        if now >= self._deadline:
            self._next_server(now, f"{self._server} does not answer")
            return
        due = False
        while self._resends and self._resends[0] <= now:
            self._resends.pop(0)
            due = True
        if due:
            self._send()

    def receive_data(
        self, payload: bytes, server: str, tcp: bool, now: float, ident: int | None = None
    ) -> None:
        """Take a message from *server*; anything but the answer to our question is counted and ignored.

        Args:
            payload: the DNS message.
            server: where it came from.
            tcp: whether it came over a stream.
            now: seconds.
            ident: identifier of the query that was sent from the socket it came to; None: of any.
        """
        if self.done:
            return
        try:
            response = decode_untrusted(payload)
        except WireError:
            self.dropped += 1
            return
        expected = (server, response.question, tcp)
        if (
            expected != (self._server, (self.name, self.rdtype), self._tcp)
            or response.ident not in self._idents
            or ident not in (None, response.ident)
        ):
            self.dropped += 1
            return
        if response.truncated and not tcp:
            self._tcp = True
            self._ask(now)
        elif response.rcode == 0:
            self._finish(response, now, exists=True)
        elif response.rcode == 3:
            self._finish(response, now, exists=False)
        elif response.rcode == 1 and self._edns:  # FORMERR: a server older than EDNS
            self._edns = False
            self._ask(now)
        else:
            self._next_server(now, f"{self._server} answered with rcode {response.rcode}")

    def _finish(self, response: _Response, now: float, *, exists: bool) -> None:
        records = response.records if exists else ()
        self.answer = Answer(records, response.canonical, now + max(0.0, response.ttl), exists)

    def path_failed(self, now: float, reason: str) -> None:
        """The connection or socket to the server broke: ask the next one."""
        if not self.done:
            self._next_server(now, reason)


class Cache:
    """Answers until their TTL is over; the least recently used go first when it is full."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[str, int], Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str, rdtype: int, now: float) -> Answer | None:
        """Return a live answer."""
        key = (name, rdtype)
        answer = self._entries.get(key)
        if answer is None:
            return None
        if answer.expires <= now:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return answer

    def put(self, name: str, rdtype: int, answer: Answer) -> None:
        """Keep an answer."""
        if self._size <= 0:
            return
        self._entries[(name, rdtype)] = answer
        self._entries.move_to_end((name, rdtype))
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything (another exit, another identity)."""
        self._entries.clear()
