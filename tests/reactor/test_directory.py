"""Where the directory comes from: several URLs, pinned names, the cache, and what its clock says."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.api_relay import ApiRelay
from support.certificates import Authority
from support.greenlets import in_greenlet, wait_until

from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import TopologyError
from smolmix_sync.localnet import LocalNet
from smolmix_sync.mixnet.topology import Topology
from smolmix_sync.reactor import directory as directory_module
from smolmix_sync.reactor.directory import DirectoryClient
from smolmix_sync.reactor.loop import ReactorLoop

pytestmark = pytest.mark.interop

NAME = "nym-api.test"


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.fixture(scope="module")
def loop() -> Iterator[ReactorLoop]:
    reactor = ReactorLoop().start()
    yield reactor
    reactor.stop()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "smolmix_sync"


def client(*urls: str, **settings: Any) -> DirectoryClient:
    return DirectoryClient(TunnelConfig(nym_api=urls, **settings))


def refresh(loop: ReactorLoop, directory: DirectoryClient) -> Topology:
    topology: Topology = in_greenlet(loop, lambda: directory.refresh(loop.now()))
    return topology


@pytest.fixture
def named(net: LocalNet, tmp_path: Path) -> Iterator[tuple[ApiRelay, dict[str, Any]]]:
    """A nym-api by https and by name, and the settings that lead to it."""
    authority = Authority()
    ca_file = authority.write(tmp_path / "ca.pem")
    with ApiRelay(net.nym_api, name=NAME, tls=authority.server_context(NAME, tmp_path)) as relay:
        yield relay, {"bootstrap_ca_file": ca_file, "bootstrap_addresses": {NAME: "127.0.0.1"}}


# --- several URLs ---


@pytest.mark.parametrize("trouble", ["down", "nonsense"])
def test_second_url_serves_where_the_first_does_not(net: LocalNet, loop: ReactorLoop, trouble: str) -> None:
    with ApiRelay(net.nym_api) as first, ApiRelay(net.nym_api) as second:
        first.behaviour = trouble
        directory = client(first.url, second.url)
        assert refresh(loop, directory).is_routable()
        asked = len(first.requests)
        assert asked
        refresh(loop, directory)
        assert len(first.requests) == asked, "what failed is not asked first again"
        first.behaviour, second.behaviour = "relay", "nonsense"
        refresh(loop, directory)
        assert len(first.requests) > asked


def test_nonsense_from_every_url_is_told_and_the_last_topology_kept(net: LocalNet, loop: ReactorLoop) -> None:
    with ApiRelay(net.nym_api) as relay:
        directory = client(relay.url)
        good = refresh(loop, directory)
        relay.behaviour = "nonsense"
        with pytest.raises(TopologyError, match="no sense"):
            refresh(loop, directory)
        assert directory.topology is good


# --- names ---


def test_name_is_pinned_to_its_bootstrap_address(named: Any, loop: ReactorLoop, cache: Path) -> None:
    relay, settings = named
    assert refresh(loop, client(relay.url, **settings)).is_routable()
    assert {host.partition(":")[0] for host in relay.requests} == {NAME}


def test_certificate_of_a_pinned_name_is_still_checked(named: Any, loop: ReactorLoop, cache: Path) -> None:
    relay, settings = named
    url = relay.url.replace(NAME, "somebody-else.test")
    settings["bootstrap_addresses"] = {"somebody-else.test": "127.0.0.1"}
    with pytest.raises(TopologyError, match="certificate"):
        refresh(loop, client(url, **settings))
    assert not relay.requests


# --- the cache ---


def test_last_topology_is_kept_for_a_start_without_nym_api(
    named: Any, loop: ReactorLoop, cache: Path
) -> None:
    relay, settings = named
    before = refresh(loop, client(relay.url, **settings))
    [path] = cache.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    relay.behaviour = "down"
    after = refresh(loop, client(relay.url, **settings))
    assert after.nodes == before.nodes
    assert after.rewarded_set == before.rewarded_set


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100])
def test_cache_that_cannot_be_read_is_no_cache(
    named: Any, loop: ReactorLoop, cache: Path, content: bytes
) -> None:
    relay, settings = named
    refresh(loop, client(relay.url, **settings))
    [path] = cache.iterdir()
    path.write_bytes(content)
    relay.behaviour = "down"
    with pytest.raises(TopologyError, match="503"):
        refresh(loop, client(relay.url, **settings))


def test_cache_older_than_a_key_rotation_is_no_cache(
    named: Any, loop: ReactorLoop, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, settings = named
    refresh(loop, client(relay.url, **settings))
    relay.behaviour = "down"
    later = directory_module.time.time() + 400 * 86400
    monkeypatch.setattr(directory_module.time, "time", lambda: later)
    with pytest.raises(TopologyError, match="503"):
        refresh(loop, client(relay.url, **settings))


def test_loopback_is_another_network_every_time_and_never_cached(
    net: LocalNet, loop: ReactorLoop, cache: Path
) -> None:
    refresh(loop, client(net.nym_api))
    assert not cache.exists()
    assert os.environ["XDG_CACHE_HOME"] == str(cache.parent)


# --- clocks ---


@pytest.mark.parametrize(("ahead", "where"), [(-300.0, "ahead of"), (300.0, "behind")])
def test_clock_that_is_off_by_minutes_is_reported_by_name_and_once(
    net: LocalNet, loop: ReactorLoop, caplog: pytest.LogCaptureFixture, ahead: float, where: str
) -> None:
    with ApiRelay(net.nym_api) as relay:
        directory = client(relay.url)
        relay.ahead = ahead
        refresh(loop, directory)
        found = re.fullmatch(
            r"clock skew: the clock of this machine is (\d+) s (.*) nym-api's", directory.clock_skew
        )
        assert found is not None
        assert 297 < int(found[1]) < 303
        assert found[2] == where
        refresh(loop, directory)
        relay.ahead = 0.0
        refresh(loop, directory)
        assert directory.clock_skew == ""
    wait_until(lambda: "clock skew" in caplog.text)
    assert [record.levelname for record in caplog.records if "clock skew" in record.message] == ["WARNING"]


@pytest.mark.parametrize("ahead", [-100.0, 0.0, 100.0, None])
def test_clock_that_gateways_accept_or_that_nobody_knows_is_no_news(
    net: LocalNet, loop: ReactorLoop, ahead: float | None
) -> None:
    with ApiRelay(net.nym_api) as relay:
        relay.ahead = ahead
        directory = client(relay.url)
        refresh(loop, directory)
        assert directory.clock_skew == ""
