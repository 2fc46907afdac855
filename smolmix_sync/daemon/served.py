"""The daemon's side of a client's socket: a flow that tells how its connect ended and when it is over.

A pump changes ``state``, ``pump`` and ``end`` of its flow; here these are properties that report to the server.
Everything runs in the reactor thread.

Source: spec/sockets.md sections 3 and 12; design.md decision 16.
"""

from __future__ import annotations

import _socket
import errno
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from smolmix_sync.reactor import _originals
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import CSocket, os_error
from smolmix_sync.reactor.flow import Flow, FlowState

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device

__all__ = ["Endings", "ServedFlow", "make_pair"]

_SLOTS: Mapping[str, Any] = vars(Flow)
_get_state, _set_state = _SLOTS["state"].__get__, _SLOTS["state"].__set__
_get_end, _set_end = _SLOTS["end"].__get__, _SLOTS["end"].__set__
_get_pump, _set_pump = _SLOTS["pump"].__get__, _SLOTS["pump"].__set__

#: Ours: seconds until a UDP socket that lost its tunnel is served again.
_REOPEN = 0.5


class ServedFlow(Flow):
    """A flow whose application's end is in another process.

    Attributes:
        report: called once with the flow when a connect is over, before the client can see it on its descriptor.
        ended: called once when the reactor's end is closed.
    """

    __slots__ = ("_reopening", "ended", "pid", "report")

    def __init__(self, family: int, type: int, pid: int) -> None:
        self.report: Callable[[ServedFlow], object] | None = None
        self.ended: Callable[[ServedFlow], object] | None = None
        self.pid = pid
        self._reopening = False
        super().__init__(
            family, type, int(_socket.IPPROTO_TCP if type == flows.SOCK_STREAM else _socket.IPPROTO_UDP)
        )

    @property
    def state(self) -> FlowState:
        """See :class:`FlowState`."""
        return _get_state(self)  # type: ignore[no-any-return]

    @state.setter
    def state(self, value: FlowState) -> None:
        _set_state(self, value)
        if value in (FlowState.ESTABLISHED, FlowState.FAILED):
            report, self.report = self.report, None
            if report is not None:
                report(self)

    @property
    def end(self) -> _socket.socket | None:
        """The reactor's end of the pair, None once closed."""
        return _get_end(self)  # type: ignore[no-any-return]

    @end.setter
    def end(self, value: _socket.socket | None) -> None:
        _set_end(self, value)
        if value is None:
            self.report = None
            ended, self.ended = self.ended, None
            if ended is not None:
                ended(self)

    @property
    def pump(self) -> Any:
        """Who serves it."""
        return _get_pump(self)

    @pump.setter
    def pump(self, value: Any) -> None:
        _set_pump(self, value)
        if value is None and not self.stream and self.end is not None and not self._reopening:
            # The tunnel went down. A process' own socket is opened again by its next use; here nobody sees that.
            device = self.device
            if device is not None and not device.closed:
                self._reopening = True
                device.loop.call_later(_REOPEN, self._reopen, device)

    def _reopen(self, device: Device) -> None:
        from smolmix_sync.reactor.datagrams import open_datagrams

        self._reopening = False
        if self.end is not None and not device.closed:
            try:
                open_datagrams(device, self)
            except OSError:
                self._reopening = True
                device.loop.call_later(_REOPEN, self._reopen, device)


def make_pair(family: int, type: int, pid: int, end: _socket.socket | None = None) -> tuple[int, ServedFlow]:
    """Return a client's descriptor and its flow.

    Args:
        family: AF_INET or AF_INET6.
        type: SOCK_STREAM or SOCK_DGRAM.
        pid: of the client.
        end: the reactor's end of a pair the client has made; the descriptor is -1 then.

    Raises:
        OSError: EMFILE and friends; EINVAL when *end* is not one.
    """
    flow = ServedFlow(family, type, pid)
    kind = int(_socket.SOCK_STREAM if flow.stream else _socket.SOCK_SEQPACKET)
    if end is not None:
        if end.family != _socket.AF_UNIX or end.type & 0xF != kind:
            raise os_error(errno.EINVAL, "not the end of a pair of the right type")
        end.setblocking(False)
        flow.end = end
        return -1, flow
    app, end = _originals.socketpair(_socket.AF_UNIX, kind)
    for one in (app, end):
        one.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, flows.PAIR_BUFFER)
    end.setblocking(False)
    flow.cookie = flows.cookie_of(app)
    flow.end = end
    return app.detach(), flow


class Endings:
    """How streams ended, for clients that ask after they have read an end of file. Bounded: the oldest go."""

    LIMIT = 65536

    def __init__(self) -> None:
        self._errors: OrderedDict[bytes, int] = OrderedDict()

    def note(self, cookie: bytes, error: int) -> None:
        """Remember that the stream of *cookie* ended with *error*, 0 for FIN."""
        self._errors[cookie] = error
        self._errors.move_to_end(cookie)
        while len(self._errors) > self.LIMIT:
            self._errors.popitem(last=False)

    def of(self, cookie: bytes) -> tuple[bool, int]:
        """Return (the peer has finished, errno) for a stream, living or over; ENETDOWN if nobody knows it."""
        flow = flows.by_cookie.get(cookie)
        if flow is not None and flow.end is not None:
            return bool(getattr(flow.pump, "_fin_shown", False)), 0
        if flow is not None:
            return not flow.error, flow.error
        if cookie in self._errors:
            error = self._errors[cookie]
            return not error, error
        return False, errno.ENETDOWN

    def collect(self) -> None:
        """Take over the streams that are over but were not closed by their applications.

        In a process of its own their descriptors' next use would do that.
        """
        for cookie, flow in list(flows.by_cookie.items()):
            if flow.end is None and flow.state is FlowState.DEAD:
                del flows.by_cookie[cookie]
                self.note(cookie, flow.error)


def adopt_descriptor(fd: int) -> Any:
    """Return a descriptor from SCM_RIGHTS as an object of the C type."""
    return CSocket(fileno=fd)
