"""Single use reply blocks: a header built in advance by the receiver of the reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smolmix_sync.mixnet.sphinx.constants import CURRENT_VERSION, PacketSize
from smolmix_sync.mixnet.sphinx.node_address import NodeAddress
from smolmix_sync.mixnet.sphinx.packet import Hop

__all__ = ["Surb", "build_surb"]


@dataclass(slots=True)
class Surb:
    """A header, where to send it first, and the payload keys: seeds (16 octets each) or whole (192).

    Source: spec/sphinx.md section 9.
    """

    header: bytes = field(repr=False)
    first_hop: NodeAddress = field(repr=False)
    key_material: tuple[bytes, ...] = field(repr=False)

    @property
    def uses_key_seeds(self) -> bool:
        """True for the small kind (version 259), False for whole keys (258 and older)."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """Return ``header || first hop in 32 octets || key material``."""
        raise NotImplementedError

    @classmethod
    def decode_untrusted(cls, data: bytes) -> Surb:
        """Decode a whole SURB; its kind follows from its length.

        Raises:
            WireError: the length fits no kind, or the first hop is not a node address.
        """
        raise NotImplementedError

    def use(self, message: bytes, size: PacketSize) -> tuple[bytes, NodeAddress]:
        """Return the packet that carries *message* back, and the node to send it to.

        A SURB may be used once: the first node drops the second packet as a replay.

        Raises:
            ValueError: *message* is longer than ``size.plaintext_size``.
        """
        raise NotImplementedError


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
        ValueError: an argument has the wrong size, or a hop's key has low order.

    Source: spec/sphinx.md section 9.
    """
    raise NotImplementedError
