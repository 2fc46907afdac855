"""Exits listed, probed, remembered and chosen; and what their policy refuses."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolmix_sync import ExitPolicyError, NoExit, Recipient, Tunnel, best_ipr, list_exits
from smolmix_sync.localnet import LocalNet
from smolmix_sync.reactor.exitmemory import ExitMemory

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False, exits=2) as net:
        yield net


def test_list_has_every_exit_with_what_the_directory_says(net: LocalNet) -> None:
    found = list_exits(**net.client_settings())
    assert sorted(str(info.address) for info in found) == sorted(net.ipr_addresses)
    for info in found:
        assert (info.performance, info.version, info.ipr_version) == (100, "1.37.0", 10)
        assert info.probe is None


def test_dead_exit_is_found_by_the_probe_remembered_and_tried_last(net: LocalNet, tmp_path: Path) -> None:
    memory = tmp_path / "bad.json"
    settings = {**net.client_settings(), "ipr_timeout": 4.0, "exit_memory": memory}
    dead, alive = net.ipr_addresses
    net.node("exit").set(silent=True)
    try:
        results = {str(info.address): info.probe for info in list_exits(probe=True, **settings)}
        assert results[dead].ready is None
        assert results[dead].error
        assert 0 < results[alive].ready < 20
        assert 0 < results[alive].rtt < 20
        assert ExitMemory(memory).quarantined() == {Recipient.parse(dead)}
        # Another run knows it: the exit in quarantine is last in the list, and a tunnel takes the other at once.
        order = list_exits(**settings)
        assert [str(info.address) for info in order] == [alive, dead]
        assert order[1].quarantined > 500
        assert str(best_ipr(probe=False, **settings)) == alive
        with Tunnel(**settings) as tunnel:
            assert str(tunnel.exit) == alive
    finally:
        net.node("exit").set(silent=False)


def test_tunnel_itself_remembers_an_exit_that_failed_and_forgets_one_that_works_again(
    net: LocalNet, tmp_path: Path
) -> None:
    memory = tmp_path / "bad.json"
    settings = {**net.client_settings(), "ipr_timeout": 3.0, "exit_memory": memory}
    alive, dead = net.ipr_addresses
    ExitMemory(memory).failed(Recipient.parse(alive), "of another day")  # so that the dead one is tried first
    net.node("exit2").set(silent=True)
    try:
        with Tunnel(**settings) as tunnel:
            assert str(tunnel.exit) == alive
    finally:
        net.node("exit2").set(silent=False)
    known = ExitMemory(memory).known()
    assert list(known) == [dead]
    assert "did not answer" in known[dead].reason


def test_best_exit_is_one_that_answers(net: LocalNet) -> None:
    assert str(best_ipr(**net.client_settings())) in net.ipr_addresses
    with pytest.raises(NoExit):
        best_ipr(minimum_performance=50, ipr_timeout=0.2, connect_timeout=0.3, **_nowhere(net))


def _nowhere(net: LocalNet) -> dict[str, object]:
    # A gateway that is not there: every probe fails at once.
    return {**net.client_settings(), "preferred_gateway": "11111111111111111111111111111111"}


def test_refusal_by_the_exits_policy_names_the_port(net: LocalNet) -> None:
    with Tunnel(**net.client_settings()) as tunnel:
        with pytest.raises(
            ExitPolicyError, match=r"refuses (198\.51\.100\.66|2001:db8:6e79::42) port 80"
        ) as caught:
            tunnel.tcp_connect("policy.localnet:80", timeout=20)
        with pytest.raises(PermissionError, match="port 6881"):
            tunnel.tcp_connect("www.localnet:6881", timeout=20)
        with tunnel.udp_socket() as sock:
            sock.settimeout(20)
            sock.connect(("policy.localnet", 99))
            sock.send(b"not to be carried")
            with pytest.raises(ExitPolicyError, match=r"refuses 198\.51\.100\.66 port 99"):
                sock.recv(100)
    assert caught.value.errno == errno.EACCES
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.errno) == (ExitPolicyError, str(caught.value), errno.EACCES)


def test_command_prints_a_table_and_json_lines(net: LocalNet) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    command = [sys.executable, "-m", "smolmix_sync", "exits"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**clean, **net.environment()}
        return subprocess.run(
            [*command, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    done = run("--probe", "--limit", "1")
    assert done.returncode == 0, done.stderr
    title, row = done.stdout.splitlines()
    assert title.split() == ["PERFORMANCE", "COUNTRY", "VERSION", "IPR", "RESULT", "ADDRESS"]
    assert "ready in" in row
    assert row.split()[-1] in net.ipr_addresses
    assert "ready in" in done.stderr
    done = run("--json")
    assert {json.loads(line)["address"] for line in done.stdout.splitlines()} == set(net.ipr_addresses)
    assert run("--limit", "0").returncode == 2
