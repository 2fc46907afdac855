"""Names resolved inside the tunnel, under the names of the socket module.

``getaddrinfo``, ``gethostbyname``, ``gethostbyname_ex``, ``gethostbyaddr``, ``getnameinfo`` and ``getfqdn`` take what the
stdlib's take and raise ``socket.gaierror``. Numeric addresses, services and this machine's own names are
answered without the network; everything else goes through the tunnel or fails. The search list and
/etc/resolv.conf are not used.

Source: spec/sockets.md section 8; design.md decisions 12a and 13.
"""

from __future__ import annotations

import _socket
import ipaddress
from typing import Any

from smolmix_sync._socket_address import host_text
from smolmix_sync._socket_names import addresses_of, answers_for, name_of
from smolmix_sync.reactor import _originals
from smolmix_sync.reactor.flow import AF_INET, AF_INET6
from smolmix_sync.reactor.provider import TunnelPort
from smolmix_sync.reactor.resolver import Answer, NameResolutionError, in_order, not_found

__all__ = [
    "NameResolutionError",
    "getaddrinfo",
    "getfqdn",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "gethostname",
    "getnameinfo",
    "resolve",
]

_NUMERIC = int(_socket.AI_NUMERICHOST)
_CANONICAL = int(_socket.AI_CANONNAME)
_V4MAPPED = int(getattr(_socket, "AI_V4MAPPED", 0x8))
_ALL = int(getattr(_socket, "AI_ALL", 0x10))
#: The system would look at its own interfaces, which need not have any address (a namespace): the tunnel's count.
_ADDRCONFIG = int(getattr(_socket, "AI_ADDRCONFIG", 0x20))


def _host_argument(host: Any) -> str | None:
    if host is None:
        return None
    if isinstance(host, (str, bytes)):
        return host_text(host)
    raise TypeError("getaddrinfo() argument 1 must be string or None")


def raw_getaddrinfo(
    host: Any,
    port: Any,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
    *,
    tunnel: TunnelPort | None = None,
) -> list[tuple[int, int, int, str, Any]]:
    """Stand in for the C function; plain integers in the result."""
    name = _host_argument(host)
    native = _originals.getaddrinfo
    flags &= ~_ADDRCONFIG
    if name is None or flags & _NUMERIC:
        return native(host, port, family, type, proto, flags)  # type: ignore[no-any-return]
    try:
        return native(name, port, family, type, proto, flags | _NUMERIC)  # type: ignore[no-any-return]
    except _socket.gaierror as problem:
        # "no such name" is all that is left for the network; a bad service or family is final
        if problem.errno != _socket.EAI_NONAME or not name:
            raise
    if port is not None:
        native(None, port, 0, type, proto, 0)  # a service that does not exist must not cost a question
    if family not in (0, AF_INET, AF_INET6):
        raise _socket.gaierror(_socket.EAI_FAMILY, "ai_family not supported")
    mapping = family == AF_INET6 and bool(flags & _V4MAPPED)
    answers: list[Answer] = []
    try:
        answers = answers_for(name, family, tunnel)
    except NameResolutionError as problem:
        if not mapping or problem.errno != _socket.EAI_NONAME:
            raise
    records = in_order(answers)
    if mapping and (not answers or flags & _ALL):
        try:
            more = answers_for(name, AF_INET, tunnel)
        except NameResolutionError:
            if not answers:
                raise
            more = []
        records += [f"::ffff:{record}" for record in in_order(more)]
        answers = answers or more
    result: list[tuple[int, int, int, str, Any]] = []
    for record in records:
        result.extend(native(record, port, 0, type, proto, (flags & ~_CANONICAL) | _NUMERIC))
    if result and flags & _CANONICAL:
        first = result[0]
        result[0] = (first[0], first[1], first[2], answers[0].canonical, first[4])
    return result


