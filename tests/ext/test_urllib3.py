"""urllib3 over a tunnel."""

from __future__ import annotations

import pytest

urllib3 = pytest.importorskip("urllib3")

from smolmix_sync.ext.urllib3 import MixPoolManager  # noqa: E402
from smolmix_sync.localnet import LocalNet  # noqa: E402
from smolmix_sync.tunnel import Tunnel  # noqa: E402

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_requests_share_a_connection(net: LocalNet, tunnel: Tunnel) -> None:
    with MixPoolManager(tunnel=tunnel, ca_certs=str(net.ca_path)) as http:
        for _ in range(3):
            answer = http.request("GET", "https://www.localnet/bytes/3000", timeout=30.0)
            assert (answer.status, len(answer.data)) == (200, 3000)
        pool = http.connection_from_url("https://www.localnet/")
        assert pool.num_connections == 1
        assert pool.num_requests == 3
        assert (
            http.request("POST", "http://www.localnet/echo", body=b"x" * 500, timeout=30.0).data == b"x" * 500
        )


@pytest.mark.parametrize(
    ("url", "kind", "timeout"),
    [
        ("http://closed.localnet/", urllib3.exceptions.NewConnectionError, 30.0),
        ("http://no-such-host.localnet/", urllib3.exceptions.NameResolutionError, 30.0),
        ("http://silent.localnet/", urllib3.exceptions.ConnectTimeoutError, 1.0),
        ("https://expired.localnet/", urllib3.exceptions.SSLError, 30.0),
    ],
)
def test_errors_are_those_of_urllib3(
    net: LocalNet, tunnel: Tunnel, url: str, kind: type[Exception], timeout: float
) -> None:
    with MixPoolManager(tunnel=tunnel, ca_certs=str(net.ca_path)) as http, pytest.raises(kind):
        http.request("GET", url, timeout=timeout, retries=False)
