"""What sockets ask of a tunnel, and where they find the one of the process.

``smolmix_sync.tunnel.Tunnel`` fits :class:`TunnelPort`; tests hand in a bare :class:`DevicePort` over a loopback stack.

Nothing is started here. A socket operation that needs the network calls :func:`current` and then only posts to
``port.device.loop``: a connect waits in the device until the tunnel is up, with ``device.connect_timeout`` as
its deadline, and then fails with ENETDOWN. That way the wait is on the socket's own descriptor, as everywhere.

Source: design.md decisions 11 and 11a.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from smolmix_sync.reactor._originals import os_error, settle_fork
from smolmix_sync.reactor.isolation import current_key, isolated_port

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device

__all__ = ["DevicePort", "TunnelPort", "current", "install", "installed", "peek"]


class TunnelPort(Protocol):
    """The face of a tunnel towards sockets."""

    @property
    def device(self) -> Device:
        """The network device of the tunnel; exists (not up) before the tunnel is READY."""
        ...

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None:
        """Block until READY; raise an OSError with errno ENETDOWN after *timeout* seconds."""
        ...


class DevicePort:
    """A tunnel that is only a device: for tests, and for a stack that needs no mixnet."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None:
        """Block until the device is up."""
        self.device.wait_up(timeout)


_find: Callable[[], TunnelPort] | None = None
_default: Callable[[], TunnelPort] | None = None
_last: TunnelPort | None = None


def install(find: Callable[[], TunnelPort] | None) -> Callable[[], TunnelPort] | None:
    """Set what :func:`current` calls; return what was there.

    Args:
        find: returns the default tunnel, begun in the background if it is not up, without blocking; None: nothing.
    """
    global _find, _last
    before, _find = _find, find
    _last = None
    return before


def install_default(find: Callable[[], TunnelPort]) -> None:
    """Set what :func:`current` calls while nothing is installed: the module of tunnels, whenever it is loaded."""
    global _default
    _default = find


def installed() -> bool:
    """Tell whether :func:`current` has somewhere to look."""
    return (_find or _default) is not None


def current() -> TunnelPort:
    """Return the default tunnel, or the one for the isolation key in force; started in the background on first need.

    Raises:
        OSError: ENETDOWN when there is none and none may be started; EOPNOTSUPP or ENOBUFS when there is none
            for the key.
    """
    global _last
    settle_fork()
    find = _find or _default
    if find is None:
        raise os_error(errno.ENETDOWN, "no tunnel")
    _last = find()
    return isolated_port(_last, current_key())


def peek() -> TunnelPort | None:
    """Return the default tunnel as :func:`current` found it last, None if it was not called; starts nothing."""
    return _last
