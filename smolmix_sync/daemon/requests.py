"""What one client asks for, and the replies: a control connection of the daemon.

Everything runs in the reactor thread; what blocks (names) waits in a native thread, with a greenlet here.

Source: spec/sockets.md section 12; design.md decision 16.
"""

from __future__ import annotations

import _socket
import errno
import ipaddress
import json
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smolmix_sync.daemon.protocol import (
    MAX_REQUEST,
    NO_BLOCK,
    NO_COOKIE,
    Op,
    Reply,
    ReplyFlag,
    Request,
    RequestFlag,
    encode_addresses,
)
from smolmix_sync.daemon.served import ServedFlow, adopt_descriptor, make_pair
from smolmix_sync.errors import WireError
from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import os_error, posix_close
from smolmix_sync.reactor.flow import (
    AF_INET,
    AF_INET6,
    SOCK_DGRAM,
    SOCK_STREAM,
    FlowState,
    pack_block,
    present,
)

if TYPE_CHECKING:
    from smolmix_sync.daemon.server import DaemonServer
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.flow import Flow
    from smolmix_sync.reactor.loop import Timer

__all__ = ["Client"]

#: Ours: more filling than the buffers of a pair hold; reading it away takes the reactor's time.
_MAX_JUNK = 4 << 20
_ANY = {AF_INET: "0.0.0.0", AF_INET6: "::"}


