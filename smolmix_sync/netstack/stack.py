"""The stack: addresses, tables, and the order in which packets leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from smolmix_sync.netstack.config import StackConfig, TcpSettings
from smolmix_sync.netstack.connection import Conn
from smolmix_sync.netstack.listener import Listener
from smolmix_sync.netstack.ping import Ping
from smolmix_sync.netstack.udp import Udp

if TYPE_CHECKING:
    from smolmix_sync.netstack.events import StackObject

__all__ = ["Stack"]


class Stack:
    """A host with one IPv4 and one IPv6 address.

    Args:
        v4: our IPv4 address, or None.
        v6: our IPv6 address, or None.
        config: settings; the defaults suit a paced mixnet.
        urandom: source of random octets.
        loopback: serve 127/8, ::1 and our own addresses inside the stack.
        loopback_delay: seconds such a packet takes.
        any_address: accept packets to every destination and raise INCOMING (an exit's side).
    """

    def __init__(
        self,
        v4: str | None,
        v6: str | None = None,
        *,
        config: StackConfig | None = None,
        urandom: Callable[[int], bytes],
        loopback: bool = False,
        loopback_delay: float = 0.0,
        any_address: bool = False,
    ) -> None:
        raise NotImplementedError

    # -- below: packets and time

    def receive_data(self, packet: bytes, now: float) -> None:
        """Take one IP packet. Never raises on its content: bad packets are dropped and counted."""
        raise NotImplementedError

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        """Return IP packets that may leave now, most urgent first.

        Args:
            now: seconds.
            room: octets left in the bundle, counting 2 for each packet's length prefix; None: no limit.
                Give at least a full packet's worth at the start of a bundle; a smaller first segment is
                cut to fit, a second one waits.
        """
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Return when to call ``handle_deadline`` or, when it is past, ``data_to_send``; None when idle."""
        raise NotImplementedError

    def handle_deadline(self, now: float) -> None:
        """Run every timer that is due, and the loopback exchange."""
        raise NotImplementedError

    def pending(self) -> tuple[int, int]:
        """Return octets waiting to be pulled: (urgent, bulk)."""
        raise NotImplementedError

    def set_mtu(self, tx: int, rx: int) -> None:
        """Change the MTUs; live connections send smaller segments from now on."""
        raise NotImplementedError

    def set_addresses(self, v4: str | None, v6: str | None) -> None:
        """Change our addresses; connections bound to a lost one get ENETDOWN."""
        raise NotImplementedError

    def shutdown(self, errno: int) -> None:
        """End every connection and socket with *errno* without a packet."""
        raise NotImplementedError

    # -- above: sockets

    def connect(
        self,
        addr: str,
        port: int,
        now: float,
        *,
        local_address: str | None = None,
        local_port: int = 0,
        settings: TcpSettings | None = None,
    ) -> Conn:
        """Start an active open; CONNECTED or ERROR follows.

        Raises:
            OSError: ENETUNREACH (no address of that family), EADDRNOTAVAIL (ports or a foreign local
                address), EADDRINUSE (explicit local_port taken for this peer), ENOBUFS (table full).
        """
        raise NotImplementedError

    def listen(
        self,
        addr: str | None,
        port: int,
        backlog: int = 128,
        *,
        settings: TcpSettings | None = None,
        v6only: bool = False,
    ) -> Listener:
        """Listen on *port* (0: choose) of *addr* (None: every address; "0.0.0.0"; "::").

        Raises:
            OSError: EADDRINUSE, EADDRNOTAVAIL.
        """
        raise NotImplementedError

    def udp(self, addr: str | None = None, port: int = 0, *, v6only: bool = False, reuse: bool = False) -> Udp:
        """Open a UDP socket on *port* (0: choose)."""
        raise NotImplementedError

    def ping(self, ident: int | None = None) -> Ping:
        """Open an echo socket."""
        raise NotImplementedError

    def send_udp(self, src: tuple[str, int], dst: tuple[str, int], payload: bytes) -> None:
        """Queue a datagram from any source address (``any_address`` stacks); dropped when the queue is full."""
        raise NotImplementedError

    def events(self) -> Iterator[tuple[StackObject, int]]:
        """Yield (object, mask) until there is no news; masks are in ``events``."""
        raise NotImplementedError

    def next_event(self) -> tuple[StackObject, int] | None:
        """Take one report, or None."""
        raise NotImplementedError
