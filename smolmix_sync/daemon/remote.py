"""Sockets served by a daemon: flows whose state is told by replies, and the device they are bound to.

The socket layer is the same as for a tunnel in the process. Three commands that it would post to the reactor (open a
stream, open a UDP socket, listen) become requests that pass the other end of the pair to the daemon; the rest runs
where it is called. Replies are read by whoever looks at the flow, so no thread is needed and a fork takes nothing
away: every request has a connection of its own.

Source: spec/sockets.md section 12; design.md decision 16.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import struct
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from smolmix_sync.daemon import tls
from smolmix_sync.daemon.protocol import (
    MAX_REPLY,
    NO_BLOCK,
    Op,
    Reply,
    ReplyFlag,
    Request,
    RequestFlag,
    decode_addresses_untrusted,
)
from smolmix_sync.errors import TunnelNotReady, WireError
from smolmix_sync.reactor import _originals
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import CSocket, os_error, wait_fd
from smolmix_sync.reactor.datagrams import open_datagrams
from smolmix_sync.reactor.flow import AF_INET6, Address, Flow, FlowState, present, unmapped, unpack_block
from smolmix_sync.reactor.listeners import listen
from smolmix_sync.reactor.pump import open_stream
from smolmix_sync.reactor.resolver import (
    Answer,
    NameResolutionError,
    ResolverConfig,
    ascii_name,
    fixed_addresses,
    in_order,
    not_found,
    try_again,
)

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device

__all__ = ["Channel", "RemoteDevice", "RemoteFlow"]

_T = TypeVar("_T")

# Ours: seconds for a reply that needs no network. A daemon that takes longer is as good as gone.
_LOCAL = 5.0
# Ours: how long a daemon may take from draining a pair to nothing: its reply is sent before.
_SETTLE = 1.0
# Ours: seconds that our addresses in the tunnel are taken for unchanged.
_FRESH = 5.0


class Channel:
    """One connection to the daemon, for one request.

    Raises:
        OSError: ENETDOWN when no daemon answers at *path*.
    """

    def __init__(self, path: str) -> None:
        self._sock: _socket.socket | None = CSocket(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
        )
        self._sock.settimeout(_LOCAL)
        number = self._sock.connect_ex(path)
        if number:
            self.close()
            raise os_error(errno.ENETDOWN, f"no smolmix-sync daemon at {path}: {os.strerror(number)}")

    def send(self, request: Request, fd: int = -1) -> None:
        """Send *request*, with a descriptor if *fd* is one."""
        assert self._sock is not None
        rights = [] if fd < 0 else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))]
        try:
            self._sock.sendmsg([request.encode()], rights, int(_socket.MSG_NOSIGNAL))
        except OSError:
            self._lost()

    def _lost(self) -> None:
        self.close()
        raise os_error(errno.ENETDOWN, "the smolmix-sync daemon is gone")

    def receive(self, timeout: float | None) -> Reply | None:
        """Return the reply, None when it is not there within *timeout* seconds (None: for ever).

        Raises:
            OSError: ENETDOWN when the daemon is gone.
        """
        sock = self._sock
        if sock is None:
            raise os_error(errno.ENETDOWN, "the smolmix-sync daemon is gone")
        if timeout == 0 or (timeout is not None and timeout <= _LOCAL):
            ready = bool(wait_fd(sock.fileno(), select.POLLIN, timeout))
        else:
            # What may take long waits in gevent's poll, if gevent has patched it.
            poller = select.poll()
            poller.register(sock.fileno(), select.POLLIN)
            ready = bool(poller.poll(None if timeout is None else timeout * 1000))
        if not ready:
            return None
        try:
            data = sock.recv(MAX_REPLY)
        except OSError:
            data = b""
        if not data:
            self._lost()
        try:
            return Reply.decode_untrusted(data)
        except WireError:
            self._lost()
            raise

    def close(self) -> None:
        """Give the connection up."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