class Client:
    """One control connection; everything in the reactor thread."""

    def __init__(self, server: DaemonServer, sock: _socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self.watching: set[int] = set()
        self._server = server
        self._loop = server.tunnel.device.loop
        self._pending: dict[int, Callable[[int], object]] = {}
        self._watcher = self._loop.watch_read(sock.fileno(), self._on_readable)
        self._watcher.start()

    def close(self) -> None:
        """Drop the connection; what it asked for and has not got is given up."""
        if self not in self._server.clients:
            return
        self._server.client_gone(self)
        self._watcher.close()
        self.sock.close()
        for cancel in list(self._pending.values()):
            cancel(errno.ECANCELED)
        self._pending.clear()

    def _on_readable(self) -> None:
        for _ in range(16):
            try:
                data, ancillary, shown, _ = self.sock.recvmsg(
                    MAX_REQUEST + 1, _socket.CMSG_SPACE(16), int(_socket.MSG_CMSG_CLOEXEC)
                )
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            received = [
                adopt_descriptor_or_none(fd)
                for level, kind, octets in ancillary
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
                for fd in struct.unpack(f"{len(octets) // 4}i", octets[: len(octets) // 4 * 4])
            ]
            ends = [one for one in received if one is not None]
            end = ends.pop(0) if ends else None
            for extra in ends:
                extra.close()
            if not data or shown & int(_socket.MSG_CTRUNC):
                if end is not None:
                    end.close()
                self.close()
                return
            try:
                request = Request.decode_untrusted(data)
            except WireError as problem:
                if end is not None:
                    end.close()
                self._send(Reply(0, errno=errno.EBADMSG, payload=str(problem).encode()))
                self.close()
                return
            self._handle(request, end)
            if self not in self._server.clients:
                return

    def _handle(self, request: Request, end: _socket.socket | None) -> None:
        kept = False
        try:
            if len(self._pending) >= self._server.limits.requests:
                raise os_error(errno.EBUSY, "too many requests at once")
            if request.ident in self._pending and request.op is not Op.CANCEL:
                raise os_error(errno.EALREADY, "this request id is in use")
            if request.op is Op.CONNECT:
                self._connect(request)
            elif request.op is Op.ATTACH:
                kept = True
                self._attach(request, end)
            elif request.op is Op.LISTEN:
                kept = True
                self._listen(request, end)
            elif request.op is Op.RESOLVE:
                self._resolve(request)
            elif request.op is Op.SETOPT:
                self._setopt(request)
            elif request.op is Op.STATUS:
                self._status(request)
            elif request.op is Op.CANCEL:
                cancel = self._pending.pop(request.ident, None)
                if cancel is not None:
                    cancel(errno.ECANCELED)
            else:
                if len(self.watching) >= self._server.limits.requests:
                    raise os_error(errno.EBUSY, "too many watches")
                self.watching.add(request.ident)
                self._tell(request.ident)
        except OSError as problem:
            self._refuse(request, problem)
        except ValueError:
            self._refuse(request, os_error(errno.EINVAL, "an address is needed here"))
        except Exception:  # a bug of ours, which the hub reports; the client must not wait for ever
            self._refuse(request, os_error(errno.EIO))
            raise
        finally:
            if end is not None and not kept:
                end.close()

    # --- replies ---

    def _send(self, reply: Reply, fd: int = -1) -> None:
        rights = [] if fd < 0 else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))]
        try:
            self.sock.sendmsg([reply.encode()], rights, int(_socket.MSG_NOSIGNAL))
        except OSError:  # it does not read, or is gone
            self._loop.call_soon(self.close)

    def _refuse(self, request: Request, problem: OSError) -> None:
        number = problem.errno or errno.EIO
        flags = 0
        if isinstance(problem, _socket.gaierror):
            number, flags = abs(number), int(ReplyFlag.RESOLVER)
        text = (problem.strerror or str(problem)).encode("utf-8", "replace")
        self._send(Reply(request.op, request.ident, number, flags, payload=text))

    def _accept(
        self, request: Request, flow: ServedFlow | None = None, fd: int = -1, payload: bytes = b""
    ) -> None:
        reply = Reply(request.op, request.ident, payload=payload)
        if flow is not None:
            reply.local = NO_BLOCK if flow.laddr is None else pack_block(flow.laddr)
            reply.remote = NO_BLOCK if flow.raddr is None else pack_block(flow.raddr)
            reply.cookie = flow.cookie
        self._send(reply, fd)

    # --- sockets ---

    def _family(self, request: Request, host: str) -> int:
        if request.family:
            return AF_INET6 if request.family == 6 else AF_INET
        return AF_INET6 if ":" in host else AF_INET

    def _flow(self, request: Request, host: str, end: _socket.socket | None) -> tuple[int, ServedFlow]:
        """Make the flow of a request, counted."""
        kind = SOCK_DGRAM if request.type == 2 else SOCK_STREAM
        try:
            fd, flow = make_pair(self._family(request, host), kind, self.pid, end)
        except OSError:
            if end is not None:
                end.close()
            raise
        if end is not None:
            flow.cookie = request.cookie
        self._count(fd, flow)
        self._set_options(flow, request)
        return fd, flow

    def _count(self, fd: int, flow: ServedFlow) -> None:
        """Register a pair, or close both its ends and raise."""
        try:
            self._server.register(flow)
        except OSError:
            if fd >= 0:
                posix_close(fd)
            if flow.end is not None:
                flow.end.close()
            raise

    @staticmethod
    def _set_options(flow: Flow, request: Request) -> None:
        for key, value in request.options.items():
            flow.options[key] = (
                int.from_bytes(value, sys.byteorder, signed=True) if len(value) == 4 else value
            )

    def _connect(self, request: Request) -> None:
        """A descriptor for a program without a library of ours."""
        host = request.host
        device = self._server.tunnel_of(request.isolate).device
        if request.type == 2:
            _check_destination(host)
            fd, flow = self._flow(request, host, None)
            try:
                self._open_datagrams(device, flow, request)
                self._accept(request, flow, fd)
            finally:
                posix_close(fd)
            return
        call = _Connect(self, request, device)
        self._pending[request.ident] = call.cancel
        self._loop.spawn(call.run)

    def _attach(self, request: Request, end: _socket.socket | None) -> None:
        try:
            device = self._server.tunnel_of(request.isolate).device
            if request.junk > _MAX_JUNK:
                raise os_error(errno.EINVAL, "that much fits into no pair")
            if end is not None and isinstance(flows.by_cookie.get(request.cookie), ServedFlow):
                raise os_error(errno.EEXIST, "the cookie is that of another socket")
        except OSError:
            if end is not None:
                end.close()
            raise
        if end is None:
            flow = flows.by_cookie.get(request.cookie)
            if not isinstance(flow, ServedFlow) or flow.end is None:
                raise os_error(errno.ENETDOWN, "no such socket")
            self._set_options(flow, request)
        else:
            if request.cookie == NO_COOKIE:
                end.close()
                raise os_error(errno.EINVAL, "a cookie is needed")
            _, flow = self._flow(request, request.host, end)
        if not flow.stream:
            self._open_datagrams(device, flow, request)
            self._accept(request, flow)
            return
        flow.junk = request.junk
        try:
            if not request.host:
                raise os_error(errno.EINVAL, "an address is needed here")
            _check_destination(request.host)
            if flow.pump is not None:
                raise os_error(errno.EISCONN)
            self._take_port(flow, request)
        except OSError as problem:
            self._fail(request, flow, problem)
            return
        ident = request.ident
        self._pending[ident] = lambda number: None  # the client's close of its socket is the cancellation

        def report(flow: ServedFlow) -> None:
            self._pending.pop(ident, None)
            if flow.state is FlowState.FAILED:
                self._refuse(request, os_error(flow.take_error() or errno.ECONNREFUSED))
            else:
                self._accept(request, flow)

        flow.report = report
        flow.state = FlowState.CONNECTING
        from smolmix_sync.reactor.pump import open_stream

        try:
            open_stream(device, flow, present(flow.family, request.host, request.port))
        except ValueError:  # an address of another family, or none
            self._pending.pop(ident, None)
            flow.report = None
            self._fail(request, flow, os_error(errno.EINVAL, "an address is needed here"))
        except Exception:  # a bug of ours, which the hub reports; the client must not wait for ever
            self._pending.pop(ident, None)
            flow.report = None
            self._fail(request, flow, os_error(errno.EIO))
            raise

    def _fail(self, request: Request, flow: ServedFlow, problem: OSError) -> None:
        """Refuse, and make the client's descriptor writable again."""
        self._refuse(request, problem)
        assert flow.end is not None
        flows.discard(flow.end, flow.junk)
        flow.junk = 0
        end = flow.end
        self._loop.closes.add(end.fileno(), lambda: flows.forget(flow))

    def _take_port(self, flow: ServedFlow, request: Request) -> None:
        if request.local_port and flow.laddr is None:
            flows.ports.reserve(flow, request.local_port)
            flow.laddr = present(flow.family, _ANY[flow.family], request.local_port)
            flow.bound = True

    def _open_datagrams(self, device: Device, flow: ServedFlow, request: Request) -> None:
        from smolmix_sync.reactor.datagrams import open_datagrams

        assert flow.end is not None
        try:
            if flow.laddr is None:
                number = flows.ports.reserve(flow, request.local_port)
                flow.laddr = present(flow.family, _ANY[flow.family], number)
                flow.bound = bool(request.local_port)
            open_datagrams(device, flow)
        except OSError:  # the client may try another port with the same pair
            flows.ports.release(flow)
            flow.laddr = None
            self._loop.closes.add(flow.end.fileno(), lambda: flows.forget(flow))
            raise
        if request.host:
            _check_destination(request.host)
            flow.raddr = present(flow.family, request.host, request.port)
            if flow.pump is not None:
                flow.pump.connect(flow.raddr)

    def _listen(self, request: Request, end: _socket.socket | None) -> None:
        from smolmix_sync.reactor.listeners import listen

        device = self._server.tunnel_of(request.isolate).device
        fd, flow = -1, flows.by_cookie.get(request.cookie) if request.cookie != NO_COOKIE else None
        if not isinstance(flow, ServedFlow):
            flow = None  # of this very process, which may be a client of its own
        elif end is not None:
            end.close()
            raise os_error(errno.EEXIST, "the cookie is that of another socket")
        if flow is None:
            fd, flow = self._flow(request, request.host, end)
        try:
            if flow.laddr is None:
                number = flows.ports.reserve(flow, request.port or request.local_port)
                flow.laddr = present(flow.family, request.host or _ANY[flow.family], number)
                flow.bound = True
            listen(device, flow, request.backlog, lambda: self._accepted_pair(flow))
            self._accept(request, flow, fd)
        except ValueError:
            flows.forget(flow)
            raise os_error(errno.EINVAL, "an address is needed here") from None
        except BaseException:
            flows.forget(flow)
            raise
        finally:
            if fd >= 0:
                posix_close(fd)

    def _accepted_pair(self, listening: ServedFlow) -> tuple[int, ServedFlow]:
        """Make the flow of an accepted connection, counted as the sockets that a client asks for."""
        fd, flow = make_pair(listening.family, SOCK_STREAM, listening.pid)
        self._count(fd, flow)
        return fd, flow

    def _setopt(self, request: Request) -> None:
        flow = flows.by_cookie.get(request.cookie)
        if not isinstance(flow, ServedFlow):
            raise os_error(errno.EBADF, "no such socket")
        self._set_options(flow, request)
        if flow.pump is not None:
            for key in request.options:
                flow.pump.option_changed(key)
        self._accept(request)

    # --- names and status ---

    def _resolve(self, request: Request) -> None:
        device = self._server.tunnel_of(request.isolate).device
        self._pending[request.ident] = lambda number: self._refuse(request, os_error(number))
        self._loop.spawn(self._resolve_in_greenlet, request, device)

    def _resolve_in_greenlet(self, request: Request, device: Device) -> None:
        blocks: list[bytes] = []
        name = ""
        problem: OSError | None = None
        try:
            if request.flags & RequestFlag.REVERSE:
                name = self.in_thread(device.resolver.reverse, request.host, request.timeout or None)
            else:
                family = {4: AF_INET, 6: AF_INET6}.get(request.family, 0)
                for answer in self.in_thread(
                    device.resolver.answers, request.host, family, request.timeout or None
                ):
                    name = name or answer.canonical
                    blocks += [pack_block((record, 0)) for record in answer.records]
        except OSError as failure:
            problem = failure
        except ValueError:
            problem = os_error(errno.EINVAL, "not an address")
        if self._pending.pop(request.ident, None) is None or self not in self._server.clients:
            return
        if problem is not None:
            self._refuse(request, problem)
        else:
            self._accept(request, payload=encode_addresses(blocks[:1024], name))

    def in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run what blocks in a native thread; the calling greenlet waits."""
        value, problem = self._server.in_thread(_outcome, fn, args, self._is_there)
        if problem is not None:
            raise problem
        return value

    def _is_there(self) -> bool:
        return self in self._server.clients

    def _status(self, request: Request) -> None:
        if request.cookie != NO_COOKIE:
            fin, number = self._server.endings.of(request.cookie)
            self._send(
                Reply(
                    request.op, request.ident, number, int(ReplyFlag.FIN) if fin else 0, cookie=request.cookie
                )
            )
            return
        device = self._server.tunnel_of(request.isolate).device
        if request.flags & RequestFlag.WAIT and not device.up:
            waiting = _UntilReady(self, request)
            self._pending[request.ident] = lambda number: device.stop_waiting(waiting)
            device.when_up(waiting, request.timeout or device.connect_timeout)
            return
        self.tell_status(request)

    def tell_status(self, request: Request) -> None:
        """Reply to STATUS."""
        self._pending.pop(request.ident, None)
        self._accept(request, payload=json.dumps(self._server.status(request.isolate)).encode())

    def failed(self, request: Request, number: int) -> None:
        """Reply with an errno."""
        self._pending.pop(request.ident, None)
        self._refuse(request, os_error(number))

    def tell_state(self) -> None:
        """Send the status to whoever watches."""
        for ident in self.watching:
            self._tell(ident)

    def _tell(self, ident: int) -> None:
        self._send(Reply(Op.WATCH, ident, payload=json.dumps(self._server.status()).encode()))

    # --- CONNECT ---

    def connected(self, request: Request, flow: ServedFlow, fd: int) -> None:
        """Hand the descriptor over."""
        self._pending.pop(request.ident, None)
        self._accept(request, flow, fd)

    def not_connected(self, request: Request, problem: OSError) -> None:
        """Tell why not."""
        if self._pending.pop(request.ident, None) is not None and self in self._server.clients:
            self._refuse(request, problem)


def _outcome(
    fn: Callable[..., Any], args: tuple[Any, ...], wanted: Callable[[], bool]
) -> tuple[Any, Exception | None]:
    """Return (result, error): gevent's pool would report what a call raises as an error of the hub.

    What nobody waits for any more is not begun.
    """
    if not wanted():
        return None, os_error(errno.ECANCELED)
    try:
        return fn(*args), None
    except Exception as problem:
        return None, problem


class _UntilReady:
    """Who waits for the tunnel in STATUS."""

    def __init__(self, client: Client, request: Request) -> None:
        self._client = client
        self._request = request

    def on_up(self) -> None:
        self._client.tell_status(self._request)

    def on_down(self, errno: int) -> None:
        self._client.failed(self._request, errno)


class _Connect:
    """One CONNECT of TCP: the name, then one address after the other."""

    def __init__(self, client: Client, request: Request, device: Device) -> None:
        self._client = client
        self._request = request
        self._device = device
        self._fd = -1
        self._flow: ServedFlow | None = None
        self._addresses: list[str] = []
        self._timer: Timer | None = None
        self._over = False

    def run(self) -> None:
        """Resolve, and begin; in a greenlet."""
        request = self._request
        limit = request.timeout or self._device.connect_timeout
        self._timer = self._device.loop.call_later(limit, self._end, os_error(errno.ETIMEDOUT))
        try:
            family = {4: AF_INET, 6: AF_INET6}.get(request.family, 0)
            self._addresses = self._find(request.host, family, limit)
            if self._over:
                return
            self._fd, self._flow = self._client._flow(request, self._addresses[0], None)
            self._client._take_port(self._flow, request)
        except OSError as problem:
            self._end(problem)
            return
        self._next(self._flow)

    def _find(self, host: str, family: int, limit: float) -> list[str]:
        try:
            literal = ipaddress.ip_address(host)
            if family == AF_INET and literal.version == 6:
                raise os_error(errno.EINVAL, "an address of another family")
            found = [str(literal)]
        except ValueError:
            resolver = self._device.resolver
            found = [
                record
                for answer in self._client.in_thread(resolver.answers, host, family, limit)
                for record in answer.records
            ]
            # One pair has one family; the first address decides.
            found = [one for one in found if (":" in one) == (":" in found[0])]
        for one in found:
            _check_destination(one)
        return found

    def _next(self, flow: ServedFlow) -> None:
        from smolmix_sync.reactor.pump import open_stream

        flow.report = self._reported
        flow.state = FlowState.CONNECTING
        address = present(flow.family, self._addresses.pop(0), self._request.port)
        open_stream(self._device, flow, address)

    def _reported(self, flow: ServedFlow) -> None:
        if self._over:
            return
        if flow.state is FlowState.ESTABLISHED:
            self._finish()
            self._client.connected(self._request, flow, self._fd)
            posix_close(self._fd)
        elif self._addresses:
            self._device.loop.call_soon(self._next, flow)
        else:
            self._end(os_error(flow.take_error() or errno.ECONNREFUSED))

    def _finish(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, problem: OSError) -> None:
        if self._over:
            return
        self._finish()
        self._client.not_connected(self._request, problem)
        if self._fd >= 0:
            posix_close(self._fd)  # the pump sees the close, and releases

    def cancel(self, number: int) -> None:
        """Give up."""
        self._client._pending[self._request.ident] = self.cancel
        self._end(os_error(number))


def adopt_descriptor_or_none(fd: int) -> Any:
    """Return a passed descriptor as a socket object; one that is no socket is closed."""
    try:
        return adopt_descriptor(fd)
    except OSError:
        posix_close(fd)
        return None


def _check_destination(host: str) -> None:
    """Refuse what an exit cannot reach; clients decide about loopback themselves, before they come here.

    Raises:
        OSError: EACCES for this machine, EINVAL for what is no address.
    """
    if not host:
        return
    try:
        address = ipaddress.ip_address(flows.unmapped(host.partition("%")[0]))
    except (ValueError, OSError):
        raise os_error(errno.EINVAL, "an address is needed here") from None
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        raise os_error(errno.EACCES, f"{host} is not behind the exit")
