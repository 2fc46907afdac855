"""Names over the tunnel: drives the resolver's core over the stack of a device.

Application threads call :meth:`Resolver.lookup` and friends and block; the questions live in the reactor, where
lookups of the same name share one.

Source: spec/sockets.md section 8; RFC 8305 section 4 (the order of addresses).
"""

from __future__ import annotations

import _socket
import errno
import ipaddress
import os
from typing import TYPE_CHECKING, Any

from smolmix_sync.netstack import CLOSED, CONNECTED, ERROR, Conn, Udp
from smolmix_sync.reactor._originals import allocate_lock
from smolmix_sync.reactor._real import client_tls_context
from smolmix_sync.reactor.dohexchange import DOH_PORT, DohExchange
from smolmix_sync.reactor.flow import AF_INET, AF_INET6, unmapped
from smolmix_sync.reactor.resolver import (
    AAAA,
    PTR,
    A,
    Answer,
    Cache,
    Question,
    ResolverConfig,
    Transmit,
    ascii_name,
    fixed_addresses,
    in_order,
    load,
    not_found,
    try_again,
)

if TYPE_CHECKING:
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import Timer

__all__ = ["Resolver"]

_DNS_PORT = 53
# Ours: questions on their way at once; more than this is a runaway program.
_MAX_QUESTIONS = 512

# Ours: connections over HTTPS kept for each server, and seconds for which one is kept unused.
_MAX_IDLE = 4
_IDLE = 30.0

#: Networks whose addresses have no public names. Source: RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291.
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10",
    )
)  # fmt: skip