def raise_error(reply: Reply) -> None:
    """Raise what a reply reports."""
    if reply.flags & ReplyFlag.RESOLVER:
        raise NameResolutionError(-reply.errno, reply.detail)
    if reply.errno:
        raise os_error(reply.errno, reply.detail or None)


# --- flows ------------------------------------------------------------------------------------

_SLOTS: Mapping[str, Any] = vars(Flow)
_get_state, _set_state = _SLOTS["state"].__get__, _SLOTS["state"].__set__
_get_error, _set_error = _SLOTS["error"].__get__, _SLOTS["error"].__set__
_get_laddr, _set_laddr = _SLOTS["laddr"].__get__, _SLOTS["laddr"].__set__
_get_raddr, _set_raddr = _SLOTS["raddr"].__get__, _SLOTS["raddr"].__set__


class RemoteFlow(Flow):
    """A flow whose pump is in the daemon.

    ``error`` asks the daemon: an end of file that the peer did not send is not one (design.md decision 16). The
    socket layer looks at it when it has read an end of file, and for SO_ERROR.
    """

    __slots__ = ()

    @property
    def error(self) -> int:
        """The pending errno."""
        number: int = _get_error(self)
        pump, device = self.pump, self.device
        if pump is None and isinstance(device, RemoteDevice) and _get_state(self) is FlowState.ESTABLISHED:
            pump = self.pump = RemotePump(device, self)  # accepted from a listener
        if number or not isinstance(pump, RemotePump) or pump.finished:
            return number
        if _get_state(self) is FlowState.DEAD:
            return 0
        return pump.ask()

    @error.setter
    def error(self, value: int) -> None:
        _set_error(self, value)


class ConnectingFlow(RemoteFlow):
    """A :class:`RemoteFlow` whose connect is not known to be over: every look at it looks for the reply first."""

    __slots__ = ()

    @property
    def state(self) -> FlowState:
        """See :class:`FlowState`."""
        _settle(self)
        return _get_state(self)  # type: ignore[no-any-return]

    @state.setter
    def state(self, value: FlowState) -> None:
        _set_state(self, value)

    @property
    def error(self) -> int:
        """The pending errno."""
        _settle(self)
        return _get_error(self)  # type: ignore[no-any-return]

    @error.setter
    def error(self, value: int) -> None:
        _set_error(self, value)

    @property
    def laddr(self) -> Address | None:
        """As getsockname shows it."""
        _settle(self)
        return _get_laddr(self)  # type: ignore[no-any-return]

    @laddr.setter
    def laddr(self, value: Address | None) -> None:
        _set_laddr(self, value)

    @property
    def raddr(self) -> Address | None:
        """As getpeername shows it."""
        _settle(self)
        return _get_raddr(self)  # type: ignore[no-any-return]

    @raddr.setter
    def raddr(self, value: Address | None) -> None:
        _set_raddr(self, value)


def _settle(flow: Flow) -> None:
    """Take the reply to an ATTACH, if it is there; the flow's class changes with it."""
    pump = flow.pump
    if (
        not isinstance(pump, RemotePump)
        or pump.channel is None
        or _get_state(flow) is not FlowState.CONNECTING
    ):
        return
    reply = None
    try:
        reply = pump.channel.receive(0)
        if reply is None:
            if not wait_fd(flow.fd, select.POLLOUT, 0):
                return
            # Writable: the daemon has drained the pair, or died. The reply (or the end) is on its way.
            reply = pump.channel.receive(_SETTLE)
        number = errno.ENETDOWN if reply is None else reply.errno
    except OSError:
        number = errno.ENETDOWN
    pump.drop_channel()
    flow.__class__ = RemoteFlow
    if number or reply is None:
        flow.error = number
        flow.state = FlowState.FAILED
        if not flow.bound:
            flow.laddr = None
        flow.raddr = None
        return
    _take_names(flow, reply)
    flow.state = FlowState.ESTABLISHED


