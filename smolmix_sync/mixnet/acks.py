"""SURB-acks: the small packet inside every packet that comes back to its sender from the last gateway.

Source: spec/message-layer.md section 9; common/nymsphinx/acknowledgements/src.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from smolmix_sync.crypto import aes128_ctr
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.fragments import FRAGMENT_ID_SIZE, check_fragment_id_untrusted
from smolmix_sync.mixnet.sphinx import Hop, PacketSize, Surb, build_packet

__all__ = [
    "ACK_SIZE",
    "MAX_ACK_PAYLOAD",
    "SURB_ACK_SIZE",
    "build_surb_ack",
    "decode_ack_untrusted",
    "encode_ack",
    "use_surb_as_ack",
]

# From the specification.
_IV_SIZE = 16
_FIRST_HOP_SIZE = 19
#: Octets of an ack as its sender gets it back.
ACK_SIZE: Final = _IV_SIZE + FRAGMENT_ID_SIZE
#: Octets in front of every packet's own payload.
SURB_ACK_SIZE: Final = _FIRST_HOP_SIZE + PacketSize.ACK.packet_size
#: The gateway's pushes up to this length are acks (longer ones were Outfox's, and are malformed here).
MAX_ACK_PAYLOAD: Final = 48


def encode_ack(ack_key: bytes, identifier: bytes, iv: bytes) -> bytes:
    """Return the 21 octets ``iv || AES-128-CTR(identifier)``."""
    return iv + aes128_ctr(ack_key, iv, identifier)


def decode_ack_untrusted(ack_key: bytes, data: bytes) -> bytes:
    """Return the five-octet fragment identifier of an ack of ours.

    Raises:
        WireError: not exactly 21 octets, or what it decrypts to cannot be an identifier.
    """
    if len(data) != ACK_SIZE:
        raise WireError(f"an ack has {ACK_SIZE} octets, not {len(data)}")
    return check_fragment_id_untrusted(aes128_ctr(ack_key, data[:_IV_SIZE], data[_IV_SIZE:]))


def build_surb_ack(
    ack_key: bytes,
    identifier: bytes,
    route: Sequence[Hop],
    delays_ns: Sequence[int],
    destination: bytes,
    urandom: Callable[[int], bytes],
) -> bytes:
    """Return the 405 octets that bring *identifier* back along *route*, which ends at our gateway.

    Layout: first hop zero-padded to 19 octets, then the ack's Sphinx packet of 386.
    """
    content = encode_ack(ack_key, identifier, urandom(_IV_SIZE))
    packet = build_packet(content, route, delays_ns, destination, size=PacketSize.ACK, urandom=urandom)
    return route[0].address.encode_padded(_FIRST_HOP_SIZE) + packet


def use_surb_as_ack(ack_key: bytes, identifier: bytes, surb: Surb, urandom: Callable[[int], bytes]) -> bytes:
    """Return what :func:`build_surb_ack` does, from a header to ourselves that was built before."""
    content = encode_ack(ack_key, identifier, urandom(_IV_SIZE))
    packet, first_hop = surb.use(content, PacketSize.ACK)
    return first_hop.encode_padded(_FIRST_HOP_SIZE) + packet
