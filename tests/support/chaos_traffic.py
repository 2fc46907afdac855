"""Programs of the virtual day: MixSockets in greenlets, whose every octet and every wait is looked at."""

from __future__ import annotations

import errno
import hashlib
import random
import socket as stdlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
from support.chaos_clock import ChaosFailure, VirtualReactor
from support.chaos_network import ECHO, PEER, SINK, SOURCE, pattern

from smolmix_sync.reactor.lookup import _Waiter
from smolmix_sync.reactor.provider import DevicePort
from smolmix_sync.reactor.resolver import A
from smolmix_sync.socket import MixSocket

__all__ = ["Traffic", "TrafficFigures"]

READ, WRITE = 1, 2
#: What a broken connection may look like, by design.md 8a and the kernel's rules.
BROKEN = frozenset(
    {errno.ENETDOWN, errno.ECONNRESET, errno.ETIMEDOUT, errno.EPIPE, errno.EHOSTUNREACH, errno.ECONNREFUSED}
)


@dataclass
class TrafficFigures:
    """What the programs did.

    Attributes:
        finished, broken: operations by kind: those that came to their end, and those that ended in an error.
        errors: of the broken ones, by name.
        octets: checked, by direction.
        longest: the longest operation of each kind, seconds.
        waits: (began, ended, errno) of every operation that ended in an error.
    """

    finished: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    octets: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)
    waits: list[tuple[str, float, float, int]] = field(default_factory=list)


