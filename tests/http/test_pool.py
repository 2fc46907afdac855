"""fetch() over the mixnet: the same behaviour with real round trips, and the pool among threads."""

from __future__ import annotations

import hashlib
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest

import smolmix_sync
from smolmix_sync.errors import SmolmixError
from smolmix_sync.http import BodyTruncated, RedirectError, close_idle, create_ssl_context, fetch
from smolmix_sync.http.pool import pool_of
from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_fetch_over_tls_with_redirects_and_a_body(net: LocalNet, tunnel: Tunnel) -> None:
    context = create_ssl_context(net.ca_path)
    answer = fetch("https://www.localnet/redirect/5", tunnel=tunnel, timeout=30, ssl_context=context)
    assert answer.status == 200
    assert len(answer.history) == 5
    assert "GET / https" in answer.text()
    with pytest.raises(RedirectError):
        fetch("https://www.localnet/redirect/6", tunnel=tunnel, timeout=30, ssl_context=context)
    blob = hashlib.shake_256(b"upload").digest(40_000)
    pieces = (blob[at : at + 7000] for at in range(0, len(blob), 7000))
    answer = fetch(
        "https://www.localnet/upload", "POST", body=pieces, tunnel=tunnel, timeout=30, ssl_context=context
    )
    assert answer.json() == {"length": 40_000, "sha256": hashlib.sha256(blob).hexdigest()}
    with pytest.raises(ssl.SSLCertVerificationError):
        fetch("https://expired.localnet/", tunnel=tunnel, timeout=30, ssl_context=context)


def test_streams_and_bodies_cut_off(tunnel: Tunnel) -> None:
    with fetch("http://www.localnet/bytes/60000", stream=True, tunnel=tunnel, timeout=30) as answer:
        digest = hashlib.sha256()
        for piece in answer.iter(4096):
            digest.update(piece)
    assert digest.hexdigest() == answer.headers["x-sha256"]
    with pytest.raises(BodyTruncated):
        fetch("http://www.localnet/cut/5000/1000", tunnel=tunnel, timeout=30)
    assert fetch("http://www.localnet/gzip", tunnel=tunnel, timeout=30).text() == "compressed\n" * 100


def test_failures_are_those_of_sockets(tunnel: Tunnel) -> None:
    with pytest.raises(ConnectionRefusedError):
        fetch("http://closed.localnet/", tunnel=tunnel, timeout=30)
    with pytest.raises(smolmix_sync.dns.NameResolutionError):
        fetch("http://no-such-host.localnet/", tunnel=tunnel, timeout=30)
    with pytest.raises(TimeoutError):
        fetch("http://silent.localnet/", tunnel=tunnel, timeout=1)
    with pytest.raises(TimeoutError):
        fetch("http://www.localnet/delay/20", tunnel=tunnel, timeout=1)


def test_threads_share_a_few_connections(tunnel: Tunnel) -> None:
    def get(number: int) -> int:
        return len(fetch(f"http://www.localnet/bytes/{1000 + number}", tunnel=tunnel, timeout=60).body)

    close_idle(tunnel)
    with ThreadPoolExecutor(12) as workers:
        assert list(workers.map(get, range(24))) == [1000 + number for number in range(24)]
    assert pool_of(tunnel).idle <= 6


def test_default_tunnel_aliases_and_a_tunnel_that_ended(net: LocalNet) -> None:
    assert smolmix_sync.mix_fetch is smolmix_sync.fetch
    assert smolmix_sync.mix_websocket is smolmix_sync.websocket
    tunnel = smolmix_sync.connect(**net.client_settings())
    try:
        assert smolmix_sync.fetch("http://www.localnet/", timeout=30).ok
        ws = smolmix_sync.websocket("ws://www.localnet/ws", timeout=30)
        ws.send("default")
        assert ws.recv() == "default"
        ws.close()
    finally:
        smolmix_sync.disconnect()
    with pytest.raises(SmolmixError):
        fetch("http://www.localnet/", tunnel=tunnel, timeout=5)
