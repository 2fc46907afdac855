"""Sphinx packets: building, unwrapping, SURBs, and how they travel on TCP links.

Source: spec/sphinx.md; crate sphinx-packet 0.6.0.
"""

from __future__ import annotations

from smolmix_sync.mixnet.sphinx import framing
from smolmix_sync.mixnet.sphinx.constants import (
    CURRENT_VERSION,
    DESTINATION_SIZE,
    HEADER_SIZE,
    IDENTIFIER_SIZE,
    MAX_HOPS,
    NODE_ADDRESS_SIZE,
    PAYLOAD_KEY_SEED_SIZE,
    PAYLOAD_KEY_SIZE,
    PAYLOAD_OVERHEAD,
    PacketSize,
)
from smolmix_sync.mixnet.sphinx.framing import FrameDecoder, MixFrame, encode_frame
from smolmix_sync.mixnet.sphinx.header import Hop
from smolmix_sync.mixnet.sphinx.mix_packet import UNKNOWN_ROTATION_ID, MixPacket, key_rotation_byte
from smolmix_sync.mixnet.sphinx.node_address import NodeAddress
from smolmix_sync.mixnet.sphinx.packet import build_packet
from smolmix_sync.mixnet.sphinx.surb import Surb, build_surb
from smolmix_sync.mixnet.sphinx.unwrap import (
    FinalHop,
    ForwardHop,
    OpenedPacket,
    open_untrusted,
    unwrap_untrusted,
)

__all__ = [
    "CURRENT_VERSION",
    "DESTINATION_SIZE",
    "HEADER_SIZE",
    "IDENTIFIER_SIZE",
    "MAX_HOPS",
    "NODE_ADDRESS_SIZE",
    "PAYLOAD_KEY_SEED_SIZE",
    "PAYLOAD_KEY_SIZE",
    "PAYLOAD_OVERHEAD",
    "UNKNOWN_ROTATION_ID",
    "FinalHop",
    "ForwardHop",
    "FrameDecoder",
    "Hop",
    "MixFrame",
    "MixPacket",
    "NodeAddress",
    "OpenedPacket",
    "PacketSize",
    "Surb",
    "build_packet",
    "build_surb",
    "encode_frame",
    "framing",
    "key_rotation_byte",
    "open_untrusted",
    "unwrap_untrusted",
]
