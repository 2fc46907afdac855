"""requests over a tunnel: its own interface, its own errors."""

from __future__ import annotations

import pickle

import pytest

requests = pytest.importorskip("requests")

from smolmix_sync.ext.requests import MixAdapter, session  # noqa: E402
from smolmix_sync.localnet import LocalNet  # noqa: E402
from smolmix_sync.tunnel import Tunnel, TunnelState  # noqa: E402

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _trust(net: LocalNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(net.ca_path))
    for name in ("http_proxy", "https_proxy", "all_proxy"):  # nobody listens there, and nobody may be asked
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


def test_a_session_of_unmodified_requests(tunnel: Tunnel) -> None:
    with session(tunnel) as http:
        assert len(http.get("https://www.localnet/bytes/30000", timeout=30).content) == 30_000
        answer = http.get("https://www.localnet/redirect/3", timeout=30)
        assert len(answer.history) == 3
        assert http.post("http://www.localnet/upload", data=b"x" * 5000, timeout=30).json()["length"] == 5000
        assert http.get("http://www.localnet/gzip", timeout=30).text.startswith("compressed")
        http.get("http://www.localnet/cookie", timeout=30)
        assert "taste=sweet" in http.get("http://www.localnet/cookie", timeout=30).text
        with http.get("http://www.localnet/bytes/20000", stream=True, timeout=30) as answer:
            assert sum(map(len, answer.iter_content(1000))) == 20_000


def test_an_adapter_in_a_session_of_the_users_own(tunnel: Tunnel) -> None:
    with requests.Session() as http:
        http.mount("http://", MixAdapter(tunnel))
        assert http.get("http://www.localnet/", timeout=30).ok
        assert http.get("http://www.localnet/", timeout=30, proxies={"http": "http://127.0.0.1:9"}).ok


@pytest.mark.parametrize(
    ("url", "kind", "timeout"),
    [
        ("http://closed.localnet/", requests.ConnectionError, 30),
        ("http://no-such-host.localnet/", requests.ConnectionError, 30),
        ("http://silent.localnet/", requests.ConnectTimeout, 1),
        ("http://www.localnet/delay/20", requests.ReadTimeout, 1),
        ("https://wrong.localnet/", requests.exceptions.SSLError, 30),
        ("http://127.0.0.1:22/", requests.ConnectionError, 30),
    ],
)
def test_errors_are_those_of_requests(
    tunnel: Tunnel, url: str, kind: type[Exception], timeout: float
) -> None:
    with session(tunnel) as http, pytest.raises(kind):
        http.get(url, timeout=timeout)


def test_an_isolated_session_is_somebody_else(tunnel: Tunnel) -> None:
    with session(tunnel, isolate=True) as http:
        assert http.tunnel is not None
        assert http.tunnel.nym_address != tunnel.nym_address
        assert http.get("http://www.localnet/", timeout=30).ok
    assert http.tunnel.state is TunnelState.SHUTDOWN


def test_a_pickled_adapter_goes_to_the_tunnel_of_its_process(tunnel: Tunnel) -> None:
    adapter = pickle.loads(pickle.dumps(MixAdapter(tunnel, pool_maxsize=3)))
    assert adapter._pool_maxsize == 3
    assert type(adapter.poolmanager).__name__ == "MixPoolManager"
