"""Taking one layer off a packet, as a node or a final recipient's gateway does."""

from __future__ import annotations

from dataclasses import dataclass, field

from smolmix_sync.mixnet.sphinx.node_address import NodeAddress

__all__ = ["FinalHop", "ForwardHop", "OpenedPacket", "open_untrusted", "unwrap_untrusted"]


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

    Look up :attr:`replay_tag` first; a seen tag means a replay, and the rest of the work is saved.
    """

    replay_tag: bytes

    def finish_untrusted(self) -> ForwardHop | FinalHop:
        """Decrypt routing information and payload.

        Raises:
            WireError: unknown routing flag, bad next address, payload too short or without its padding.
        """
        raise NotImplementedError


def open_untrusted(packet: bytes, private_key: bytes) -> OpenedPacket:
    """Derive the hop's keys and verify the header MAC: the first stage of unwrapping.

    Raises:
        WireError: the packet is too short, its alpha has low order, or the MAC is wrong
            (also the sign of a packet made for another key).

    Source: spec/sphinx.md sections 8 and 16.
    """
    raise NotImplementedError


def unwrap_untrusted(packet: bytes, private_key: bytes) -> ForwardHop | FinalHop:
    """Take one layer off *packet* with the node's 32-octet X25519 private key, without a replay check.

    Raises:
        WireError: as :func:`open_untrusted` and :meth:`OpenedPacket.finish_untrusted`.

    Source: spec/sphinx.md section 8.
    """
    raise NotImplementedError
