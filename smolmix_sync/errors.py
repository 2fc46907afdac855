"""Every exception the package raises.

The tree hangs under :class:`OSError` because legacy code catches nothing else;
each class carries the errno that a kernel socket would give for the same event.

Constructor parameters equal ``args`` so that every instance survives pickling,
which Celery and multiprocessing rely on.

Source: design.md decision 15; conventions.md section 6.
"""

from __future__ import annotations

import errno as _errno

__all__ = [
    "ExitPolicyError",
    "GatewayAuthError",
    "GatewayBandwidthError",
    "GatewayError",
    "IprDenied",
    "IprError",
    "LeakBlocked",
    "NetworkDown",
    "NoExit",
    "SetupTimeout",
    "SmolmixError",
    "TopologyError",
    "TunnelClosed",
    "TunnelError",
    "TunnelFailed",
    "TunnelNotReady",
    "WireError",
]


class WireError(ValueError):
    """Bytes from the network do not follow the format; the packet is dropped and counted."""


class SmolmixError(OSError):
    """Root of everything that can go wrong in a tunnel.

    Args:
        message: what happened, in one sentence.
        errno: the errno a kernel socket would report; the class default if omitted.
    """

    default_errno = _errno.EIO

    def __init__(self, message: str, errno: int | None = None) -> None:
        number = self.default_errno if errno is None else errno
        super().__init__(number, message)
        self._message = message
        self.args = (message, number)
        self.errno = number
        self.strerror = message

    def __str__(self) -> str:
        return self._message


class TunnelError(SmolmixError):
    """The tunnel cannot carry this operation."""

    default_errno = _errno.ENETDOWN


class TunnelNotReady(TunnelError):
    """The tunnel did not become READY within the time given."""


class TunnelClosed(TunnelError):
    """The tunnel was shut down."""


class TunnelFailed(TunnelError):
    """The tunnel could not be set up, or was lost beyond its grace period."""


class NetworkDown(TunnelError):
    """ENETDOWN as a socket raises it: the tunnel is down. Its ``args`` and words are those of a kernel's error."""

    def __init__(self, errno: int = _errno.ENETDOWN, message: str = "Network is down") -> None:
        super().__init__(message, errno)
        self.args = (errno, message)

    def __str__(self) -> str:
        return f"[Errno {self.errno}] {self.strerror}"


class SetupTimeout(TunnelError):
    """A set-up stage exceeded ``connect_timeout``; the message names the stage."""

    default_errno = _errno.ETIMEDOUT


class TopologyError(TunnelError):
    """No usable network topology: no route can be chosen."""


class GatewayError(TunnelError):
    """The entry gateway refused or broke the session."""


class GatewayAuthError(GatewayError):
    """Registration or authentication at the gateway failed."""


class GatewayBandwidthError(GatewayError):
    """The gateway gives no bandwidth without tickets."""


class IprError(TunnelError):
    """The exit's IP packet router refused or broke the session."""


class IprDenied(IprError):
    """The exit answered the connect request with a failure."""


class NoExit(IprError):
    """No exit is known, or none of those known answered."""


class ExitPolicyError(SmolmixError, PermissionError):
    """The exit's policy forbids this destination; the message names its address and port."""

    default_errno = _errno.EACCES


class LeakBlocked(SmolmixError):
    """An operation that would have left the tunnel was refused."""

    default_errno = _errno.EPERM
