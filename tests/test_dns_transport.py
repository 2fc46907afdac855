"""Lookups through the embedded network: over HTTPS when so configured, and again when the line loses them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from smolmix_sync import Tunnel
from smolmix_sync.dns import NameResolutionError
from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


def test_names_over_https_cross_no_port_53(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), dns_transport="https") as tunnel:
        before = net.stats()["services"]
        assert tunnel.resolve("www.localnet", socket.AF_INET) == ["198.51.100.11"]
        assert len(tunnel.resolve("many.localnet", socket.AF_INET)) == 60
        with pytest.raises(NameResolutionError):
            tunnel.resolve("no-such.localnet", socket.AF_INET)
        after = net.stats()["services"]
        assert after["http_requests"] - before.get("http_requests", 0) == 3
        with tunnel.tcp_connect("echo.localnet:7", timeout=20) as sock:
            sock.sendall(b"by name")
            assert sock.recv(7) == b"by name"


def test_connection_is_kept_for_the_next_name_and_made_again_when_it_is_gone(net: LocalNet) -> None:
    settings = {**net.client_settings(), "dns_transport": "https"}
    with Tunnel(**settings) as tunnel:
        tunnel.device.ipv6 = False

        def connections() -> int:
            return sum(thing.__class__.__name__ == "Conn" for thing in tunnel.device._owners)

        assert tunnel.resolve("www.localnet", socket.AF_INET)
        assert connections() == 1
        [first] = [thing for thing in tunnel.device._owners if thing.__class__.__name__ == "Conn"]
        for name in ("echo.localnet", "mail.localnet"):
            assert tunnel.resolve(name, socket.AF_INET)
            assert list(tunnel.device._owners) == [first]
        net.node("services").restart()
        assert tunnel.resolve("dns.localnet", socket.AF_INET, 30.0) == ["198.51.100.53"]
        assert first not in tunnel.device._owners


def test_server_whose_certificate_does_not_fit_is_passed_over(net: LocalNet) -> None:
    # 198.51.100.43 shows a certificate of somebody else; the fallback is good.
    settings = {**net.client_settings(), "dns_transport": "https", "primary_dns": "198.51.100.43"}
    with Tunnel(**settings) as tunnel:
        assert tunnel.resolve("www.localnet", socket.AF_INET) == ["198.51.100.11"]
    with (
        Tunnel(**{**settings, "fallback_dns": "198.51.100.43"}, wait=False) as tunnel,
        pytest.raises(OSError),
    ):
        tunnel.resolve("www.localnet", socket.AF_INET, 5.0)


def test_international_name_is_asked_for_in_its_ascii_form(net: LocalNet) -> None:
    with Tunnel(**net.client_settings()) as tunnel:
        with pytest.raises(NameResolutionError) as caught:
            tunnel.resolve("bücher.localnet")
        assert caught.value.errno == socket.EAI_NONAME
