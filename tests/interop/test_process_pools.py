"""Programs of several processes, by every way of starting them, each with a tunnel of its own or all with a daemon's."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolmix_sync.daemon import attach
from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

POOL = """
import smolmix_sync
smolmix_sync.patch_all(children="patch")
import json, multiprocessing, os, sys, urllib.request, warnings
warnings.simplefilter("ignore", DeprecationWarning)

def fetch(size):
    with urllib.request.urlopen(f"http://www.localnet/bytes/{size}", timeout=60) as answer:
        return len(answer.read()), os.getpid(), smolmix_sync.is_patched()

if __name__ == "__main__":
    here = fetch(500)
    threads = len(os.listdir("/proc/self/task"))
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        done = pool.map(fetch, range(1000, 1006), chunksize=1)
    print(json.dumps({"here": here, "done": done}))
"""

APP = """
import smolmix_sync
smolmix_sync.patch_all(listen="loopback")
import urllib.request

def app(environ, start_response):
    size = int(environ["PATH_INFO"].strip("/") or 1)
    with urllib.request.urlopen(f"http://www.localnet/bytes/{size}", timeout=60) as answer:
        body = answer.read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(len(body)).encode()]
"""


def environment(net: LocalNet, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    return {**clean, **net.environment(), **more}


@pytest.fixture(scope="module")
def daemon(net: LocalNet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("daemon") / "daemon.sock"
    command = [sys.executable, "-m", "smolmix_sync", "daemon", "--socket", str(path)]
    with subprocess.Popen(command, env=environment(net), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        yield path
        process.terminate()


@pytest.mark.parametrize("shared", [False, True], ids=["own tunnels", "one daemon"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pool_of_processes_fetches(
    net: LocalNet, daemon: Path, tmp_path: Path, method: str, shared: bool
) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    before = net.stats()["entry"]["registrations"]
    done = subprocess.run(
        [sys.executable, str(script), method],
        env=environment(net, SMOLMIX_DAEMON=str(daemon)) if shared else environment(net),
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["here"][0] == 500
    assert [size for size, *_ in told["done"]] == list(range(1000, 1006))
    assert all(patched for *_, patched in told["done"])
    made = net.stats()["entry"]["registrations"] - before
    # Forked children have tunnels of their own; programs that are started use their parent's.
    own = len({pid for _, pid, _ in told["done"]}) if method == "fork" else 0
    assert made == (0 if shared else 1 + own)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each loads", "preload"])
def test_gunicorn_with_gevent_workers_serves_what_it_fetches(
    net: LocalNet, daemon: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "project.py").write_text(APP)
    port = free_port()
    command = [
        sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{port}", *options, "project:app",
    ]  # fmt: skip
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(net, SMOLMIX_DAEMON=str(daemon)),
            stdout=output,
            stderr=output,
        ) as server,
    ):
        try:
            until = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)

            def ask(size: int) -> int:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{size}", timeout=60) as answer:
                    return int(answer.read())

            served = attach(daemon).status()["served"]
            with concurrent.futures.ThreadPoolExecutor(20) as threads:
                assert list(threads.map(ask, range(1, 41))) == list(range(1, 41)), log.read_text()
            assert attach(daemon).status()["served"] >= served + 40
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)
    assert server.returncode == 0, log.read_text()
