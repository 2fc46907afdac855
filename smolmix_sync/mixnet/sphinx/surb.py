"""Single use reply blocks: a header built in advance by the receiver of the reply.

Source: spec/sphinx.md section 9; crate sphinx-packet 0.6.0, ``surb.rs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smolmix_sync.crypto import Secret
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx.constants import (
    CURRENT_VERSION,
    HEADER_SIZE,
    NODE_ADDRESS_SIZE,
    PAYLOAD_KEY_SEED_SIZE,
    PAYLOAD_KEY_SIZE,
    PacketSize,
)
from smolmix_sync.mixnet.sphinx.header import Hop, build_header
from smolmix_sync.mixnet.sphinx.node_address import NodeAddress
from smolmix_sync.mixnet.sphinx.payload import encapsulate

__all__ = ["Surb", "build_surb"]

_MATERIAL_OFFSET = HEADER_SIZE + NODE_ADDRESS_SIZE


@dataclass(slots=True)
class Surb(Secret):
    """A header, where to send it first, and the payload keys: seeds (16 octets each) or whole (192).

    Wire layout::

        offset  size              field
        0       348               header
        348     32                first hop's node address, zero padded
        380     16*n or 192*n     key material of hop 0 to n-1

    Source: spec/sphinx.md section 9.
    """

    header: bytes = field(repr=False)
    first_hop: NodeAddress = field(repr=False)
    key_material: tuple[bytes, ...] = field(repr=False)

    @property
    def uses_key_seeds(self) -> bool:
        """True for the small kind (version 259), False for whole keys (258 and older)."""
        return len(self.key_material[0]) == PAYLOAD_KEY_SEED_SIZE

    def encode(self) -> bytes:
        """Return ``header || first hop in 32 octets || key material``."""
        return b"".join((self.header, self.first_hop.encode_padded(NODE_ADDRESS_SIZE), *self.key_material))

    @classmethod
    def decode_untrusted(cls, data: bytes | bytearray | memoryview) -> Surb:
        """Decode a whole SURB; its kind follows from its length.

        Raises:
            WireError: the length fits no kind, or the first hop is not a node address.
        """
        size = len(data) - _MATERIAL_OFFSET
        unit = PAYLOAD_KEY_SEED_SIZE if size < PAYLOAD_KEY_SIZE else PAYLOAD_KEY_SIZE
        if size < PAYLOAD_KEY_SEED_SIZE or size % unit:
            raise WireError(f"a SURB does not have {len(data)} octets")
        first_hop = NodeAddress.decode_untrusted(data[HEADER_SIZE:_MATERIAL_OFFSET])
        material = tuple(bytes(data[i : i + unit]) for i in range(_MATERIAL_OFFSET, len(data), unit))
        return cls(bytes(data[:HEADER_SIZE]), first_hop, material)

    def use(self, message: bytes, size: PacketSize) -> tuple[bytes, NodeAddress]:
        """Return the packet that carries *message* back, and the node to send it to.

        A SURB may be used once: the first node drops the second packet as a replay.

        Raises:
            ValueError: *message* is longer than ``size.plaintext_size``.
        """
        return self.header + encapsulate(message, size.payload_size, self.key_material), self.first_hop


def build_surb(
    route: Sequence[Hop],
    delays_ns: Sequence[int],
    destination: bytes,
    *,
    urandom: Callable[[int], bytes],
    version: int = CURRENT_VERSION,
) -> Surb:
    """Return a SURB whose reply travels *route* (own gateway last) to *destination* (ourselves).

    *urandom* is called as in :func:`~smolmix_sync.mixnet.sphinx.packet.build_packet`.

    Raises:
        ValueError: an argument has the wrong size or is out of range, or a hop's key has low order.

    Source: spec/sphinx.md section 9.
    """
    header, material = build_header(route, delays_ns, destination, urandom=urandom, version=version)
    return Surb(header, route[0].address, tuple(material))
