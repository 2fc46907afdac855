"""What a gateway makes of the payload of a packet that ends at it.

Source: spec/gateway.md section 8.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.gateway.constants import ACK_PLAINTEXT_SIZE
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress, PacketSize

__all__ = ["SURB_ACK_SIZE", "FinalPayload", "split_payload_untrusted"]

_ADDRESS_SIZE: Final = 19
#: First hop of the ack padded to 19 octets, and the ack packet.
SURB_ACK_SIZE: Final = _ADDRESS_SIZE + PacketSize.ACK.packet_size


@dataclass(slots=True)
class FinalPayload:
    """What goes to the client, and the ack that goes back into the mixnet, if any."""

    message: bytes = field(repr=False)
    ack: MixPacket | None = field(default=None, repr=False)


def split_payload_untrusted(payload: bytes, key_rotation: int) -> FinalPayload:
    """Split a final-hop payload; *key_rotation* is the octet the packet came with, kept for the ack.

    Raises:
        WireError: the payload is too short for its ack, or the ack's first hop is no address.
    """
    if len(payload) == ACK_PLAINTEXT_SIZE:
        return FinalPayload(payload)
    if len(payload) < SURB_ACK_SIZE:
        raise WireError("final-hop payload is too short for its SURB-ack")
    first_hop = NodeAddress.decode_untrusted(payload[:_ADDRESS_SIZE])
    ack = MixPacket(first_hop, payload[_ADDRESS_SIZE:SURB_ACK_SIZE], key_rotation)
    return FinalPayload(payload[SURB_ACK_SIZE:], ack)
