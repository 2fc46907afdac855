"""The plan of one run: keys and ports of every node, and what each process is told.

Made by the supervisor, in memory; a restarted node gets the same part again.
`Directory` is the public half: what nym-api announces and what network.json holds.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.crypto import ed25519_public_from_seed, x25519_base
from smolmix_sync.localnet.config import LocalNetConfig, node_names
from smolmix_sync.localnet.services import SERVICE_NAMES
from smolmix_sync.mixnet.sphinx import NodeAddress
from smolmix_sync.mixnet.topology import EntryDetails, Node, RewardedSet, SupportedRoles, Topology
from smolmix_sync.mixnet.topology.epochs import KeyRotationInfo
from smolmix_sync.mixnet.topology.network_json import decode_network_untrusted, encode_network
from smolmix_sync.mixnet.topology.timestamps import Timestamp

__all__ = [
    "Directory",
    "NodeKeys",
    "PortBook",
    "SphinxNode",
    "make_directory",
    "make_nodes",
    "public_info",
    "reserve_service_ports",
]


# Ours: long enough that no test sees keys change by the clock.
_EPOCH_SECONDS = 86_400
_VALIDITY_EPOCHS = 24


@dataclass(frozen=True)
class NodeKeys:
    """The secrets of one node; an exit has those of its IP packet router as well."""

    identity_seed: bytes = field(repr=False)
    sphinx_private: bytes = field(repr=False)
    ipr_identity_seed: bytes = field(repr=False)
    ipr_encryption: bytes = field(repr=False)
    ipr_ack_key: bytes = field(repr=False)
    noise_private: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> NodeKeys:
        """Draw new keys."""
        return cls(*(os.urandom(size) for size in (32, 32, 32, 32, 16, 32)))


@dataclass(frozen=True)
class SphinxNode:
    """One node of the mixnet: its place in the network and its keys."""

    name: str
    node_id: int
    kind: str  #: ``mixnode``, ``gateway`` or ``exit``
    layer: int | None
    address: str
    ports: Mapping[str, int]
    keys: NodeKeys

    def with_new_sphinx_key(self) -> SphinxNode:
        """Return the node as it is after a key rotation."""
        keys = dataclasses.replace(self.keys, sphinx_private=os.urandom(32))
        return dataclasses.replace(self, keys=keys)

    @property
    def identity(self) -> bytes:
        """The node's Ed25519 identity key."""
        return ed25519_public_from_seed(self.keys.identity_seed)

    @property
    def mix_address(self) -> NodeAddress:
        """Where the node takes packets."""
        return NodeAddress(self.address, self.ports["mix"])

    @property
    def noise_key(self) -> bytes:
        """The public half of the node's Noise key; it does not rotate."""
        return x25519_base(self.keys.noise_private)

    @property
    def ipr(self) -> Recipient | None:
        """The Nym address of the exit's IP packet router."""
        if self.kind != "exit":
            return None
        keys = self.keys
        return Recipient(
            ed25519_public_from_seed(keys.ipr_identity_seed), x25519_base(keys.ipr_encryption), self.identity
        )


class PortBook:
    """Chooses ports and keeps them reserved for as long as the network runs.

    A bound socket that never listens keeps other programs off the port, also while
    its node is down; SO_REUSEADDR on both lets the node listen there, and while it
    does not, connections are refused as they are by a machine without the service.

    Args:
        address: what the nodes bind.
        fixed: ports chosen by the user, by name.
    """

    def __init__(self, address: str, fixed: Mapping[str, int]) -> None:
        self._address = address
        self._fixed = fixed
        self._reserved: list[socket.socket] = []

    def reserve(self, name: str, *, address: str | None = None) -> int:
        """Return the port for *name*.

        Raises:
            OSError: the fixed port is taken.
        """
        address = address if address is not None else self._address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, self._fixed.get(name, 0)))
        except OSError as error:
            sock.close()
            raise OSError(
                error.errno, f"{name}: {address} port {self._fixed.get(name, 0)}: {error.strerror}"
            ) from None
        self._reserved.append(sock)
        port: int = sock.getsockname()[1]
        if name not in self._fixed and not _free_for_datagrams(family, address, port):
            # The port passed over stays reserved: no second try meets it.
            return self.reserve(name, address=address)
        return port

    def close(self) -> None:
        """Give every port back."""
        for sock in self._reserved:
            sock.close()


