"""What of a running daemon can be seen: the page in a browser, metrics, health, the live view, progress as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smolmix_sync.cli import main
from smolmix_sync.cli.webserver import WebServer, parse_listen
from smolmix_sync.localnet import LocalNet

slow = [pytest.mark.interop, pytest.mark.slow]
COMMAND = [sys.executable, "-m", "smolmix_sync"]


@dataclass
class Daemon:
    path: Path
    url: str
    environment: dict[str, str]
    progress: list[dict[str, Any]]
    pcap: Path


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("web")
    path, pcap = folder / "daemon.sock", folder / "inside.pcap"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    words = ["--socket", str(path), "--web", "0", "--json", "--pcap", str(pcap)]
    with LocalNet(set_default=False) as net, (folder / "log").open("w") as log_file:
        environment = {**clean, **net.environment()}
        process = subprocess.Popen(
            [*COMMAND, "daemon", *words], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=log_file,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"ready {path}\n", (folder / "log").read_text()
            log = (folder / "log").read_text().splitlines()
            [url] = re.findall(r"http://127\.0\.0\.1:\d+/", "\n".join(log))
            progress = [json.loads(line) for line in log if line.startswith("{")]
            yield Daemon(path, url, environment, progress, pcap)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()


def get(url: str, **headers: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class TestDaemon:
    pytestmark = slow

    def test_progress_is_told_as_json_lines(self, daemon: Daemon) -> None:
        stages = [step["stage"] for step in daemon.progress]
        assert stages[0] == "topology"
        assert stages[-1] == "ready"
        assert all(step["detail"] and step["elapsed"] >= 0 for step in daemon.progress)

    def test_capture_of_the_command_line_fills(self, daemon: Daemon) -> None:
        assert daemon.pcap.stat().st_size > 100

    def test_health_and_metrics(self, daemon: Daemon) -> None:
        assert get(daemon.url + "readyz") == (200, "ready\n")
        code, text = get(daemon.url + "metrics")
        assert code == 200
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert values["smolmix_ready"] == "1.0"
        assert float(values["smolmix_packets_sent_total"]) > 0
        assert float(values["smolmix_bandwidth_bytes"]) > 1e9
        assert get(daemon.url + "nothing")[0] == 404

    def test_other_sites_cannot_read_the_page(self, daemon: Daemon) -> None:
        for path in ("", "status.json", "metrics"):
            assert get(daemon.url + path, Host="evil.example:80")[0] == 403
        assert get(daemon.url, Host="localhost:80")[0] == 200

    @pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
    def test_page_in_a_browser_shows_state_route_and_plots(self, daemon: Daemon, tmp_path: Path) -> None:
        done = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
             "--no-proxy-server", "--virtual-time-budget=6000", "--dump-dom", daemon.url],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        page = done.stdout
        assert re.search(r'<span id="state" class="ready">READY</span>', page), done.stderr[-2000:]
        route = re.findall(r"<li><b>([^<]+)</b><span>([^<]*)</span></li>", page)
        assert [name for name, _ in route] == [
            "this machine", "entry gateway", "mix layer 1", "mix layer 2", "mix layer 3", "exit", "the internet",
        ]  # fmt: skip
        assert route[2][1] == "one of 1, anew for each packet"
        assert "10.0." in route[6][1]
        assert re.search(r"<td>packets sent</td><td>[\d,]+</td>", page)
        assert page.count("<canvas") == 4

    def test_live_view_shows_rates(self, daemon: Daemon) -> None:
        def watch(*words: str) -> str:
            done = subprocess.run(
                [*COMMAND, "status", "--socket", str(daemon.path), "--watch", "0.3", "--count", "4", *words],
                env=daemon.environment, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        shown = watch().split("\n\n")
        assert shown[0].startswith("ready ")
        rates = [float(text) for text in re.findall(r"of cover besides +([\d.]+)/s", "\n".join(shown))]
        assert len(rates) == 4
        assert rates[-1] > 1
        assert re.search(r"[▁-█]{3}\n", shown[-2] + "\n")
        told = [json.loads(line) for line in watch("--json").splitlines()]
        assert len(told) == 4
        assert told[0]["layers"] == [1, 1, 1]


def test_server_says_why_it_is_not_ready_and_survives_a_daemon_that_is_gone() -> None:
    def down() -> Mapping[str, Any]:
        return {"ready": False, "state": "reconnecting", "reason": "the gateway was lost"}

    def gone() -> Mapping[str, Any]:
        raise ConnectionRefusedError("no daemon")

    with serving(down) as url:
        assert get(url + "readyz") == (503, "reconnecting: the gateway was lost\n")
    with serving(gone) as url:
        assert get(url + "readyz") == (503, "down: no daemon\n")
        assert json.loads(get(url + "status.json")[1]) == {"ready": False, "reason": "no daemon"}
        assert "smolmix_ready 0.0" in get(url + "metrics")[1]


@contextlib.contextmanager
def serving(status: Callable[[], Mapping[str, Any]]) -> Iterator[str]:
    server = WebServer(("127.0.0.1", 0), status)
    try:
        yield server.url
    finally:
        server.close()


def test_page_is_served_on_loopback_only() -> None:
    assert parse_listen("8080") == ("127.0.0.1", 8080)
    assert parse_listen("[::1]:80") == ("::1", 80)
    for text in ("0.0.0.0:80", "192.0.2.1:80", "localhost:80", "127.0.0.1:x", "127.0.0.1:70000"):
        with pytest.raises(ValueError, match=r"."):
            parse_listen(text)
    assert main(["daemon", "--web", "0.0.0.0:80"]) == 2
    assert main(["status", "--watch", "0"]) == 2
