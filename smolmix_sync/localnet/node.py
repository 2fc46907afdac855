"""One node of ours in a network of others: a mix node or an entry gateway against a foreign nym-api.

The node is the program that a localnet runs; here it reads its neighbours from nym-api, as a real node does. Telling
the directory about the node is the caller's business: the real one asks a smart contract and the node's own HTTP API,
neither of which is here. `LocalNode.facts` says what there is to tell.

Its Sphinx key does not rotate, and is taken for that of every rotation.
Run: ``python -m smolmix_sync.localnet node --role mix --nym-api URL``.
"""

from __future__ import annotations

import _socket
import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from smolmix_sync.address import base58_encode
from smolmix_sync.crypto import x25519_base
from smolmix_sync.localnet.ca import CertificateAuthority
from smolmix_sync.localnet.child import end_child, parent_to_watch, start_child
from smolmix_sync.localnet.localnet import LocalNetFailed
from smolmix_sync.localnet.neighbours import REFRESH
from smolmix_sync.localnet.plan import NodeKeys, PortBook, SphinxNode
from smolmix_sync.mixnet.sphinx.mix_packet import UNKNOWN_ROTATION_ID

__all__ = ["ROLES", "LocalNode", "add_node_arguments", "load_keys", "run_node"]

#: Role -> the program's module and kind of node.
ROLES = {"mix": "mixnode", "entry": "gateway"}

_START_TIMEOUT = 30.0
_REQUEST_TIMEOUT = 10.0
_STOP_TIMEOUT = 5.0


def load_keys(path: Path) -> NodeKeys:
    """Read a node's keys from *path*, which is made with new ones, for this user alone, if there is none.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read, or not be made.
    """
    names = [field.name for field in dataclasses.fields(NodeKeys)]
    try:
        text = path.read_text()
    except FileNotFoundError:
        keys = NodeKeys.generate()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({name: getattr(keys, name).hex() for name in names}, file)
        return keys
    try:
        values = json.loads(text)
        return NodeKeys(**{name: bytes.fromhex(values[name]) for name in names})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no keys of a node") from error