def _take_names(flow: Flow, reply: Reply) -> None:
    if reply.local != NO_BLOCK:
        flow.laddr = present(flow.family, *unpack_block(reply.local)[1:])
    if reply.remote != NO_BLOCK and flow.raddr is None:
        flow.raddr = present(flow.family, *unpack_block(reply.remote)[1:])


class RemotePump:
    """Stands for the pump in the daemon.

    Attributes:
        flow: the client's flow.
        channel: the connection of an ATTACH that waits for its reply.
        finished: the end of the stream is known and told.
    """

    def __init__(self, device: RemoteDevice, flow: Flow) -> None:
        self.flow = flow
        self.channel: Channel | None = None
        self.finished = False
        self._device = device

    def drop_channel(self) -> None:
        """Close the connection."""
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()

    def ask(self) -> int:
        """Ask how the stream stands; return the errno that ended it, 0 for FIN or while it is open."""
        flow = self.flow
        try:
            reply = self._device.request(
                Request(Op.STATUS, cookie=flow.cookie, isolate=self._device.isolate), check=False
            )
            number = reply.errno
            self.finished = bool(reply.flags & ReplyFlag.FIN)
        except OSError:
            number = errno.ENETDOWN
        if number:
            self.finished = True
            flow.state = FlowState.DEAD
            _set_error(flow, number)
        return number

    def option_changed(self, key: tuple[int, int]) -> None:
        """Tell the daemon about an option; a socket that is over has none."""
        value = self.flow.options.get(key)
        if value is not None:
            try:
                self._device.request(
                    Request(Op.SETOPT, cookie=self.flow.cookie, options={key: _option(value)}), check=False
                )
            except (OSError, ValueError):
                pass

    def connect(self, address: Address) -> None:
        """Fix the peer of a UDP socket."""
        flow = self.flow
        reply = self._device.request(
            Request(
                Op.ATTACH,
                host=unmapped(address[0]),
                port=address[1],
                type=2,
                cookie=flow.cookie,
                isolate=self._device.isolate,
            )
        )
        if reply.local != NO_BLOCK:
            flow.laddr = present(flow.family, *unpack_block(reply.local)[1:])

    def release(self) -> None:
        """The pair is given up for a kernel socket: the daemon sees it close."""
        flows.forget(self.flow)