def _free_for_datagrams(family: int, address: str, port: int) -> bool:
    """Tell whether a UDP service could have the same number: the kernel looked at TCP alone when it chose."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def make_nodes(config: LocalNetConfig, ports: PortBook) -> list[SphinxNode]:
    """Draw keys and reserve ports for every Sphinx node."""
    nodes = []
    for number, name in enumerate(node_names(config), start=1):
        kind = "gateway" if name == "entry" else "exit" if name.startswith("exit") else "mixnode"
        listeners = ["mix"] if kind == "mixnode" else ["mix", "ws", "wss"]
        own = {listener: ports.reserve(f"{name}.{listener}") for listener in listeners}
        layer = int(name[3]) if kind == "mixnode" else None
        nodes.append(SphinxNode(name, number, kind, layer, config.address, own, NodeKeys.generate()))
    return nodes


def reserve_service_ports(ports: PortBook) -> dict[str, int]:
    """Reserve a loopback port for every service."""
    return {name: ports.reserve(f"services.{name}", address="127.0.0.1") for name in SERVICE_NAMES}


@dataclass(frozen=True)
class Directory:
    """What everybody may know: the topology as announced, Noise keys by node id, and when its epochs are."""

    topology: Topology
    build_version: str
    noise_keys: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def key_rotation_id(self) -> int:
        """The rotation in force."""
        return self.topology.key_rotation_id

    @property
    def rotation(self) -> KeyRotationInfo:
        """When keys change: the epoch that began with the network lasts a day, a rotation 24 of them."""
        return KeyRotationInfo(
            validity_epochs=_VALIDITY_EPOCHS,
            initial_epoch_id=0,
            current_absolute_epoch_id=self.topology.absolute_epoch_id,
            current_epoch_start=self.topology.refreshed_at,
            epoch_seconds=_EPOCH_SECONDS,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for nym-api's pipe."""
        iprs = {str(node.node_id): str(node.ipr) for node in self.topology if node.ipr is not None}
        return {
            "network": encode_network(self.topology),
            "build_version": self.build_version,
            "iprs": iprs,
            "noise_keys": {str(node_id): key.hex() for node_id, key in self.noise_keys.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Directory:
        """Read what `to_json` wrote."""
        plain = decode_network_untrusted(data["network"])
        nodes = {}
        for node_id, node in plain.nodes.items():
            ipr = data["iprs"].get(str(node_id))
            nodes[node_id] = dataclasses.replace(
                node,
                build_version=data["build_version"],
                exit_ipr=ipr is not None,
                ipr=Recipient.parse(ipr) if ipr is not None else None,
            )
        noise_keys = {int(node_id): bytes.fromhex(key) for node_id, key in data["noise_keys"].items()}
        return cls(dataclasses.replace(plain, nodes=nodes), data["build_version"], noise_keys)


def make_directory(
    config: LocalNetConfig, nodes: Iterable[SphinxNode], started_at: Timestamp, rotation_id: int | None = None
) -> Directory:
    """Describe *nodes* as nym-api does; those in ``wrong_key`` get a Sphinx key that nobody holds."""
    rotation_id = config.rotation_id if rotation_id is None else rotation_id
    described: dict[int, Node] = {}
    noise_keys: dict[int, bytes] = {}
    roles: dict[str, list[int]] = {key: [] for key in ("entry", "exit", "1", "2", "3")}
    for node in nodes:
        private = os.urandom(32) if node.name in config.wrong_key else node.keys.sphinx_private
        entry = None
        if node.kind != "mixnode":
            entry = EntryDetails((node.address,), node.ports["ws"], config.hostname, node.ports["wss"])
        is_exit = node.kind == "exit"
        described[node.node_id] = Node(
            node_id=node.node_id,
            identity=node.identity,
            sphinx_key=x25519_base(private),
            address=node.mix_address,
            supported_roles=SupportedRoles(node.kind == "mixnode", entry is not None, is_exit),
            entry=entry,
            exit_ipr=is_exit,
            build_version=config.build_version,
            ipr=node.ipr,
        )
        if config.noise:
            noise_keys[node.node_id] = node.noise_key
        role = str(node.layer) if node.layer else "exit" if is_exit else "entry"
        roles[role].append(node.node_id)
    epoch_id = rotation_id * _VALIDITY_EPOCHS
    rewarded = RewardedSet(epoch_id, *(tuple(roles[key]) for key in ("entry", "exit", "1", "2", "3")))
    topology = Topology(described, rewarded, rotation_id, epoch_id, started_at)
    return Directory(topology, config.build_version, noise_keys)


def public_info(node: SphinxNode) -> dict[str, Any]:
    """Return what a caller of `LocalNet` may know about a node."""
    return {
        "ports": {kind: [node.address, port] for kind, port in node.ports.items()},
        "identity": base58_encode(node.identity),
    }
