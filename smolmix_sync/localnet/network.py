"""The supervisor: starts one process per node, watches them, and answers the control socket.

Run by `LocalNet` as ``python -m smolmix_sync.localnet.network`` with its order on
standard input (see `process`). It holds the plan: keys, ports, switches, and what
nodes asked to keep; so a node that was killed comes back as itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolmix_sync.localnet.ca import CertificateAuthority, self_signed
from smolmix_sync.localnet.config import Host, LocalNetConfig, build_hosts
from smolmix_sync.localnet.plan import (
    PortBook,
    SphinxNode,
    make_directory,
    make_nodes,
    public_info,
    reserve_service_ports,
)
from smolmix_sync.localnet.process import Channel, die_with_parent
from smolmix_sync.localnet.tls import Leaf
from smolmix_sync.mixnet.topology.timestamps import Timestamp

__all__ = ["Supervisor"]

_log = logging.getLogger("smolmix_sync.localnet")

_REQUEST_TIMEOUT = 10.0
_STOP_TIMEOUT = 3.0
_MODULES = {
    "mixnode": "smolmix_sync.localnet.mixnode",
    "gateway": "smolmix_sync.localnet.gateway",
    "exit": "smolmix_sync.localnet.exit",
    "nym-api": "smolmix_sync.localnet.nym_api",
    "services": "smolmix_sync.localnet.services",
}


class NodeProcess:
    """One node: what it is told, and its process while it has one."""

    def __init__(self, name: str, kind: str, config: dict[str, Any], info: dict[str, Any]) -> None:
        self.name = name
        self.kind = kind
        self.info = info
        self._config = config
        self._switches: dict[str, Any] = dict(config.get("switches", {}))
        self._kept: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._reader: asyncio.Task[None] | None = None
        self._paused = False
        self._ending = False

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, timeout: float) -> None:
        """Start the process and wait until it is ready.

        Raises:
            RuntimeError: it runs already, said that it cannot start, or ended.
            TimeoutError: it was not ready in time.
        """
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", _MODULES[self.kind],
                stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        self._paused = self._ending = False
        self._channel = await Channel.open(ours)
        config = self._config | {"switches": self._switches, "kept": self._kept, "parent": os.getpid()}
        self._channel.send({"config": config})
        answer = await asyncio.wait_for(self._ready(self._channel), timeout)
        if answer is None:
            raise RuntimeError(f"{self.name} ended before it was ready")
        if "error" in answer:
            raise RuntimeError(answer["error"])
        self._reader = asyncio.create_task(self._read(self._channel))

    async def _ready(self, channel: Channel) -> dict[str, Any] | None:
        while (message := await channel.receive()) is not None:
            if "keep" not in message:
                return message
            self._keep(message["keep"])
        return None

    async def _read(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            if "keep" in message:
                self._keep(message["keep"])
            elif "id" in message:
                channel.answered(message)
        if not self._ending:
            _log.warning("%s has ended by itself", self.name)

    def _keep(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if value is None:
                self._kept.pop(key, None)
            else:
                self._kept[key] = value

    async def request(self, op: str, **arguments: Any) -> Any:
        """Send the process a request.

        Raises:
            RuntimeError: it is down, or refused.
        """
        if self.pid is None or self._channel is None:
            raise RuntimeError(f"{self.name} is down")
        if self._paused:
            raise RuntimeError(f"{self.name} is paused")
        return await self._channel.request(op, _REQUEST_TIMEOUT, **arguments)

    async def set(self, switches: dict[str, Any]) -> None:
        """Change switches, now and for later starts."""
        self._switches.update(switches)
        if self.pid is not None:
            await self.request("set", switches=switches)

    async def end(self, number: signal.Signals) -> None:
        """End the process with a signal, by force if it takes too long; wait until it is gone."""
        process = self._process
        if process is None:
            return
        self._ending = True
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
                if self._paused:
                    process.send_signal(signal.SIGCONT)
            try:
                await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._channel is not None:
            self._channel.close()
        if self._reader is not None:
            await self._reader
        self._process = self._channel = self._reader = None

    def configure(self, values: dict[str, Any]) -> None:
        """Change what the process is told at its next start."""
        self._config.update(values)

    async def command(self, command: str, **arguments: Any) -> Any:
        """Have the process run one of its commands, if it is up."""
        if self.pid is not None:
            return await self.request("command", command=command, arguments=arguments)
        return None

    def pause(self, paused: bool) -> None:
        """Stop or continue the process with SIGSTOP and SIGCONT."""
        if self._process is None or self.pid is None:
            raise RuntimeError(f"{self.name} is down")
        self._process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)
        self._paused = paused


class Supervisor:
    """All processes of one network."""

    def __init__(self, config: LocalNetConfig, remove_state_dir: bool) -> None:
        assert config.state_dir is not None
        self._remove_state_dir = remove_state_dir
        self._config = config
        self._directory_path = Path(config.state_dir)
        self.ended = asyncio.Event()
        self._ports = PortBook(config.address, config.ports)
        self._control: asyncio.Server | None = None
        self._sphinx_nodes = make_nodes(config, self._ports)
        self._service_ports = reserve_service_ports(self._ports)
        self._api_ports = {kind: self._ports.reserve(f"nym-api.{kind}") for kind in ("http", "https")}
        self._directory = make_directory(config, self._sphinx_nodes, Timestamp.from_unix(time.time()))
        self._hosts = build_hosts(config)
        self.nodes = self._make_processes()

    # --- the plan of each process ---

    def _make_processes(self) -> dict[str, NodeProcess]:
        config = self._config
        authority = CertificateAuthority()
        self._write("ca.pem", authority.pem)
        public = self._directory.to_json()
        self._write("network.json", json.dumps(json.loads(public["network"]), indent=1) + "\n")
        names = [config.address, *(["localhost"] if config.address.startswith("127.") else [])]
        node_leaf = authority.issue([*names, *([config.hostname] if config.hostname else [])])
        common = {"log_level": config.log_level, "address": config.address, "capture_dir": config.capture_dir}
        processes: dict[str, NodeProcess] = {}
        for node in self._sphinx_nodes:
            own = common | self._sphinx_config(node, node_leaf, public)
            processes[node.name] = NodeProcess(node.name, node.kind, own, public_info(node))
        leaves = {
            "https": authority.issue(certificate_names(self._hosts)),
            "https-wrong": authority.issue(["somebody-else.example"]),
            "https-expired": authority.issue(["expired.localnet"], expired=True),
            "https-selfsigned": self_signed("selfsigned.localnet"),
        }
        del authority  # and with it the key that could vouch for more
        api = common | {
            "name": "nym-api",
            "ports": self._api_ports,
            "directory": public,
            "leaf": _json(node_leaf),
        }
        processes["nym-api"] = NodeProcess(
            "nym-api", "nym-api", api,
            {"ports": {kind: [config.address, port] for kind, port in self._api_ports.items()}},
        )  # fmt: skip
        services = common | {
            "name": "services",
            "ports": self._service_ports,
            "hosts": [host.to_json() for host in self._hosts],
            "leaves": {name: _json(leaf) for name, leaf in leaves.items()},
        }
        processes["services"] = NodeProcess(
            "services", "services", services,
            {"ports": {name: ["127.0.0.1", port] for name, port in self._service_ports.items()}},
        )  # fmt: skip
        return processes

    def _sphinx_config(self, node: SphinxNode, leaf: Leaf, public: dict[str, Any]) -> dict[str, Any]:
        config = self._config
        own: dict[str, Any] = {
            "name": node.name,
            "ports": dict(node.ports),
            "sphinx_keys": [[config.rotation_id, node.keys.sphinx_private.hex()]],
            "identity_seed": node.keys.identity_seed.hex(),
            "frame_version": config.frame_version,
            # A node forwards only to addresses of the network, as the routing filter of a real one.
            "known_ips": sorted({other.address for other in self._sphinx_nodes}),
            "peers": {str(other.mix_address): other.name for other in self._sphinx_nodes},
            "switches": {"drop": config.drop.get(node.name, 0.0)},
        }
        if config.noise:
            own["noise"] = {
                "private": node.keys.noise_private.hex(),
                "keys": {str(other.mix_address): other.noise_key.hex() for other in self._sphinx_nodes},
            }
        if node.kind == "mixnode":
            return own
        own["leaf"] = _json(leaf)
        own["switches"]["enforce_tickets"] = config.enforce_tickets
        if node.kind == "exit":
            own |= {
                "ipr": {
                    "identity_seed": node.keys.ipr_identity_seed.hex(),
                    "encryption": node.keys.ipr_encryption.hex(),
                    "ack_key": node.keys.ipr_ack_key.hex(),
                },
                "network": public["network"],
                "ipr_versions": list(config.ipr_versions),
                "mtu": config.mtu,
                "hop_delay": config.hop_delay,
                "surb_buffer": config.surb_buffer,
                "exit_policy": config.exit_policy,
                "hosts": [host.to_json() for host in self._hosts],
                "services": self._service_ports,
            }
        return own

    def _write(self, name: str, text: str) -> None:
        path = self._directory_path / name
        path.write_text(text)
        path.chmod(0o644)

    # --- life ---

    async def start(self, timeout: float) -> dict[str, Any]:
        """Start every process; return what the caller of `LocalNet` may know."""
        await asyncio.gather(*(node.start(timeout) for node in self.nodes.values()))
        path = str(self._directory_path / "control.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        previous = os.umask(0o177)
        try:
            self._control = await asyncio.start_unix_server(self._serve_control, path)
        finally:
            os.umask(previous)
        config = self._config
        loopback = config.address == "::1" or config.address.startswith("127.")
        # Clients accept plain http from loopback only.
        scheme = "http" if loopback else "https"
        host = f"[{config.address}]" if ":" in config.address else config.address
        iprs = [str(node.ipr) for node in self._sphinx_nodes if node.ipr is not None]
        return {
            "nym_api": f"{scheme}://{host}:{self._api_ports[scheme]}/api/",
            "ca": str(self._directory_path / "ca.pem"),
            "network_json": str(self._directory_path / "network.json"),
            "control": path,
            "entry": self.nodes["entry"].info["identity"],
            "iprs": iprs,
            "hosts": {host.name: host.to_json() for host in self._hosts},
            "services": self._service_ports,
            "nodes": {name: node.info for name, node in self.nodes.items()},
        }

    async def stop(self) -> None:
        """End every process and give the ports back."""
        if self._control is not None:
            self._control.close()
        await asyncio.gather(
            *(node.end(signal.SIGTERM) for node in self.nodes.values()), return_exceptions=True
        )
        self._ports.close()
        for name in ("control.sock", "ca.pem", "network.json"):
            with contextlib.suppress(OSError):
                (self._directory_path / name).unlink()
        if self._remove_state_dir:
            with contextlib.suppress(OSError):
                self._directory_path.rmdir()

    # --- the control socket ---

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            message = json.loads(await asyncio.wait_for(reader.readline(), _REQUEST_TIMEOUT))
            answer: dict[str, Any] = {"ok": await self._control_request(message)}
        except Exception as error:
            answer = {"error": str(error) or type(error).__name__}
        with contextlib.suppress(OSError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _control_request(self, message: dict[str, Any]) -> Any:
        op = message["op"]
        if op == "nodes":
            return {
                name: node.info | {"kind": node.kind, "pid": node.pid} for name, node in self.nodes.items()
            }
        if op == "stats" and "node" not in message:
            return await self._all_stats()
        if op == "rotate":
            return await self._rotate()
        if op == "shutdown":
            self.ended.set()
            return None
        node = self.nodes.get(message.get("node", ""))
        if node is None:
            raise ValueError(f"no node {message.get('node')!r}")
        match op:
            case "stats":
                return await node.request("stats")
            case "kill":
                return await node.end(signal.SIGKILL)
            case "stop":
                return await node.end(signal.SIGTERM)
            case "start":
                return await node.start(_REQUEST_TIMEOUT * 2)
            case "pause":
                return node.pause(True)
            case "resume":
                return node.pause(False)
            case "set":
                return await node.set(message["switches"])
            case "command":
                arguments = message.get("arguments", {})
                return await node.request("command", command=message["command"], arguments=arguments)
            case _:
                raise ValueError(f"unknown request {op!r}")

    async def _rotate(self) -> int:
        """Let every node have a new Sphinx key, then announce them; return the new rotation's id."""
        old = self._directory.key_rotation_id
        rotation_id = old + 1
        previous, self._sphinx_nodes = (
            self._sphinx_nodes,
            [n.with_new_sphinx_key() for n in self._sphinx_nodes],
        )
        for before, after in zip(previous, self._sphinx_nodes, strict=True):
            new, former = after.keys.sphinx_private.hex(), before.keys.sphinx_private.hex()
            process = self.nodes[after.name]
            process.configure({"sphinx_keys": [[rotation_id, new], [old, former]]})
            await process.command("add_key", rotation_id=rotation_id, private=new)
        started_at = Timestamp.from_unix(time.time())
        self._directory = make_directory(self._config, self._sphinx_nodes, started_at, rotation_id)
        public = self._directory.to_json()
        self._write("network.json", json.dumps(json.loads(public["network"]), indent=1) + "\n")
        self.nodes["nym-api"].configure({"directory": public})
        await self.nodes["nym-api"].command("announce", directory=public)
        for node in self._sphinx_nodes:
            if node.kind == "exit":
                self.nodes[node.name].configure({"network": public["network"]})
                await self.nodes[node.name].command("learn", network=public["network"])
        return rotation_id

    async def _all_stats(self) -> dict[str, Any]:
        up = [node for node in self.nodes.values() if node.pid is not None]
        answers = await asyncio.gather(*(node.request("stats") for node in up), return_exceptions=True)
        return {
            node.name: answer
            for node, answer in zip(up, answers, strict=True)
            if not isinstance(answer, BaseException)
        }


