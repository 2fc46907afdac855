"""httpx over a tunnel."""

from __future__ import annotations

import ssl

import pytest

httpx = pytest.importorskip("httpx")

from smolmix_sync.ext.httpx import MixTransport  # noqa: E402
from smolmix_sync.localnet import LocalNet  # noqa: E402
from smolmix_sync.tunnel import Tunnel  # noqa: E402

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def transport(net: LocalNet, tunnel: Tunnel) -> MixTransport:
    return MixTransport(tunnel, verify=ssl.create_default_context(cafile=net.ca_path))


def test_a_client_of_unmodified_httpx(net: LocalNet, tunnel: Tunnel) -> None:
    with httpx.Client(transport=transport(net, tunnel), timeout=30) as http:
        for _ in range(2):
            assert len(http.get("https://www.localnet/bytes/30000").content) == 30_000
        answer = http.get("https://www.localnet/redirect/3", follow_redirects=True)
        assert len(answer.history) == 3
        pieces = (b"x" * 1000 for _ in range(20))
        assert http.post("http://www.localnet/upload", content=pieces).json()["length"] == 20_000
        with http.stream("GET", "http://www.localnet/bytes/9000") as answer:
            assert sum(map(len, answer.iter_bytes())) == 9000
            assert answer.extensions["network_stream"].get_extra_info("server_addr")[1] == 80


@pytest.mark.parametrize(
    ("url", "kind", "timeout"),
    [
        ("http://closed.localnet/", httpx.ConnectError, 30),
        ("http://no-such-host.localnet/", httpx.ConnectError, 30),
        ("http://silent.localnet/", httpx.ConnectTimeout, 1),
        ("http://www.localnet/delay/20", httpx.ReadTimeout, 1),
        ("https://wrong.localnet/", httpx.ConnectError, 30),
        ("http://127.0.0.1:22/", httpx.ConnectError, 30),
        ("http://www.localnet/cut/5000/100", httpx.RemoteProtocolError, 30),
    ],
)
def test_errors_are_those_of_httpx(
    net: LocalNet, tunnel: Tunnel, url: str, kind: type[Exception], timeout: float
) -> None:
    with httpx.Client(transport=transport(net, tunnel), timeout=timeout) as http, pytest.raises(kind):
        http.get(url)
