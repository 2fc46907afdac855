"""The network device that sockets see: one userspace stack, its timer, and who is told of its events.

Everything here runs in the reactor thread except what says otherwise.

For the owner of the tunnel (reactor/bridge.py)::

    device = Device(loop, connect_timeout=60.0)       # not up: connects wait
    device.on_output = shaper.wake                    # the stack has something to send
    device.set_up(Stack(v4, v6, ...))                 # READY
    device.receive_packet(packet)                     # from the exit
    packets = device.data_to_send(room)               # at a send slot
    device.set_down(errno.ENETDOWN)                   # lost beyond the grace period; waits for the next set_up
    device.close(errno.ENETDOWN)                      # for good

Source: spec/sockets.md sections 3 to 7; spec/netstack.md section 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smolmix_sync.netstack import Stack
    from smolmix_sync.reactor.loop import ReactorLoop
    from smolmix_sync.reactor.resolver import Resolver, ResolverConfig

__all__ = ["Device"]


class Device:
    """Owns a stack and serves the flows bound to it.

    Args:
        loop: the reactor.
        stack: a stack to be up with at once; None: down until ``set_up``.
        connect_timeout: seconds an operation without a timeout waits for the device to come up.
        resolver: settings of the name resolver of this device.

    Attributes:
        on_output: called in the reactor when the stack has packets to send; None drops them (loopback stack).
        ipv6: whether AF_INET6 connects are tried (design.md decision 12a); False gives ENETUNREACH at once.
    """

    def __init__(
        self,
        loop: ReactorLoop,
        stack: Stack | None = None,
        *,
        connect_timeout: float = 60.0,
        resolver: ResolverConfig | None = None,
    ) -> None:
        self.loop = loop
        self.stack = stack
        self.connect_timeout = connect_timeout
        self.on_output: Callable[[], None] | None = None
        self.ipv6 = True

    resolver: Resolver

    @property
    def up(self) -> bool:
        """Whether there is a stack. Any thread."""
        raise NotImplementedError

    def wait_up(self, timeout: float | None) -> None:
        """Block the calling (application) thread until the device is up.

        Raises:
            OSError: ENETDOWN when *timeout* (None: ``connect_timeout``) is over, or it was closed.
        """
        raise NotImplementedError

    def set_up(self, stack: Stack) -> None:
        """Serve *stack* from now on; what waited proceeds."""
        raise NotImplementedError

    def set_down(self, errno: int) -> None:
        """Give every flow *errno* and drop the stack; new connects wait for the next ``set_up``."""
        raise NotImplementedError

    def close(self, errno: int) -> None:
        """``set_down`` for good: every later use raises *errno* at once."""
        raise NotImplementedError

    def receive_packet(self, packet: bytes) -> None:
        """Take one IP packet from the exit."""
        raise NotImplementedError

    def data_to_send(self, room: int | None = None) -> list[bytes]:
        """Pull IP packets, as ``Stack.data_to_send``."""
        raise NotImplementedError

    def kick(self) -> None:
        """Look at the stack soon: after any command that may have changed its output or timers."""
        raise NotImplementedError

    def flush(self, timeout: float) -> bool:
        """Wait until the data of closed sockets is acknowledged. Application thread; process exit.

        Returns:
            Whether all of it was.
        """
        raise NotImplementedError
