"""The entry gateway dies in mid-transfer: a short absence is survived, a long one is reported."""

from __future__ import annotations

import errno
import threading
import time

import pytest
from support.transfers import body, download

from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel, TunnelState

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def wait_for(condition: object, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def test_transfer_survives_a_gateway_that_is_back_within_twenty_seconds() -> None:
    with LocalNet(set_default=False) as net, Tunnel(**net.client_settings()) as tunnel:
        result: dict[str, object] = {}
        expected = download(tunnel, 400_000)

        def work() -> None:
            try:
                result["data"] = download(tunnel, 400_000, timeout=None)  # type: ignore[arg-type]
            except OSError as error:
                result["error"] = error

        received = tunnel.stats().ip_packets_received
        worker = threading.Thread(target=work)
        worker.start()
        assert wait_for(lambda: tunnel.stats().ip_packets_received > received + 60, 20)
        entry = net.node("entry")
        entry.kill()
        assert wait_for(lambda: tunnel.state is TunnelState.RECONNECTING, 10)
        time.sleep(8)
        entry.start()
        assert wait_for(lambda: tunnel.state is TunnelState.READY, 20), tunnel.reason
        worker.join(60)
        assert not worker.is_alive()
        assert result == {"data": expected}
        assert tunnel.stats().reconnects == 1


@pytest.mark.timeout(240)
def test_gateway_gone_for_good_fails_every_call_within_a_minute() -> None:
    with LocalNet(set_default=False) as net, Tunnel(**net.client_settings()) as tunnel:
        errors: dict[str, OSError] = {}
        blocked = tunnel.create_connection(("echo.localnet", 7), timeout=20)
        blocked.settimeout(None)
        limited = tunnel.create_connection(("echo.localnet", 7), timeout=20)
        limited.settimeout(3)
        writer = tunnel.create_connection(("echo.localnet", 9), timeout=20)
        writer.settimeout(None)

        def attempt(name: str, call: object, *args: object) -> None:
            try:
                while call(*args):  # type: ignore[operator]
                    pass
            except OSError as error:
                errors[name] = error

        threads = [
            threading.Thread(target=attempt, args=("recv", blocked.recv, 1)),
            threading.Thread(target=attempt, args=("recv with timeout", limited.recv, 1)),
            threading.Thread(target=attempt, args=("sendall", lambda: writer.send(body(100_000)))),
        ]
        for thread in threads:
            thread.start()
        time.sleep(1)
        net.node("entry").kill()
        began = time.monotonic()
        for thread in threads:
            thread.join(60)
        assert time.monotonic() - began < 60
        assert sorted(errors) == ["recv", "recv with timeout", "sendall"]
        assert type(errors["recv with timeout"]) is TimeoutError
        assert errors["recv"].errno in (errno.ENETDOWN, errno.ECONNRESET)
        assert errors["sendall"].errno in (errno.ENETDOWN, errno.ECONNRESET, errno.EPIPE)
        began = time.monotonic()
        with pytest.raises(OSError) as caught:
            tunnel.create_connection(("198.51.100.10", 7), timeout=20)
        assert caught.value.errno == errno.ENETDOWN
        assert time.monotonic() - began < 5
        for sock in (blocked, limited, writer):
            sock.close()
