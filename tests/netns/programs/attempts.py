"""Every way that an ordinary Python program has of reaching somebody, one after another; none may find the kernel's."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

#: Names of the tunnel's, names that nobody may be asked for, and one for mDNS and LLMNR.
NAMES = ("www.localnet", "www.example.com", "printer.local", "intranet", "hidden.onion")
#: For where the same code runs many times, or waits for a tunnel that is not there.
FEW = {
    "getaddrinfo www.example.com", "gethostbyname printer.local", "datagram to ('127.0.0.53', 53)",
    "datagram to ('224.0.0.251', 5353)", "connection to ('10.201.77.2', 22)", "web",
}  # fmt: skip


def _web() -> None:
    with urllib.request.urlopen("http://www.localnet/bytes/1000", timeout=20) as answer:
        assert len(answer.read()) == 1000


def _datagram(address: tuple[str, int], family: int = socket.AF_INET) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.sendto(b"\0" * 30, address)


def _connection(address: tuple[str, int]) -> None:
    socket.create_connection(address, 3).close()


def ways() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what to call, by name."""
    for name in NAMES:
        yield f"getaddrinfo {name}", lambda name=name: socket.getaddrinfo(name, 80)  # type: ignore[misc]
        yield f"gethostbyname {name}", lambda name=name: socket.gethostbyname(name)  # type: ignore[misc]
    yield "gethostbyaddr", lambda: socket.gethostbyaddr("198.51.100.11")
    yield "getnameinfo", lambda: socket.getnameinfo(("10.201.77.2", 80), 0)
    yield "getfqdn", socket.getfqdn
    for address in (
        ("127.0.0.53", 53), ("9.9.9.9", 53), ("224.0.0.251", 5353), ("224.0.0.252", 5355), ("255.255.255.255", 67),
        ("10.201.77.2", 9), ("198.51.100.10", 7),
    ):  # fmt: skip
        yield f"datagram to {address}", lambda address=address: _datagram(address)  # type: ignore[misc]
    yield "datagram by IPv6", lambda: _datagram(("ff02::fb", 5353), socket.AF_INET6)
    for address in (("127.0.0.53", 53), ("10.201.77.2", 22), ("198.51.100.60", 9), ("169.254.169.254", 80)):
        yield f"connection to {address}", lambda address=address: _connection(address)  # type: ignore[misc]
    yield "raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    yield "packet socket", lambda: socket.socket(17, socket.SOCK_RAW)
    yield "web", _web


def try_all(*, few: bool = False) -> dict[str, str]:
    """Try every way, or only some that stand for the others; return how each ended."""
    ended = {}
    for name, way in ways():
        if few and name not in FEW:
            continue
        try:
            way()
        except OSError as error:  # gaierror, LeakBlocked and timeouts are too
            ended[name] = f"{type(error).__name__}: {error}"
        else:
            ended[name] = "done"
    return ended
