"""The commands, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smolmix_sync.localnet import LocalNet

pytestmark = pytest.mark.interop


def smolmix(*words: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    return subprocess.run(
        [sys.executable, "-m", "smolmix_sync", *words],
        env={**clean, **environment}, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def environment() -> object:
    with LocalNet(set_default=False) as net:
        yield net.environment()


@pytest.mark.slow
def test_demo_runs_the_legacy_script_and_shows_every_hop() -> None:
    began = time.monotonic()
    done = smolmix("demo", timeout=90)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    assert "nightly check done" in done.stdout
    assert "stay outside the tunnel" not in done.stderr  # the gateway's connection is no leak of the script's
    for hop in ("entry", "mix1", "mix2", "mix3", "exit"):
        line = next(line for line in done.stderr.splitlines() if line.startswith(f"  {hop} "))
        assert "packets_in" in line
    for word in ("topology", "gateway", "exit", "ready", "reply SURBs", "acknowledgements"):
        assert word in done.stderr


@pytest.mark.slow
def test_run_gives_the_script_its_arguments_and_ends_with_its_code(
    environment: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    (tmp_path / "beside.py").write_text("WORD = 'neighbour'")
    script.write_text(
        "import sys, urllib.request, beside\n"
        "print(__name__, sys.argv[1:], beside.WORD)\n"
        "print(len(urllib.request.urlopen(sys.argv[1], timeout=30).read()))\n"
        "sys.exit(7)\n"
    )
    done = smolmix("run", str(script), "http://www.localnet/bytes/1234", "--flag", **environment)
    assert done.stdout.splitlines() == [
        "__main__ ['http://www.localnet/bytes/1234', '--flag'] neighbour",
        "1234",
    ]
    assert done.returncode == 7


_LEAKS = """
import ctypes, socket, subprocess, sys, urllib.request
print("C", ctypes.CDLL(None).socket(2, 1, 0) >= 0)
child = [sys.executable, "-c", "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)"]
print("child", subprocess.run(child, stderr=subprocess.DEVNULL).returncode == 0)
print(len(urllib.request.urlopen("http://www.localnet/bytes/99", timeout=30).read()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_run_keeps_c_code_and_children_off_the_network_unless_told_otherwise(
    environment: dict[str, str], tmp_path: Path, strict: bool
) -> None:
    script = tmp_path / "script.py"
    script.write_text(_LEAKS)
    done = smolmix("run", *([] if strict else ["--no-strict"]), str(script), **environment)
    assert done.stdout.splitlines() == [f"C {not strict}", f"child {not strict}", "99"], done.stderr
    assert done.returncode == 0
    assert ("--no-strict" in done.stderr) is not strict


@pytest.mark.slow
def test_tunnel_of_a_running_program_can_be_looked_at(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "tunnel.sock"
    script = tmp_path / "script.py"
    script.write_text(
        "import urllib.request\nprint(len(urllib.request.urlopen('http://www.localnet/bytes/10', timeout=30).read()))\n"
        "print('up', flush=True)\ninput()\n"
    )
    command = [sys.executable, "-m", "smolmix_sync", "run", "--socket", str(path), str(script)]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == ["10\n", "up\n"]
        done = smolmix("status", "--socket", str(path), "--json", **environment)
        told = json.loads(done.stdout)
        assert (told["pid"], told["state"]) == (process.pid, "ready")
        process.communicate("\n", timeout=30)
    assert process.returncode == 0
    assert not path.exists()
    done = smolmix("run", "--socket", str(tmp_path / "no" / "such" / "folder"), str(script), **environment)
    assert (done.returncode, "No such file" in done.stderr) == (1, True)


@pytest.mark.slow
def test_run_module_and_tracebacks(environment: dict[str, str]) -> None:
    done = smolmix("run", "-m", "json.tool", "--help", **environment)
    assert done.returncode == 0
    assert "json" in done.stdout
    done = smolmix("run", "-m", "this_module_is_not_there", **environment)
    assert done.returncode == 1
    assert "this_module_is_not_there" in done.stderr


@pytest.mark.slow
def test_resolve_prints_addresses_and_fails_for_unknown_names(environment: dict[str, str]) -> None:
    done = smolmix("resolve", "-4", "www.localnet", **environment)
    assert (done.stdout, done.returncode) == ("198.51.100.11\n", 0)
    done = smolmix("resolve", "www.localnet", "no-such-host.localnet", **environment)
    assert done.returncode == 1
    assert "no-such-host.localnet:" in done.stderr


@pytest.mark.slow
def test_fetch_over_tls_and_its_exit_codes(environment: dict[str, str], tmp_path: Path) -> None:
    body = tmp_path / "body"
    done = smolmix("fetch", "https://www.localnet/bytes/5000", "-o", str(body), **environment)
    assert (done.returncode, body.stat().st_size) == (0, 5000), done.stderr
    done = smolmix("fetch", "-i", "http://www.localnet/no-such-page", **environment)
    assert done.returncode == 22
    assert done.stdout.startswith("HTTP/1.1 404")
    done = smolmix("fetch", "https://wrong.localnet/", **environment)
    assert done.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    done = smolmix("fetch", "-d", "some text", "http://www.localnet/upload", **environment)
    assert json.loads(done.stdout)["length"] == 9


def test_wrong_command_lines_end_with_two() -> None:
    assert smolmix("run", "/no/such/file.py").returncode == 2
    assert smolmix("fetch", "ftp://www.localnet/").returncode == 2
    assert smolmix("no-such-command").returncode == 2
    assert smolmix().returncode == 2


@pytest.mark.slow
def test_unreachable_nym_api_is_named_and_ends_with_one() -> None:
    done = smolmix("resolve", "www.localnet", "--nym-api", "http://127.0.0.1:9/", SMOLMIX_CONNECT_TIMEOUT="5")
    assert done.returncode == 1
    assert "no tunnel" in done.stderr
    assert "127.0.0.1:9" in done.stderr


@pytest.mark.slow
def test_localnet_in_the_foreground_says_what_a_client_needs(tmp_path: Path) -> None:
    exported = tmp_path / "network.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "smolmix_sync", "localnet", "--json", "--network-json", str(exported)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["nym_api"].startswith("http://127.0.0.1:")
        assert sorted(json.loads(exported.read_text())) == ["metadata", "node_details", "rewarded_set"]
        done = smolmix("resolve", "-4", "www.localnet", **facts["environment"])
        assert done.stdout == "198.51.100.11\n"
        process.terminate()
        assert process.wait(20) == 0
