"""Sockets of one process, tunnel in another: what a program sees, and what is left behind."""

from __future__ import annotations

import array
import errno
import os
import select
import shutil
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.loopnet import V4

from smolmix_sync.daemon import AttachedTunnel, attach
from smolmix_sync.errors import TunnelNotReady
from smolmix_sync.reactor import flow as flows
from smolmix_sync.socket import MixSocket

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def tunnel(served: Any) -> AttachedTunnel:
    return attach(served.path)


def flows_of(tunnel: AttachedTunnel) -> int:
    return int(tunnel.status()["flows"])


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.02)
    return False


# --- streams ---


def test_stream_carries_data_both_ways_and_knows_its_names(tunnel: AttachedTunnel) -> None:
    with tunnel.create_connection((V4, 7), 5) as sock:
        assert sock.getpeername() == (V4, 7)
        assert sock.getsockname()[0] == V4
        data = os.urandom(300_000)
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        received = bytearray()
        while chunk := sock.recv(65536):
            received += chunk
        sender.join(5)
        assert received == data


def test_fin_of_the_peer_is_the_end_of_the_stream(tunnel: AttachedTunnel) -> None:
    with tunnel.create_connection((V4, 13), 5) as sock:
        assert sock.makefile("rb").read() == b"hello\r\n"
        assert sock.recv(1) == b""


def test_reset_of_the_peer_raises_once_and_is_never_an_end_of_file(tunnel: AttachedTunnel) -> None:
    for _ in range(100):
        with tunnel.create_connection((V4, 9), 5) as sock:
            sock.sendall(b"x")
            assert sock.recv(100) == b"the first half"
            sock.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                sock.recv(100)
            assert sock.recv(100) == b""


def test_tls_stream_cut_by_a_reset_is_not_an_end_of_file(served: Any, tunnel: AttachedTunnel) -> None:
    context = ssl.create_default_context(cafile=f"{served.path}.pem")

    def wrapped() -> ssl.SSLSocket:
        sock = tunnel.create_connection((V4, 443), 5)
        return context.wrap_socket(sock, server_hostname=V4)

    with wrapped() as sock:
        sock.sendall(b"reset")
        assert sock.recv(100) == b"the first half"
        sock.sendall(b"go on")
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    for word in (b"end", b"close"):  # with and without close_notify: FIN is the peer's word
        with wrapped() as sock:
            sock.sendall(word)
            assert sock.makefile("rb").read() == b"the first half"


def test_refusal_is_refusal(tunnel: AttachedTunnel) -> None:
    with pytest.raises(ConnectionRefusedError):
        tunnel.create_connection((V4, 1), 5)


def test_socket_connects_again_after_a_refusal(tunnel: AttachedTunnel) -> None:
    with MixSocket(tunnel=tunnel) as sock:
        sock.settimeout(5)
        assert sock.connect_ex((V4, 1)) == errno.ECONNREFUSED
        sock.connect((V4, 7))
        sock.sendall(b"again")
        assert sock.recv(100) == b"again"


def test_nonblocking_connect_tells_by_readiness(tunnel: AttachedTunnel) -> None:
    with MixSocket(tunnel=tunnel) as sock:
        sock.setblocking(False)
        assert sock.connect_ex((V4, 7)) == errno.EINPROGRESS
        assert sock.connect_ex((V4, 7)) == errno.EALREADY
        assert select.select([], [sock], [], 5)[1]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        # As the kernel: the call after a connect that did not block is told that it succeeded.
        assert [sock.connect_ex((V4, 7)) for _ in range(2)] == [0, errno.EISCONN]
    with MixSocket(tunnel=tunnel) as sock:
        sock.setblocking(False)
        assert sock.connect_ex((V4, 1)) == errno.EINPROGRESS
        assert select.select([], [sock], [], 5)[1]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_options_set_before_and_after_the_connect_reach_the_stack(tunnel: AttachedTunnel) -> None:
    """SO_LINGER (1, 0) makes the close a reset, which the listener's side sees."""
    with tunnel.listen(0) as listener:
        listener.settimeout(5)
        for early in (True, False):
            sock = MixSocket(tunnel=tunnel)
            sock.settimeout(5)
            if early:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.connect((V4, listener.getsockname()[1]))
            if not early:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted, _ = listener.accept()
            accepted.settimeout(5)
            sock.close()
            with pytest.raises(ConnectionResetError):
                accepted.recv(1)
            accepted.close()


