"""What goes wrong behind the exit reads as it would on kernel sockets: same exception type, same errno."""

from __future__ import annotations

import errno
import socket
import ssl
import time

import pytest

from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel

pytestmark = pytest.mark.interop


def kernel_refusal() -> OSError:
    """Return what a kernel socket raises for a closed port."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(OSError) as caught, socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    return caught.value


def test_closed_port_is_refused_as_by_the_kernel(tunnel: Tunnel) -> None:
    expected = kernel_refusal()
    with pytest.raises(type(expected)) as caught:
        tunnel.create_connection(("closed.localnet", 80), timeout=20)
    assert type(caught.value) is ConnectionRefusedError
    assert caught.value.errno == expected.errno == errno.ECONNREFUSED


def test_unknown_name_is_a_gaierror(tunnel: Tunnel) -> None:
    with pytest.raises(socket.gaierror) as caught:
        tunnel.create_connection(("no-such-host.localnet", 80), timeout=20)
    assert caught.value.errno == socket.EAI_NONAME
    with pytest.raises(socket.gaierror) as again:
        tunnel.getaddrinfo("no-such-host.localnet", 80)
    assert again.value.errno == socket.EAI_NONAME


def test_unreachable_host_gives_ehostunreach(tunnel: Tunnel) -> None:
    with pytest.raises(OSError) as caught:
        tunnel.create_connection(("unreachable.localnet", 80), timeout=20)
    assert caught.value.errno == errno.EHOSTUNREACH
    assert not isinstance(caught.value, TimeoutError)


def test_silent_host_times_out_when_asked_to(tunnel: Tunnel) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        tunnel.create_connection(("silent.localnet", 80), timeout=2)
    assert 1.9 < time.monotonic() - began < 6
    assert str(caught.value) == "timed out"


def test_read_times_out_as_on_a_kernel_socket(tunnel: Tunnel) -> None:
    with tunnel.create_connection(("echo.localnet", 7), timeout=20) as sock:
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError, match="timed out"):
            sock.recv(1)


def test_reset_connection_raises_connection_reset(tunnel: Tunnel) -> None:
    with tunnel.create_connection(("reset.localnet", 7), timeout=20) as sock:
        sock.sendall(b"one octet is enough for a reset")
        with pytest.raises(ConnectionResetError) as caught:
            sock.recv(100)
    assert caught.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("host", ["wrong.localnet", "expired.localnet", "selfsigned.localnet"])
def test_wrong_certificate_fails_verification(net: LocalNet, tunnel: Tunnel, host: str) -> None:
    context = ssl.create_default_context(cafile=str(net.ca_path))
    with (
        tunnel.create_connection((host, 443), timeout=20) as sock,
        pytest.raises(ssl.SSLCertVerificationError) as caught,
    ):
        context.wrap_socket(sock, server_hostname=host)
    assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"


def test_right_certificate_passes(net: LocalNet, tunnel: Tunnel) -> None:
    context = ssl.create_default_context(cafile=str(net.ca_path))
    with (
        tunnel.create_connection(("www.localnet", 443), timeout=20) as sock,
        context.wrap_socket(sock, server_hostname="www.localnet") as tls,
    ):
        tls.sendall(b"GET / HTTP/1.0\r\nHost: www.localnet\r\n\r\n")
        assert tls.recv(12) == b"HTTP/1.1 200"
