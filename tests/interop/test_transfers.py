"""Bulk data through the embedded network arrives byte for byte, whatever the mixes drop."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest
from support.transfers import body, download, upload

from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MEGABYTE = 1 << 20


def expected_download(net: LocalNet, size: int) -> bytes:
    """Fetch the same path from the service itself, on loopback, past the mixnet."""
    import urllib.request

    with urllib.request.urlopen(
        f"http://127.0.0.1:{net.services['http']}/bytes/{size}", timeout=20
    ) as answer:
        content: bytes = answer.read()
    assert len(content) == size
    return content


def test_a_megabyte_down_arrives_byte_for_byte_within_a_minute(net: LocalNet, tunnel: Tunnel) -> None:
    expected = expected_download(net, MEGABYTE)
    began = time.monotonic()
    assert download(tunnel, MEGABYTE) == expected
    assert time.monotonic() - began < 60


def test_a_megabyte_up_arrives_byte_for_byte_within_a_minute(tunnel: Tunnel) -> None:
    data = body(MEGABYTE)
    began = time.monotonic()
    answer = upload(tunnel, data)
    assert time.monotonic() - began < 60
    assert answer["length"] == MEGABYTE
    assert answer["sha256"] == hashlib.sha256(data).hexdigest()


def test_twenty_threads_have_their_own_connections(net: LocalNet, tunnel: Tunnel) -> None:
    expected = expected_download(net, 20_000)
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        data = body(5_000, number)
        answer = upload(tunnel, data)
        right = answer["sha256"] == hashlib.sha256(data).hexdigest()
        results[number] = right and download(tunnel, 20_000) == expected

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == dict.fromkeys(range(20), True)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("resend", [True, False], ids=["ack layer resends", "tcp alone repairs"])
def test_a_megabyte_each_way_survives_five_percent_loss(resend: bool) -> None:
    with LocalNet(drop={"mix2": 0.05}, set_default=False) as net:
        expected = expected_download(net, MEGABYTE)
        settings = {**net.client_settings(), "disable_retransmissions": not resend}
        with Tunnel(**settings) as tunnel:
            began = time.monotonic()
            assert download(tunnel, MEGABYTE, timeout=180) == expected
            assert time.monotonic() - began < 180
            began = time.monotonic()
            data = body(MEGABYTE)
            answer = upload(tunnel, data, timeout=180)
            assert time.monotonic() - began < 180
            assert answer["sha256"] == hashlib.sha256(data).hexdigest()
            assert net.stats()["mix2"]["dropped"] > 0
            stats = tunnel.stats()
            if resend:
                assert stats.retransmissions > 0
            else:
                # The link does not repair itself here: what arrived twice was TCP's doing.
                assert stats.retransmissions == 0
                assert stats.tcp_retransmissions > 0


def test_tunnel_fetches_and_talks_to_websockets(tunnel: Tunnel) -> None:
    assert len(tunnel.fetch("http://www.localnet/bytes/777").body) == 777
    socket = tunnel.websocket("ws://www.localnet/ws", timeout=20)
    socket.send("over the mixnet")
    assert socket.recv() == "over the mixnet"
    socket.close()