def test_listener_hands_out_connections(tunnel: AttachedTunnel) -> None:
    with tunnel.listen(0) as listener:
        listener.settimeout(5)
        with tunnel.create_connection((V4, listener.getsockname()[1]), 5) as sock:
            accepted, address = listener.accept()
            assert address == sock.getsockname()
            accepted.sendall(b"from the server")
            assert sock.recv(100) == b"from the server"
            accepted.close()
            assert sock.recv(100) == b""


def test_datagrams_go_and_come(tunnel: AttachedTunnel) -> None:
    with tunnel.udp_socket() as sock:
        sock.settimeout(5)
        sock.sendto(b"one", (V4, 7))
        assert sock.recvfrom(100) == (b"one", (V4, 7))
        sock.connect((V4, 7))
        assert sock.getsockname()[0] == V4
        sock.send(b"two")
        assert sock.recv(100) == b"two"


BINDER = """
import sys
from smolmix_sync.daemon import attach
with attach(sys.argv[1]).udp_socket() as sock:
    for port in (5000, 5001):
        try:
            sock.bind(("0.0.0.0", port))
        except OSError as problem:
            print(problem.errno)
        else:
            print(sock.getsockname()[1])
"""


def test_ports_of_closed_datagram_sockets_are_free_again(served: Any, tunnel: AttachedTunnel) -> None:
    ports = set()
    for _ in range(20):
        with tunnel.udp_socket() as sock:
            sock.settimeout(10)
            sock.sendto(b"x", (V4, 7))
            sock.recv(10)
            ports.add(sock.getsockname()[1])
    assert len(ports) > 1
    assert not any(flow.stream is False for holders in flows.ports._holders.values() for flow in holders)
    with tunnel.udp_socket() as first:
        first.bind(("0.0.0.0", 5000))
        with tunnel.udp_socket() as second:
            other = subprocess.run(  # a client of its own: this process knows its own ports
                [sys.executable, "-c", BINDER, str(served.path)],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert other.stdout.split() == [str(errno.EADDRINUSE), "5001"], other.stderr
            with pytest.raises(OSError) as caught:
                second.bind(("0.0.0.0", 5000))
        assert caught.value.errno == errno.EADDRINUSE


def test_name_that_gets_no_answer_is_a_temporary_failure(tunnel: AttachedTunnel) -> None:
    began = time.monotonic()
    with pytest.raises(socket.gaierror) as caught:
        tunnel.resolve("nobody.answers.example", timeout=0.3)
    assert caught.value.errno == socket.EAI_AGAIN
    assert time.monotonic() - began < 5
    assert tunnel.resolve("localhost") == ["127.0.0.1"] or "127.0.0.1" in tunnel.resolve("localhost")


def test_inherited_socket_works_in_a_forked_child(tunnel: AttachedTunnel) -> None:
    with tunnel.create_connection((V4, 7), 5) as sock:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                sock.sendall(b"child")
                with tunnel.create_connection((V4, 13), 5) as own:
                    code = 0 if sock.recv(10) == b"child" and own.recv(5) == b"hello" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        sock.sendall(b"parent")
        assert sock.recv(10) == b"parent"


def test_environment_names_the_daemon_for_a_program_that_knows_nothing(served: Any) -> None:
    script = (
        "import smolmix_sync; smolmix_sync.patch_all()\n"
        f"import socket; s = socket.create_connection(({V4!r}, 13), 5)\n"
        "print(s.makefile().read().strip())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "SMOLMIX_DAEMON": str(served.path)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout == "hello\n", done.stderr


def test_tunnel_given_to_the_patch_stays_when_the_module_of_tunnels_is_loaded_later(served: Any) -> None:
    script = (
        "import smolmix_sync, sys; smolmix_sync.patch_all(tunnel=smolmix_sync.attach(sys.argv[1]))\n"
        f"import socket, smolmix_sync.tunnel; s = socket.create_connection(({V4!r}, 13), 5)\n"
        "print(s.makefile().read().strip(), smolmix_sync.get_tunnel())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(served.path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "hello None\n", done.stderr


def test_duplicate_is_known_after_the_original_is_closed(tunnel: AttachedTunnel) -> None:
    sock = tunnel.create_connection((V4, 7), 5)
    copy = sock.dup()
    sock.close()
    others = [tunnel.create_connection((V4, 7), 5) for _ in range(3)]  # one of them gets the number
    assert copy.getpeername() == (V4, 7)
    copy.sendall(b"copy")
    assert copy.recv(10) == b"copy"
    for one in (copy, *others):
        one.close()


GREEN = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent, gevent.pool, socket, sys, time
import smolmix_sync; smolmix_sync.patch_all()
ticks = []
def tick():
    while True:
        ticks.append(time.monotonic()); gevent.sleep(0.01)
gevent.spawn(tick)
def fetch(number):
    with socket.create_connection((sys.argv[1], 7), 30) as sock:
        sock.sendall(b"%d" % number)
        return int(sock.recv(100))
assert gevent.pool.Pool(200).map(fetch, range(200)) == list(range(200))
print(max(b - a for a, b in zip(ticks, ticks[1:])))
"""


def test_two_hundred_greenlets_share_the_daemon_and_none_holds_the_hub(served: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREEN, V4], env={**os.environ, "SMOLMIX_DAEMON": str(served.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # A busy machine may hold anybody for a while; two hundred connects of 10 ms one after the other take longer.
    assert float(done.stdout) < 2.0, done.stderr


ASYNC = """
import asyncio, sys
import smolmix_sync; smolmix_sync.patch_all()
async def fetch(number):
    reader, writer = await asyncio.open_connection(sys.argv[1], 7)
    writer.write(b"%d" % number)
    answer = int(await reader.read(100))
    writer.close()
    await writer.wait_closed()
    return answer
async def main():
    assert await asyncio.gather(*map(fetch, range(50))) == list(range(50))
    try:
        await asyncio.open_connection(sys.argv[1], 1)
    except ConnectionRefusedError:
        print("refused")
asyncio.run(main())
"""


def test_asyncio_streams_run_over_the_daemon(served: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASYNC, V4], env={**os.environ, "SMOLMIX_DAEMON": str(served.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "refused\n", done.stderr


# --- what is left behind ---


def test_client_that_is_killed_leaves_nothing(served: Any, tunnel: AttachedTunnel) -> None:
    before = flows_of(tunnel)
    script = (
        "import sys, time; from smolmix_sync.daemon import attach; t = attach(sys.argv[1])\n"
        f"held = [t.create_connection(({V4!r}, 19), 5) for _ in range(20)]; print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(served.path)], stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "held\n"
        assert flows_of(tunnel) == before + 20
        client.send_signal(signal.SIGKILL)
        client.wait(5)
    assert until(lambda: flows_of(tunnel) == before)


def test_five_hundred_sockets_at_once_and_no_descriptor_left_after(
    served: Any, tunnel: AttachedTunnel
) -> None:
    with tunnel.create_connection((V4, 7), 5):
        pass
    assert until(lambda: flows_of(tunnel) == 0)
    here, there = len(os.listdir("/proc/self/fd")), served.descriptors()
    held = [tunnel.create_connection((V4, 7), 20) for _ in range(500)]
    for sock in held:
        sock.sendall(b"x")
    assert all(sock.recv(1) == b"x" for sock in held)
    for sock in held:
        sock.close()
    assert until(lambda: flows_of(tunnel) == 0)
    assert len(os.listdir("/proc/self/fd")) <= here
    assert until(lambda: served.descriptors() <= there + 2)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_thousand_connections_leave_no_descriptor(served: Any, tunnel: AttachedTunnel) -> None:
    with tunnel.create_connection((V4, 7), 5):
        pass
    assert until(lambda: flows_of(tunnel) == 0)
    here, there = len(os.listdir("/proc/self/fd")), served.descriptors()

    def connect() -> None:
        for _ in range(1250):
            with tunnel.create_connection((V4, 7), 60) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"

    threads = [threading.Thread(target=connect) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert until(lambda: flows_of(tunnel) == 0)
    assert len(os.listdir("/proc/self/fd")) <= here
    assert until(lambda: served.descriptors() <= there + 2)
    assert tunnel.status()["served"] >= 10_000


def test_sockets_of_one_process_are_bounded(serve: Any) -> None:
    tunnel = attach(serve(limit=5).path)
    held = [tunnel.create_connection((V4, 7), 5) for _ in range(5)]
    with tunnel.udp_socket() as one_too_many, pytest.raises(OSError, match="too many") as caught:
        one_too_many.sendto(b"x", (V4, 7))
    assert caught.value.errno == errno.EMFILE
    held.pop().close()
    assert until(lambda: flows_of(tunnel) == 4)
    tunnel.create_connection((V4, 7), 5).close()
    for sock in held:
        sock.close()


def test_accepted_sockets_count_and_wait_until_there_is_room(serve: Any) -> None:
    tunnel = attach(serve(limit=4).path)
    with tunnel.listen(0) as listener:
        listener.settimeout(5)
        address = (V4, listener.getsockname()[1])
        outside = [tunnel.create_connection(address, 5) for _ in range(2)]  # 3 with the listener
        inside = [listener.accept()[0]]
        listener.settimeout(0.5)
        with pytest.raises(TimeoutError):  # the second waits: there may be four
            listener.accept()
        outside.pop(0).close()
        inside.pop().close()
        listener.settimeout(5)
        inside.append(listener.accept()[0])
        outside[0].sendall(b"late")
        assert inside[0].recv(10) == b"late"
        for sock in (*inside, *outside):
            sock.close()
    assert until(lambda: flows_of(tunnel) == 0)


# --- life and death of the daemon ---


def test_file_is_for_the_owner_alone(served: Any) -> None:
    assert stat.S_IMODE(os.stat(served.path).st_mode) == 0o600


def test_daemon_that_dies_raises_in_every_stream_and_comes_back(serve: Any) -> None:
    served = serve()
    tunnel = attach(served.path)
    held = [tunnel.create_connection((V4, 19), 20) for _ in range(100)]
    served.kill()
    for sock in held:
        with pytest.raises(OSError) as caught:
            while True:
                assert sock.recv(65536), "an end of file that the peer did not send"
        assert caught.value.errno in (errno.ENETDOWN, errno.ECONNRESET)
        sock.close()
    with pytest.raises(OSError) as caught:
        tunnel.create_connection((V4, 7), 5)
    assert caught.value.errno == errno.ENETDOWN
    with pytest.raises(TunnelNotReady):
        tunnel.wait_ready(0)
    served.start()  # over the file the dead one left
    with tunnel.create_connection((V4, 7), 5) as sock:
        sock.sendall(b"back")
        assert sock.recv(10) == b"back"


def test_connect_that_waits_ends_when_the_daemon_dies(serve: Any) -> None:
    served = serve(delay=30)
    tunnel = attach(served.path)
    threading.Timer(0.3, served.process.kill).start()
    began = time.monotonic()
    with pytest.raises(OSError) as caught:
        tunnel.create_connection((V4, 7), 20)
    assert caught.value.errno == errno.ENETDOWN
    assert time.monotonic() - began < 5
    served.close()


def test_tunnel_that_is_lost_raises_in_every_stream(serve: Any) -> None:
    served = serve()
    tunnel = attach(served.path)
    held = [tunnel.create_connection((V4, 7), 20) for _ in range(100)]
    served.tell("down")
    for sock in held:
        with pytest.raises(OSError) as caught:
            sock.recv(1)
        assert caught.value.errno == errno.ENETDOWN
        sock.close()


def test_second_daemon_on_the_same_path_is_refused(served: Any) -> None:
    with subprocess.Popen(
        [sys.executable, str(os.path.dirname(__file__)) + "/served_stack.py", str(served.path), "0", "1"],
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as second:  # fmt: skip
        assert second.stderr is not None
        assert "serves" in second.stderr.read()
        assert second.wait(10) == 1


def test_datagram_socket_raises_when_the_daemon_dies(serve: Any) -> None:
    served = serve()
    with attach(served.path).udp_socket() as sock:
        sock.settimeout(5)
        sock.sendto(b"x", (V4, 7))
        sock.recv(10)
        served.kill()
        with pytest.raises(OSError) as caught:
            sock.recv(10)
        assert caught.value.errno == errno.ENETDOWN


# --- other languages ---

STOCK = """
import array, socket, struct, sys
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect(sys.argv[1])
host = sys.argv[2].encode()
control.send(struct.pack("!4sBBHIIBBH", b"SMX1", 1, 0, int(sys.argv[3]), 1, 5000, 0, 1, len(host)) + host)
reply, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_SPACE(4))
magic, op, flags, errno, ident = struct.unpack_from("!4sBBHI", reply)
if errno:
    sys.exit(errno)
fd = array.array("i", ancillary[0][2])[0]
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
sock.sendall(b"from stock Python")
print(sock.recv(100).decode(), sock.recv(100) if int(sys.argv[3]) == 13 else "")
"""


def test_stock_python_gets_a_connected_descriptor(served: Any) -> None:
    def run(port: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-c", STOCK, str(served.path), V4, str(port)],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip

    assert run(7).stdout.strip() == "from stock Python"
    assert run(1).returncode == errno.ECONNREFUSED


def test_malformed_request_ends_the_connection_and_nothing_else(served: Any, tunnel: AttachedTunnel) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.settimeout(5)
        control.connect(str(served.path))
        control.send(b"GET / HTTP/1.0\r\n\r\n...")
        reply = control.recv(4096)
        assert struct.unpack_from("!H", reply, 6)[0] == errno.EBADMSG
        assert control.recv(10) == b""
    assert tunnel.status()["ready"]


def test_descriptors_passed_where_none_belong_are_closed(served: Any, tunnel: AttachedTunnel) -> None:
    before = served.descriptors()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control, open("/dev/null") as null:
        control.settimeout(5)
        control.connect(str(served.path))
        status = struct.pack("!4sBBHIIBBH", b"SMX1", 6, 0, 0, 1, 0, 0, 1, 0)
        rights = array.array("i", [null.fileno(), control.fileno()])
        control.sendmsg([status], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert control.recv(65536)[:4] == b"SMX1"
        assert until(lambda: served.descriptors() <= before + 1)


# --- the protocol page ---

PAGE = Path(__file__).resolve().parents[2] / "docs" / "daemon-protocol.rst"


def page_example(language: str) -> str:
    """Return the first example of the page in *language*."""
    _, _, rest = PAGE.read_text().partition(f".. code-block:: {language}\n\n")
    lines = []
    for line in rest.splitlines():
        if line and not line.startswith("   "):
            break
        lines.append(line[3:])
    return "\n".join(lines) + "\n"


def for_this_stack(text: str, host: str = V4, port: int = 14) -> str:
    return text.replace('www.localnet", 80', f'{host}", {port}')


def test_python_example_of_the_page_tells_a_whole_answer_from_a_cut_one(served: Any) -> None:
    def run(port: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-c", for_this_stack(page_example("python"), port=port)],
            env={**os.environ, "SMOLMIX_DAEMON": str(served.path)},
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip

    done = run(14)
    assert done.stdout == "7\n", done.stderr
    assert "refused" in run(1).stderr


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_c_example_of_the_page_compiles_and_fetches(served: Any, tmp_path: Path) -> None:
    (tmp_path / "example.c").write_text(for_this_stack(page_example("c")))
    subprocess.run(
        ["cc", "-Wall", "-Werror", "-o", "example", "example.c"], cwd=tmp_path, check=True, timeout=60
    )
    done = subprocess.run(
        [tmp_path / "example", str(served.path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.stdout == "7 octets\n"
