from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.config import (
    MAINNET_NYM_APIS,
    PROFILES,
    ConfigError,
    TunnelConfig,
    process_overrides,
    set_process_overrides,
    settings,
)


def test_precedence_is_argument_environment_file_default(tmp_path: Path) -> None:
    path = tmp_path / "smolmix.toml"
    path.write_text('[tunnel]\nprofile = "no-cover"\nconnect_timeout = 11\nmtu = 1200\n')
    env = {"SMOLMIX_CONNECT_TIMEOUT": "22", "SMOLMIX_MTU": "1300"}
    config = TunnelConfig.load(path, environ=env, mtu=1400)
    assert config.mtu == 1400
    assert config.connect_timeout == 22.0
    assert config.profile == "no-cover"
    assert config.dns_timeout == 30.0


def test_process_overrides_rank_between_argument_and_environment() -> None:
    before = set_process_overrides({"nym_api": ("http://127.0.0.1:1/",), "mtu": 1000})
    try:
        config = TunnelConfig.load(
            environ={"NYM_API": "https://other.example/", "SMOLMIX_MTU": "1300"}, mtu=1400
        )
        assert config.nym_api == ("http://127.0.0.1:1/",)
        assert config.mtu == 1400
        assert process_overrides()["mtu"] == 1000
    finally:
        set_process_overrides(before)
    assert dict(process_overrides()) == dict(before)


def test_none_as_an_argument_means_not_given() -> None:
    assert TunnelConfig.load(environ={"SMOLMIX_MTU": "1300"}, mtu=None).mtu == 1300


def test_upstream_variables_are_read_and_ours_win() -> None:
    env = {"NYM_API": "https://one.example/api/", "SMOLMIX_IPR_VERSION": "1.37.0", "SMOLMIX_MTU": "1280"}
    config = TunnelConfig.from_env(env)
    assert config.nym_api == ("https://one.example/api/",)
    assert config.ipr_version == 10
    assert config.mtu == 1280
    assert TunnelConfig.from_env({**env, "SMOLMIX_NYM_API": "https://two.example/"}).nym_api == (
        "https://two.example/",
    )


def test_empty_variable_counts_as_unset() -> None:
    assert TunnelConfig.from_env({"NYM_API": "", "SMOLMIX_MTU": " "}).nym_api == MAINNET_NYM_APIS


def test_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('preferredGateway = "abc"\n')
    assert TunnelConfig.from_env({"SMOLMIX_CONFIG": str(path)}).preferred_gateway == "abc"
    assert TunnelConfig.from_file(path, environ={}).preferred_gateway == "abc"


def test_camel_case_names_of_the_wasm_client_are_accepted() -> None:
    config = TunnelConfig.from_dict(
        {
            "preferredIpr": "a.b@c",
            "preferredGateway": "g",
            "clientId": "me",
            "forceTls": True,
            "disablePoissonTraffic": True,
            "disableCoverTraffic": True,
            "openReplySurbs": 20,
            "dataReplySurbs": 2,
            "primaryDns": "8.8.8.8:53",
            "fallbackDns": "1.1.1.1:53",
            "storagePassphrase": "hush",
            "connectTimeoutMs": 5000,
            "dnsTimeoutMs": 1500,
            "tcpKeepaliveMs": 10000,
            "tcpBufferSize": 65535,
            "maxRedirects": 3,
            "debug": True,
        }
    )
    assert config.ipr_address == "a.b@c"
    assert config.connect_timeout == 5.0
    assert config.dns_timeout == 1.5
    assert config.tcp_keepalive == 10.0
    assert config.tcp_buffer_size == 65535
    assert config.primary_dns == "8.8.8.8"
    assert not config.traffic.poisson
    assert not config.traffic.cover


