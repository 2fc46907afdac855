"""`LocalNet`: start the network in a child process, use it, end it.

Nothing here speaks a protocol of the network. The parent knows only what a client
may know (URLs, public keys, addresses) and a control socket.

Source: design.md decision 17.
"""

from __future__ import annotations

# C types captured as they are: the parent's socket.socket may be patched, before or after.
import _socket
import dataclasses
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from smolmix_sync.config import set_process_overrides
from smolmix_sync.localnet.child import end_child, parent_to_watch, start_child
from smolmix_sync.localnet.config import LocalNetConfig
from smolmix_sync.localnet.control import ControlClient

__all__ = ["LocalNet", "LocalNetFailed", "NodeControl"]

_log = logging.getLogger("smolmix_sync.localnet")

#: Ours: a network on two busy cores is up in 2 s; a minute means that it never will be.
_START_TIMEOUT = 60.0
#: Ours: the supervisor gives its nodes 3 s to end before it kills them.
_STOP_TIMEOUT = 10.0


class LocalNetFailed(RuntimeError):
    """The network did not come up; the message holds what its processes said."""


class NodeControl:
    """Watches and breaks one process of the network.

    ``name`` is one of `LocalNet.nodes`: ``entry``, ``mix1``, ``mix2``, ``mix3``,
    ``exit``, ``nym-api`` or ``services``.
    """

    def __init__(self, control: ControlClient, name: str, info: Mapping[str, Any]) -> None:
        self._control = control
        self.name = name
        #: What the node listens on: ``{"mix": ["127.0.0.1", 1789], ...}``.
        self.ports: dict[str, tuple[str, int]] = {kind: (a, p) for kind, (a, p) in info["ports"].items()}
        #: Base58 identity key; None for nym-api and services.
        self.identity: str | None = info.get("identity")

    @property
    def pid(self) -> int | None:
        """The process id, or None while the node is down."""
        pid: int | None = self._control.request("nodes")[self.name]["pid"]
        return pid

    def stats(self) -> dict[str, int]:
        """Return the node's counters.

        Raises:
            ControlError: the node is down or does not answer.
        """
        counters: dict[str, int] = self._control.request("stats", node=self.name)
        return counters

    def kill(self) -> None:
        """End the process with SIGKILL; returns when it is gone. Keys and ports are kept."""
        self._control.request("kill", node=self.name)

    def stop(self) -> None:
        """End the process with SIGTERM; returns when it is gone."""
        self._control.request("stop", node=self.name)

    def start(self) -> None:
        """Start a node that is down, with the same keys, ports and switches; returns when it is ready."""
        self._control.request("start", node=self.name)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process with SIGSTOP: its kernel still acknowledges, until windows are full."""
        self._control.request("pause", node=self.name)

    def resume(self) -> None:
        """Let a paused process run again."""
        self._control.request("resume", node=self.name)

    def set(self, **switches: Any) -> None:
        """Change switches of the running node; they survive its restart.

        ``drop`` (fraction of Sphinx packets), ``enforce_tickets`` (gateways),
        ``ipr_versions`` and ``silent`` (exits: the IPR swallows everything).
        """
        self._control.request("set", node=self.name, switches=switches)

    def command(self, command: str, **arguments: Any) -> Any:
        """Run a command of this kind of node; see the ``command_*`` methods of its module."""
        return self._control.request("command", node=self.name, command=command, arguments=arguments)


class LocalNet:
    """A mixnet on this machine, as a context manager.

    Inside the block every tunnel of this process uses the network, unless it is
    told otherwise by argument. The network ends with the block and with this
    process, however that ends.

    Args:
        config: all switches; the keywords are the same switches one by one.
        set_default: make it the process's default network while the block runs.
        start_timeout: seconds until all nodes must be ready.
        switches: fields of `LocalNetConfig`.

    Example::

        with LocalNet() as net:
            smolmix_sync.patch_all()
            urllib.request.urlopen("http://echo.localnet/")
            print(net.stats()["mix1"]["packets_in"])
    """

    def __init__(
        self,
        config: LocalNetConfig | None = None,
        *,
        set_default: bool = True,
        start_timeout: float = _START_TIMEOUT,
        **switches: Any,
    ) -> None:
        base = config if config is not None else LocalNetConfig()
        self.config = dataclasses.replace(base, **switches)
        self._set_default = set_default
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: _socket.socket | None = None
        self._info: dict[str, Any] = {}
        self._previous_overrides: Mapping[str, Any] | None = None
        self._own_state_dir: str | None = None
        self._pid = os.getpid()

    # --- life ---

    def start(self) -> LocalNet:
        """Start the processes and wait until every node is ready.

        Raises:
            LocalNetFailed: a node ended or was not ready in time.
        """
        if self._process is not None:
            raise RuntimeError("this LocalNet runs already")
        state_dir = self.config.state_dir
        if state_dir is None:
            # 0755: another user's client may read ca.pem; the control socket itself is 0600.
            state_dir = self._own_state_dir = tempfile.mkdtemp(prefix="localnet-")
            os.chmod(state_dir, 0o755)
        config = dataclasses.replace(self.config, state_dir=os.path.abspath(state_dir))
        if config.capture_dir is not None:
            config = dataclasses.replace(config, capture_dir=os.path.abspath(config.capture_dir))
        try:
            self._process, ours = start_child("network")
        except BaseException:
            self._remove_state_dir()
            raise
        self._lifeline = ours
        self._pid = os.getpid()
        order = {
            "config": config.to_json(),
            "remove_state_dir": self._own_state_dir is not None,
            "parent": parent_to_watch(),
            "start_timeout": self._start_timeout,
        }
        try:
            ours.settimeout(self._start_timeout + 5)
            ours.sendall(json.dumps(order).encode() + b"\n")
            self._info = self._read_answer(ours)
        except BaseException:
            self.stop()
            raise
        self._control = ControlClient(self._info["control"])
        if self._set_default:
            self._previous_overrides = set_process_overrides(self.client_settings())
        return self

    def _read_answer(self, ours: _socket.socket) -> dict[str, Any]:
        line = bytearray()
        while not line.endswith(b"\n"):
            try:
                chunk = ours.recv(65536)
            except TimeoutError:
                raise LocalNetFailed("the network was not ready in time") from None
            except OSError as error:
                raise LocalNetFailed(f"the network's process is gone: {error}") from None
            if not chunk:
                raise LocalNetFailed("the network's process ended before it was ready")
            line += chunk
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LocalNetFailed(answer["error"])
        return answer

    def stop(self) -> None:
        """End every process of the network; restores the previous defaults. May be called twice."""
        if self._previous_overrides is not None:
            set_process_overrides(self._previous_overrides)
            self._previous_overrides = None
        if self._pid != os.getpid():  # a forked child: the network is the parent's
            return
        if self._lifeline is not None:
            self._lifeline.close()  # end of file is the order to stop
            self._lifeline = None
        process, self._process = self._process, None
        if process is not None and not end_child(process, _STOP_TIMEOUT):
            _log.warning("the network's supervisor did not end, and was killed")
        self._remove_state_dir()

    def _remove_state_dir(self) -> None:
        if self._own_state_dir is not None:
            shutil.rmtree(self._own_state_dir, ignore_errors=True)
            self._own_state_dir = None

    def __enter__(self) -> LocalNet:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the supervisor ends by itself; return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    # --- what a client needs ---

    @property
    def nym_api(self) -> str:
        """Base URL of nym-api, for ``SMOLMIX_NYM_API`` or ``--nym-api``."""
        return str(self._info["nym_api"])

    @property
    def ca_path(self) -> Path:
        """PEM file of the authority that signed the certificates of this run."""
        return Path(self._info["ca"])

    @property
    def network_json(self) -> Path:
        """The topology as a network.json file."""
        return Path(self._info["network_json"])

    @property
    def control_path(self) -> Path:
        """The control socket, for another process of the same user."""
        return Path(self._info["control"])

    @property
    def gateway_identity(self) -> str:
        """Base58 identity of the entry gateway."""
        return str(self._info["entry"])

    @property
    def ipr_addresses(self) -> list[str]:
        """Nym addresses of the exits' IP packet routers."""
        return list(self._info["iprs"])

    @property
    def ipr_address(self) -> str:
        """Nym address of the first exit's IP packet router."""
        return self.ipr_addresses[0]

    @property
    def hosts(self) -> dict[str, dict[str, Any]]:
        """Names behind the exit: ``{"echo.localnet": {"addresses": [...], "tcp": {"80": "http"}, ...}}``."""
        return dict(self._info["hosts"])

    @property
    def services(self) -> dict[str, int]:
        """Loopback ports of the services themselves, by service name; they do not know the mixnet."""
        return dict(self._info["services"])

    def client_settings(self) -> dict[str, object]:
        """Return the `smolmix_sync.config` settings that point a client at this network."""
        return {
            "nym_api": (self.nym_api,),
            "preferred_gateway": self.gateway_identity,
            "bootstrap_ca_file": str(self.ca_path),
            "packet_delay": self.config.hop_delay,
            "ack_delay": self.config.hop_delay,
        }

    def environment(self) -> dict[str, str]:
        """Return environment variables that point another process at this network and trust its CA."""
        ca = str(self.ca_path)
        return {
            "SMOLMIX_NYM_API": self.nym_api,
            "SMOLMIX_PREFERRED_GATEWAY": self.gateway_identity,
            "SMOLMIX_BOOTSTRAP_CA_FILE": ca,
            "SMOLMIX_PACKET_DELAY": str(self.config.hop_delay),
            "SMOLMIX_ACK_DELAY": str(self.config.hop_delay),
            "SSL_CERT_FILE": ca,
            "REQUESTS_CA_BUNDLE": ca,
            "CURL_CA_BUNDLE": ca,
        }

    # --- watching and breaking it ---

    @property
    def nodes(self) -> dict[str, NodeControl]:
        """Every process of the network by name, in the order a packet meets them."""
        return {name: NodeControl(self._control, name, info) for name, info in self._info["nodes"].items()}

    def node(self, name: str) -> NodeControl:
        """Return the handle of one process."""
        return NodeControl(self._control, name, self._info["nodes"][name])

    def stats(self) -> dict[str, dict[str, int]]:
        """Return the counters of every node that is up, as the node processes themselves report them."""
        answer: dict[str, dict[str, int]] = self._control.request("stats")
        return answer

    def rotate_keys(self) -> int:
        """Begin the next key rotation: every node has a new Sphinx key and keeps the old one as its second.

        nym-api announces the new keys at once. Returns the id of the new rotation.
        """
        rotation_id: int = self._control.request("rotate")
        return rotation_id

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the supervisor and of every node that is up."""
        nodes = self._control.request("nodes")
        result = {name: info["pid"] for name, info in nodes.items() if info["pid"] is not None}
        if self._process is not None:
            result["supervisor"] = self._process.pid
        return result
