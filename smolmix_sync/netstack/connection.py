"""One TCP connection."""

from __future__ import annotations

from smolmix_sync.netstack.config import TcpSettings
from smolmix_sync.netstack.states import State

__all__ = ["Conn"]


class Conn:
    """One TCP connection; made by ``Stack.connect``, ``Listener.accept`` or ``Incoming.accept``."""

    state: State
    error: int
    """errno that ended the connection, 0 while it is healthy. Sticky; received data stays readable first."""
    soft_error: int
    """Last ICMP errno on an established connection: a hint only."""
    local: tuple[str, int]
    remote: tuple[str, int]
    mss: int
    """Payload octets per segment we send now."""
    settings: TcpSettings

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Copy as much of *data* as fits into the send buffer; return how much (0: full).

        Data may be queued from SYN_SENT on.

        Raises:
            BrokenPipeError: after ``shutdown_write``, ``close``, or the end of the connection.
        """
        raise NotImplementedError

    def recv(self, n: int) -> bytes:
        """Take up to *n* received octets; ``b""`` when none wait (see ``eof`` and ``error``)."""
        raise NotImplementedError

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """Take received octets into *buffer*; return how many."""
        raise NotImplementedError

    def peek(self, n: int) -> bytes:
        """Return up to *n* received octets and leave them there."""
        raise NotImplementedError

    def readable(self) -> int:
        """Return how many octets wait to be received."""
        raise NotImplementedError

    def writable(self) -> int:
        """Return how many octets ``send`` would take now."""
        raise NotImplementedError

    def unacked(self) -> int:
        """Return octets of ours not yet acknowledged by the peer, a FIN counted as one."""
        raise NotImplementedError

    def eof(self) -> bool:
        """Tell whether the peer's FIN was reached and everything before it was read."""
        raise NotImplementedError

    def shutdown_write(self) -> None:
        """Send FIN after what is queued; receiving goes on."""
        raise NotImplementedError

    def shutdown_read(self) -> None:
        """Discard what waits and what will come; the peer is not told (as in Linux)."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the connection up: FIN after queued data, or RST when unread data would be lost."""
        raise NotImplementedError

    def abort(self) -> None:
        """Send RST and forget the connection."""
        raise NotImplementedError

    def take_error(self) -> int:
        """Return and clear the pending error as SO_ERROR does (``error`` itself stays)."""
        raise NotImplementedError

    def settings_changed(self) -> None:
        """Apply changes made to ``settings`` on a live connection."""
        raise NotImplementedError

    def info(self) -> dict[str, int | float | str]:
        """Return counters and estimates, TCP_INFO's content under this package's names."""
        raise NotImplementedError