class LocalNode:
    """A node that runs as a process of its own, as a context manager.

    Args:
        role: ``mix`` or ``entry``.
        nym_api: base URL of the network's directory, which is read at once and then again and again; it need
            neither be up yet nor know this node.
        address: the IP address that the node binds and is known by.
        mix_port: where it takes packets; 0 chooses one.
        ws_port: where an entry serves clients, without TLS; 0 chooses one.
        keys: the node's keys; new ones by default.
        noise: whether it announces and speaks Noise.
        refresh: seconds between two readings of the directory.
        log_level: of the process, on stderr.
    """

    def __init__(
        self,
        role: str,
        nym_api: str,
        *,
        address: str = "127.0.0.1",
        mix_port: int = 0,
        ws_port: int = 0,
        keys: NodeKeys | None = None,
        noise: bool = True,
        refresh: float = REFRESH,
        log_level: str = "WARNING",
    ) -> None:
        if role not in ROLES:
            raise ValueError(f"a node of ours is {' or '.join(ROLES)}, not {role!r}")
        self.role = role
        self._nym_api = nym_api
        self._noise = noise
        self._refresh = refresh
        self._log_level = log_level
        self._ports = PortBook(address, {"mix": mix_port, "ws": ws_port})
        listeners = ["mix"] if role == "mix" else ["mix", "ws", "wss"]
        try:
            ports = {listener: self._ports.reserve(listener) for listener in listeners}
        except OSError:
            self._ports.close()
            raise
        self._node = SphinxNode(
            role, 0, ROLES[role], None, address, ports, keys if keys is not None else NodeKeys.generate()
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._line: _socket.socket | None = None
        self._lock = threading.Lock()
        self._buffer = b""
        self._last_id = 0
        self._pid = os.getpid()

    def facts(self) -> dict[str, Any]:
        """Return what the directory has to be told about this node; keys in base58."""
        node = self._node
        return {
            "role": self.role,
            "identity": base58_encode(node.identity),
            "sphinx_key": base58_encode(x25519_base(node.keys.sphinx_private)),
            "noise_key": base58_encode(node.noise_key) if self._noise else None,
            "address": node.address,
            "mix_port": node.ports["mix"],
            "ws_port": node.ports.get("ws"),
        }

    def start(self) -> LocalNode:
        """Start the process and wait until it listens.

        Raises:
            LocalNetFailed: it ended, or was not ready in time.
        """
        if self._process is not None:
            raise RuntimeError("this node runs already")
        self._process, self._line = start_child(self._node.kind)
        self._pid = os.getpid()
        try:
            self._send({"config": self._config()})
            answer = self._receive(_START_TIMEOUT)
            if "error" in answer:
                raise LocalNetFailed(answer["error"])
        except BaseException:
            self.stop()
            raise
        return self

    def _config(self) -> dict[str, Any]:
        node = self._node
        config: dict[str, Any] = {
            "name": node.name,
            "log_level": self._log_level,
            "parent": parent_to_watch(),
            "address": node.address,
            "ports": dict(node.ports),
            "sphinx_keys": [[UNKNOWN_ROTATION_ID, node.keys.sphinx_private.hex()]],
            "identity_seed": node.keys.identity_seed.hex(),
            "frame_version": 7,  # as nym-node sends it unless told otherwise
            "known_ips": [],
            "peers": {},
            "nym_api": self._nym_api,
            "refresh": self._refresh,
        }
        if self._noise:
            config["noise"] = {"private": node.keys.noise_private.hex(), "keys": {}}
        if self.role == "entry":
            # Nobody announces the port with TLS; the program has one all the same.
            config["leaf"] = dataclasses.asdict(CertificateAuthority().issue([node.address]))
        return config

    def stats(self) -> dict[str, int]:
        """Return the node's counters.

        Raises:
            LocalNetFailed: it is down, or does not answer.
        """
        with self._lock:
            self._last_id += 1
            self._send({"id": self._last_id, "op": "stats"})
            counters: dict[str, int] = self._receive(_REQUEST_TIMEOUT)["ok"]
            return counters

    def _send(self, message: dict[str, Any]) -> None:
        if self._line is None:
            raise LocalNetFailed("the node is down")
        try:
            self._line.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise LocalNetFailed(f"the node's process is gone: {error}") from None

    def _receive(self, timeout: float) -> dict[str, Any]:
        """Return the next answer; what the node wants kept for another start is passed over."""
        assert self._line is not None
        deadline = time.monotonic() + timeout
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                message: dict[str, Any] = json.loads(line)
                if "keep" not in message:
                    return message
                continue
            self._line.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                raise LocalNetFailed("the node did not answer in time") from None
            except OSError as error:
                raise LocalNetFailed(f"the node's process is gone: {error}") from None
            if not data:
                raise LocalNetFailed("the node's process ended")
            self._buffer += data

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the process and give its ports back. May be called twice."""
        if self._pid != os.getpid():  # a forked child: the node is the parent's
            return
        if self._line is not None:
            self._line.close()  # end of file is the order to stop
            self._line = None
        process, self._process = self._process, None
        if process is not None:
            end_child(process, _STOP_TIMEOUT)
        self._ports.close()

    def __enter__(self) -> LocalNode:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the switches of a single node to a command line."""
    parser.add_argument(
        "--role", choices=sorted(ROLES), required=True, help="a mix node, or an entry gateway"
    )
    parser.add_argument("--nym-api", metavar="URL", required=True, help="the directory of the network")
    parser.add_argument(
        "--address", default="127.0.0.1", help="IP address that the node binds and is known by"
    )
    parser.add_argument("--mix-port", type=int, default=0, metavar="PORT", help="chosen by default")
    parser.add_argument(
        "--ws-port", type=int, default=0, metavar="PORT", help="of an entry; chosen by default"
    )
    parser.add_argument("--keys", type=Path, metavar="FILE", help="keep the node's keys here, unencrypted")
    parser.add_argument("--no-noise", action="store_true", help="announce no Noise key, and speak none")
    parser.add_argument("--refresh", type=float, default=REFRESH, metavar="SECONDS",
                        help="how often to read the directory")  # fmt: skip
    parser.add_argument("--json", action="store_true",
                        help="print JSON: what to announce, and the counters at the end")  # fmt: skip


def run_node(arguments: argparse.Namespace, out: TextIO | None = None) -> int:
    """Run one node in the foreground until SIGINT or SIGTERM; return the exit code."""
    out = out if out is not None else sys.stdout
    # No threading.Event: a handler that comes while the main thread is inside its wait() would wait for that for ever.
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ended.append(number))
    try:
        node = LocalNode(
            arguments.role,
            arguments.nym_api,
            address=arguments.address,
            mix_port=arguments.mix_port,
            ws_port=arguments.ws_port,
            keys=load_keys(arguments.keys) if arguments.keys is not None else None,
            noise=not arguments.no_noise,
            refresh=arguments.refresh,
        )
        with node:
            if arguments.json:
                print(json.dumps(node.facts()), file=out, flush=True)
            else:
                for name, value in node.facts().items():
                    print(f"{name:11} {value if value is not None else '-'}", file=out, flush=True)
            while not ended:
                time.sleep(0.2)
                if not node.alive:
                    raise LocalNetFailed("the node's process ended")
            if arguments.json:
                print(json.dumps(node.stats()), file=out, flush=True)
    except (LocalNetFailed, OSError, ValueError) as error:
        print(f"localnet node: {error}", file=sys.stderr)
        return 1
    return 0