class Resolver:
    """Looks names up through one device; the methods may be called in any thread but the reactor's.

    Attributes:
        config: servers, time-outs and fixed names.
    """

    def __init__(self, device: Device, config: ResolverConfig) -> None:
        self.config = config
        self._device = device
        self._cache = Cache(config.cache_size)
        self._running: dict[tuple[str, int], _Running] = {}
        #: Made by the first lookup over HTTPS.
        self.tls: Any = None
        self._idle: dict[str, list[_Idle]] = {}

    # --- any thread ---

    def lookup(
        self, host: str, family: int = 0, timeout: float | None = None, *, local: bool = True
    ) -> list[str]:
        """Return the addresses of *host*, of both families in turn, IPv4 first.

        Args:
            host: a name or an address.
            family: 0, AF_INET or AF_INET6. With 0, IPv6 addresses are asked for only if the exit carries IPv6.
            timeout: seconds; None lets every server have its time.
            local: whether ``localhost`` and this machine's own name are answered with loopback.

        Raises:
            NameResolutionError: EAI_NONAME no such name, EAI_AGAIN no answer.
        """
        return in_order(self.answers(host, family, timeout, local=local))

    def answers(
        self, host: str, family: int = 0, timeout: float | None = None, *, local: bool = True
    ) -> list[Answer]:
        """As ``lookup``, with canonical names; every answer has records."""
        name = ascii_name(host)
        fixed = fixed_addresses(name, family, self.config.hosts, local=local)
        if fixed is not None:
            if not fixed:
                raise not_found()
            return [Answer(tuple(fixed), name, 0.0)]
        types = {AF_INET: [A], AF_INET6: [AAAA]}.get(family) or ([A, AAAA] if self._device.ipv6 else [A])
        found = [
            Answer(records, answer.canonical, answer.expires)
            for answer in self._ask(name, types, timeout)
            if answer is not None and (records := tuple(one for one in answer.records if _public(one)))
        ]
        if not found:
            raise not_found()
        return found

    def reverse(self, address: str, timeout: float | None = None) -> str:
        """Return the name of an address (PTR).

        Raises:
            NameResolutionError: it has none, or no answer came.
        """
        ip = ipaddress.ip_address(unmapped(address.partition("%")[0]))
        if ip.is_loopback:
            return "localhost"
        if any(ip in network for network in _PRIVATE) or str(ip) in self._device.addresses:
            raise not_found()  # nobody out there knows, and the question would tell about us
        for answer in self._ask(ip.reverse_pointer, [PTR], timeout):
            if answer is not None and answer.records:
                return answer.records[0]
        raise not_found()

    def clear_cache(self) -> None:
        """Forget every answer."""
        self._cache.clear()

    def _ask(self, name: str, types: list[int], timeout: float | None) -> list[Answer | None]:
        """Ask for every type at once; None stands for an answer that says there is none.

        Raises:
            NameResolutionError: EAI_AGAIN when a type got no answer and no other has records.
        """
        now = self._device.loop.now()
        cached = [self._cache.get(name, rdtype, now) for rdtype in types]
        if all(one is not None for one in cached):
            return cached
        if self._device.closed:
            raise try_again("the tunnel is down")
        load()
        if self.config.https and self.tls is None:
            self.tls = client_tls_context(self.config.ca_file)  # reads files: not in the reactor
        waiters = [_Waiter(name, rdtype) for rdtype in types]
        try:
            self._device.loop.post(self._begin, waiters)
            limit = None if timeout is None else now + timeout
            for waiter in waiters:
                waiter.wait(None if limit is None else max(0.0, limit - self._device.loop.now()))
        except OSError as problem:
            raise try_again(str(problem)) from None
        finally:
            if not all(waiter.over for waiter in waiters) and not self._device.closed:
                self._device.loop.post(self._leave, waiters)
        answers = [waiter.answer for waiter in waiters]
        if not any(one is not None and one.records for one in answers):
            for waiter in waiters:
                if waiter.answer is None:
                    raise try_again(waiter.reason or "no answer in time")
        return answers

    # --- reactor ---

    def _begin(self, waiters: list[_Waiter]) -> None:
        for waiter in waiters:
            key = (waiter.name, waiter.rdtype)
            cached = self._cache.get(*key, self._device.loop.now())
            if cached is not None:
                waiter.finish(cached, "")
                continue
            running = self._running.get(key)
            if running is None:
                if len(self._running) >= _MAX_QUESTIONS:
                    waiter.finish(None, "too many lookups at once")
                    continue
                running = self._running[key] = _Running(self, self._device, waiter.name, waiter.rdtype)
                running.waiters.append(waiter)
                self._device.when_up(running)
            else:
                running.waiters.append(waiter)

    def _leave(self, waiters: list[_Waiter]) -> None:
        for waiter in waiters:
            running = self._running.get((waiter.name, waiter.rdtype))
            if running is not None and waiter in running.waiters:
                running.waiters.remove(waiter)
                if not running.waiters:
                    running.finish()

    def keep(self, server: str, conn: Conn, exchange: DohExchange) -> bool:
        """Keep a connection over HTTPS for the next question; False if there are enough."""
        kept = self._idle.setdefault(server, [])
        if len(kept) >= _MAX_IDLE:
            return False
        kept.append(_Idle(self._device, kept, conn, exchange))
        return True

    def kept(self, server: str) -> tuple[Conn, DohExchange] | None:
        """Return a connection to *server* on which nothing is asked."""
        kept = self._idle.get(server)
        return kept[-1].take() if kept else None

    def finished(self, running: _Running, answer: Answer | None) -> None:
        """A question came to its end."""
        key = (running.name, running.rdtype)
        if self._running.get(key) is running:
            del self._running[key]
        if answer is not None:
            self._cache.put(*key, answer)


def _public(record: str) -> bool:
    """Refuse answers that would make a remote name mean this machine (DNS rebinding by whoever runs the exit)."""
    ip = ipaddress.ip_address(unmapped(record))
    return not (ip.is_loopback or ip.is_unspecified)


