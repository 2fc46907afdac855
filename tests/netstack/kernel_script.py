"""Our stack against the kernel's TCP over a TUN device; run inside a network namespace by test_kernel.py.

The kernel is 10.0.0.1 and fd00::1, we are 10.0.0.2 and fd00::2. Loss,
duplication and jitter are injected in this process, in both directions.
Prints one JSON line per case: its name and an empty string or what went wrong.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.netsim import seeded_urandom  # noqa: E402

from smolmix_sync.netstack import Conn, Stack, StackConfig, State, TcpSettings  # noqa: E402

KERNEL, KERNEL6, OURS, OURS6 = "10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"


def open_tun() -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH", b"tun0", 0x1001))
    for command in (
        "ip link set lo up",
        "ip addr add 10.0.0.1/24 dev tun0",
        "ip link set tun0 mtu 1500 up",
        "ip -6 addr add fd00::1/64 dev tun0 nodad",
    ):
        subprocess.run(command.split(), check=True)
    return fd


class Driver:
    """One stack on the TUN device in real time."""

    def __init__(
        self,
        fd: int,
        config: StackConfig | None = None,
        *,
        loss: float = 0.0,
        dup: float = 0.0,
        jitter: float = 0.0,
    ) -> None:
        self.fd = fd
        self.stack = Stack(
            OURS,
            OURS6,
            config=config or StackConfig(rto_min=0.3),
            urandom=seeded_urandom(int(time.time() * 1000)),
        )
        self.loss, self.dup, self.jitter = loss, dup, jitter
        self.rng = random.Random(7)
        self.queue: list[tuple[float, int, bool, bytes]] = []
        self.count = 0
        self.start = time.monotonic()
        try:
            while True:
                os.read(fd, 65536)
        except BlockingIOError:
            pass

    def now(self) -> float:
        return time.monotonic() - self.start + 1000.0

    def put(self, out: bool, packet: bytes) -> None:
        for _ in range(2 if self.rng.random() < self.dup else 1):
            if self.rng.random() >= self.loss:
                delay = self.rng.expovariate(1 / self.jitter) if self.jitter else 0.0
                self.count += 1
                heapq.heappush(self.queue, (self.now() + delay, self.count, out, packet))

    def deliver(self, everything: bool = False) -> None:
        while self.queue and (everything or self.queue[0][0] <= self.now()):
            _, _, out, packet = heapq.heappop(self.queue)
            if out:
                os.write(self.fd, packet)
            else:
                self.stack.receive_data(packet, self.now())

    def run(
        self, until: Callable[[], bool], limit: float = 20.0, step: Callable[[], None] | None = None
    ) -> None:
        end = self.now() + limit
        while not until():
            if self.now() > end:
                raise AssertionError("time limit")
            if step is not None:
                step()
            self.stack.handle_deadline(self.now())
            for packet in self.stack.data_to_send(self.now()):
                self.put(True, packet)
            self.deliver()
            if select.select([self.fd], [], [], 0.002)[0]:
                try:
                    for _ in range(64):
                        self.put(False, os.read(self.fd, 65536))
                except BlockingIOError:
                    pass
        for packet in self.stack.data_to_send(self.now()):
            self.put(True, packet)
        self.deliver(everything=True)


def serve(port: int, handler: Callable[[socket.socket], None], v6: bool = False) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((KERNEL6 if v6 else KERNEL, port))
    listener.listen(128)

    def loop() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=guarded, args=(conn,), daemon=True).start()

    def guarded(conn: socket.socket) -> None:
        try:
            handler(conn)
        except OSError:
            pass
        finally:
            conn.close()

    threading.Thread(target=loop, daemon=True).start()
    return listener


def echo(conn: socket.socket) -> None:
    while data := conn.recv(65536):
        conn.sendall(data)


PORT = 20_000


def next_port() -> int:
    global PORT
    PORT += 1
    return PORT


def echo_case(
    fd: int, config: StackConfig | None = None, *, v6: bool = False, size: int = 300_000, **link: float
) -> Conn:
    driver = Driver(fd, config, **link)
    port = next_port()
    listener = serve(port, echo, v6)
    data = random.Random(3).randbytes(size)
    conn = driver.stack.connect(KERNEL6 if v6 else KERNEL, port, driver.now())
    sent, got = 0, bytearray()

    def step() -> None:
        nonlocal sent
        if conn.open and not conn.snd.fin_queued:
            sent += conn.send(data[sent : sent + 65536])
            if sent == size:
                conn.shutdown_write()
        got.extend(conn.recv(1 << 20))

    driver.run(lambda: conn.eof() or bool(conn.error), 60.0, step)
    assert conn.error == 0, errno.errorcode[conn.error]
    assert bytes(got) == data, f"{len(got)} of {size} octets"
    listener.close()
    conn.close()
    return conn


def config(**options: object) -> StackConfig:
    return StackConfig(rto_min=0.3, **options)  # type: ignore[arg-type]


BAD_LINK = {"loss": 0.05, "dup": 0.05, "jitter": 0.02}


def case_bulk_options_agree(fd: int) -> None:
    info = echo_case(fd).info()
    assert info["options"] == "ts sack wscale"


def case_refused(fd: int) -> None:
    driver = Driver(fd)
    conn = driver.stack.connect(KERNEL, 1, driver.now())
    driver.run(lambda: bool(conn.error), 5.0)
    assert conn.error == errno.ECONNREFUSED


def case_unreachable(fd: int) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    driver = Driver(fd)
    conn = driver.stack.connect("203.0.113.9", 80, driver.now())
    driver.run(lambda: bool(conn.error), 5.0)
    assert conn.error == errno.ENETUNREACH, conn.error


def passive(fd: int, v6: bool, **link: float) -> None:
    driver = Driver(fd, **link)
    listener = driver.stack.listen(None, 8080)
    results: list[bytes] = []
    data = random.Random(4).randbytes(100_000)

    def client() -> None:
        with socket.create_connection((OURS6 if v6 else OURS, 8080), 30) as conn:
            conn.sendall(data)
            conn.shutdown(socket.SHUT_WR)
            got = b""
            while part := conn.recv(65536):
                got += part
            results.append(got)

    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    state: dict[str, Conn] = {}
    back = bytearray()

    def step() -> None:
        if "conn" not in state:
            conn = listener.accept()
            if conn is None:
                return
            state["conn"] = conn
        conn = state["conn"]
        back.extend(conn.recv(1 << 20))
        if back and conn.writable():
            size = conn.send(bytes(back))
            del back[:size]
        if conn.eof() and not back and not conn.close_called:
            conn.close()

    driver.run(lambda: bool(results), 40.0, step)
    assert results[0] == data
    driver.run(lambda: not driver.stack.connections or state["conn"].state is State.TIME_WAIT, 10.0)


def case_passive(fd: int) -> None:
    passive(fd, False)


def case_passive_v6_bad_link(fd: int) -> None:
    passive(fd, True, **BAD_LINK)


def case_kernel_resets(fd: int) -> None:
    driver = Driver(fd)
    port = next_port()

    def reset(conn: socket.socket) -> None:
        conn.sendall(b"bye")
        time.sleep(0.2)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    serve(port, reset)
    conn = driver.stack.connect(KERNEL, port, driver.now())
    driver.run(lambda: bool(conn.error), 5.0)
    assert conn.error == errno.ECONNRESET
    assert conn.recv(10) == b"bye"


def case_we_reset(fd: int) -> None:
    driver = Driver(fd)
    port = next_port()
    seen: list[int] = []

    def wait(conn: socket.socket) -> None:
        try:
            conn.recv(1)
        except OSError as error:
            seen.append(error.errno or 0)

    serve(port, wait)
    conn = driver.stack.connect(KERNEL, port, driver.now())
    driver.run(lambda: conn.open, 5.0)
    conn.abort()
    driver.run(lambda: bool(seen), 5.0)
    assert seen == [errno.ECONNRESET]


def case_half_close(fd: int) -> None:
    driver = Driver(fd)
    port = next_port()

    def late(conn: socket.socket) -> None:
        got = b""
        while part := conn.recv(1000):
            got += part
        time.sleep(0.1)
        conn.sendall(got * 1000)

    serve(port, late)
    conn = driver.stack.connect(KERNEL, port, driver.now())
    conn.send(b"0123456789")
    conn.shutdown_write()
    got = bytearray()
    driver.run(conn.eof, 10.0, lambda: got.extend(conn.recv(65536)))
    assert bytes(got) == b"0123456789" * 1000


def case_zero_window_of_the_kernel(fd: int) -> None:
    driver = Driver(fd)
    port = next_port()
    total: list[int] = []

    def slow(conn: socket.socket) -> None:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        time.sleep(2.0)
        size = 0
        while part := conn.recv(65536):
            size += len(part)
        total.append(size)

    serve(port, slow)
    conn = driver.stack.connect(KERNEL, port, driver.now())
    data = bytes(1_500_000)
    sent = 0

    def step() -> None:
        nonlocal sent
        if conn.open and not conn.snd.fin_queued:
            sent += conn.send(data[sent : sent + 100_000])
            if sent == len(data):
                conn.shutdown_write()

    driver.run(lambda: bool(total), 30.0, step)
    assert total == [len(data)]


def case_zero_window_of_ours(fd: int) -> None:
    settings = TcpSettings(rcvbuf=8192, rcvbuf_max=8192)
    driver = Driver(fd, config(tcp=settings))
    port = next_port()
    serve(port, lambda conn: conn.sendall(bytes(200_000)))
    conn = driver.stack.connect(KERNEL, port, driver.now())
    wait = driver.now() + 1.5
    driver.run(lambda: driver.now() > wait, 5.0)
    assert conn.readable() == 8192
    got = 0

    def step() -> None:
        nonlocal got
        got += len(conn.recv(3000))

    driver.run(conn.eof, 30.0, step)
    assert got == 200_000


def case_blind_injection(fd: int) -> None:
    # A forged RST, SYN and ACK inside the window must change nothing.
    driver = Driver(fd)
    port = next_port()
    serve(port, echo)
    conn = driver.stack.connect(KERNEL, port, driver.now())
    driver.run(lambda: conn.open, 5.0)
    from smolmix_sync.netstack.segment import ACK, RST, SYN, SegmentWriter

    forge = SegmentWriter(b"\x0a\0\0\x01", port, b"\x0a\0\0\x02", conn.local[1])
    base = conn.rcv.irs + 1
    for flags in (RST, SYN, SYN | ACK, ACK):
        driver.stack.receive_data(
            forge.plain((base + 500) & 0xFFFFFFFF, 12345, flags, 100, b""), driver.now()
        )
    conn.send(b"still here")
    driver.run(lambda: conn.readable() == 10, 5.0)
    assert conn.recv(20) == b"still here"


def case_udp_both_families(fd: int) -> None:
    driver = Driver(fd)
    ours = driver.stack.udp(None, 5353)
    for family, kernel, us in ((socket.AF_INET, KERNEL, OURS), (socket.AF_INET6, KERNEL6, OURS6)):
        with socket.socket(family, socket.SOCK_DGRAM) as peer:
            peer.bind((kernel, 0))
            peer.settimeout(2)
            for size in (0, 1, 1400, 5000, 60_000):
                payload = os.urandom(size)
                peer.sendto(payload, (us, 5353))
                driver.run(lambda: ours.readable() > 0, 5.0)
                item = ours.recv()
                assert item is not None
                assert item[0] == payload
                ours.sendto(payload, *item[1])
                driver.run(lambda: True)
                driver.run(lambda: bool(select.select([peer], [], [], 0)[0]), 5.0)
                assert peer.recv(65536) == payload


def case_udp_port_unreachable(fd: int) -> None:
    driver = Driver(fd)
    ours = driver.stack.udp()
    ours.connect(KERNEL, 9)
    ours.send(b"x")
    driver.run(lambda: bool(ours.error), 5.0)
    assert ours.take_error() == errno.ECONNREFUSED


def case_ping_both_ways(fd: int) -> None:
    driver = Driver(fd)
    ping = driver.stack.ping()
    for seq, addr in enumerate((KERNEL, KERNEL6)):
        ping.send(addr, seq, b"payload")
        driver.run(lambda: ping.readable() > 0, 5.0)
        reply = ping.recv()
        assert reply is not None
        assert (reply.seq, reply.payload) == (seq, b"payload")
    for arguments in (["ping", "-c1", "-W3", OURS], ["ping", "-6", "-c1", "-W3", OURS6]):
        try:
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            return
        driver.run(lambda: process.poll() is not None, 6.0)  # noqa: B023
        assert process.returncode == 0


def case_mss(fd: int) -> None:
    driver = Driver(fd)
    port = next_port()
    found: list[int] = []

    def handler(conn: socket.socket) -> None:
        found.append(conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))

    serve(port, handler)
    conn = driver.stack.connect(KERNEL, port, driver.now())
    driver.run(lambda: bool(found), 5.0)
    assert found == [1380 - 12]
    assert conn.mss == 1460 - 12


def case_connects_at_20_percent_loss(fd: int) -> None:
    driver = Driver(fd, loss=0.2)
    port = next_port()
    serve(port, echo)
    conns = [driver.stack.connect(KERNEL, port, driver.now()) for _ in range(100)]
    driver.run(lambda: all(conn.open or conn.error for conn in conns), 40.0)
    assert not any(conn.error for conn in conns)


def case_fetch_on_a_busy_mixnet_like_link(fd: int) -> None:
    conn = echo_case(fd, StackConfig(), size=200_000, loss=0.01, jitter=0.05)
    assert conn.info()["retransmissions"] > 0


CASES: dict[str, Callable[[int], object]] = {
    name.removeprefix("case_"): function
    for name, function in list(globals().items())
    if name.startswith("case_")
}
OPTION_SETS = {
    "all": {},
    "no_timestamps": {"timestamps": False},
    "no_sack": {"sack": False},
    "no_scale": {"window_scale": False},
    "bare": {"timestamps": False, "sack": False, "window_scale": False},
    "small_buffers": {"tcp": TcpSettings(rcvbuf=4096, rcvbuf_max=4096, sndbuf=4096)},
}
for _name, _options in OPTION_SETS.items():
    for _family in ("v4", "v6"):
        for _link in ("clean", "bad"):
            _size = 300_000 if _link == "clean" else 40_000

            def _case(
                fd: int,
                options: dict[str, object] = _options,  # type: ignore[assignment]
                family: str = _family,
                link: str = _link,
                size: int = _size,
            ) -> None:
                echo_case(
                    fd, config(**options), v6=family == "v6", size=size, **(BAD_LINK if link == "bad" else {})
                )

            CASES[f"echo_{_name}_{_family}_{_link}"] = _case


def main() -> None:
    fd = open_tun()
    socket.setdefaulttimeout(30)
    wanted = sys.argv[1:] or list(CASES)
    for name in wanted:
        try:
            CASES[name](fd)
            problem = ""
        except Exception:
            problem = traceback.format_exc(limit=-3)
        print(json.dumps([name, problem]), flush=True)


if __name__ == "__main__":
    main()
