"""MixPacket: a finished Sphinx packet on its way from a client to its gateway.

Source: spec/sphinx.md sections 15 and 16; common/nymsphinx/forwarding/src/packet.rs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx.constants import PacketSize
from smolmix_sync.mixnet.sphinx.node_address import NodeAddress

__all__ = ["KEY_ROTATIONS", "SPHINX_PACKET_TYPE", "UNKNOWN_ROTATION_ID", "MixPacket", "key_rotation_byte"]

SPHINX_PACKET_TYPE = 0
#: Values of the key rotation octet: unknown, odd, even.
KEY_ROTATIONS = (0, 1, 2)
#: The rotation id of a node that never rotates its key.
UNKNOWN_ROTATION_ID = 0xFFFFFFFF


def key_rotation_byte(rotation_id: int) -> int:
    """Return the octet that tells nodes which of their keys a packet uses: 0 unknown, 1 odd, 2 even.

    Source: spec/sphinx.md section 15.
    """
    if rotation_id in (0, UNKNOWN_ROTATION_ID):
        return 0
    return 1 if rotation_id & 1 else 2


@dataclass(slots=True)
class MixPacket:
    """A Sphinx packet, the node to send it to first, and the rotation of the keys it was built with.

    Wire layout (version 1 lacks the second octet)::

        offset  size     field
        0       1        packet type, 0: Sphinx
        1       1        key rotation, 0..2
        2       7 or 19  first hop, unpadded
        9       n        packet, of one of the network's sizes

    Source: spec/sphinx.md section 15.
    """

    first_hop: NodeAddress
    packet: bytes = field(repr=False)
    key_rotation: int = 0

    def encode(self) -> bytes:
        """Return version 2, which carries the key rotation."""
        return b"".join(
            (bytes((SPHINX_PACKET_TYPE, self.key_rotation)), self.first_hop.encode(), self.packet)
        )

    def encode_v1(self) -> bytes:
        """Return version 1, which loses the key rotation."""
        return b"".join((bytes((SPHINX_PACKET_TYPE,)), self.first_hop.encode(), self.packet))

    @classmethod
    def decode_untrusted(cls, data: bytes | bytearray | memoryview, kind: int = 2) -> MixPacket:
        """Decode a whole MixPacket of version *kind*, 1 or 2.

        Raises:
            WireError: the packet type, the rotation, the address or the length of the packet is wrong.
        """
        offset = 1 if kind == 1 else 2
        if len(data) < offset:
            raise WireError("mix packet is too short")
        if data[0] != SPHINX_PACKET_TYPE:
            raise WireError(f"packet type {data[0]} is not Sphinx")
        rotation = 0 if kind == 1 else data[1]
        if rotation not in KEY_ROTATIONS:
            raise WireError(f"{rotation} is not a key rotation")
        first_hop = NodeAddress.decode_untrusted(data[offset : offset + 19])
        packet = bytes(data[offset + len(first_hop.encode()) :])
        PacketSize.of_packet_untrusted(packet)
        return cls(first_hop, packet, rotation)
