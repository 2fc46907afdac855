"""One node of a localnet alone on a bench: its real process, and plain sockets around it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from smolmix_sync.crypto import x25519_base
from smolmix_sync.localnet import LocalNet
from smolmix_sync.localnet.ca import CertificateAuthority
from smolmix_sync.mixnet.sphinx import FrameDecoder, Hop, MixFrame, NodeAddress, encode_frame

LOOPBACK = "127.0.0.1"


class BenchNode:
    """A process of one program, spoken to over its life line as the supervisor does."""

    def __init__(self, module: str, config: dict[str, Any]) -> None:
        self.config = config
        self.kept: dict[str, Any] = {}
        self._module = module
        self._last_id = 0
        self.start()

    def start(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"smolmix_sync.localnet.{self._module}"], stdin=theirs.fileno()
            )
        self._line.settimeout(20)
        self._file = self._line.makefile("rb")
        self._send({"config": self.config | {"kept": self.kept, "parent": os.getpid()}})
        answer = self._receive()
        assert answer == {"ready": True}, answer

    def _send(self, message: dict[str, Any]) -> None:
        self._line.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self._file.readline())
            if "keep" not in message:
                return message
            self.kept.update(message["keep"])

    def request(self, op: str, **arguments: Any) -> Any:
        self._last_id += 1
        self._send({"id": self._last_id, "op": op, **arguments})
        answer = self._receive()
        assert answer["id"] == self._last_id
        assert "error" not in answer, answer
        return answer["ok"]

    def stats(self) -> dict[str, int]:
        counters: dict[str, int] = self.request("stats")
        return counters

    def wait_for(self, counter: str, value: int, timeout: float = 5.0) -> dict[str, int]:
        deadline = time.monotonic() + timeout
        while (stats := self.stats()).get(counter, 0) < value:
            assert time.monotonic() < deadline, f"{counter} is {stats.get(counter, 0)}, not {value}: {stats}"
            time.sleep(0.01)
        return stats

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._file.close()
        self._line.close()

    def close(self) -> None:
        self._file.close()
        self._line.close()
        assert self.process.wait(10) == 0


class Peer:
    """The end of a mix link, with a Sphinx key of its own."""

    def __init__(self) -> None:
        self.private_key = os.urandom(32)
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.settimeout(5)
        self.address = NodeAddress(LOOPBACK, self._listener.getsockname()[1])
        self.hop = Hop(self.address, x25519_base(self.private_key))
        self._connection: socket.socket | None = None
        self._decoder = FrameDecoder()

    def receive(self, timeout: float = 5.0) -> MixFrame | None:
        """Return the next frame, or None if none came in time."""
        deadline = time.monotonic() + timeout
        while (frame := self._decoder.next_frame_untrusted()) is None:
            source = self._connection or self._listener
            if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            if self._connection is None:
                self._connection, _ = self._listener.accept()
                continue
            data = self._connection.recv(65536)
            if not data:
                self._connection.close()
                self._connection = None
                self._decoder = FrameDecoder()
                continue
            self._decoder.receive_data(data)
        return frame

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()


class MixBench:
    """Starts nodes and peers; everything ends with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def on_end(self, action: Callable[[], object]) -> None:
        self._stack.callback(action)

    def free_port(self) -> int:
        with socket.create_server((LOOPBACK, 0)) as sock:
            port: int = sock.getsockname()[1]
            return port

    def peer(self) -> Peer:
        peer = Peer()
        self._stack.callback(peer.close)
        return peer

    def node(self, module: str, **config: Any) -> tuple[BenchNode, Hop]:
        """Start a node that may send to any loopback peer; return it and itself as a hop."""
        private_key = os.urandom(32)
        kinds = ("mix",) if module == "mixnode" else ("mix", "ws", "wss")
        leaf = CertificateAuthority().issue([LOOPBACK])
        base = {
            "name": module,
            "address": LOOPBACK,
            "ports": {kind: self.free_port() for kind in kinds},
            "sphinx_keys": [[1, private_key.hex()]],
            "identity_seed": os.urandom(32).hex(),
            "frame_version": 8,
            "known_ips": [LOOPBACK],
            "peers": {},
            "leaf": {"chain": leaf.chain, "key": leaf.key},
        }
        node = BenchNode(module, base | config)
        self._stack.callback(self._end, node)
        return node, Hop(NodeAddress(LOOPBACK, base["ports"]["mix"]), x25519_base(private_key))

    @staticmethod
    def _end(node: BenchNode) -> None:
        if node.process.poll() is None:
            node.close()

    @staticmethod
    def send(hop: Hop, packet: bytes, key_rotation: int = 1, version: int = 8) -> None:
        """Send one packet over a link of its own."""
        with socket.create_connection((hop.address.ip, hop.address.port), timeout=5) as link:
            link.sendall(encode_frame(packet, key_rotation, version))


@pytest.fixture
def bench() -> Iterator[MixBench]:
    with ExitStack() as stack:
        yield MixBench(stack)


@pytest.fixture(scope="module")
def module_bench() -> Iterator[MixBench]:
    with ExitStack() as stack:
        yield MixBench(stack)


@pytest.fixture(scope="session")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net
