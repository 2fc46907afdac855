"""The switches of a localnet and the table of hosts behind its exit."""

from __future__ import annotations

import argparse
import ipaddress
import json

import pytest

from smolmix_sync.localnet.__main__ import add_arguments, config_from_arguments
from smolmix_sync.localnet.config import (
    LOCALNET_V4,
    LOCALNET_V6,
    Behaviour,
    Host,
    LocalNetConfig,
    build_hosts,
    node_names,
    parse_destination,
)


def test_config_survives_its_own_json() -> None:
    config = LocalNetConfig(
        drop={"mix2": 0.05}, wrong_key=("mix1",), allow={"a.localnet:22": 2222}, ipr_versions=(9,), exits=2
    )
    assert LocalNetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_nodes_are_named_by_layer_and_copy() -> None:
    assert node_names(LocalNetConfig()) == ("entry", "mix1", "mix2", "mix3", "exit")
    names = node_names(LocalNetConfig(mixes_per_layer=2, exits=2))
    assert names == ("entry", "mix1", "mix1b", "mix2", "mix2b", "mix3", "mix3b", "exit", "exit2")


def test_hosts_of_localnet_live_in_the_documentation_nets() -> None:
    for host in build_hosts(LocalNetConfig()):
        if host.in_dns:
            v4, v6 = (ipaddress.ip_address(address) for address in host.addresses)
            assert v4 in LOCALNET_V4
            assert v6 in LOCALNET_V6


def test_no_two_hosts_share_an_address() -> None:
    config = LocalNetConfig(allow={"a.localnet:1": 1, "b.localnet:1": 1, "a.localnet:2": 2, "192.0.2.9:3": 3})
    hosts = build_hosts(config)
    addresses = [address for host in hosts for address in host.addresses]
    assert len(addresses) == len(set(addresses))
    by_name = {host.name: host for host in hosts}
    assert by_name["a.localnet"].tcp == {1: 1, 2: 2}
    assert by_name["192.0.2.9"].addresses == ("192.0.2.9",)
    assert not by_name["192.0.2.9"].in_dns


def test_allowed_port_is_added_to_a_host_that_exists() -> None:
    hosts = {host.name: host for host in build_hosts(LocalNetConfig(allow={"www.localnet:22": 2222}))}
    assert hosts["www.localnet"].tcp[22] == 2222
    assert hosts["www.localnet"].tcp[80] == "http"


def test_host_survives_json_which_knows_no_numbers_as_keys() -> None:
    host = Host("a", ("192.0.2.1",), Behaviour.SERVICE, tcp={80: "http"}, udp={53: 5353}, in_dns=False)
    assert Host.from_json(json.loads(json.dumps(host.to_json()))) == host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Git.Localnet.:22", ("git.localnet", 22)),
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
    ],
)
def test_destination_is_a_name_or_an_address_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_destination(text) == expected


@pytest.mark.parametrize("text", ["", "name", "name:", ":22", "name:0", "name:65536", "name:http"])
def test_anything_else_is_no_destination(text: str) -> None:
    with pytest.raises(ValueError, match="not name:port"):
        parse_destination(text)


def parse(*words: str) -> LocalNetConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return config_from_arguments(parser.parse_args(words))


def test_command_line_without_arguments_is_the_default_network() -> None:
    assert parse() == LocalNetConfig()


def test_command_line_sets_every_switch() -> None:
    config = parse(
        *("--hop-delay", "5", "--drop", "mix1=2.5", "--port", "nym-api.http=8000", "--allow", "a.b:22=2222"),
        *("--ipr-versions", "8,9", "--wrong-key", "mix3", "--enforce-tickets", "--hostname", "localhost"),
    )
    assert config == LocalNetConfig(
        hop_delay=0.005,
        drop={"mix1": 0.025},
        ports={"nym-api.http": 8000},
        allow={"a.b:22": 2222},
        ipr_versions=(8, 9),
        wrong_key=("mix3",),
        enforce_tickets=True,
        hostname="localhost",
    )


def test_command_line_pair_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse("--drop", "mix1")
