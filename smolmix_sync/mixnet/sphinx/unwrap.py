"""Taking one layer off a packet, as every node on its way does.

Source: spec/sphinx.md sections 8 and 16; crate sphinx-packet 0.6.0, ``packet.rs``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smolmix_sync.crypto import constant_time_equal, x25519
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx.constants import (
    ALPHA_SIZE,
    EXPLICIT_KEY_VERSIONS,
    GAMMA_SIZE,
    HEADER_SIZE,
    MIN_PACKET_SIZE,
    STEP,
)
from smolmix_sync.mixnet.sphinx.header import FINAL_FLAG, FORWARD_FLAG, decrypt_routing, header_mac
from smolmix_sync.mixnet.sphinx.keys import (
    BLINDING_FACTOR,
    MAC_KEY,
    PAYLOAD_KEY,
    PAYLOAD_KEY_SEED,
    REPLAY_TAG,
    STREAM_KEY,
    blind,
    expand,
    payload_key_from_seed,
)
from smolmix_sync.mixnet.sphinx.node_address import NodeAddress
from smolmix_sync.mixnet.sphinx.payload import lioness_decrypt_untrusted, recover_untrusted

__all__ = ["FinalHop", "ForwardHop", "OpenedPacket", "open_untrusted", "unwrap_untrusted"]

_BETA_OFFSET = ALPHA_SIZE + GAMMA_SIZE


@dataclass(slots=True)
class ForwardHop:
    """The packet goes on: send *packet* to *next_address* after *delay_ns* nanoseconds."""

    next_address: NodeAddress
    delay_ns: int
    packet: bytes = field(repr=False)
    replay_tag: bytes = field(repr=False)
    version: int


@dataclass(slots=True)
class FinalHop:
    """The packet ends here: *message* is for *destination*."""

    destination: bytes
    identifier: bytes
    message: bytes = field(repr=False)
    replay_tag: bytes = field(repr=False)
    version: int


class OpenedPacket:
    """A packet whose header MAC is right and whose payload was not touched yet.

    Look up :attr:`replay_tag` first: a seen tag means a replay, and the rest of the work is saved.
    """

    __slots__ = ("_expanded", "_packet", "replay_tag")

    def __init__(self, packet: bytes, expanded: bytes) -> None:
        self._packet = packet
        self._expanded = expanded
        #: 32 octets that are the same for every copy of this packet at this node.
        self.replay_tag = expanded[REPLAY_TAG]

    def finish_untrusted(self) -> ForwardHop | FinalHop:
        """Decrypt routing information and payload.

        Raises:
            WireError: unknown routing flag, bad next address, payload too short or without its padding.
        """
        packet, expanded = self._packet, self._expanded
        plain = decrypt_routing(expanded[STREAM_KEY], packet[_BETA_OFFSET:HEADER_SIZE])
        flag = plain[0]
        if flag not in (FORWARD_FLAG, FINAL_FLAG):
            raise WireError(f"routing flag {flag} is neither forward nor final")
        version = int.from_bytes(plain[2:4], "big")  # the octet before is ignored, as nodes do
        if version in EXPLICIT_KEY_VERSIONS:
            key = expanded[PAYLOAD_KEY]
        else:
            key = payload_key_from_seed(expanded[PAYLOAD_KEY_SEED])
        payload = lioness_decrypt_untrusted(key, packet[HEADER_SIZE:])
        if flag == FINAL_FLAG:
            return FinalHop(plain[4:36], plain[36:52], recover_untrusted(payload), self.replay_tag, version)
        try:
            alpha = blind(packet[:ALPHA_SIZE], expanded[BLINDING_FACTOR], version)
        except ValueError as exc:
            raise WireError("the next hop's alpha is all zero") from exc
        # gamma and beta of the next hop lie behind each other, as in its header
        onward = b"".join((alpha, plain[STEP - GAMMA_SIZE :], payload))
        delay_ns = int.from_bytes(plain[36:44], "big")
        return ForwardHop(
            NodeAddress.decode_untrusted(plain[4:36]), delay_ns, onward, self.replay_tag, version
        )


def open_untrusted(packet: bytes | bytearray | memoryview, private_key: bytes) -> OpenedPacket:
    """Derive the hop's keys and verify the header MAC: the first stage of unwrapping.

    Raises:
        WireError: the packet is too short, its alpha has low order, or the MAC is wrong
            (also the sign of a packet made for another key).
        ValueError: *private_key* is not 32 octets.

    Source: spec/sphinx.md sections 8 and 16.
    """
    if len(private_key) != 32:
        raise ValueError("an X25519 private key has 32 octets")
    if len(packet) < MIN_PACKET_SIZE:
        raise WireError(f"a packet has at least {MIN_PACKET_SIZE} octets, not {len(packet)}")
    packet = bytes(packet)
    try:
        shared_secret = x25519(private_key, packet[:ALPHA_SIZE])
    except ValueError as exc:
        raise WireError("alpha has low order") from exc
    expanded = expand(shared_secret)
    gamma = header_mac(expanded[MAC_KEY], packet[_BETA_OFFSET:HEADER_SIZE])
    if not constant_time_equal(gamma, packet[ALPHA_SIZE:_BETA_OFFSET]):
        raise WireError("header MAC is wrong")
    return OpenedPacket(packet, expanded)


def unwrap_untrusted(packet: bytes | bytearray | memoryview, private_key: bytes) -> ForwardHop | FinalHop:
    """Take one layer off *packet* with the node's 32-octet X25519 private key, without a replay check.

    Raises:
        WireError: as :func:`open_untrusted` and :meth:`OpenedPacket.finish_untrusted`.

    Source: spec/sphinx.md section 8.
    """
    return open_untrusted(packet, private_key).finish_untrusted()
