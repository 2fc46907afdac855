"""Building whole Sphinx packets.

Source: spec/sphinx.md section 7; crate sphinx-packet 0.6.0, ``packet.rs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smolmix_sync.mixnet.sphinx.constants import CURRENT_VERSION, IDENTIFIER_SIZE, PacketSize
from smolmix_sync.mixnet.sphinx.header import Hop, build_header
from smolmix_sync.mixnet.sphinx.payload import encapsulate

__all__ = ["build_packet"]


def build_packet(
    message: bytes,
    route: Sequence[Hop],
    delays_ns: Sequence[int],
    destination: bytes,
    *,
    size: PacketSize,
    urandom: Callable[[int], bytes],
    version: int = CURRENT_VERSION,
    identifier: bytes = bytes(IDENTIFIER_SIZE),
) -> bytes:
    """Return a packet that carries *message* along *route* to *destination*.

    The first hop's address is not inside: send the packet there. The last hop's delay is not
    encoded, but one delay per hop must be given.

    Args:
        message: at most ``size.plaintext_size`` octets.
        route: 1 to 5 hops, the recipient's gateway last.
        delays_ns: nanoseconds each hop waits before it forwards.
        destination: 32 octets, the recipient's Ed25519 identity.
        size: one of the network's packet sizes.
        urandom: called twice: for the 32-octet initial secret, then for the final hop's padding
            of ``248 - 60 * (hops - 1)`` octets; the same octets give the same packet.
        version: 259; or 1, 257, 258 for a peer that needs it.
        identifier: 16 octets, zero everywhere in Nym.

    Raises:
        ValueError: an argument has the wrong size or is out of range, or a hop's key has low order.

    Source: spec/sphinx.md sections 4 to 7.
    """
    header, material = build_header(
        route, delays_ns, destination, urandom=urandom, version=version, identifier=identifier
    )
    return header + encapsulate(message, size.payload_size, material)
