"""A network of real nym-node processes in a network namespace of its own.

Three mix nodes, an entry gateway and an exit gateway with its IP packet router (a TUN device), none of them
modified, and what :mod:`realnet_services` serves. Nothing leaves the namespace: it has loopback and the TUN
device only. Checked with nym-node 1.31.0.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.certificates import Authority

HERE = Path(__file__).resolve().parent
API = "http://127.0.0.1:8000/api/"
NAME = "www.realnet.test"
#: What the directory says the nodes are, whatever they are: from 1.37.0 on clients speak v10 first.
VERSION = os.environ.get("REALNET_NODE_VERSION", "1.31.0")
#: Addresses the services stand at, all on the namespace's loopback.
ADDRESSES = ("198.51.100.10/32", "1.1.1.1/32", "8.8.8.8/32", "9.9.9.9/32")
#: Name, layer, mix port, websocket port.
NODES: tuple[tuple[str, int | None, int, int | None], ...] = (
    ("mix1", 1, 10001, None),
    ("mix2", 2, 10002, None),
    ("mix3", 3, 10003, None),
    ("entry", None, 10011, 9001),
    ("exit", None, 10012, 9002),
)
#: What a node prints when it serves.
READY_LINES = {"exit": "All systems go", "entry": "Starting websocket listener"}
SETTINGS = f"""CONFIGURED=true
NETWORK_NAME=realnet
BECH32_PREFIX=n
MIX_DENOM=unym
MIX_DENOM_DISPLAY=nym
STAKE_DENOM=unyx
STAKE_DENOM_DISPLAY=nyx
DENOMS_EXPONENT=6
NYXD=http://127.0.0.1:26657
NYM_API={API}
NYM_APIS='[{{"url":"{API}","front_hosts":null}}]'
EXIT_POLICY={API}exit-policy.txt
"""


def missing() -> str | None:
    """Return why this machine cannot run the network, None if it can."""
    binary = os.environ.get("NYM_NODE")
    if not binary:
        return "NYM_NODE names no nym-node binary"
    if not os.access(binary, os.X_OK):
        return f"NYM_NODE: {binary} cannot be run"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "setpriv"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return None


class RealNet:
    """The network; a context manager.

    Args:
        folder: for keys, logs and settings of the nodes.
        open_proxy: let the exit carry everything; else it asks the services for its exit policy.
    """

    def __init__(self, folder: Path, *, open_proxy: bool = True) -> None:
        self.folder = folder
        self.open_proxy = open_proxy
        self.namespace = f"smolmix-{os.getpid()}"
        self.binary = os.environ["NYM_NODE"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.ca_path = folder / "authority.pem"

    def __enter__(self) -> RealNet:
        try:
            self._up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process and remove the namespace; any number of times."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self.processes.clear()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, stderr=subprocess.DEVNULL)

    def inside(self, *command: str) -> list[str]:
        """Return *command* as one that runs in the namespace and ends with this process."""
        return ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace, *command]

    def environment(self) -> dict[str, str]:
        """Return the environment of a program in the namespace."""
        foreign = ("NYM", "CONFIGURED", "SMOLMIX_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {**kept, "HOME": str(self.folder)}

    def announce(self, version: str) -> None:
        """Let the directory say that every node is of *version*."""
        for node in self.nodes.values():
            node["version"] = version
        staged = self.folder / "nodes.new"
        staged.write_text(json.dumps(list(self.nodes.values())))
        staged.replace(self.folder / "nodes.json")

    def start(self, name: str) -> None:
        """Start a node, without waiting for it."""
        self._spawn(name, self._node("run", *self._flags(name)))

    def kill(self, name: str) -> None:
        """End a node at once."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)

    def log(self, name: str) -> str:
        """Return what the process *name* printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_up(self, name: str, seconds: float = 60) -> None:
        """Wait for a node to say that it runs."""
        deadline = time.monotonic() + seconds
        while READY_LINES.get(name, "attempting to run mixnet listener") not in self.log(name):
            assert self.processes[name].poll() is None, f"{name} stopped: {self.log(name)[-2000:]}"
            assert time.monotonic() < deadline, f"{name} did not come up: {self.log(name)[-2000:]}"
            time.sleep(0.1)

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)

    def _node(self, *words: str) -> list[str]:
        return self.inside(self.binary, "-c", str(self.folder / "network.env"), "--no-banner", *words)

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
            )

    def _up(self) -> None:
        (self.folder / "network.env").write_text(SETTINGS)
        (self.folder / "nodes.json").write_text("[]")
        authority = Authority()
        authority.write(self.ca_path)
        authority.server_context(NAME, self.folder)
        self._ip("netns", "add", self.namespace)
        self._ip("-n", self.namespace, "link", "set", "lo", "up")
        for address in ADDRESSES:
            self._ip("-n", self.namespace, "addr", "add", address, "dev", "lo")
        services = [sys.executable, str(HERE / "realnet_services.py"), str(self.folder)]
        self._spawn("services", self.inside(*services))
        deadline = time.monotonic() + 20
        while not (self.folder / "services.up").exists():
            assert self.processes["services"].poll() is None, self.log("services")
            assert time.monotonic() < deadline, "the services did not start"
            time.sleep(0.05)
        for number, (name, layer, mix_port, ws_port) in enumerate(NODES, 1):
            self.nodes[name] = {
                "node_id": number, "name": name, "layer": layer, "mix_port": mix_port, "ws_port": ws_port,
                **self._keys(number, name),
            }  # fmt: skip
        self.announce(VERSION)
        for name, *_ in NODES:
            self.start(name)
        for name, *_ in NODES:
            self.wait_up(name, 90)

    def _keys(self, number: int, name: str) -> dict[str, Any]:
        """Make a node's keys and settings; return what the directory says about it."""
        subprocess.run(
            self._node("run", "--init-only", *self._flags(name)),
            check=True, capture_output=True, env=self.environment(), timeout=60,
        )  # fmt: skip
        # Two gateways on one host clash at these ports, whose command line options have no effect in 1.31.0.
        settings = self.folder / ".nym/nym-nodes" / name / "config/config.toml"
        text = settings.read_text()
        for port, ours in (("41264", f"4{number:04}"), ("51264", f"5{number:04}")):
            text = text.replace(f"'[::]:{port}'", f"'127.0.0.1:{ours}'")
        settings.write_text(text)
        output = subprocess.run(
            self._node("node-details", "--id", name, "--output=json"),
            check=True, capture_output=True, text=True, env=self.environment(), timeout=60,
        ).stdout  # fmt: skip
        details = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
        return {
            "identity": details["ed25519_identity_key"],
            "sphinx": details["x25519_primary_sphinx_key"]["public_key"],
            "ipr": details["exit_ip_packet_router_address"],
        }

    def _flags(self, name: str) -> list[str]:
        number = next(n for n, node in enumerate(NODES, 1) if node[0] == name)
        _, layer, mix_port, ws_port = NODES[number - 1]
        flags = {
            "--id": name,
            "--public-ips": "127.0.0.1",
            "--nym-api-urls": API,
            "--nyxd-urls": "http://127.0.0.1:26657",
            "--mixnet-bind-address": f"127.0.0.1:{mix_port}",
            "--mixnet-announce-port": str(mix_port),
            "--verloc-bind-address": f"127.0.0.1:2{number:04}",
            "--http-bind-address": f"127.0.0.1:3{number:04}",
        }
        switches = ["--local", "--accept-operator-terms-and-conditions", "--unsafe-disable-replay-protection"]
        if layer is None:
            flags |= {
                "--mode": f"{name}-gateway",
                "--entry-bind-address": f"127.0.0.1:{ws_port}",
                "--enforce-zk-nyms": "false",
                "--lp-use-mock-ecash": "true",
                "--wireguard-enabled": "false",
                "--open-proxy": "true" if self.open_proxy else "false",
                "--upstream-exit-policy-url": f"{API}exit-policy.txt",
                "--nr-allow-local-ips": "true",
                "--ipr-allow-local-ips": "true",
            }
        return [*switches, *(word for pair in flags.items() for word in pair)]