def getaddrinfo(
    host: Any,
    port: Any,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
    *,
    tunnel: TunnelPort | None = None,
) -> list[tuple[Any, Any, int, str, Any]]:
    """Resolve host and port into a list of address info entries, as ``socket.getaddrinfo``.

    Args:
        host, port, family, type, proto, flags: as there.
        tunnel: the tunnel to ask; None is the default one.

    Raises:
        socket.gaierror: EAI_NONAME no such name, EAI_AGAIN no answer.
    """
    import socket

    return [
        (_enum(socket.AddressFamily, one[0]), _enum(socket.SocketKind, one[1]), *one[2:])
        for one in raw_getaddrinfo(host, port, family, type, proto, flags, tunnel=tunnel)
    ]


def _enum(kind: Any, value: int) -> Any:
    try:
        return kind(value)
    except ValueError:
        return value


def gethostbyname(hostname: Any) -> str:
    """Return the IPv4 address of a host, as ``socket.gethostbyname``."""
    name = host_text(hostname)
    if name == "":
        return "0.0.0.0"
    if name == "<broadcast>":
        return "255.255.255.255"
    return str(raw_getaddrinfo(name, None, AF_INET, int(_socket.SOCK_STREAM))[0][4][0])


def gethostbyname_ex(hostname: Any) -> tuple[str, list[str], list[str]]:
    """Return (name, alias list, IPv4 address list) of a host, as ``socket.gethostbyname_ex``."""
    name = host_text(hostname)
    if name in ("", "<broadcast>"):
        address = gethostbyname(name)
        return address, [], [address]
    found = raw_getaddrinfo(name, None, AF_INET, int(_socket.SOCK_STREAM), 0, _CANONICAL)
    canonical = found[0][3] or name
    aliases = [name] if canonical.lower() != name.lower().rstrip(".") else []
    return canonical, aliases, [str(entry[4][0]) for entry in found]


def gethostbyaddr(ip_address: Any) -> tuple[str, list[str], list[str]]:
    """Return (name, alias list, address list) of an address or a name, as ``socket.gethostbyaddr``.

    Raises:
        socket.gaierror: the name given does not resolve.
        socket.herror: the address has no name.
    """
    text = host_text(ip_address)
    try:
        ip = str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        ip = addresses_of(text)[0] if text else "0.0.0.0"
    try:
        return name_of(ip), [], [ip]
    except NameResolutionError as problem:
        if problem.errno == _socket.EAI_AGAIN:
            raise _socket.herror(2, "Host name lookup failure") from None  # TRY_AGAIN of netdb.h
        raise _socket.herror(1, "Unknown host") from None


def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]:
    """Return (host, service) of a socket address, as ``socket.getnameinfo``."""
    if not isinstance(sockaddr, tuple):
        kind = type(sockaddr).__name__
        del sockaddr  # as C: the traceback keeps no reference to the argument
        raise TypeError(f"getnameinfo() argument 1 must be tuple, not {kind}")
    host, service = _originals.getnameinfo(sockaddr, (flags & ~_socket.NI_NAMEREQD) | _socket.NI_NUMERICHOST)
    if flags & _socket.NI_NUMERICHOST:
        return host, service
    try:
        return name_of(host), service
    except NameResolutionError:
        if flags & _socket.NI_NAMEREQD:
            raise not_found() from None
        return host, service


_hostname: str | None = None


def set_hostname(name: str | None) -> str | None:
    """Set what :func:`gethostname` says, None for the truth; return what was set before."""
    global _hostname
    before, _hostname = _hostname, name
    return before


def gethostname() -> str:
    """Return the name of this machine, as ``socket.gethostname``, or what ``patch_all`` was told to say."""
    return str(_originals.gethostname()) if _hostname is None else _hostname


def getfqdn(name: str = "") -> str:
    """Return the full name of a host, as ``socket.getfqdn``; this machine's is never asked for."""
    name = name.strip()
    if not name or name in ("0.0.0.0", "::", gethostname()) or name == _originals.gethostname():
        return gethostname()
    try:
        canonical, aliases, _ = gethostbyaddr(name)
    except OSError:
        return name
    return next((one for one in (canonical, *aliases) if "." in one), canonical)


def resolve(host: str, family: int = 0, *, tunnel: TunnelPort | None = None) -> list[str]:
    """Return the addresses of *host*, of both families in turn, IPv4 first.

    Raises:
        socket.gaierror: no such name, or no answer.
    """
    return addresses_of(host, family, tunnel)
