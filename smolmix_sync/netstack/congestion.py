"""Congestion control: how many octets may be in flight.

The local bottleneck is the mixnet sender's own pace, which the pull interface
makes explicit; loss on a mixnet is rare and says little about congestion. The
window therefore only protects the exit-to-server leg and bounds memory.

A control is any object with the face of ``CongestionControl``; ``make`` finds
it by name: ``mix`` (the default, see ``mixcontrol``), ``cubic`` and ``none``.

Source: RFC 5681 for the terms; spec/netstack.md section 5.4.
"""

from __future__ import annotations

from typing import Protocol

from smolmix_sync.netstack.cubic import Cubic
from smolmix_sync.netstack.mixcontrol import Mix

__all__ = ["NAMES", "CongestionControl", "Unlimited", "make"]


class CongestionControl(Protocol):
    """What the connection tells a congestion control, and the two things it reads."""

    cwnd: int
    ssthresh: int

    def on_connected(self, mss: int, now: float) -> None:
        """Set the initial window."""

    def on_restart(self, now: float) -> None:
        """Note that sending begins again after everything was acknowledged."""

    def on_acked(
        self,
        acked: int,
        delivered: int,
        pipe: int,
        snd_una: int,
        snd_nxt: int,
        srtt: float,
        now: float,
        limited: bool,
    ) -> None:
        """Account for an acknowledgement.

        Args:
            acked: octets SND.UNA advanced by.
            delivered: octets first known to have arrived, cumulatively or by SACK.
            pipe: octets that stay in flight.
            snd_una: SND.UNA as an offset.
            snd_nxt: SND.NXT as an offset.
            srtt: smoothed round-trip time.
            now: seconds.
            limited: the application has nothing more to send.
        """

    def on_loss(self, lost: int, pipe: int, first: bool, now: float) -> None:
        """Note *lost* octets found lost by time, not by a timeout; *first* of a round trip or not."""

    def on_timeout(self, pipe: int, consecutive: int, now: float) -> None:
        """React to the *consecutive*-th retransmission timeout in a row."""

    def on_undo(self) -> None:
        """Take the last reduction back: it was spurious."""

    def set_mss(self, mss: int) -> None:
        """Use another segment size from now on."""

    def set_ceiling(self, ceiling: int) -> None:
        """Never have more than this in flight from now on (the send buffer)."""


class Unlimited:
    """No congestion control: the send buffer and the peer's window are the only bounds.

    Args:
        initial_segments: least window in segments.
        ceiling: octets of send buffer.
    """

    __slots__ = ("_ceiling", "_initial", "_mss", "cwnd", "ssthresh")

    def __init__(self, initial_segments: int, ceiling: int) -> None:
        self._initial = initial_segments
        self._ceiling = ceiling
        self._mss = 536
        self.cwnd = self.ssthresh = ceiling
        self._set()

    def _set(self) -> None:
        self.cwnd = self.ssthresh = max(self._ceiling, self._initial * self._mss)

    def on_connected(self, mss: int, now: float) -> None:
        """Open the window wholly."""
        self.set_mss(mss)

    def on_restart(self, now: float) -> None:
        """Keep the window."""

    def on_acked(
        self,
        acked: int,
        delivered: int,
        pipe: int,
        snd_una: int,
        snd_nxt: int,
        srtt: float,
        now: float,
        limited: bool,
    ) -> None:
        """Keep the window."""

    def on_loss(self, lost: int, pipe: int, first: bool, now: float) -> None:
        """Keep the window."""

    def on_timeout(self, pipe: int, consecutive: int, now: float) -> None:
        """Keep the window; the timeout itself backs off."""

    def on_undo(self) -> None:
        """Keep the window."""

    def set_mss(self, mss: int) -> None:
        """Use another segment size from now on."""
        self._mss = mss
        self._set()

    def set_ceiling(self, ceiling: int) -> None:
        """Follow the send buffer."""
        self._ceiling = ceiling
        self._set()


_CONTROLS: dict[str, type[Mix] | type[Cubic] | type[Unlimited]] = {
    "mix": Mix,
    "cubic": Cubic,
    "none": Unlimited,
}
NAMES = tuple(_CONTROLS)
"""The names ``make`` knows."""


def make(name: str, initial_segments: int, ceiling: int) -> CongestionControl:
    """Return a new control.

    Raises:
        ValueError: no control has that name.
    """
    control = _CONTROLS.get(name)
    if control is None:
        raise ValueError(f"unknown congestion control {name!r}")
    return control(initial_segments, ceiling)
