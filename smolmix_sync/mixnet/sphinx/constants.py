"""Sizes of the Sphinx packet format and the versions it knows; all from the specification, never tuned.

Source: spec/sphinx.md sections 2, 10 and 11; crate sphinx-packet 0.6.0, ``constants.rs``.
"""

from __future__ import annotations

from enum import Enum

from smolmix_sync.errors import WireError

__all__ = [
    "ALPHA_SIZE",
    "BETA_SIZE",
    "CURRENT_VERSION",
    "DESTINATION_SIZE",
    "EXPLICIT_KEY_VERSIONS",
    "GAMMA_SIZE",
    "HEADER_SIZE",
    "IDENTIFIER_SIZE",
    "MAX_DELAY_NS",
    "MAX_HOPS",
    "MIN_PACKET_SIZE",
    "MIN_PAYLOAD_SIZE",
    "MOD_ORDER_BLINDING_VERSIONS",
    "NODE_ADDRESS_SIZE",
    "PAYLOAD_KEY_SEED_SIZE",
    "PAYLOAD_KEY_SIZE",
    "PAYLOAD_OVERHEAD",
    "PRG_SIZE",
    "REPLAY_TAG_SIZE",
    "STEP",
    "PacketSize",
]

MAX_HOPS = 5
NODE_ADDRESS_SIZE = 32
DESTINATION_SIZE = 32
IDENTIFIER_SIZE = 16
ALPHA_SIZE = 32
GAMMA_SIZE = 16
STEP = 60  # one hop's routing slot: flag 1, version 3, address 32, delay 8, next gamma 16
BETA_SIZE = MAX_HOPS * STEP
PRG_SIZE = BETA_SIZE + STEP
HEADER_SIZE = ALPHA_SIZE + GAMMA_SIZE + BETA_SIZE
PAYLOAD_OVERHEAD = 17  # 16 zero octets in front, one 0x01 behind the message
PAYLOAD_KEY_SIZE = 192
PAYLOAD_KEY_SEED_SIZE = 16
REPLAY_TAG_SIZE = 32
MAX_DELAY_NS = 2**64 - 1
MIN_PACKET_SIZE = HEADER_SIZE + PAYLOAD_OVERHEAD
MIN_PAYLOAD_SIZE = 33  # Lioness needs more than 32 octets

#: What we emit: payload keys are derived from 16-octet seeds, SURBs are small.
CURRENT_VERSION = 259
#: Versions that carry whole 192-octet payload keys; every other one derives them from a seed.
EXPLICIT_KEY_VERSIONS = frozenset({1, 257, 258})
#: Versions that blind with scalars modulo the group order; every other one clamps (X25519).
MOD_ORDER_BLINDING_VERSIONS = frozenset({1, 257})


class PacketSize(Enum):
    """The packet sizes of the network; nothing else can be framed.

    Attributes:
        tag: the octet that names the size in a frame.
        packet_size: header and payload.
        payload_size: the encrypted payload.
        plaintext_size: the longest message.

    Source: spec/sphinx.md section 11.
    """

    REGULAR = (1, 2413)
    ACK = (2, 386)
    EXTENDED32 = (3, 33133)
    EXTENDED8 = (4, 8557)
    EXTENDED16 = (5, 16749)

    def __init__(self, tag: int, packet_size: int) -> None:
        self.tag = tag
        self.packet_size = packet_size
        self.payload_size = packet_size - HEADER_SIZE
        self.plaintext_size = packet_size - MIN_PACKET_SIZE

    @classmethod
    def from_tag_untrusted(cls, tag: int) -> PacketSize:
        """Return the size a frame's octet names.

        Raises:
            WireError: no size has this *tag*.
        """
        try:
            return _BY_TAG[tag]
        except KeyError:
            raise WireError(f"{tag} is not a packet size tag") from None

    @classmethod
    def of_packet_untrusted(cls, packet: bytes) -> PacketSize:
        """Return the size *packet* has.

        Raises:
            WireError: its length is none of the network's packet sizes.
        """
        try:
            return _BY_PACKET_SIZE[len(packet)]
        except KeyError:
            raise WireError(f"{len(packet)} octets are not the size of a packet") from None


_BY_TAG = {size.tag: size for size in PacketSize}
_BY_PACKET_SIZE = {size.packet_size: size for size in PacketSize}
