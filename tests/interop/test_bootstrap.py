"""From nothing to READY when something on the way is dead, lies, or was lost: directory, clocks, keys, exits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.api_relay import ApiRelay
from support.certificates import Authority
from support.greenlets import wait_until
from support.transfers import download

from smolmix_sync.errors import GatewayError, SetupTimeout
from smolmix_sync.localnet import LocalNet
from smolmix_sync.mixnet.topology.selection import Exit
from smolmix_sync.reactor import gateway, liveness
from smolmix_sync.reactor.directory import DirectoryClient
from smolmix_sync.tunnel import Progress, Tunnel, TunnelState

pytestmark = [pytest.mark.interop, pytest.mark.slow]

NAME = "nym-api.test"


class Steps:
    """What a set-up said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, step: Progress) -> None:
        self.said.append(f"{step.stage}: {step.detail}")

    def those(self, stage: str, words: str = "") -> list[str]:
        return [said for said in self.said if said.startswith(stage) and words in said]


def echo(tunnel: Tunnel) -> None:
    with tunnel.tcp_connect("198.51.100.10:7", timeout=20) as sock:
        sock.sendall(b"echo")
        assert sock.recv(4) == b"echo"


@pytest.fixture(scope="module")
def two_exits() -> Iterator[LocalNet]:
    with LocalNet(set_default=False, exits=2) as net:
        yield net


