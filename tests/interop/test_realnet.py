"""Our client on a network of real nym-nodes: run with ``NYM_NODE`` naming a binary, as root (docs/interop.rst)."""

from __future__ import annotations

import errno
import hashlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop import realnet
from interop.realnet import API, NAME, VERSION, RealNet

from smolmix_sync.nodeversion import ipr_version_for

_MISSING = realnet.missing()
pytestmark = [
    pytest.mark.interop,
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(_MISSING is not None, reason=f"realnet: {_MISSING}"),
]

MEGABYTE = 1_000_000
TARGET = "198.51.100.10"
Json = dict[str, Any]


class Client:
    """A program of ours inside the namespace, with one tunnel."""

    def __init__(self, net: RealNet, **settings: Any) -> None:
        settings = {"nym_api": API, "preferred_gateway": net.nodes["entry"]["identity"], **settings}
        program = str(Path(__file__).with_name("realnet_client.py"))
        command = [sys.executable, program, json.dumps(settings), str(net.ca_path)]
        self.process = subprocess.Popen(
            net.inside(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=net.environment()
        )
        self.setup: Json = {}

    def __enter__(self) -> Client:
        try:
            self.setup = self._read(90)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process.stdout.close()

    def _read(self, seconds: float) -> Json:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "the client did not answer"
        line = self.process.stdout.readline()
        assert line, "the client ended"
        told: Json = json.loads(line)
        print(told)
        assert "failed" not in told, told
        return told

    def ask(self, step: str, seconds: float = 150, **arguments: Any) -> Json:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"step": step, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        return self._read(seconds)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNet]:
    with RealNet(tmp_path_factory.mktemp("realnet"), open_proxy=False) as net:
        yield net


@pytest.fixture(scope="module")
def client(real: RealNet) -> Iterator[Client]:
    with Client(real) as client:
        yield client


def test_our_client_registers_and_is_ready_within_five_seconds(client: Client) -> None:
    if ipr_version_for(VERSION) == 9:
        assert client.setup["seconds"] < 5
    else:  # REALNET_NODE_VERSION: the directory promises more than the exit speaks
        assert 14 < client.setup["seconds"] < 35
        assert "exit: no answer yet; trying version 9" in client.setup["progress"]


def test_our_client_resolves_names_through_the_real_exit(client: Client) -> None:
    assert client.ask("resolve", name=NAME) == {"addresses": [TARGET]}
    assert client.ask("resolve", name="nothing.realnet.test") == {"error": "NameResolutionError"}


def test_our_client_pings_through_the_real_exit(client: Client) -> None:
    assert 0 < client.ask("ping")["round_trip"] < 5


def test_our_datagrams_come_back_through_the_real_exit(client: Client) -> None:
    assert client.ask("udp", count=10)["came_back"] >= 8


def test_our_client_fetches_a_page(client: Client) -> None:
    told = client.ask("fetch", url=f"http://{NAME}/")
    assert (told["status"], told["length"]) == (200, len("hello from realnet\n"))


def test_our_client_speaks_https(client: Client) -> None:
    told = client.ask("https", name=NAME)
    assert told["version"] == "TLSv1.3"
    assert told["body"].endswith("hello from realnet\n")


def test_our_client_is_told_what_the_real_exit_refuses(client: Client) -> None:
    forbidden = client.ask("refused", port=81)
    assert forbidden["errno"] == errno.EACCES
    assert "81" in forbidden["message"]
    assert client.ask("refused", port=82)["errno"] == errno.ECONNREFUSED


def test_our_client_downloads_a_megabyte(client: Client) -> None:
    told = client.ask("fetch", url=f"http://{NAME}/bytes/{MEGABYTE}")
    assert told["length"] == MEGABYTE
    assert told["sha256"] == hashlib.sha256(hashlib.shake_128(b"realnet").digest(MEGABYTE)).hexdigest()


def test_our_client_uploads_a_megabyte(client: Client) -> None:
    told = client.ask("upload", url=f"http://{NAME}/upload", size=MEGABYTE)
    assert (told["length"], told["sha256"]) == (MEGABYTE, told["expected"])


def test_our_client_runs_ten_connections_at_once(client: Client) -> None:
    assert client.ask("many", count=10, size=20_000)["right"] == 10


def test_our_client_survives_a_restart_of_the_real_entry(real: RealNet, client: Client) -> None:
    kept = client.ask("keep")
    assert kept["right"]
    real.kill("entry")
    time.sleep(2)
    real.start("entry")
    told = client.ask("recovered", limit=40)
    assert told["state"] == "ready"
    assert "reconnecting" in told["states"]
    assert client.ask("use")["right"], "the old connection went on"


def test_our_client_notices_a_restart_of_the_real_exit(real: RealNet, client: Client) -> None:
    assert client.ask("keep")["right"]
    real.kill("exit")
    real.start("exit")
    real.wait_up("exit")
    assert client.ask("use")["error"] == "NetworkDown", "the new exit knows nothing of the old connection"
    told = client.ask("recovered", limit=90)
    assert told["state"] == "ready"
    assert "reconnecting" in told["states"]
    assert client.ask("fetch", url=f"http://{NAME}/")["status"] == 200


def test_a_stored_identity_of_ours_authenticates_at_the_real_entry(real: RealNet, tmp_path: Path) -> None:
    settings = {"client_id": "me", "storage_path": str(tmp_path)}
    addresses, registrations = [], []
    for _ in range(2):
        with Client(real, **settings) as client:
            addresses.append(client.setup["address"])
            assert client.ask("fetch", url=f"http://{NAME}/")["status"] == 200
        kept = json.loads((tmp_path / "me" / "identity.json").read_bytes())
        registrations.append(kept["gateways"][real.nodes["entry"]["identity"]])
    assert addresses[0] == addresses[1]
    first, second = registrations
    assert first["shared_key"] == second["shared_key"], "another registration would give another key"
    assert first["last_auth"] < second["last_auth"]


def test_our_client_falls_back_to_v9_where_the_real_exit_is_older_than_the_directory_says(
    real: RealNet,
) -> None:
    real.announce("1.37.0")
    try:
        with Client(real) as client:
            assert 14 < client.setup["seconds"] < 35
            assert "exit: no answer yet; trying version 9" in client.setup["progress"]
            assert client.ask("fetch", url=f"http://{NAME}/")["status"] == 200
    finally:
        real.announce(VERSION)


@pytest.mark.timeout(500)
def test_our_tunnel_is_alive_after_five_idle_minutes(real: RealNet) -> None:
    # Real exits forget a client after 60 s without a packet, real gateways want their pings answered.
    with Client(real) as client:
        kept = client.ask("keep")
        assert kept["right"]
        told = client.ask("idle", 330, length=300.0)
        assert (told["state"], told["states"], told["reconnects"]) == ("ready", [], 0)
        assert told["addresses"] == kept["addresses"]
        assert told["ip_packets"] >= 300 // 60
        assert client.ask("use")["right"], "the old connection goes on"