def test_secret_is_not_shown() -> None:
    assert "hush" not in repr(TunnelConfig(storage_passphrase="hush"))
    with pytest.raises(ConfigError) as caught:
        TunnelConfig(storage_passphrase="  ")
    assert "'  '" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "loud"},
        {"mtu": 100},
        {"mtu": True},
        {"connect_timeout": 0},
        {"connect_timeout": "inf"},
        {"nym_api": ()},
        {"nym_api": ("ftp://x/",)},
        {"ipr_version": 7},
        {"ipr_version": "x"},
        {"primary_dns": "dns.example"},
        {"force_tls": "perhaps"},
        {"bootstrap_addresses": "x"},
        {"open_reply_surbs": 10},
        {"fork": "maybe"},
    ],
)
def test_value_that_cannot_be_is_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        TunnelConfig.load(environ={}, **options)
    assert next(iter(options)) in str(caught.value)
    assert isinstance(caught.value, (OSError, ValueError))


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean connect_timeout"):
        TunnelConfig.load(environ={}, conect_timeout=3)


def test_broken_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="SMOLMIX_MTU"):
        TunnelConfig.from_env({"SMOLMIX_MTU": "big"})


def test_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("mtu = ")
    with pytest.raises(ConfigError, match=r"c\.toml"):
        TunnelConfig.from_file(path, environ={})
    path.write_text("tunnel = 3")
    with pytest.raises(ConfigError, match="not a table"):
        TunnelConfig.from_file(path, environ={})


def test_profiles_can_be_changed_in_single_points() -> None:
    assert TunnelConfig().traffic == PROFILES["default"]
    fast = TunnelConfig(profile="high-traffic", disable_cover_traffic=True, packet_delay=0.0).traffic
    assert fast.sending_delay == 0.004
    assert not fast.cover
    assert fast.poisson
    assert fast.packet_delay == 0.0
    quiet = TunnelConfig(profile="no-cover", disable_poisson_traffic=False).traffic
    assert quiet.poisson
    assert not quiet.cover


def test_config_is_frozen_and_replace_checks() -> None:
    config = TunnelConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.mtu = 1300  # type: ignore[misc]
    assert config.replace(mtu="1300").mtu == 1300
    assert config.replace(primaryDns="9.9.9.9").primary_dns == "9.9.9.9"
    with pytest.raises(ConfigError):
        config.replace(mtu=1)


def test_every_setting_is_documented_and_has_a_variable() -> None:
    listed = list(settings())
    assert len(listed) == len(dataclasses.fields(TunnelConfig))
    for item in listed:
        assert item.doc.endswith("."), item.name
        assert item.environment[0] == f"SMOLMIX_{item.name.upper()}"


@given(
    st.dictionaries(st.sampled_from([s.environment[0] for s in settings()]), st.text(max_size=8), max_size=4)
)
def test_any_environment_is_read_or_refused(env: dict[str, str]) -> None:
    env = {name: text for name, text in env.items() if name != "SMOLMIX_CONFIG"}
    try:
        config = TunnelConfig.from_env(env)
    except ConfigError:
        return
    assert config.replace() == config


def test_import_is_light_and_quick() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import smolmix_sync; d = time.perf_counter() - t\n"
        "heavy = [m for m in ('gevent', 'nacl', 'cryptography', 'ssl', 'websocket') if m in sys.modules]\n"
        "print(d, heavy)\n"
        "assert smolmix_sync.SmolmixError and 'Tunnel' in dir(smolmix_sync)\n"
        "import threading; assert threading.active_count() == 1\n"
    )
    best = 9.9
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
        )
        seconds, heavy = done.stdout.split(maxsplit=1)
        assert heavy.strip() == "[]"
        best = min(best, float(seconds))
        if best < 0.05:
            break
    assert best < 0.05


def test_every_public_name_can_be_loaded() -> None:
    import smolmix_sync

    for name in smolmix_sync.__all__:
        assert getattr(smolmix_sync, name) is not None
    with pytest.raises(AttributeError):
        smolmix_sync.no_such_name  # noqa: B018
