"""Fuzz the TCP input path: two stacks, and between them whatever the fuzzer makes of their packets.

    pip install atheris
    python fuzz/fuzz_tcp.py -max_total_time=60 [corpus directory]

The input is a program. Each step takes an operation of an application, lets
time pass, or carries the oldest packet of one direction: as it is, dropped,
repeated, or with octets changed and the checksums made right again, so that a
change reaches the state machine and not the checksum test. Steps come from
every state, handshake and closing included, because connections are short.

Without atheris the module runs random programs for a few seconds instead
(``python fuzz/fuzz_tcp.py --random [seconds]``) and otherwise says so and ends.
A find becomes an example in tests/netstack/test_simulation.py.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

try:
    atheris: Any = importlib.import_module("atheris")
except ImportError:
    atheris = None

from smolmix_sync.netstack import Conn, Listener, Stack, StackConfig, State, TcpSettings  # noqa: E402
from smolmix_sync.netstack.checksum import internet_checksum, transport_checksum  # noqa: E402

A, B, A6, B6 = "10.0.0.2", "10.0.0.1", "fd00::2", "fd00::1"
_MAX_QUEUED = 64


def repair(packet: bytearray) -> bytes:
    """Make length and checksums right, so that a change reaches what lies behind them."""
    if len(packet) >= 40 and packet[0] == 0x45:
        packet[2:4] = len(packet).to_bytes(2, "big")
        packet[10:12] = b"\0\0"
        packet[10:12] = internet_checksum(bytes(packet[:20])).to_bytes(2, "big")
        head, source, destination, protocol = 20, packet[12:16], packet[16:20], packet[9]
    elif len(packet) >= 60 and packet[0] >> 4 == 6:
        packet[4:6] = (len(packet) - 40).to_bytes(2, "big")
        head, source, destination, protocol = 40, packet[8:24], packet[24:40], packet[6]
    else:
        return bytes(packet)
    if protocol == 6:
        packet[head + 16 : head + 18] = b"\0\0"
        value = transport_checksum(bytes(source), bytes(destination), 6, bytes(packet[head:]))
        packet[head + 16 : head + 18] = value.to_bytes(2, "big")
    return bytes(packet)


class Program:
    """Interprets octets as a program over two stacks."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.now = 0.0
        flags = self.octet()
        config = StackConfig(
            tcp=TcpSettings(sndbuf=20_000, rcvbuf=20_000, rcvbuf_max=40_000, nodelay=bool(flags & 1)),
            timestamps=bool(flags & 2),
            sack=bool(flags & 4),
            window_scale=bool(flags & 8),
            congestion=("mix", "cubic", "none", "mix")[flags >> 4 & 3],
            reo_adaptive=bool(flags & 64),
            max_connections=32,
        )
        self.v6 = bool(flags & 128)

        def urandom(size: int) -> bytes:
            return bytes(size)

        self.stacks = (
            Stack(A, A6, config=config, urandom=urandom),
            Stack(B, B6, config=config, urandom=urandom),
        )
        self.listener: Listener = self.stacks[1].listen(None, 80, 8)
        self.conns: tuple[list[Conn], list[Conn]] = ([], [])
        self.queues: tuple[list[bytes], list[bytes]] = ([], [])
        self.old: list[bytes] = []

    def octet(self) -> int:
        """Take the next octet, 0 after the end."""
        self.position += 1
        return self.data[self.position - 1] if self.position <= len(self.data) else 0

    def run(self) -> None:
        """Run to the end and check what must always hold."""
        while self.position < len(self.data):
            self.step(self.octet())
            self.pump()
        for stack in self.stacks:
            assert len(stack.connections) <= 32
            stack.shutdown(5)
            assert stack.next_deadline() is None

    def step(self, code: int) -> None:
        """Do one thing."""
        side = code & 1
        operation = code >> 1 & 15
        conns = self.conns[side]
        if operation == 0:
            if not side and len(self.conns[0]) < 16:
                self.conns[0].append(self.stacks[0].connect(B6 if self.v6 else B, 80, self.now))
            elif (accepted := self.listener.accept()) is not None:
                self.conns[1].append(accepted)
        elif operation <= 5 and conns:
            self.application(conns[self.octet() % len(conns)], operation)
        elif operation == 6:
            self.now += (0.001, 0.05, 0.5, 1.0, 3.0, 11.0, 61.0, 130.0)[code >> 5]
        elif operation == 7 and self.old:
            self.stacks[side].receive_data(self.old[self.octet() % len(self.old)], self.now)
        elif self.queues[side]:
            self.carry(side, operation)

    def application(self, conn: Conn, operation: int) -> None:
        """Let the application do something with *conn*."""
        try:
            if operation == 1:
                conn.send(bytes(self.octet() * 40))
            elif operation == 2:
                conn.recv(self.octet() * 100)
            elif operation == 3:
                conn.shutdown_write()
            elif operation == 4:
                conn.close()
            else:
                conn.abort()
        except BrokenPipeError:
            pass

    def carry(self, side: int, operation: int) -> None:
        """Bring the oldest packet of one direction to its end, or not, or not as it was."""
        queue = self.queues[side]
        packet = queue.pop(self.octet() % len(queue) if operation == 15 else 0)
        if operation == 8:
            return
        if operation >= 11 and operation != 15:
            changed = bytearray(packet)
            for _ in range(operation - 10):
                changed[20 + self.octet() % max(1, len(changed) - 20)] = self.octet()
            if operation == 14:
                del changed[21 + self.octet() :]
            packet = repair(changed)
        self.old.append(packet)
        del self.old[:-_MAX_QUEUED]
        target = self.stacks[1 - side]
        target.receive_data(packet, self.now)
        if operation == 9:
            target.receive_data(packet, self.now)

    def pump(self) -> None:
        """Run timers, collect output, and check the scoreboards."""
        for side, stack in enumerate(self.stacks):
            stack.handle_deadline(self.now)
            self.queues[side].extend(stack.data_to_send(self.now))
            del self.queues[side][:-_MAX_QUEUED]
            due = stack.next_deadline()
            assert due is None or due > self.now, "still due"
            for _ in stack.events():
                pass
            for conn in self.conns[side]:
                check(conn)


