from __future__ import annotations

import errno
import threading
import time

import pytest

import smolmix_sync
from smolmix_sync.localnet import LocalNet
from smolmix_sync.reactor import provider
from smolmix_sync.tunnel import Tunnel, TunnelState

pytestmark = pytest.mark.interop


def address_seen(tunnel: Tunnel | None = None) -> str:
    with smolmix_sync.MixSocket(tunnel=tunnel) as sock:
        sock.settimeout(30)
        sock.connect(("echo.localnet", 7))
        sock.sendall(b"who am I")
        assert sock.recv(8) == b"who am I"
        return str(sock.getsockname()[0])


def test_every_key_is_somebody_else_and_the_same_key_is_the_same(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), warm_tunnels=1) as tunnel:
        one, two = tunnel.isolate("one"), tunnel.isolate("two")
        found = {address_seen(port) for port in (tunnel, one, two)}
        assert len(found) == 3
        assert len({tunnel.nym_address, one.nym_address, two.nym_address}) == 3
        assert tunnel.isolate("one") is one
        assert tunnel.isolated_count == 3  # one is warm
        until = time.monotonic() + 30
        while (warm := tunnel.isolate("three")).state is not TunnelState.READY:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert warm.nym_address not in (one.nym_address, two.nym_address)
    assert one.state is TunnelState.SHUTDOWN
    with pytest.raises(smolmix_sync.TunnelClosed):
        one.wait_ready(0)
    with pytest.raises(OSError) as closed:
        tunnel.isolate("one")
    assert closed.value.errno == errno.ENETDOWN


def test_sockets_inside_the_block_use_the_keys_tunnel_in_every_thread_its_own(net: LocalNet) -> None:
    with Tunnel(**net.client_settings()) as tunnel:
        before = provider.install(lambda: tunnel)
        try:
            seen: dict[str, set[str]] = {"a": set(), "b": set()}

            def work(key: str) -> None:
                with smolmix_sync.isolate(key):
                    seen[key].add(address_seen())
                    seen[key].add(address_seen())

            threads = [threading.Thread(target=work, args=(key,)) for key in seen]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert [len(addresses) for addresses in seen.values()] == [1, 1]
            assert len({address_seen(), *seen["a"], *seen["b"]}) == 3
        finally:
            provider.install(before)
