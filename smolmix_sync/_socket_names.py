"""The tunnel behind a socket, and names looked up in it.

What needs no question (addresses, localhost, names that must not be asked) starts no tunnel.

Source: spec/sockets.md section 8; design.md decision 11a.
"""

from __future__ import annotations

from smolmix_sync.reactor import provider
from smolmix_sync.reactor._originals import import_once
from smolmix_sync.reactor.provider import TunnelPort
from smolmix_sync.reactor.resolver import Answer, ascii_name, fixed_addresses, in_order, not_found

__all__ = ["addresses_of", "answers_for", "name_of", "port_or_default"]


def port_or_default(port: TunnelPort | None = None) -> TunnelPort:
    """Return *port*, or the default tunnel, which begins in the background on first need.

    Raises:
        OSError: ENETDOWN when there is none and none may be started.
    """
    if port is not None:
        return port
    if not provider.installed():
        import_once("smolmix_sync.tunnel")  # installs itself
    return provider.current()


def answers_for(
    host: str, family: int = 0, port: TunnelPort | None = None, timeout: float | None = None
) -> list[Answer]:
    """Look *host* up: in the configured names, this machine's, or the tunnel's resolver; blocks.

    Returns:
        Answers that all have records, A before AAAA.

    Raises:
        NameResolutionError: EAI_NONAME or EAI_AGAIN.
    """
    known = port or provider.peek()
    name = ascii_name(host)
    fixed = fixed_addresses(name, family, known.device.resolver.config.hosts if known is not None else {})
    if fixed is None:
        return port_or_default(port).device.resolver.answers(name, family, timeout)
    if not fixed:
        raise not_found()
    return [Answer(tuple(fixed), name, 0.0)]


def addresses_of(
    host: str, family: int = 0, port: TunnelPort | None = None, timeout: float | None = None
) -> list[str]:
    """Return the addresses of *host*; arguments and errors as for :func:`answers_for`."""
    return in_order(answers_for(host, family, port, timeout))


def name_of(address: str, port: TunnelPort | None = None) -> str:
    """Return the name of an address (PTR over the tunnel; ``localhost`` for loopback without asking).

    Raises:
        NameResolutionError: none.
    """
    import ipaddress

    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_loopback:
        return "localhost"
    return port_or_default(port).device.resolver.reverse(address)