def check(conn: Conn) -> None:
    """Check that the incremental sums of the sender and the edges of the receiver hold."""
    if conn.state is State.CLOSED:
        return
    snd, rcv = conn.snd, conn.rcv
    assert snd.pipe == sum(sent.end - sent.start for sent in snd.order)
    assert 0 <= snd.snd_una <= snd.snd_nxt
    assert snd.lost_octets >= 0 <= snd.sacked_octets
    assert len(snd.buffer) <= snd.limit
    assert rcv.held_octets() + len(rcv.buffer) <= rcv.max_limit + 65536


def one_input(data: bytes) -> None:
    """Run one program."""
    Program(data).run()


def random_programs(seconds: float) -> None:
    """Run random programs for some seconds: less thorough, but needs nothing."""
    until = time.monotonic() + seconds
    count = 0
    rng = random.Random(1)
    while time.monotonic() < until:
        data = rng.randbytes(rng.randrange(20, 600))
        try:
            one_input(data)
        except Exception:
            print("failing input:", data.hex())
            raise
        count += 1
    print(f"{count} random programs, no failure")


def main() -> None:
    """Fuzz with atheris, or say that it is missing."""
    if "--random" in sys.argv:
        index = sys.argv.index("--random")
        random_programs(float(sys.argv[index + 1]) if len(sys.argv) > index + 1 else 10.0)
    elif atheris is None:
        print("skipped: atheris is not installed (--random runs without it)")
    else:
        atheris.instrument_all()
        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