def _option(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.to_bytes(4, sys.byteorder, signed=True)


def _is_remote(flow: Flow) -> bool:
    return isinstance(flow, RemoteFlow)


# --- what stands for the reactor --------------------------------------------------------------


class _RemoteLoop:
    """Runs what the socket layer posts: here and now, or as a request to the daemon."""

    def __init__(self, device: RemoteDevice) -> None:
        self.running = True
        self._requests: dict[Callable[..., object], Callable[..., object]] = {
            open_stream: device.open_stream,
            open_datagrams: device.open_datagrams,
            listen: device.listen,
        }

    def call(self, fn: Callable[..., _T], *args: Any) -> _T:
        """Run a command; return or raise what it does."""
        request = self._requests.get(fn)
        if request is not None:
            return cast("_T", request(*args[1:]))
        return fn(*args)

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run a command; what it raises is told by the flow it is about."""
        self.call(fn, *args)

    @staticmethod
    def now() -> float:
        """Return the monotonic clock."""
        return _originals.monotonic()


class RemoteResolver:
    """Names, asked by the daemon.

    Attributes:
        config: as for a resolver in the process; ``primary`` is the daemon's.
    """

    def __init__(self, device: RemoteDevice) -> None:
        self._device = device
        self._config: ResolverConfig | None = None

    @property
    def config(self) -> ResolverConfig:
        """The settings; asked for once."""
        if self._config is None:
            self._config = ResolverConfig(primary=str(self._device.status()["resolver"]))
        return self._config

    def lookup(
        self, host: str, family: int = 0, timeout: float | None = None, *, local: bool = True
    ) -> list[str]:
        """Return the addresses of *host*, IPv4 before IPv6."""
        return in_order(self.answers(host, family, timeout, local=local))

    def answers(
        self, host: str, family: int = 0, timeout: float | None = None, *, local: bool = True
    ) -> list[Answer]:
        """As ``lookup``, with the canonical name; every answer has records."""
        name = ascii_name(host)
        fixed = fixed_addresses(name, family, {}, local=local)
        if fixed is not None:
            if not fixed:
                raise not_found()
            return [Answer(tuple(fixed), name, 0.0)]
        records, canonical = self._ask(
            Request(
                Op.RESOLVE,
                host=name,
                family={AF_INET6: 6, flows.AF_INET: 4}.get(family, 0),
                timeout=timeout or 0,
            ),
            timeout,
        )
        kinds = [tuple(one for one in records if (":" in one) is six) for six in (False, True)]
        found = [Answer(kind, canonical, 0.0) for kind in kinds if kind]
        if not found:
            raise not_found()
        return found

    def reverse(self, address: str, timeout: float | None = None) -> str:
        """Return the name of an address."""
        request = Request(
            Op.RESOLVE,
            host=unmapped(address.partition("%")[0]),
            flags=RequestFlag.REVERSE,
            timeout=timeout or 0,
        )
        return self._ask(request, timeout)[1]

    def _ask(self, request: Request, timeout: float | None) -> tuple[list[str], str]:
        request.isolate = self._device.isolate
        try:
            # The daemon keeps to the timeout; ours is for a daemon that does not.
            reply = self._device.request(request, None if timeout is None else timeout + _LOCAL)
            blocks, name = decode_addresses_untrusted(reply.payload)
            return [unpack_block(block)[1] for block in blocks], name
        except NameResolutionError:
            raise
        except (OSError, ValueError) as problem:
            raise try_again(str(problem)) from None


class RemoteDevice:
    """What sockets see of a daemon, in place of the network device of a tunnel in the process.

    Attributes:
        path: of the daemon's socket.
        isolate: the isolation key of what is opened here, '' for none.
        loop: runs the socket layer's commands.
        up: a command finds out by itself.
        ipv6: the daemon decides.
        closed: 0; a daemon may always come back.
    """

    up = True
    ipv6 = True
    closed = 0
    connect_timeout = 60.0

    def __init__(self, path: str, isolate: str = "") -> None:
        self.path = path
        self.isolate = isolate
        self.loop = _RemoteLoop(self)
        self.resolver = RemoteResolver(self)
        self._addresses: tuple[str, ...] = ()
        self._asked_at = float("-inf")

    def check(self) -> None:
        """Every command tells by itself whether there is a daemon."""

    def request(self, request: Request, timeout: float | None = _LOCAL, *, check: bool = True) -> Reply:
        """Send one request and return its reply.

        Raises:
            OSError: ENETDOWN when there is no daemon; (*check*) what the reply reports.
        """
        channel = Channel(self.path)
        try:
            channel.send(request)
            reply = channel.receive(timeout)
        finally:
            channel.close()
        if reply is None:
            raise os_error(errno.ENETDOWN, "the smolmix-sync daemon does not answer")
        if check:
            raise_error(reply)
        return reply

    def status(self, timeout: float = _LOCAL, *, wait: bool = False) -> dict[str, Any]:
        """Return what the daemon tells about itself; *wait* until its tunnel is up."""
        import json

        reply = self.request(
            Request(Op.STATUS, flags=RequestFlag.WAIT if wait else 0, timeout=timeout, isolate=self.isolate),
            timeout + _LOCAL if wait else timeout,
        )
        told = json.loads(reply.payload)
        assert isinstance(told, dict)
        return told

    @property
    def addresses(self) -> tuple[str, ...]:
        """Our addresses in the tunnel, as far as known."""
        now = _originals.monotonic()
        if now - self._asked_at > _FRESH:
            self._asked_at = now
            try:
                self._addresses = tuple(str(one) for one in self.status()["addresses"])
            except (OSError, ValueError, KeyError):
                self._addresses = ()
        return self._addresses

    def wait_up(self, timeout: float | None) -> None:
        """Block until the daemon's tunnel is up.

        Raises:
            TunnelNotReady: it is not, or there is no daemon.
        """
        limit = self.connect_timeout if timeout is None else timeout
        try:
            self.status(limit, wait=True)
        except OSError as problem:
            raise TunnelNotReady(problem.strerror or str(problem)) from None

    # --- the three commands ---

    def _adopt(self, flow: Flow) -> RemotePump:
        """Make *flow* one of ours, for good."""
        pump = flow.pump
        if not isinstance(pump, RemotePump):
            pump = RemotePump(self, flow)
            flow.pump = cast("Any", pump)
            flow.device = cast("Device", self)
        pump.finished = False
        flow.__class__ = RemoteFlow
        return pump

    def _hand_over(self, flow: Flow, request: Request) -> Channel:
        """Send *request* with the reactor's end of the pair, which is the daemon's from then on."""
        request.cookie = flow.cookie
        request.family = 6 if flow.family == AF_INET6 else 4
        request.isolate = self.isolate
        request.options = {key: _option(value) for key, value in flow.options.items()}
        channel = Channel(self.path)
        end = flow.end
        channel.send(request, -1 if end is None else end.fileno())
        if end is not None:
            flow.end = None
            end.close()
        # The port is the daemon's to keep: here nobody is told when the application closes the socket.
        flows.release_local(flow)
        return channel

    def open_stream(self, flow: Flow, address: Address) -> None:
        """Connect: the flow tells the outcome."""
        pump = self._adopt(flow)
        tls.cover(_is_remote)
        local_port = flow.laddr[1] if flow.bound and flow.laddr is not None else 0
        try:
            pump.channel = self._hand_over(
                flow,
                Request(
                    Op.ATTACH,
                    host=unmapped(address[0]),
                    port=address[1],
                    junk=flow.junk,
                    local_port=local_port,
                ),
            )
        except (OSError, ValueError) as problem:
            self._failed(flow, getattr(problem, "errno", None) or errno.EINVAL)
            return
        flow.__class__ = ConnectingFlow

    @staticmethod
    def _failed(flow: Flow, number: int) -> None:
        """Tell the failure of a request that did not reach the daemon; the pair stays for another try."""
        filling, flow.junk = flow.junk, 0
        flow.error = number
        flow.state = FlowState.FAILED  # from here on the application may connect, and fill, again
        flow.raddr = None
        end = flow.end
        if end is None:
            return
        flow.pump = None
        flows.discard(end, filling)
        flows.nursery.add(flow)

    def open_datagrams(self, flow: Flow) -> None:
        """Have the daemon serve a UDP socket."""
        pump = flow.pump
        if isinstance(pump, RemotePump):
            return
        local_port = flow.laddr[1] if flow.bound and flow.laddr is not None else 0
        try:
            self._synchronous(flow, Request(Op.ATTACH, type=2, local_port=local_port))
        except OSError:
            flow.bound, flow.laddr = False, None
            flows.release_local(flow)
            raise

    def listen(self, flow: Flow, backlog: int) -> None:
        """Have the daemon listen."""
        host, port = ("", 0) if flow.laddr is None else flow.laddr[:2]
        backlog = max(0, min(backlog, 65535))
        self._synchronous(flow, Request(Op.LISTEN, host=unmapped(host), port=port, backlog=backlog))
        flow.state = FlowState.LISTEN

    def _synchronous(self, flow: Flow, request: Request) -> None:
        channel = self._hand_over(flow, request)
        try:
            reply = channel.receive(_LOCAL)
        finally:
            channel.close()
        if reply is None:
            raise os_error(errno.ENETDOWN, "the smolmix-sync daemon does not answer")
        raise_error(reply)
        self._adopt(flow)
        _take_names(flow, reply)
