"""nym-api: the directory. Clients learn here which nodes there are, what keys they have and who mixes where.

The real one asks the chain and the nodes themselves; this one is told by the supervisor. It
answers as the real one does, CORS included, ``output=bincode`` too, ignoring page numbers.

Source: spec/topology.md sections 2 to 4.
Run: ``python -m smolmix_sync.localnet.nym_api``.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smolmix_sync.localnet.httpd import HttpServer, Request, Response
from smolmix_sync.localnet.plan import Directory
from smolmix_sync.localnet.process import Program, main
from smolmix_sync.localnet.semi_skimmed import encode_semi_skimmed
from smolmix_sync.localnet.tls import Leaf, server_context
from smolmix_sync.mixnet.noise import NOISE_VERSION
from smolmix_sync.mixnet.topology import Node, bincode
from smolmix_sync.mixnet.topology.described import BuildInformation, DescribedNode, DescribedPage, SphinxKey
from smolmix_sync.mixnet.topology.epochs import Health, Interval, encode_epoch, encode_rewarded_set
from smolmix_sync.mixnet.topology.performance import Performance
from smolmix_sync.mixnet.topology.skimmed import (
    DeclaredRoles,
    Metadata,
    SkimmedEntry,
    SkimmedNode,
    SkimmedPage,
    Status,
)

__all__ = ["NymApi"]

_CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Headers", "*"),
    ("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
]
_SKIMMED = "v2/unstable/nym-nodes/skimmed"
_SKIMMED_V1 = "v1/unstable/nym-nodes/skimmed"
_SEMI_SKIMMED = "v2/unstable/nym-nodes/semi-skimmed"
_LISTS: dict[str, Callable[[Node], bool]] = {
    "": lambda node: True,
    "/mixnodes/active": lambda node: node.supported_roles.mixnode,
    "/mixnodes/all": lambda node: node.supported_roles.mixnode,
    "/entry-gateways": lambda node: node.entry is not None,
    "/exit-gateways": lambda node: node.exit_ipr,
}
#: The ``role`` of the endpoint of all nodes.
_ROLES = {
    "active-mixnode": "/mixnodes/active",
    "entry-gateway": "/entry-gateways",
    "exit-gateway": "/exit-gateways",
}
_EPOCHS_IN_INTERVAL = 720
# Ours: requests remembered for who watches the network.
_LOG_LENGTH = 1024


class NymApi(Program):
    """The directory server; ``requests`` counts what it answered, ``not_found`` what it did not know.

    Switches: ``down`` answers everything with 503; ``hide`` is a list of node ids left out of all lists.
    """

    async def start(self) -> None:
        """Open the http and the https listener."""
        self._directory = Directory.from_json(self.config["directory"])
        self._began = time.time()
        self._log: deque[dict[str, Any]] = deque(maxlen=_LOG_LENGTH)
        self._server = HttpServer(self._answer, "nym-api of a localnet")
        await self._server.listen(self.config["address"], self.port("http"))
        tls = server_context(Leaf(**self.config["leaf"]))
        await self._server.listen(self.config["address"], self.port("https"), tls)

    async def command_announce(self, directory: dict[str, Any]) -> None:
        """Announce another directory from now on."""
        self._directory = Directory.from_json(directory)

    async def command_requests(self) -> list[dict[str, Any]]:
        """Return the last requests, oldest first: method, target, accept, origin (None where it was not said)."""
        return list(self._log)

    async def _answer(self, request: Request) -> Response:
        self.counters["requests"] += 1
        said = {name: request.header(name) for name in ("accept", "origin")}
        self._log.append({"method": request.method, "target": request.target, **said})
        if self.switches.get("down"):
            return Response(503, _CORS, b"down\n")
        if request.method == "OPTIONS":
            return Response(200, _CORS)
        path = request.path.strip("/").removeprefix("api/")
        if request.method == "POST" and path == "v1/nym-nodes/refresh-described":
            async for _ in request.body:
                pass
            return _json("null")
        if request.method == "POST" and path == "v1/unstable/nym-nodes/by-addresses":
            return await self._by_addresses(request)
        if request.method not in ("GET", "HEAD"):
            return Response(405, _CORS, b"method not allowed\n")
        binary = request.query.get("output") == "bincode"
        body = self._binary_body(path, request.query) if binary else None
        if body is not None:
            return Response(200, [*_CORS, ("Content-Type", "application/bincode")], body)
        text = self._body(path, request.query)  # a server may answer JSON to any wish
        if text is None:
            self.counters["not_found"] += 1
            return Response(404, _CORS, b"no such path\n")
        return _json(text)

    def _binary_body(self, path: str, query: Mapping[str, str]) -> bytes | None:
        """Return what is at *path* as bincode, or None if there is no such form of it."""
        if path == "v1/nym-nodes/rewarded-set":
            return bincode.encode_rewarded_set(self._directory.topology.rewarded_set)
        if path == "v1/epoch/current":
            return bincode.encode_epoch(self._interval)
        page = self._list(path, query) if path.startswith(_SKIMMED) else None
        return None if page is None else bincode.encode_skimmed(page)

    def _body(self, path: str, query: Mapping[str, str]) -> str | None:
        """Return what is at *path* as JSON, or None if nothing is."""
        rotation = self._directory.rotation
        match path:
            case "v1/epoch/key-rotation-info":
                return rotation.encode()
            case "v1/nym-nodes/rewarded-set":
                return encode_rewarded_set(self._directory.topology.rewarded_set)
            case "v1/epoch/current":
                return encode_epoch(self._interval)
            case "v1/api-status/health":
                return Health(uptime=int(time.time() - self._began)).encode()
            case "v1/network/details":
                return json.dumps({"network": {"network_name": "localnet", "bech32_prefix": "n"}})
            case "v2/nym-nodes/described":
                return DescribedPage.whole(self._described(node) for node in self._nodes()).encode()
        if path == _SEMI_SKIMMED:  # what nodes read, the Noise keys included
            return encode_semi_skimmed(self._skimmed(self._nodes(), None), self._directory.noise_keys)
        if path.startswith(_SKIMMED_V1):
            page = self._list(_SKIMMED + path.removeprefix(_SKIMMED_V1).removesuffix("/all"), query)
            if page is None:
                return None
            # The older shape has no ids of epoch and rotation.
            fields = page.to_json()
            metadata = fields.pop("metadata")
            old = {"status": metadata["status"], "refreshed_at": metadata["refreshed_at"], **fields}
            return json.dumps(old, separators=(",", ":"))
        page = self._list(path, query)
        return None if page is None else page.encode()

    def _list(self, path: str, query: Mapping[str, str]) -> SkimmedPage | None:
        """Return one of the skimmed lists."""
        if not path.startswith(_SKIMMED):
            return None
        name = path.removeprefix(_SKIMMED)
        if name == "":
            name = _ROLES.get(query.get("role", ""), "")
        wanted = _LISTS.get(name)
        if wanted is None:
            return None
        if query.get("epoch_id") == str(self._interval.current_epoch_id):
            return self._skimmed((), "no-updates")
        # The endpoint of all nodes is the one without a status.
        return self._skimmed(filter(wanted, self._nodes()), None if path == _SKIMMED else self._interval)

    def _nodes(self) -> Iterable[Node]:
        hidden = self.switches.get("hide", ())
        return [node for node in self._directory.topology if node.node_id not in hidden]

    @property
    def _interval(self) -> Interval:
        rotation = self._directory.rotation
        interval, epoch = divmod(rotation.current_absolute_epoch_id, _EPOCHS_IN_INTERVAL)
        return Interval(
            interval,
            _EPOCHS_IN_INTERVAL,
            rotation.current_epoch_start,
            epoch,
            rotation.epoch_seconds,
            rotation.epoch_nanos,
            rotation.current_absolute_epoch_id,
        )

    def _skimmed(self, nodes: Iterable[Node], status: Status) -> SkimmedPage:
        topology = self._directory.topology
        metadata = Metadata(
            topology.absolute_epoch_id, topology.key_rotation_id, topology.refreshed_at, status
        )
        return SkimmedPage.whole(metadata, (self._skimmed_node(node) for node in nodes))

    def _skimmed_node(self, node: Node) -> SkimmedNode:
        entry = node.entry
        return SkimmedNode(
            node_id=node.node_id,
            identity=node.identity,
            ip_addresses=(node.address.ip,),
            mix_port=node.address.port,
            sphinx_key=node.sphinx_key,
            role=self._role(node.node_id),
            declared=_declared(node),
            entry=SkimmedEntry(entry.hostname, entry.clients_ws_port, entry.clients_wss_port)
            if entry
            else None,
            performance=Performance.from_percent(node.performance),
        )

    def _role(self, node_id: int) -> str | int:
        rewarded = self._directory.topology.rewarded_set
        for layer, ids in enumerate(rewarded.layers, start=1):
            if node_id in ids:
                return layer
        return "ExitGateway" if node_id in rewarded.exit_gateways else "EntryGateway"

    def _described(self, node: Node) -> DescribedNode:
        topology = self._directory.topology
        entry = node.entry
        noise_key = self._directory.noise_keys.get(node.node_id)
        return DescribedNode(
            node_id=node.node_id,
            identity=node.identity,
            x25519=node.sphinx_key,
            sphinx_key=SphinxKey(topology.key_rotation_id, node.sphinx_key),
            ip_addresses=(node.address.ip,),
            build=BuildInformation(build_version=node.build_version or "0.0.0"),
            ws_port=entry.clients_ws_port if entry else 9000,
            wss_port=entry.clients_wss_port if entry else None,
            last_polled=topology.refreshed_at,
            hostname=entry.hostname if entry else None,
            noise_key=None if noise_key is None else (NOISE_VERSION, noise_key),
            declared=_declared(node),
            mix_port=node.address.port,
            accepted_terms=True,
            network_requester=None,
            ip_packet_router=str(node.ipr) if node.ipr is not None else None,
        )

    async def _by_addresses(self, request: Request) -> Response:
        asked: Any = json.loads(b"".join([chunk async for chunk in request.body]))
        known = {node.address.ip: node.node_id for node in self._nodes()}
        existence = {address: known.get(address) for address in asked["addresses"]}
        return _json(json.dumps({"existence": existence}))


def _declared(node: Node) -> DeclaredRoles:
    roles = node.supported_roles
    return DeclaredRoles(roles.mixnode, roles.mixnet_entry, roles.mixnet_exit, roles.mixnet_exit)


def _json(body: str) -> Response:
    return Response(200, [*_CORS, ("Content-Type", "application/json")], body.encode())


if __name__ == "__main__":
    main(NymApi)