@pytest.fixture
def first_exit_first(two_exits: LocalNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance would choose either exit."""
    chosen = DirectoryClient.exits

    def exits(directory: DirectoryClient) -> list[Exit]:
        return sorted(chosen(directory), key=lambda one: two_exits.ipr_addresses.index(str(one.recipient)))

    monkeypatch.setattr(DirectoryClient, "exits", exits)


# --- the directory ---


def test_tunnel_outlives_the_nym_api_it_started_with(net: LocalNet) -> None:
    with ApiRelay(net.nym_api) as first, ApiRelay(net.nym_api) as second:
        settings = {**net.client_settings(), "nym_api": (first.url, second.url), "topology_refresh": 1.0}
        with Tunnel(**settings) as tunnel:
            assert not second.requests
            first.behaviour = "down"
            wait_until(lambda: second.requests, 20)
            echo(tunnel)
            assert tunnel.state is TunnelState.READY


def test_tunnel_starts_from_the_cached_topology_where_nym_api_is_gone(
    net: LocalNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    authority = Authority()
    settings = {
        **net.client_settings(),
        "bootstrap_ca_file": authority.write(tmp_path / "ca.pem"),
        "bootstrap_addresses": {NAME: "127.0.0.1"},
    }
    with ApiRelay(net.nym_api, name=NAME, tls=authority.server_context(NAME, tmp_path)) as relay:
        settings["nym_api"] = (relay.url,)
        with Tunnel(**settings) as tunnel:
            echo(tunnel)
    # Nobody listens there any more.
    with Tunnel(**settings) as tunnel:
        echo(tunnel)


# --- wss ---


def test_gateway_without_wss_is_not_dialled_where_tls_is_forced(net: LocalNet) -> None:
    before = net.stats()["entry"].get("websockets", 0)
    with pytest.raises(GatewayError, match="fits the settings"):
        Tunnel(**net.client_settings(), force_tls=True)
    assert net.stats()["entry"].get("websockets", 0) == before


def test_gateway_whose_certificate_is_wrong_is_not_spoken_to_in_the_clear(tmp_path: Path) -> None:
    with LocalNet(set_default=False, hostname="gateway.localnet") as net:
        settings = {**net.client_settings(), "bootstrap_addresses": {"gateway.localnet": "127.0.0.1"}}
        with Tunnel(**settings, force_tls=True) as tunnel:
            echo(tunnel)
        before = net.stats()["entry"]["registrations"]
        settings["bootstrap_ca_file"] = Authority().write(tmp_path / "another.pem")
        with pytest.raises(GatewayError, match="certificate"):
            Tunnel(**settings, force_tls=True)
        assert net.stats()["entry"]["registrations"] == before


# --- clocks ---


def test_kept_identity_whose_clock_is_off_registers_anew_and_says_why(
    net: LocalNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**net.client_settings(), "client_id": "me", "storage_path": tmp_path}
    with Tunnel(**settings) as tunnel:
        address = tunnel.nym_address
    before = net.stats()["entry"]["registrations"]
    monkeypatch.setattr(gateway, "time", SimpleNamespace(time=lambda: time.time() - 300))
    kept = tmp_path / "me" / "identity.json"
    # The registration noted a second that is ahead of the clock we have now; that alone has us register.
    content = json.loads(kept.read_text())
    [registration] = content["gateways"].values()
    registration["last_auth"] = 0
    kept.write_text(json.dumps(content))
    steps = Steps()
    with Tunnel(**settings, on_progress=steps) as tunnel:
        assert tunnel.nym_address == address
        echo(tunnel)
    wait_until(lambda: steps.those("gateway", "clock skew"))
    assert net.stats()["entry"]["registrations"] == before + 1


def test_skew_that_nym_api_tells_is_told_at_the_set_up(net: LocalNet) -> None:
    steps = Steps()
    with ApiRelay(net.nym_api) as relay:
        relay.ahead = 600.0
        settings = {**net.client_settings(), "nym_api": (relay.url,)}
        with Tunnel(**settings, on_progress=steps):
            pass
    wait_until(lambda: steps.those("topology", "clock skew"))


def test_process_that_died_with_its_second_unsaved_can_start_again_within_it(
    net: LocalNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**net.client_settings(), "client_id": "me", "storage_path": tmp_path}
    with Tunnel(**settings):
        pass
    kept = tmp_path / "me" / "identity.json"
    unsaved = kept.read_bytes()
    second = int(time.time()) + 2
    began = time.monotonic()

    def clock() -> float:
        """Stand at half past *second* until a gateway has had time to refuse it, then go on."""
        return second + 0.5 + max(0.0, time.monotonic() - began - 1.0)

    monkeypatch.setattr(gateway, "time", SimpleNamespace(time=clock))
    with Tunnel(**settings):
        pass
    kept.write_bytes(unsaved)
    registrations = net.stats()["entry"]["registrations"]
    with Tunnel(**settings) as tunnel:
        echo(tunnel)
    assert net.stats()["entry"]["registrations"] == registrations, "it authenticated"


# --- keys ---


def test_transfer_survives_two_key_rotations() -> None:
    with LocalNet(set_default=False) as net:
        with Tunnel(**net.client_settings(), topology_refresh=1.0) as tunnel:
            expected = download(tunnel, 1_000_000)
            got: list[bytes] = []
            worker = threading.Thread(target=lambda: got.append(download(tunnel, 1_000_000)))
            worker.start()
            mix = tunnel._session.mix
            assert mix is not None
            for rotation in (2, 3):
                seen = tunnel.stats().ip_packets_received
                wait_until(lambda seen=seen: tunnel.stats().ip_packets_received > seen + 150, 60)
                assert worker.is_alive(), "the transfer was over before the keys were"
                assert net.rotate_keys() == rotation
                wait_until(
                    lambda rotation=rotation: (
                        mix.core is not None
                        and mix.core.topology is not None
                        and mix.core.topology.key_rotation_id == rotation
                    ),
                    10,
                )
            worker.join(60)
            assert got == [expected]
            assert tunnel.state is TunnelState.READY
            assert tunnel.stats().reconnects == 0


# --- exits ---


@pytest.mark.usefixtures("first_exit_first")
def test_next_exit_is_tried_where_the_first_is_dead(two_exits: LocalNet) -> None:
    two_exits.node("exit").set(silent=True)
    try:
        steps = Steps()
        with Tunnel(**two_exits.client_settings(), ipr_timeout=2.0, on_progress=steps) as tunnel:
            assert str(tunnel.exit) == two_exits.ipr_addresses[1]
            echo(tunnel)
        assert len(steps.those("exit: connecting")) == 2
    finally:
        two_exits.node("exit").set(silent=False)


def test_only_exit_there_is_gets_another_try() -> None:
    with LocalNet(set_default=False) as net:
        net.node("exit").set(silent=True)
        steps = Steps()

        def wake(step: Progress) -> None:
            steps(step)
            if len(steps.those("exit: connecting")) == 2:
                net.node("exit").set(silent=False)

        with Tunnel(**net.client_settings(), ipr_timeout=2.0, on_progress=wake) as tunnel:
            echo(tunnel)
        assert len(steps.those("exit: connecting")) == 2


@pytest.mark.usefixtures("first_exit_first")
def test_exit_that_gives_addresses_and_carries_nothing_is_never_ready(two_exits: LocalNet) -> None:
    two_exits.node("exit").set(drop_ip=1.0)
    try:
        steps = Steps()
        with Tunnel(**two_exits.client_settings(), ipr_timeout=3.0, on_progress=steps) as tunnel:
            assert str(tunnel.exit) == two_exits.ipr_addresses[1]
        assert len(steps.those("probe")) == 2, "both gave addresses"
        with pytest.raises(SetupTimeout, match="probe"):
            Tunnel(**two_exits.client_settings(), connect_timeout=4.0, ipr_address=two_exits.ipr_addresses[0])
    finally:
        two_exits.node("exit").set(drop_ip=0.0)


@pytest.mark.usefixtures("first_exit_first")
def test_next_exit_is_taken_when_the_first_dies(two_exits: LocalNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "SILENCE", 1.0)
    monkeypatch.setattr(liveness, "PROBE_INTERVAL", 1.0)
    with Tunnel(**two_exits.client_settings(), keepalive_interval=2.0, ipr_timeout=3.0) as tunnel:
        assert str(tunnel.exit) == two_exits.ipr_addresses[0]
        two_exits.node("exit").kill()
        try:
            wait_until(lambda: tunnel.state is not TunnelState.READY, 30)
            tunnel.wait_ready(40)
            assert str(tunnel.exit) == two_exits.ipr_addresses[1]
            echo(tunnel)
        finally:
            two_exits.node("exit").start()


@pytest.mark.usefixtures("first_exit_first")
def test_pinned_exit_is_the_only_one(two_exits: LocalNet) -> None:
    settings = {**two_exits.client_settings(), "ipr_address": two_exits.ipr_addresses[1]}
    with Tunnel(**settings) as tunnel:
        assert str(tunnel.exit) == two_exits.ipr_addresses[1]
    two_exits.node("exit2").set(silent=True)
    try:
        steps = Steps()
        with pytest.raises(SetupTimeout, match="exit"):
            Tunnel(**settings, connect_timeout=3.0, on_progress=steps)
        assert len(steps.those("exit: connecting")) == 1
    finally:
        two_exits.node("exit2").set(silent=False)