class _Waiter:
    """One thread waiting for one question."""

    def __init__(self, name: str, rdtype: int) -> None:
        self.name = name
        self.rdtype = rdtype
        self.answer: Answer | None = None
        self.reason = ""
        self.over = False
        self._lock = allocate_lock()
        self._lock.acquire()

    def finish(self, answer: Answer | None, reason: str) -> None:
        if not self.over:
            self.answer, self.reason, self.over = answer, reason, True
            self._lock.release()

    def wait(self, timeout: float | None) -> None:
        if self._lock.acquire(timeout=-1 if timeout is None else timeout):
            self._lock.release()


class _Idle:
    """A connection over HTTPS that waits for the next question; anything that happens to it is its end."""

    def __init__(self, device: Device, kept: list[_Idle], conn: Conn, exchange: DohExchange) -> None:
        self._device = device
        self._kept = kept
        self._line = conn, exchange
        self._timer = device.loop.call_later(_IDLE, self._close)
        device.own(conn, self)

    def take(self) -> tuple[Conn, DohExchange]:
        self._timer.cancel()
        self._kept.remove(self)
        return self._line

    def on_event(self, mask: int) -> None:
        self._close()

    def _close(self) -> None:
        conn, _ = self.take()
        self._device.disown(conn)
        conn.abort()
        self._device.kick()


