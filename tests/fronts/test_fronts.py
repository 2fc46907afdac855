"""SOCKS5, HTTP proxy and forwarded ports with real clients over the mixnet."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import smolmix_sync
from smolmix_sync.fronts import HttpProxy, SocksServer, forward
from smolmix_sync.fronts.socks5_udp import pack_address, unpack_datagram
from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel

pytestmark = [pytest.mark.interop, pytest.mark.slow]
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def socks(tunnel: Tunnel) -> Iterator[SocksServer]:
    with SocksServer(tunnel=tunnel) as front:
        yield front


@pytest.fixture(scope="module")
def http(tunnel: Tunnel) -> Iterator[HttpProxy]:
    with HttpProxy(tunnel=tunnel) as front:
        yield front


@pytest.fixture(params=["socks", "http"])
def way(request: pytest.FixtureRequest, socks: SocksServer, http: HttpProxy) -> list[str]:
    if request.param == "socks":
        return ["--socks5-hostname", f"127.0.0.1:{socks.port}"]
    return ["--proxy", f"http://127.0.0.1:{http.port}"]


def curl(net: LocalNet, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-sS", "-q", "--max-time", "40", "--cacert", str(net.ca_path), *words]
    return subprocess.run(
        command, capture_output=True, timeout=60, check=False, env={"PATH": "/usr/bin:/bin"}
    )


@needs_curl
def test_curl_gets_and_posts_by_either_proxy(net: LocalNet, way: list[str], tmp_path: Path) -> None:
    done = curl(net, *way, "http://www.localnet/bytes/5000", "https://www.localnet/bytes/5000")
    assert (done.returncode, len(done.stdout)) == (0, 10_000), done.stderr
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(60_000))
    done = curl(net, *way, "-T", str(blob), "http://www.localnet/upload")
    assert b'"length":60000' in done.stdout
    seen = curl(net, *way, "http://www.localnet/headers").stdout
    assert b"curl/" in seen
    for trace in (b"roxy", b"Via", b"Forwarded", b"127.0.0.1"):
        assert trace not in seen


@needs_curl
def test_a_body_that_is_cut_looks_cut(net: LocalNet, way: list[str]) -> None:
    done = curl(net, *way, "--http1.0", "http://www.localnet/cut/5000/1000")
    assert done.returncode in (18, 56)
    assert len(done.stdout) == 1000


@pytest.mark.parametrize(
    ("destination", "reply", "status"),
    [
        ("closed.localnet:80", 5, b"502"),
        ("unreachable.localnet:80", 4, b"502"),
        ("policy.localnet:99", 2, b"403"),
        ("no-such-host.localnet:80", 4, b"502"),
        ("localhost:22", 2, b"403"),
        ("127.0.0.1:22", 2, b"403"),
        ("silent.localnet:80", 6, b"504"),
    ],
)
def test_failures_have_their_codes(tunnel: Tunnel, destination: str, reply: int, status: bytes) -> None:
    limit = 1.5 if destination.startswith("silent") else 20
    host, _, port = destination.partition(":")
    with (
        SocksServer(tunnel=tunnel, connect_timeout=limit) as front,
        contextlib.closing(greeted(front)) as client,
    ):
        client.sendall(b"\5\1\0\3" + bytes((len(host),)) + host.encode() + struct.pack("!H", int(port)))
        assert client.recv(10)[:2] == bytes((5, reply))
        assert client.recv(1) == b""
    with (
        HttpProxy(tunnel=tunnel, connect_timeout=limit) as front,
        contextlib.closing(connected(front)) as client,
    ):
        client.sendall(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode())
        assert client.recv(4096).split()[1] == status


def connected(front: SocksServer | HttpProxy) -> socket.socket:
    return socket.create_connection((front.address, front.port), 30)


def greeted(front: SocksServer) -> socket.socket:
    client = connected(front)
    client.sendall(b"\5\1\0")
    assert client.recv(2) == b"\5\0"
    return client


def test_half_close_and_reset_through_socks(socks: SocksServer) -> None:
    with contextlib.closing(greeted(socks)) as client:
        client.sendall(b"\5\1\0\3\x0decho.localnet\0\7")
        assert client.recv(10)[:2] == b"\5\0"
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(100):
            received += data
        assert received == b"last words"
    with contextlib.closing(greeted(socks)) as client:
        client.sendall(b"\5\1\0\3\x0ereset.localnet\0\7")
        with pytest.raises(ConnectionResetError):
            assert client.recv(10)[:2] == b"\5\0"
            client.sendall(b"x")
            client.recv(1)
            client.recv(1)


def test_socks_refuses_what_it_does_not_do(socks: SocksServer) -> None:
    for greeting, answer in ((b"\5\1\1", b"\5\xff"), (b"\4\1\0\x50\1\1\1\1\0", b"")):
        with contextlib.closing(connected(socks)) as client:
            client.sendall(greeting)
            try:
                assert client.recv(2) == answer
            except ConnectionResetError:
                assert answer == b""
    for request, reply in ((b"\5\2\0\1\1\1\1\1\0\x50", 7), (b"\5\1\0\x09", 8)):
        with contextlib.closing(greeted(socks)) as client:
            client.sendall(request)
            assert client.recv(10)[:2] == bytes((5, reply))


def log_in(front: SocksServer, user: bytes, password: bytes) -> bytes:
    with contextlib.closing(connected(front)) as client:
        client.sendall(b"\5\2\0\2")
        assert client.recv(2) == b"\5\2"
        client.sendall(b"\1" + bytes((len(user),)) + user + bytes((len(password),)) + password)
        return client.recv(2)


def test_users_and_passwords(tunnel: Tunnel, socks: SocksServer) -> None:
    assert log_in(socks, b"smolmix", b"") == b"\1\0"
    assert log_in(socks, b"somebody", b"x") == b"\1\0"
    with SocksServer(tunnel=tunnel, password="secret", username="me") as front:
        assert log_in(front, b"me", b"secret") == b"\1\0"
        assert log_in(front, b"me", b"wrong") == b"\1\1"
        with contextlib.closing(connected(front)) as client:
            client.sendall(b"\5\1\0")
            assert client.recv(2) == b"\5\xff"


def test_a_user_name_has_an_identity_of_its_own(tunnel: Tunnel, socks: SocksServer) -> None:
    before = tunnel.isolated_count
    name = b"echo.localnet"
    for _ in range(2):  # the second finds the first's
        with contextlib.closing(connected(socks)) as client:
            client.settimeout(30)
            client.sendall(b"\5\1\2")
            assert client.recv(2) == b"\5\2"
            client.sendall(b"\1\5alice\0")
            assert client.recv(2) == b"\1\0"
            client.sendall(b"\5\1\0\3" + bytes((len(name),)) + name + (7).to_bytes(2, "big"))
            assert client.recv(10)[:2] == b"\5\0"
            client.sendall(b"as alice")
            assert client.recv(20) == b"as alice"
        assert tunnel.isolated_count == before + 1
    assert tunnel.isolate("alice").nym_address != tunnel.nym_address


def test_only_loopback_without_a_password(tunnel: Tunnel) -> None:
    for kind in (SocksServer, HttpProxy):
        with pytest.raises(ValueError, match="password"):
            kind("0.0.0.0", tunnel=tunnel)
        kind("0.0.0.0", tunnel=tunnel, password="secret").close()


@needs_curl
def test_http_proxy_with_a_password(net: LocalNet, tunnel: Tunnel) -> None:
    with HttpProxy(tunnel=tunnel, password="secret") as front:
        proxy = ["--proxy", f"http://127.0.0.1:{front.port}"]
        code = ["-o", "/dev/null", "-w", "%{http_code}"]
        assert curl(net, *proxy, *code, "http://www.localnet/").stdout == b"407"
        user = ["--proxy-user", "smolmix:secret"]
        assert curl(net, *proxy, *user, *code, "http://www.localnet/").stdout == b"200"
        assert b"roxy" not in curl(net, *proxy, *user, "http://www.localnet/headers").stdout


def test_a_proxy_is_not_a_web_server(http: HttpProxy) -> None:
    for request in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"nonsense\r\n\r\n"):
        with contextlib.closing(connected(http)) as client:
            client.sendall(request)
            assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
    with contextlib.closing(connected(http)) as client:
        client.sendall(b"GET https://www.localnet/ HTTP/1.1\r\nHost: www.localnet\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 501 ")


def test_udp_associate_with_names_and_addresses(socks: SocksServer) -> None:
    with (
        contextlib.closing(greeted(socks)) as control,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        control.sendall(b"\5\3\0\1" + bytes(6))
        reply = control.recv(10)
        assert reply[:2] == b"\5\0"
        relay_at = ("127.0.0.1", struct.unpack("!H", reply[8:])[0])
        udp.settimeout(10)
        udp.sendto(b"\0\0\0\3\x0decho.localnet\0\7by name", relay_at)
        found = unpack_datagram(udp.recv(2048))
        assert found is not None
        assert found[1:] == (7, b"by name")
        udp.sendto(b"\0\0\0" + pack_address(found[0], 7) + b"by address", relay_at)
        assert unpack_datagram(udp.recv(2048)) == (found[0], 7, b"by address")
        udp.settimeout(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.bind(("127.0.0.1", 0))
            here.settimeout(1)
            for datagram in (
                b"\0\0\1" + pack_address(found[0], 7) + b"a fragment",
                b"\0\0\0" + pack_address(*here.getsockname()) + b"to this machine",
                b"\0\0",
            ):
                udp.sendto(datagram, relay_at)
            with pytest.raises(TimeoutError):
                here.recv(10)
            with pytest.raises(TimeoutError):
                udp.recv(2048)
        control.close()


def test_forward_leads_there_and_resets_where_nobody_is(tunnel: Tunnel) -> None:
    with smolmix_sync.forward("www.localnet", 80, tunnel=tunnel) as front:
        assert front.address == "127.0.0.1"
        with socket.create_connection((front.address, front.port), 30) as client:
            client.sendall(b"GET /bytes/20000 HTTP/1.0\r\n\r\n")
            size = 0
            while data := client.recv(65536):
                size += len(data)
            assert size > 20_000
    with pytest.raises(OSError):
        socket.create_connection((front.address, front.port), 5)
    with forward("closed.localnet", 80, tunnel=tunnel) as front:
        with socket.create_connection((front.address, front.port), 30) as client:
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_close_cuts_what_is_open(tunnel: Tunnel) -> None:
    front = forward("echo.localnet", 7, tunnel=tunnel)
    with socket.create_connection((front.address, front.port), 30) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        threading.Thread(target=front.close, daemon=True).start()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    front.close()
    assert "closed" in repr(front)