class Traffic:
    """Programs on one tunnel.

    Args:
        reactor: virtual time.
        device: of the tunnel.
        rng: what they do.
        limit: seconds after which an operation that neither ends nor fails is a stall.
    """

    def __init__(
        self, reactor: VirtualReactor, device: Any, rng: random.Random, *, limit: float = 400.0
    ) -> None:
        self.reactor = reactor
        self.device = device
        self.port = DevicePort(device)
        self.random = rng
        self.limit = limit
        self.figures = TrafficFigures()
        self.failures: list[str] = []
        self.open = 0
        self._greenlets: list[Any] = []
        self.stopping = False
        self.pause = 1.0

    # --- one operation ---

    def run(self, kind: str, operation: Callable[[], None], limit: float | None = None) -> int:
        """Run one operation to its end; return its errno, 0 for none. What must not be is noted."""
        figures, began = self.figures, self.reactor.now()
        number = 0
        limit = self.limit if limit is None else limit
        stalled = gevent.Timeout(limit)
        stalled.start()
        try:
            operation()
            figures.finished[kind] += 1
        except gevent.Timeout as timeout:
            if timeout is not stalled:
                raise
            self.failures.append(f"{kind} begun at {began:.3f} still waits after {limit:g} s")
        except OSError as error:
            number = error.errno or 0
            figures.broken[kind] += 1
            figures.errors[errno.errorcode.get(number, str(number))] += 1
            figures.waits.append((kind, began, self.reactor.now(), number))
            del figures.waits[:-2000]
            if number not in BROKEN:
                self.failures.append(f"{kind} begun at {began:.3f} ended with {error!r}")
        except ChaosFailure as failure:
            self.failures.append(f"{kind} begun at {began:.3f}: {failure}")
        finally:
            stalled.close()
        spent = self.reactor.now() - began
        figures.longest[kind] = max(figures.longest.get(kind, 0.0), spent)
        return number

    def spawn(self, kind: str, operation: Callable[[], None], limit: float | None = None) -> Any:
        """Repeat an operation until the programs are stopped."""

        def forever() -> None:
            while not self.stopping:
                number = self.run(kind, operation, limit)
                gevent.sleep(self.random.expovariate(1 / self.pause) + (1.0 if number else 0.0))

        greenlet = gevent.spawn(forever)
        self._greenlets.append(greenlet)
        return greenlet

    def finish(self) -> None:
        """Let what runs come to its end."""
        self.stopping = True
        gevent.joinall(self._greenlets, timeout=1500)
        if not all(one.dead for one in self._greenlets):
            self.failures.append("a program does not end")

    def check(self) -> None:
        if self.failures:
            raise ChaosFailure("\n".join(self.failures[:10]))

    # --- sockets ---

    def _wait(self, sock: Any, events: int) -> None:
        watcher = self.reactor.loop.io(sock.fileno(), events)
        self.reactor.hub.wait(watcher)

    def connect(self, port: int, host: str = PEER) -> Any:
        sock = MixSocket(stdlib.AF_INET, stdlib.SOCK_STREAM, tunnel=self.port)
        try:
            sock.setblocking(False)
            number = sock.connect_ex((host, port))
            if number == errno.EINPROGRESS:
                self._wait(sock, WRITE)
                number = sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR)
            if number:
                raise OSError(number, f"connect: {errno.errorcode.get(number)}")
        except BaseException:
            sock.close()
            raise
        self.open += 1
        return sock

    def close(self, sock: Any) -> None:
        self.open -= 1
        sock.close()

    def send_all(self, sock: Any, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[sock.send(view) :]
            except BlockingIOError:
                self._wait(sock, WRITE)

    def recv(self, sock: Any, size: int) -> bytes:
        while True:
            try:
                data: bytes = sock.recv(size)
                return data
            except BlockingIOError:
                self._wait(sock, READ)

    # --- programs ---

    def download(self, length: int) -> None:
        """Fetch so many octets; every one is compared, and the end must be where it belongs."""
        seed = self.random.getrandbits(48)
        expected = pattern(seed, length)
        sock = self.connect(SOURCE)
        try:
            self.send_all(sock, seed.to_bytes(8, "big") + length.to_bytes(8, "big"))
            position = 0
            while data := self.recv(sock, 65536):
                if data != expected[position : position + len(data)]:
                    raise ChaosFailure(
                        f"octets {position} to {position + len(data)} are not those that were sent"
                    )
                position += len(data)
                self.figures.octets["down"] += len(data)
            if position != length:
                raise ChaosFailure(f"the end of file came after {position} of {length} octets")
        finally:
            self.close(sock)

    def upload(self, length: int) -> None:
        """Send so many octets; the peer answers with the digest of what came."""
        data = pattern(self.random.getrandbits(48), length)
        sock = self.connect(SINK)
        try:
            self.send_all(sock, data)
            sock.shutdown(stdlib.SHUT_WR)
            answer = b""
            while part := self.recv(sock, 65536):
                answer += part
            if answer != hashlib.sha256(data).digest():
                raise ChaosFailure(f"an upload of {length} octets arrived as something else: {len(answer)}")
            self.figures.octets["up"] += length
        finally:
            self.close(sock)

    def echo(self, rounds: int, size: int, gap: float) -> None:
        """Talk to and fro over one connection, with pauses."""
        sock = self.connect(ECHO)
        try:
            for _ in range(rounds):
                data = pattern(self.random.getrandbits(48), size)
                self.send_all(sock, data)
                back = b""
                while len(back) < size:
                    part = self.recv(sock, 65536)
                    if not part:
                        raise ChaosFailure("the end of file came in the middle of an echo")
                    back += part
                if back != data:
                    raise ChaosFailure("an echo came back altered")
                self.figures.octets["echo"] += size
                if gap:
                    gevent.sleep(self.random.expovariate(1 / gap))
        finally:
            self.close(sock)

    def hold(self, seconds: float) -> None:
        """Wait in a recv that nothing answers, as programs without a timeout do."""
        sock = self.connect(ECHO)
        try:
            until = gevent.Timeout(seconds)
            until.start()
            try:
                data = self.recv(sock, 1)
                raise ChaosFailure(f"a recv that nobody answers gave {data!r}")
            except gevent.Timeout as timeout:
                if timeout is not until:
                    raise
            finally:
                until.close()
        finally:
            self.close(sock)

    def datagrams(self, count: int) -> None:
        """Echo over UDP: what comes back is what was sent, at most once each."""
        sock = MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM, tunnel=self.port)
        self.open += 1
        try:
            sock.setblocking(False)
            sent: dict[bytes, int] = {}
            for _ in range(count):
                data = self.random.randbytes(self.random.randrange(8, 1200))
                sent[data] = 0
                sock.sendto(data, (PEER, ECHO))
                gevent.sleep(0.2)
                with gevent.Timeout(1.0, False):
                    while True:
                        self._take(sock, sent)
        finally:
            self.close(sock)

    def _take(self, sock: Any, sent: dict[bytes, int]) -> None:
        try:
            data, source = sock.recvfrom(65536)
        except BlockingIOError:
            self._wait(sock, READ)
            return
        if data not in sent or source[:2] != (PEER, ECHO):
            raise ChaosFailure("a datagram came that nobody sent")
        sent[data] += 1
        self.figures.octets["udp"] += len(data)

    def lookup(self, name: str = "www.localnet") -> None:
        """Ask for a name, as ``getaddrinfo`` does, and wait as long as it waits."""
        resolver = self.device.resolver
        resolver.clear_cache()
        waiter = _Waiter(name, A)
        resolver._begin([waiter])
        while not waiter.over:
            gevent.sleep(0.05)
        if waiter.answer is None:
            raise OSError(errno.ETIMEDOUT, waiter.reason)
        if not waiter.answer.records:
            raise ChaosFailure(f"no address for {name}")
