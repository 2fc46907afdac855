"""A malicious client of the daemon: a page of attacks. Others are served, nothing stays behind, nothing leaves the tunnel.

All processes of one user are one party for the kernel, and for the daemon as well: what is kept here is that one of
them cannot end, stall or fill the daemon, nor take over the sockets of another.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.hostile_client import RawClient, ServedDaemon
from support.loopnet import V4

from smolmix_sync.daemon import attach
from smolmix_sync.daemon.protocol import Op, Request, RequestFlag, Tag

pytestmark = [pytest.mark.interop, pytest.mark.slow]

RNG = random.Random(99)
#: Nobody answers there: what connects to it waits.
HOLE = "203.0.113.99"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDaemon]:
    one = ServedDaemon(tmp_path_factory.mktemp("hostile") / "daemon.sock")
    honest(one)
    yield one
    one.close()


def honest(daemon: ServedDaemon) -> None:
    """Another program of the same user, meanwhile."""
    began = time.monotonic()
    tunnel = attach(daemon.path)
    with tunnel.create_connection((V4, 7), 10) as sock:
        sock.settimeout(10)
        sock.sendall(b"honest" * 100)
        got = b""
        while len(got) < 600:
            got += sock.recv(1000)
        assert got == b"honest" * 100
    assert time.monotonic() - began < 5.0


def settled(daemon: ServedDaemon, descriptors: int) -> None:
    """Wait until nothing of an attack is left."""
    until = time.monotonic() + 10
    while True:
        with RawClient(daemon.path) as one:
            reply = one.ask(Request(Op.STATUS, 1).encode())
            assert reply is not None
            import json

            status = json.loads(reply.payload)
        if status["flows"] == 0 and status["clients"] <= 1 and daemon.descriptors <= descriptors + 4:
            return
        assert time.monotonic() < until, (status["flows"], status["clients"], daemon.descriptors, descriptors)
        time.sleep(0.05)


ATTACKS: list[Any] = []
Attack = Callable[[ServedDaemon], object]


def attack(sentence: str) -> Callable[[Attack], Attack]:
    def keep(function: Attack) -> Attack:
        ATTACKS.append(pytest.param(function, id=sentence))
        return function

    return keep


def packet(op: int = Op.STATUS, ident: int = 1, host: bytes = b"", tail: bytes = b"", **fields: int) -> bytes:
    """Return a request as octets, right or wrong."""
    values = {"flags": 0, "port": 0, "timeout": 0, "family": 0, "type": 1, "length": len(host)} | fields
    return struct.pack(
        "!4sBBHIIBBH", b"SMX1", op, values["flags"], values["port"], ident, values["timeout"], values["family"],
        values["type"], values["length"],
    ) + host + tail  # fmt: skip


def value(tag: int, octets: bytes) -> bytes:
    return bytes((tag, len(octets))) + octets


@attack("its packets are too large")
def _(daemon: ServedDaemon) -> None:
    for size in (1025, 4096, 60_000):
        with RawClient(daemon.path) as one:
            reply = one.ask(packet(tail=bytes(size - 20)))
            assert reply is None or reply.errno == errno.EBADMSG
            assert one.receive() is None


@attack("its packets are cut short at every octet")
def _(daemon: ServedDaemon) -> None:
    whole = packet(Op.CONNECT, host=b"203.0.113.99", tail=value(Tag.COOKIE, bytes(8)))
    for size in range(1, len(whole)):
        if size in (32,):  # the host is whole: a request without values
            continue
        with RawClient(daemon.path) as one:
            reply = one.ask(whole[:size])
            assert reply is not None
            assert reply.errno == errno.EBADMSG, size
            assert one.receive() is None


@attack("it connects and says nothing, two hundred times")
def _(daemon: ServedDaemon) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(RawClient(daemon.path))
        honest(daemon)


@attack("it connects more often than it may")
def _(daemon: ServedDaemon) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(daemon.path)) for _ in range(400)]
        time.sleep(0.3)
        refused = 0
        for one in clients:
            try:
                reply = one.receive(0.0)
            except TimeoutError:
                continue
            refused += reply is not None and reply.errno == errno.EMFILE
        assert refused == 400 - 256


@attack("it sends empty packets")
def _(daemon: ServedDaemon) -> None:
    for _ in range(50):
        with RawClient(daemon.path) as one:
            one.send(b"")
            assert one.receive() is None


@attack("it sends descriptors with everything, as many as the kernel takes")
def _(daemon: ServedDaemon) -> None:
    with ExitStack() as stack:
        files = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
        for fd in files:
            stack.callback(os.close, fd)
        for count in (1, 2, 4, 5, 50, 200):
            for op in Op:
                with RawClient(daemon.path) as one:
                    one.send(packet(op, host=b"203.0.113.99", port=80, timeout=50), files[:count])
                    one.drain(0.02)


@attack("its descriptors are no pairs: files, pipes, internet and listening sockets, the daemon's own")
def _(daemon: ServedDaemon) -> None:
    with ExitStack() as stack:
        read, write = os.pipe()
        stack.callback(os.close, read)
        stack.callback(os.close, write)
        inet = stack.enter_context(socket.socket())
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        control = stack.enter_context(RawClient(daemon.path))
        wanted = (Op.ATTACH, Op.LISTEN)
        for fd in (read, write, inet.fileno(), listening.fileno(), datagrams.fileno(), control.sock.fileno()):
            for op in wanted:
                with RawClient(daemon.path) as one:
                    tail = value(Tag.COOKIE, b"no-such1")
                    reply = one.ask(packet(op, host=HOLE.encode(), port=80, tail=tail), [fd])
                    assert reply is not None
                    assert reply.errno
                    assert op is not Op.ATTACH or reply.errno in (errno.EINVAL, errno.ENETDOWN)


@attack("it guesses the cookies of others, to steer their sockets")
def _(daemon: ServedDaemon) -> None:
    tunnel = attach(daemon.path)
    with tunnel.create_connection((V4, 7), 5) as victim, RawClient(daemon.path) as one:
        cookie = victim.getsockopt(socket.SOL_SOCKET, 57, 8)  # SO_COOKIE
        mine, theirs = socket.socketpair()
        with mine, theirs:
            # The same cookie with a pair of its own would put that in the victim's place.
            reply = one.ask(
                packet(Op.ATTACH, 5, b"203.0.113.99", value(Tag.COOKIE, cookie), port=80), [theirs.fileno()]
            )
            assert reply is not None
            assert reply.errno == errno.EEXIST
        for number in range(300):
            guess = (int.from_bytes(cookie, "little") + number + 1).to_bytes(8, "little")
            reply = one.ask(packet(Op.ATTACH, number, b"203.0.113.99", value(Tag.COOKIE, guess), port=80))
            assert reply is not None
            assert reply.errno == errno.ENETDOWN
            option = value(Tag.OPTION, struct.pack("!iii", 1, 13, 1)) + value(Tag.COOKIE, guess)
            reply = one.ask(packet(Op.SETOPT, number, tail=option))
            assert reply is not None
            assert reply.errno == errno.EBADF
        victim.settimeout(5)
        victim.sendall(b"still mine")
        assert victim.recv(100) == b"still mine"


@attack("it asks ten thousand times")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        for number in range(10_000):
            reply = one.ask(packet(Op.STATUS, number))
            assert reply is not None
            assert reply.ident == number


@attack("it asks ten thousand times and reads no answer")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        one.sock.setblocking(False)
        sent = 0
        until = time.monotonic() + 5
        while sent < 10_000 and time.monotonic() < until:
            try:
                one.sock.send(packet(Op.STATUS, sent))
                sent += 1
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                break  # hung up on, rightly
        honest(daemon)


@attack("it asks and goes, five hundred times")
def _(daemon: ServedDaemon) -> None:
    for number in range(500):
        op = (Op.CONNECT, Op.RESOLVE, Op.LISTEN, Op.STATUS, Op.WATCH)[number % 5]
        with RawClient(daemon.path) as one:
            host = b"" if op is Op.LISTEN else b"198.51.100.77" if number % 2 else b"name.invalid"
            one.send(
                packet(
                    op,
                    number,
                    host,
                    port=4000 + number if op is Op.LISTEN else 80,
                    flags=int(op is Op.STATUS),
                )
            )


@attack("it dies with its sockets in the middle of everything")
def _(daemon: ServedDaemon) -> None:
    for _ in range(20):
        pid = os.fork()
        if not pid:
            try:
                one = RawClient(daemon.path)
                for number in range(30):
                    one.send(packet(Op.CONNECT, number, V4.encode(), port=(7, 13, 19)[number % 3]))
                one.receive()
                os.kill(os.getpid(), 9)
            finally:
                os._exit(1)
        os.waitpid(pid, 0)


@attack("its fields have values that there are not")
def _(daemon: ServedDaemon) -> None:
    wrong = [
        packet(0), packet(9), packet(255), packet(family=5), packet(type=3), packet(type=255),
        b"SMX2" + packet()[4:], b"{}" + bytes(18), b'{"op": "connect", "host": ["x"]}', packet(length=900),
        packet(tail=b"\x02"), packet(tail=b"\x02\xff"), packet(tail=value(Tag.COOKIE, b"short")),
        packet(tail=value(Tag.JUNK, b"12345")), packet(tail=value(Tag.LOCAL_PORT, b"")),
        packet(tail=value(Tag.OPTION, b"1234567")), packet(tail=value(Tag.ISOLATE, b"\xff\xfe")),
        packet(host=b"\xff\xfe"), packet(host="ä".encode()),
    ]  # fmt: skip
    for octets in wrong:
        with RawClient(daemon.path) as one:
            reply = one.ask(octets)
            assert reply is not None
            assert reply.errno == errno.EBADMSG, octets
            assert one.receive() is None


@attack("its requests are right but for a few octets, three thousand of them")
def _(daemon: ServedDaemon) -> None:
    hosts = (
        b"",
        b"203.0.113.99",
        b"name.invalid",
        b"::1",
        b"10.0.0.1%x",
        b"1.2.3",
        b"%",
        b"[::1]",
        V4.encode(),
    )
    one = RawClient(daemon.path)
    for number in range(3000):
        tails = [
            value(Tag.COOKIE, RNG.randbytes(8)), value(Tag.LOCAL_PORT, RNG.randbytes(2)), value(77, b"unknown"),
            value(Tag.OPTION, struct.pack("!ii", RNG.choice((0, 1, 6, 41, -1)), RNG.randrange(-2, 80)) + RNG.randbytes(
                RNG.choice((0, 1, 4, 5, 8, 100)))),
            value(Tag.BACKLOG, RNG.randbytes(2)),
        ]  # fmt: skip
        octets = bytearray(
            packet(
                RNG.choice(list(Op)), number, RNG.choice(hosts), b"".join(RNG.sample(tails, RNG.randrange(4))),
                port=RNG.choice((0, 1, 7, 53, 80, 65535)), timeout=RNG.choice((1, 50)), family=RNG.choice((0, 4, 6)),
                type=RNG.choice((0, 1, 2)), flags=RNG.choice((0, 1, 255)),
            )
        )  # fmt: skip
        if number % 3 == 0:
            octets[RNG.randrange(4, len(octets))] = RNG.randrange(256)
        pair: tuple[socket.socket, ...] = ()
        if RNG.random() < 0.3:
            pair = socket.socketpair(socket.AF_UNIX, RNG.choice((socket.SOCK_STREAM, socket.SOCK_SEQPACKET)))
        if not one.send(bytes(octets), [pair[1].fileno()] if pair else []):
            one.close()
            one = RawClient(daemon.path)
        for end in pair:
            end.close()
        if number % 50 == 0:
            one.drain(0.01)
            one.close()
            one = RawClient(daemon.path)
    one.close()


@attack("its names are huge, empty, or no names")
def _(daemon: ServedDaemon) -> None:
    names = [
        b"x" * 1000, b"x" * 64 + b".test", b"..", b".", b"a..b", b"\0", b"a\0b", b" ", b"-", b"a" * 63 + b"." * 900,
        b"xn--" + b"9" * 60, b"\\", b"%00", b"999.999.999.999", b"1.2.3.4.5.6.7.8", b"0x7f.1", b"a b", b"\r\n", b"a." * 126,
    ]  # fmt: skip
    for number, name in enumerate(names):
        for op in (Op.RESOLVE, Op.CONNECT, Op.ATTACH, Op.LISTEN):
            with RawClient(daemon.path) as one:
                reply = one.ask(packet(op, number, name, port=80, timeout=200), timeout=8.0)
                assert reply is not None, (op, name)
                assert reply.errno, (op, name)
        with RawClient(daemon.path) as one:
            reply = one.ask(
                packet(Op.RESOLVE, number, name, flags=int(RequestFlag.REVERSE), timeout=200), timeout=8.0
            )
            assert reply is not None
            assert reply.errno


@attack("it wants to reach this machine through the daemon")
def _(daemon: ServedDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for host in (
            b"127.0.0.1",
            b"127.8.8.8",
            b"::1",
            b"0.0.0.0",
            b"::",
            b"::ffff:127.0.0.1",
            b"224.0.0.1",
            b"ff02::1",
        ):
            for op in (Op.CONNECT, Op.ATTACH):
                for kind, what in ((1, socket.SOCK_STREAM), (2, socket.SOCK_SEQPACKET)):
                    ends = socket.socketpair(socket.AF_UNIX, what)
                    with ends[0], ends[1], RawClient(daemon.path) as one:
                        tail = value(Tag.COOKIE, RNG.randbytes(8))
                        fds = [ends[1].fileno()] if op is Op.ATTACH else []
                        reply = one.ask(packet(op, 1, host, tail, port=port, type=kind), fds)
                        assert reply is not None
                        assert reply.errno == errno.EACCES, (host, op, kind)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@attack("it watches the state five thousand times at once")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        refused = 0
        for number in range(5000):
            reply = one.ask(packet(Op.WATCH, number))
            assert reply is not None
            refused += reply.errno == errno.EBUSY
        assert refused == 5000 - 64


@attack("it uses one id for everything")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        for _ in range(50):
            one.send(packet(Op.CONNECT, 7, HOLE.encode(), port=80, timeout=1000))
        replies = one.drain(0.3)
        assert sum(reply.errno == errno.EALREADY for reply in replies) == 49


@attack("it cancels what it never asked")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        for number in range(2000):
            assert one.send(packet(Op.CANCEL, number))
        reply = one.ask(packet(Op.STATUS, 1))
        assert reply is not None
        assert reply.errno == 0


@attack("it asks for more at once than it may")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        for number in range(200):
            one.send(packet(Op.CONNECT, number, HOLE.encode(), port=80, timeout=2000))
        replies = one.drain(0.3)
        assert sum(reply.errno == errno.EBUSY for reply in replies) == 200 - 64


@attack("it asks for a thousand tunnels")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        for number in range(1000):
            reply = one.ask(packet(Op.STATUS, number, tail=value(Tag.ISOLATE, b"key%d" % number)))
            assert reply is not None
            assert reply.errno in (errno.EOPNOTSUPP, errno.ENOBUFS)


@attack("it says that there are four gigabytes of filling to be read away")
def _(daemon: ServedDaemon) -> None:
    for junk in (0xFFFFFFFF, 5 << 20):
        ends = socket.socketpair()
        with ends[0], ends[1], RawClient(daemon.path) as one:
            tail = value(Tag.COOKIE, RNG.randbytes(8)) + value(Tag.JUNK, struct.pack("!I", junk))
            reply = one.ask(packet(Op.ATTACH, 1, V4.encode(), tail, port=7), [ends[1].fileno()])
            assert reply is not None
            assert reply.errno == errno.EINVAL


@attack("it opens more sockets than it may")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        refused = 0
        for number in range(1200):
            reply = one.ask(packet(Op.CONNECT, number, type=2))
            assert reply is not None
            refused += reply.errno == errno.EMFILE
            for fd in one.received:
                os.close(fd)
            one.received.clear()
        # Those it closed are gone: it is not starved by its own past.
        assert refused == 0


@attack("it listens on every port")
def _(daemon: ServedDaemon) -> None:
    with RawClient(daemon.path) as one:
        for number in range(1, 500):
            reply = one.ask(packet(Op.LISTEN, number, port=20_000 + number % 250))
            assert reply is not None
            assert reply.errno in (0, errno.EADDRINUSE, errno.EMFILE)


@attack("it asks for a thousand names and goes each time")
def _(daemon: ServedDaemon) -> None:
    for number in range(1000):
        with RawClient(daemon.path) as one:
            one.send(packet(Op.RESOLVE, number, b"n%d.invalid" % number, timeout=3000))
    began = time.monotonic()
    with RawClient(daemon.path) as one:
        reply = one.ask(packet(Op.RESOLVE, 1, b"late.invalid", timeout=500), timeout=15.0)
        assert reply is not None
        assert reply.errno
    assert time.monotonic() - began < 10.0


@pytest.mark.parametrize("function", ATTACKS)
def test_daemon_serves_others_and_keeps_nothing(daemon: ServedDaemon, function: Attack) -> None:
    honest(daemon)
    complaints = len(daemon.complaints())
    settled(daemon, 10_000)
    descriptors, memory = daemon.descriptors, daemon.memory
    function(daemon)
    assert daemon.process.poll() is None
    honest(daemon)
    settled(daemon, descriptors)
    assert daemon.memory - memory < 48 << 20
    assert daemon.complaints()[complaints:] == ""


def test_more_sockets_than_the_limit_are_refused(tmp_path: Path) -> None:
    small = ServedDaemon(tmp_path / "daemon.sock", limit=50)
    try:
        with RawClient(small.path) as one:
            errors = []
            for number in range(100):
                reply = one.ask(packet(Op.CONNECT, number, type=2))
                assert reply is not None
                errors.append(reply.errno)
        assert errors == [0] * 50 + [errno.EMFILE] * 50
        honest(small)
    finally:
        small.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="python: only root can become another user")
def test_other_user_is_not_served(daemon: ServedDaemon) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setuid(65534)
            try:
                RawClient(daemon.path)
                os.write(write, b"connected")
            except OSError:
                os.write(write, b"refused")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with open(read, "rb") as told:
        assert told.read() == b"refused"