class _Running:
    """A question, its socket and its connection; the owner of both in the device."""

    def __init__(self, resolver: Resolver, device: Device, name: str, rdtype: int) -> None:
        self.name = name
        self.rdtype = rdtype
        self.waiters: list[_Waiter] = []
        self._resolver = resolver
        self._device = device
        self._question: Question | None = None
        #: A port of its own for every query, and the query's identifier.
        self._udps: dict[Udp, int] = {}
        self._conn: Conn | None = None
        self._https: DohExchange | None = None
        self._asked: Transmit | None = None
        self._query = b""
        self._buffer = bytearray()
        self._timer: Timer | None = None

    # the device is up, or will not be

    def on_up(self) -> None:
        try:
            self._question = Question(
                self.name, self.rdtype, self._resolver.config, self._device.loop.now(), os.urandom
            )
        except _socket.gaierror:
            self.finish(Answer((), self.name, 0.0, exists=False))
            return
        self._step()

    def on_down(self, errno: int) -> None:
        self.finish(None, os.strerror(errno))

    # events of the stack

    def on_event(self, mask: int) -> None:
        question, now = self._question, self._device.loop.now()
        if question is None:
            return
        for udp, ident in list(self._udps.items()):
            if self._question is None or question.done:
                break
            self._on_datagrams(udp, ident, question, mask, now)
        if self._conn is not None:
            self._on_stream(self._conn, question, mask, now)
        if self._question is not None:
            self._step()

    def _on_datagrams(self, udp: Udp, ident: int, question: Question, mask: int, now: float) -> None:
        while not question.done and (item := udp.recv()) is not None:
            payload, source, _ = item
            question.receive_data(payload, source[0], False, now, ident)
        number = udp.take_error() if mask & ERROR and not question.done else 0
        if number == errno.ENETDOWN:
            self.finish(None, os.strerror(number))
        elif number:
            question.path_failed(now, f"{question.server}: {os.strerror(number)}")

    def _on_https(self, conn: Conn, exchange: DohExchange, question: Question, mask: int, now: float) -> None:
        while conn.readable() and not exchange.done:
            exchange.receive_data(conn.recv(65536))
        if conn.eof() and not exchange.done:
            exchange.receive_data(b"")
        if (out := exchange.data_to_send()) and not conn.error:
            conn.send(out)
            self._device.kick()
        if exchange.answer is not None:
            question.receive_data(exchange.answer, question.server, True, now)
            if not question.done:
                question.path_failed(now, f"{question.server}: not the answer to the question")
        elif exchange.failed or conn.error or mask & (ERROR | CLOSED):
            if exchange.answered and self._asked is not None:
                # The server had closed a kept connection, as it may: that says nothing about the server.
                self._connect_https(self._asked, None)
                return
            reason = exchange.failed or (os.strerror(conn.error) if conn.error else "connection closed")
            question.path_failed(now, f"{question.server}: {reason}")

    def _on_stream(self, conn: Conn, question: Question, mask: int, now: float) -> None:
        if self._https is not None:
            self._on_https(conn, self._https, question, mask, now)
            return
        if mask & CONNECTED and self._query:
            conn.send(self._query)
            self._query = b""
            self._device.kick()
        while conn.readable():
            self._buffer += conn.recv(65536)
        while len(self._buffer) >= 2 and not question.done:
            size = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < size:
                break
            message = bytes(self._buffer[2:size])
            del self._buffer[:size]
            question.receive_data(message, question.server, True, now)
        if not question.done and (conn.error or conn.eof() or mask & (ERROR | CLOSED)):
            reason = os.strerror(conn.error) if conn.error else "connection closed"
            question.path_failed(now, f"{question.server}: {reason}")

    def _on_timer(self) -> None:
        self._timer = None
        if self._question is not None:
            self._question.handle_deadline(self._device.loop.now())
            self._step()

    # doing what the question asks

    def _step(self) -> None:
        question, device = self._question, self._device
        assert question is not None
        while not question.done and (out := question.data_to_send()):
            try:
                for one in out:
                    self._transmit(one)
            except OSError as problem:
                question.path_failed(device.loop.now(), f"{question.server}: {problem.strerror}")
        if question.done:
            self.finish(question.answer, question.failed)
            return
        deadline = question.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = device.loop.call_later(deadline - device.loop.now(), self._on_timer)
        device.kick()

    def _transmit(self, one: Transmit) -> None:
        stack = self._device.require_stack()
        if one.https:
            self._connect_https(one, self._resolver.kept(one.server))
            return
        if one.tcp:
            self._close_sockets()
            self._query = len(one.payload).to_bytes(2, "big") + one.payload
            self._buffer.clear()
            self._conn = stack.connect(one.server, _DNS_PORT, self._device.loop.now())
            self._device.own(self._conn, self)
            return
        if self._conn is not None or any(udp.remote != (one.server, _DNS_PORT) for udp in self._udps):
            self._close_sockets()
        udp = stack.udp()  # a port of its own: the identifier alone can be guessed
        udp.connect(one.server, _DNS_PORT)
        self._udps[udp] = one.ident
        self._device.own(udp, self)
        udp.send(one.payload)

    def _connect_https(self, one: Transmit, line: tuple[Conn, DohExchange] | None) -> None:
        self._close_sockets()
        self._asked = one
        if line is None:
            self._https = DohExchange(self._resolver.tls, one.server, one.payload)
            self._conn = self._device.require_stack().connect(one.server, DOH_PORT, self._device.loop.now())
        else:
            self._conn, self._https = line
            self._https.ask(one.payload)
            self._conn.send(self._https.data_to_send())
        self._device.own(self._conn, self)
        self._device.kick()

    def _close_sockets(self) -> None:
        udps, self._udps = self._udps, {}
        for udp in udps:
            self._device.disown(udp)
            udp.close()
        exchange, self._https = self._https, None
        conn, self._conn = self._conn, None
        if conn is None:
            return
        self._device.disown(conn)
        if exchange is not None and exchange.reusable and not conn.error and not conn.eof():
            assert self._asked is not None
            if self._resolver.keep(self._asked.server, conn, exchange):
                return
        conn.abort()

    def finish(self, answer: Answer | None = None, reason: str = "") -> None:
        """Tell everybody who waits, and clean up."""
        self._device.stop_waiting(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._question = None
        if self._device.up:
            self._close_sockets()
            self._device.kick()
        self._resolver.finished(self, answer)
        for waiter in self.waiters:
            waiter.finish(answer, reason)
        self.waiters.clear()