def certificate_names(hosts: Sequence[Host]) -> list[str]:
    """Return the names in the sites' certificate: all but those whose certificate is to be wrong.

    One by one: OpenSSL takes no wildcard right below a top-level name.
    """
    wrong = {"wrong.localnet", "expired.localnet", "selfsigned.localnet"}
    names = [host.name for host in hosts if host.in_dns and host.name not in wrong]
    return [*names, "alias.localnet", "v4.localnet", "v6.localnet", "shortlived.localnet", *_literals(hosts)]


def _literals(hosts: Sequence[Host]) -> list[str]:
    """Return the addresses of hosts with a web site, which may be asked for by address."""
    return [address for host in hosts if 443 in host.tcp for address in host.addresses]


def _json(leaf: Leaf) -> dict[str, Any]:
    return dataclasses.asdict(leaf)


async def _run() -> None:
    channel = await Channel.open(socket.socket(fileno=os.dup(0)))
    order = await channel.receive()
    if order is None:
        return
    if order.get("parent") is not None:
        # Not the hard way, as for the nodes: the supervisor has something to tidy up.
        die_with_parent(order["parent"], signal.SIGTERM)
    try:
        supervisor = Supervisor(LocalNetConfig.from_json(order["config"]), order["remove_state_dir"])
    except (OSError, ValueError) as error:
        channel.send({"error": str(error)})
        channel.close()
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.ended.set)

    async def life_line() -> None:
        await channel.receive()  # the parent says nothing more: this is its end
        supervisor.ended.set()

    watch = asyncio.create_task(life_line())
    try:
        starting = asyncio.create_task(supervisor.start(order["start_timeout"]))
        ending = asyncio.create_task(supervisor.ended.wait())
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            channel.send(starting.result())
            await ending
        else:
            starting.cancel()
            with contextlib.suppress(BaseException):
                await starting
    except Exception as error:
        channel.send({"error": str(error) or type(error).__name__})
    finally:
        await supervisor.stop()
        watch.cancel()
        channel.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(_run())
