"""Addresses as programs write them: the checks of the C socket module, and names resolved in the tunnel.

Source: CPython Modules/socketmodule.c (getsockaddrarg, setipaddr, idna_converter); spec/sockets.md section 4.
"""

from __future__ import annotations

import _socket
import operator
from collections.abc import Callable
from typing import Any

from smolmix_sync.reactor._originals import getaddrinfo
from smolmix_sync.reactor.flow import AF_INET, Address

__all__ = ["host_text", "numeric", "parse"]

gaierror = _socket.gaierror


def host_text(host: Any) -> str:
    """Return a host argument as text, non-ASCII names in IDNA.

    Raises:
        TypeError: neither str nor bytes, or it contains a null character.
        UnicodeError: the name has no IDNA form.
    """
    if isinstance(host, str):
        text = host if host.isascii() else host.encode("idna").decode("ascii")
    elif isinstance(host, (bytes, bytearray)):
        text = bytes(host).decode("ascii")
    else:
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if "\0" in text:
        raise TypeError("host name must not contain null character")
    return text


def numeric(host: str, family: int) -> str | None:
    """Return *host* in canonical form if it is an address, None if it is a name.

    Raises:
        socket.gaierror: an address of another family.
    """
    try:  # the usual forms without the C library's whole machinery
        return _socket.inet_ntop(family, _socket.inet_pton(family, host))
    except (OSError, UnicodeEncodeError):
        pass
    try:
        return str(getaddrinfo(host, None, family, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST)[0][4][0])
    except gaierror as problem:
        if problem.errno == _socket.EAI_NONAME:
            return None
        raise


def parse(caller: str, family: int, address: Any, resolve: Callable[[str, int], str]) -> Address:
    """Check a socket address as C does and return it with a numeric host.

    Args:
        caller: method name, for the messages.
        family: AF_INET or AF_INET6.
        address: what the program gave.
        resolve: called with (name, family) for a host that is a name; returns an address.

    Raises:
        TypeError, OverflowError: as C.
        socket.gaierror: from *resolve*.
    """
    v4 = family == AF_INET
    if not isinstance(address, tuple):
        word = "AF_INET" if v4 else "AF_INET6"
        raise TypeError(f"{caller}(): {word} address must be tuple, not {type(address).__name__}")
    rest: tuple[Any, ...] = ()
    if v4:
        if len(address) != 2:
            raise TypeError("AF_INET address must be a pair (host, port)")
        host, port = address
    else:
        if not 2 <= len(address) <= 4:
            raise TypeError("AF_INET6 address must be a tuple (host, port[, flowinfo[, scopeid]])")
        host, port, *more = address
        rest = tuple(operator.index(one) for one in more)
    try:
        text = host_text(host)
    except UnicodeError:
        raise TypeError("encoding of hostname failed") from None
    if isinstance(port, float) or not hasattr(port, "__index__"):
        raise TypeError(f"{type(port).__name__!r} object cannot be interpreted as an integer")
    number = port.__index__()
    if not 0 <= number <= 0xFFFF:
        raise OverflowError(f"{caller}(): port must be 0-65535.")
    if rest and not 0 <= rest[0] <= 0xFFFFF:
        raise OverflowError(f"{caller}(): flowinfo must be 0-1048575.")
    if text == "":
        ip = "0.0.0.0" if v4 else "::"
    elif text == "<broadcast>" and v4:
        ip = "255.255.255.255"
    else:
        ip = numeric(text, family) or resolve(text, family)
    if v4:
        return (ip, number)
    flowinfo, scope = (*rest, 0, 0)[:2]
    return (ip, number, flowinfo, scope)
