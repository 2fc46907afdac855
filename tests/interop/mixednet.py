"""A network in which real nym-node processes and nodes of ours stand side by side, in a namespace of its own.

The real ones are those of :mod:`realnet`: three mix nodes, an entry and an exit. Beside them stand a mix node of ours
in the middle layer, another one that has an address of its own and announces no Noise, and an entry gateway of ours.
Which node of the middle layer clients use is chosen test by test.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from interop.realnet import ADDRESSES, API, HERE, NODES, SETTINGS, RealNet
from support.certificates import Authority

NAME = "www.realnet.test"
OUR_MIX, OUR_PLAIN_MIX, OUR_ENTRY = "our-mix", "our-plain-mix", "our-entry"
#: Name, role, layer, and how it is started.
OURS: tuple[tuple[str, str, int | None, dict[str, Any]], ...] = (
    (OUR_MIX, "mix", 2, {}),
    (OUR_PLAIN_MIX, "mix", 2, {"address": "127.0.0.9", "noise": False}),
    (OUR_ENTRY, "entry", None, {}),
)
MIDDLE = ("mix2", OUR_MIX, OUR_PLAIN_MIX)
Json = dict[str, Any]


class Told:
    """A program of ours in the namespace that is told what to do, a JSON object a line, and answers each."""

    def __init__(self, net: MixedNet, script: str, *arguments: str) -> None:
        command = net.inside(sys.executable, str(HERE / script), *arguments)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=net.environment()
        )
        self.script = script
        self.setup: Json = {}

    def __enter__(self) -> Told:
        try:
            self.setup = self.read(90)
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

    def read(self, seconds: float) -> Json:
        """Return the next answer."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, f"no answer of {self.script} in {seconds} s"
        line = self.process.stdout.readline()
        assert line, f"{self.script} ended"
        told: Json = json.loads(line)
        assert "failed" not in told, told
        return told

    def tell(self, step: str, **arguments: Any) -> None:
        """Ask for a step, without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"step": step, **arguments}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, step: str, seconds: float = 150, **arguments: Any) -> Json:
        """Ask for a step and return what came of it."""
        self.tell(step, **arguments)
        return self.read(seconds)


class MixedNet(RealNet):
    """The network; a context manager.

    Args:
        folder: for keys, logs and settings of the nodes.
        noise: whether the directory announces the nodes' Noise keys. Real nodes learn each other's from there
            alone, so without it all links are plain.
    """

    def __init__(self, folder: Path, noise: bool) -> None:
        super().__init__(folder)
        self.noise = noise
        self.ours: dict[str, Told] = {}

    def close(self) -> None:
        """Stop every process and remove the namespace; any number of times."""
        for node in self.ours.values():
            node.__exit__()
        self.ours.clear()
        super().close()

    def use(self, middle: str, *, gateway: str = "entry") -> Json:
        """Choose the node of the middle layer for clients to come; return the settings of one at *gateway*."""
        for name in MIDDLE:
            self.nodes[name]["used"] = name == middle
        self.announce("1.31.0")
        return {"nym_api": API, "preferred_gateway": self.nodes[gateway]["identity"]}

    def tunnel(self, settings: Json) -> Told:
        """Return a program with one tunnel; its steps are in :mod:`realnet_client`."""
        return Told(self, "realnet_client.py", json.dumps(settings), str(self.ca_path))

    def messages(self, settings: Json) -> Told:
        """Return a message client; its steps are in :mod:`mixed_client`."""
        return Told(self, "mixed_client.py", json.dumps(settings))

    def counters(self, name: str) -> dict[str, int]:
        """Return what a node of ours has counted until now."""
        return self.ours[name].ask("stats", 20)

    def flows(self) -> list[tuple[str, int, str, int, bytes]]:
        """Return both ends and the first octets of all that TCP carried, one direction each."""
        lines = (self.folder / "flows.json").read_text().splitlines()
        return [(*ends, bytes.fromhex(octets)) for *ends, octets in map(json.loads, lines)]

    def mix_links(self) -> dict[tuple[str, str], set[bytes]]:
        """Return how links between nodes began, by the address they came from and the node they went to."""
        names = {(node["address"], node["mix_port"]): name for name, node in self.nodes.items()}
        links: dict[tuple[str, str], set[bytes]] = {}
        for source, _, address, port, octets in self.flows():
            if (address, port) in names:
                links.setdefault((source, names[address, port]), set()).add(octets)
        return links

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
        self._spawn(
            "services", self.inside(sys.executable, str(HERE / "mixed_services.py"), str(self.folder))
        )
        deadline = time.monotonic() + 20
        while not (self.folder / "services.up").exists():
            assert self.processes["services"].poll() is None, self.log("services")
            assert time.monotonic() < deadline, "the services did not start"
            time.sleep(0.05)
        for number, (name, layer, mix_port, ws_port) in enumerate(NODES, 1):
            self.nodes[name] = {
                "node_id": number, "name": name, "layer": layer, "address": "127.0.0.1", "mix_port": mix_port,
                "ws_port": ws_port, "used": True, **self._keys(number, name),
            }  # fmt: skip
        for number, (name, role, layer, settings) in enumerate(OURS, len(NODES) + 1):
            node = Told(self, "mixed_node.py", role, json.dumps({"nym_api": API, "refresh": 1.0, **settings}))
            self.ours[name] = node.__enter__()
            self.nodes[name] = {
                "node_id": number, "name": name, "layer": layer, "address": node.setup["address"],
                "mix_port": node.setup["mix_port"], "ws_port": node.setup["ws_port"], "used": True,
                "identity": node.setup["identity"], "sphinx": node.setup["sphinx_key"], "ipr": None,
                "noise": node.setup["noise_key"] if self.noise else None,
            }  # fmt: skip
        # Real nodes read the directory when they start, and then not for minutes.
        self.announce("1.31.0")
        for name, *_ in NODES:
            self.start(name)
        for name, *_ in NODES:
            self.wait_up(name, 90)

    def _keys(self, number: int, name: str) -> Json:
        keys = super()._keys(number, name)
        output = subprocess.run(
            self._node("node-details", "--id", name, "--output=json"),
            check=True, capture_output=True, text=True, env=self.environment(), timeout=60,
        ).stdout  # fmt: skip
        details = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
        return {**keys, "noise": details["x25519_noise_key"] if self.noise else None}
