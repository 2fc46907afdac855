"""``smolmix-sync daemon`` and ``status``, over localnet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smolmix_sync.daemon import attach
from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "daemon-protocol.rst"


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


def smolmix(*words: str, **environment: str) -> list[Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    return [[sys.executable, "-m", "smolmix_sync", *words], {**clean, **environment}]


@contextlib.contextmanager
def daemon(net: LocalNet, path: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command, env = smolmix("daemon", "--socket", str(path), *words, **net.environment(), **environment)
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"ready {path}\n"
            yield process
        finally:
            process.kill()


def status(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command, env = smolmix("status", "--socket", str(path), *words)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)


def test_daemon_tells_systemd_serves_and_ends_cleanly_on_sigterm(net: LocalNet, tmp_path: Path) -> None:
    path = tmp_path / "run" / "daemon.sock"  # the folder is made, for the owner alone
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(30)
        with daemon(net, path, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            assert notified.recv(100).startswith(b"READY=1\n")
            assert path.parent.stat().st_mode & 0o777 == 0o700
            told = json.loads(status(path, "--json").stdout)
            assert told["state"] == "ready"
            assert told["pid"] == process.pid
            assert "daemon" in status(path).stdout
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert notified.recv(100) == b"STOPPING=1"
    assert not path.exists()
    done = status(path)
    assert done.returncode == 1
    assert "no smolmix-sync daemon" in done.stderr


def test_daemon_nobody_uses_ends_when_told_to(net: LocalNet, tmp_path: Path) -> None:
    with daemon(net, tmp_path / "daemon.sock", "--exit-idle", "2") as process:
        with attach(tmp_path / "daemon.sock").create_connection(("echo.localnet", 7), 20):
            time.sleep(3)
            assert process.poll() is None
        assert process.wait(20) == 0


def test_example_of_the_protocols_page_runs_as_it_stands(net: LocalNet, tmp_path: Path) -> None:
    _, _, rest = PAGE.read_text().partition(".. code-block:: python\n\n")
    lines = []
    for line in rest.splitlines():
        if line and not line.startswith("   "):
            break
        lines.append(line[3:])
    with daemon(net, tmp_path / "daemon.sock"):
        done = subprocess.run(
            [sys.executable, "-I", "-c", "\n".join(lines)],
            env={**os.environ, "SMOLMIX_DAEMON": str(tmp_path / "daemon.sock")},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert int(done.stdout) > 1000, done.stderr


def test_ten_processes_share_one_gateway_connection(net: LocalNet, tmp_path: Path) -> None:
    script = (
        "import smolmix_sync; smolmix_sync.patch_all(); import urllib.request\n"
        "print(len(urllib.request.urlopen('http://www.localnet/bytes/20000', timeout=60).read()))"
    )
    path = tmp_path / "daemon.sock"
    with daemon(net, path):
        started = [
            subprocess.Popen(
                [sys.executable, "-c", script], env={**os.environ, "SMOLMIX_DAEMON": str(path)},
                stdout=subprocess.PIPE, text=True,
            )
            for _ in range(10)
        ]  # fmt: skip
        for one in started:
            with one:
                assert one.communicate(timeout=90)[0] == "20000\n"
        told = attach(path).status()
        assert told["served"] >= 10
        assert told["stats"]["reconnects"] == 0
        assert told["tunnels"] == 1


def test_run_uses_the_daemon_and_opens_no_tunnel_of_its_own(net: LocalNet, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, urllib.request\n"
        "print(len(urllib.request.urlopen('http://www.localnet/bytes/3000', timeout=60).read()))\n"
    )
    path = tmp_path / "daemon.sock"
    with daemon(net, path) as process:
        registered = net.node("entry").stats()["registrations"]
        command, env = smolmix("run", str(script), SMOLMIX_DAEMON=str(path))
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.returncode) == ("3000\n", 0), done.stderr
        assert net.node("entry").stats()["registrations"] == registered
        process.kill()
        process.wait()
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 1
        assert "no tunnel by the daemon" in done.stderr


HELPERS = """
import sys
import smolmix_sync
from smolmix_sync.ext.requests import session
if sys.argv[1:]:
    smolmix_sync.patch_all(tunnel=smolmix_sync.attach(sys.argv[1]))
print(smolmix_sync.fetch("http://www.localnet/bytes/100").status, len(session().get("http://www.localnet/bytes/20").content))
print(smolmix_sync.resolve("www.localnet")[0])
sock = smolmix_sync.websocket("ws://www.localnet/ws")
sock.send("hello")
print(sock.recv(), smolmix_sync.get_tunnel())
"""


@pytest.mark.parametrize("by", ["the environment", "the patch"])
def test_fetch_and_its_like_use_the_daemon_as_sockets_do(net: LocalNet, tmp_path: Path, by: str) -> None:
    path = tmp_path / "daemon.sock"
    with daemon(net, path):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
        arguments, more = (
            ([], {"SMOLMIX_DAEMON": str(path)}) if by == "the environment" else ([str(path)], {})
        )
        done = subprocess.run(
            [sys.executable, "-c", HELPERS, *arguments], env={**clean, **more}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, name, last = done.stdout.splitlines()
    assert (first, last) == ("200 20", "hello None")
    assert name.startswith("198.51.100.")


def test_isolation_keys_have_addresses_of_their_own(net: LocalNet, tmp_path: Path) -> None:
    with daemon(net, tmp_path / "daemon.sock"):
        tunnel = attach(tmp_path / "daemon.sock")
        found: dict[str, str] = {}

        def look(key: str) -> None:
            one = tunnel.isolate(key) if key else tunnel
            with one.create_connection(("echo.localnet", 7), 30) as sock:
                found[key] = sock.getsockname()[0]

        threads = [threading.Thread(target=look, args=(key,)) for key in ("", "a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(set(found.values())) == 3, found
        look("a")
        assert attach(tmp_path / "daemon.sock").status()["tunnels"] == 3


def test_watcher_is_told_of_every_change_of_state(net: LocalNet, tmp_path: Path) -> None:
    from smolmix_sync.daemon.protocol import Op, Reply, Request

    with (
        daemon(net, tmp_path / "daemon.sock") as process,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control,
    ):
        control.settimeout(20)
        control.connect(str(tmp_path / "daemon.sock"))
        control.send(Request(Op.WATCH, 9).encode())
        first = Reply.decode_untrusted(control.recv(65536))
        assert (first.ident, json.loads(first.payload)["state"]) == (9, "ready")
        process.send_signal(signal.SIGTERM)
        while data := control.recv(65536):
            assert json.loads(Reply.decode_untrusted(data).payload)["state"] != ""
