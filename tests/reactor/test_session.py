from __future__ import annotations

import errno
import time
from collections.abc import Iterator

import pytest
from support.greenlets import wait_until

from smolmix_sync.localnet import LocalNet
from smolmix_sync.reactor import liveness
from smolmix_sync.tunnel import Progress, Tunnel, TunnelState

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "SILENCE", 1.0)
    monkeypatch.setattr(liveness, "PROBE_INTERVAL", 1.0)


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


def exit_named(net: LocalNet, tunnel: Tunnel) -> str:
    index = net.ipr_addresses.index(str(tunnel.exit))
    return "exit" if index == 0 else f"exit{index + 1}"


def echo(tunnel: Tunnel, timeout: float = 20) -> None:
    with tunnel.tcp_connect("198.51.100.10:7", timeout=timeout) as sock:
        sock.sendall(b"echo")
        assert sock.recv(4) == b"echo"


@pytest.mark.usefixtures("quick_probes")
def test_silent_exit_is_left_for_another_and_sockets_are_told() -> None:
    with LocalNet(set_default=False, exits=2) as net, Tunnel(**net.client_settings()) as tunnel:
        first = tunnel.exit
        sock = tunnel.tcp_connect("198.51.100.10:7", timeout=20)
        sock.settimeout(None)
        states: list[TunnelState] = []
        tunnel.on_state(lambda state, reason: states.append(state))
        net.node(exit_named(net, tunnel)).set(silent=True)
        sock.sendall(b"anybody?")
        with pytest.raises(OSError) as caught:
            sock.recv(10)
        assert caught.value.errno in (errno.ENETDOWN, errno.ECONNRESET)
        sock.close()
        wait_until(lambda: tunnel.state is TunnelState.READY, 40)
        assert tunnel.exit != first
        echo(tunnel)
        wait_until(lambda: states[-1:] == [TunnelState.READY])
        assert TunnelState.RECONNECTING in states


@pytest.mark.usefixtures("quick_probes")
def test_pinned_exit_is_waited_for(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), ipr_address=net.ipr_address, connect_timeout=3.0) as tunnel:
        net.node("exit").set(silent=True)
        try:
            wait_until(lambda: not tunnel.device.up, 60)
            assert tunnel.state is TunnelState.RECONNECTING
            with pytest.raises(OSError) as caught:
                tunnel.wait_ready(5, fail_fast=True)
            assert caught.value.errno in (errno.ENETDOWN, errno.ETIMEDOUT)
        finally:
            net.node("exit").set(silent=False)
        tunnel.wait_ready(40)
        assert str(tunnel.exit) == net.ipr_address
        echo(tunnel)


@pytest.mark.usefixtures("quick_probes")
def test_restarted_exit_has_forgotten_us_and_is_asked_anew(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), keepalive_interval=2.0) as tunnel:
        net.node("exit").restart()
        wait_until(lambda: tunnel.state is not TunnelState.READY, 60)
        tunnel.wait_ready(60)
        echo(tunnel)


def test_old_exit_is_spoken_to_in_version_nine() -> None:
    steps: list[str] = []

    def progress(step: Progress) -> None:
        steps.append(step.detail)

    # The directory says 1.37.0, so version 10 is tried first.
    with LocalNet(set_default=False, ipr_versions=(9,)) as net:
        with Tunnel(**net.client_settings(), ipr_timeout=8.0, on_progress=progress) as tunnel:
            echo(tunnel)
            assert any("version 9" in detail for detail in steps)
            assert tunnel.mtu == 1420
        with Tunnel(**net.client_settings(), ipr_version=9) as tunnel:
            echo(tunnel)


def test_bare_version_eight_still_works(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), ipr_version=8) as tunnel:
        echo(tunnel)


def test_idle_tunnel_is_kept_alive_at_the_exit(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), keepalive_interval=1.0) as tunnel:
        before = tunnel.stats()
        time.sleep(4.5)
        after = tunnel.stats()
        assert after.ip_packets_sent - before.ip_packets_sent >= 3
        assert after.state == "READY"


def test_gateway_that_stays_away_takes_the_sockets_with_it(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), reconnect_grace=2.0) as tunnel:
        sock = tunnel.tcp_connect("198.51.100.10:7", timeout=20)
        sock.settimeout(None)
        entry = net.node("entry")
        entry.kill()
        try:
            began = time.monotonic()
            with pytest.raises(OSError) as caught:
                sock.recv(1)
            assert caught.value.errno in (errno.ENETDOWN, errno.ECONNRESET)
            assert 1.0 < time.monotonic() - began < 6
            assert tunnel.state is TunnelState.RECONNECTING
            with pytest.raises(OSError):
                tunnel.wait_ready(10, fail_fast=True)
        finally:
            entry.start()
        sock.close()
        tunnel.wait_ready(40)
        echo(tunnel)
        assert tunnel.stats().reconnects == 1


def test_gateway_back_within_grace_keeps_the_connection(net: LocalNet) -> None:
    with Tunnel(**net.client_settings()) as tunnel:
        ips = tunnel.allocated_ips
        with tunnel.tcp_connect("198.51.100.10:7", timeout=20) as sock:
            net.node("entry").restart()
            wait_until(lambda: tunnel.stats().reconnects == 1, 30)
            tunnel.wait_ready(20)
            sock.settimeout(30)
            sock.sendall(b"still me")
            assert sock.recv(8) == b"still me"
        assert tunnel.allocated_ips == ips


def test_topology_is_refreshed_and_a_key_rotation_followed(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), topology_refresh=1.0) as tunnel:
        mix = tunnel._session.mix
        assert mix is not None
        assert mix.core is not None
        first = mix.core.topology
        wait_until(lambda: mix.core is not None and mix.core.topology is not first, 10)
        echo(tunnel)


def test_default_traffic_is_about_55_packets_a_second_whatever_is_done(net: LocalNet) -> None:
    with Tunnel(**net.client_settings()) as tunnel:
        time.sleep(1)
        before, began = tunnel.stats(), time.monotonic()
        time.sleep(4)
        idle = tunnel.stats()
        elapsed = time.monotonic() - began
        sent = idle.packets_sent + idle.cover_sent - before.packets_sent - before.cover_sent
        assert 40 < sent / elapsed < 70
        before, began = tunnel.stats(), time.monotonic()
        while time.monotonic() - began < 4:
            echo(tunnel)
        busy = tunnel.stats()
        elapsed = time.monotonic() - began
        sent = busy.packets_sent + busy.cover_sent - before.packets_sent - before.cover_sent
        assert 40 < sent / elapsed < 70


def test_no_cover_profile_is_silent_when_idle(net: LocalNet) -> None:
    with Tunnel(**net.client_settings(), profile="no-cover") as tunnel:
        time.sleep(2)
        before = tunnel.stats()
        time.sleep(2)
        after = tunnel.stats()
        assert after.cover_sent == before.cover_sent
        assert after.packets_sent - before.packets_sent < 5
        echo(tunnel)
