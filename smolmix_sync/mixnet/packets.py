"""Building the packets of one client: the SURB-ack in front, the encrypted fragment, and Sphinx around them.

Source: spec/message-layer.md sections 8 to 10; common/nymsphinx/src/preparer/mod.rs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.acks import SURB_ACK_SIZE, build_surb_ack, use_surb_as_ack
from smolmix_sync.mixnet.cover import cover_plaintext
from smolmix_sync.mixnet.fragment_encryption import PREFIX_SIZE, encrypt_fragment, encrypt_reply_fragment
from smolmix_sync.mixnet.fragments import COVER_FRAGMENT_ID, required_fragments
from smolmix_sync.mixnet.message import SURB_KEY_SIZE, ReplySurb
from smolmix_sync.mixnet.reply_controller import ReceivedSurb
from smolmix_sync.mixnet.routing import choose_route, exponential_delays, total_delay
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import MixPacket, PacketSize, Surb, build_packet, build_surb
from smolmix_sync.mixnet.topology import Topology

__all__ = ["PacketBuilder", "choose_size", "per_fragment"]

_MIX_ROUTE = 4


def per_fragment(size: PacketSize) -> int:
    """Return the octets of a fragment, its header included, that fill a packet of *size*: 1611 for regular."""
    return size.plaintext_size - SURB_ACK_SIZE - PREFIX_SIZE


def choose_size(length: int, config: TrafficSettings) -> tuple[PacketSize, int]:
    """Return the packet size for a message of *length* octets, and how many packets it takes.

    The secondary size is taken if it needs strictly fewer packets, by an estimate with one octet less per
    fragment, as in the Rust client.

    Raises:
        ValueError: the message is longer than ``max_message_size``.

    Source: spec/message-layer.md section 7.4.
    """
    if length > config.max_message_size:
        raise ValueError(f"a message has at most {config.max_message_size} octets")
    size = config.primary_packet_size
    secondary = config.secondary_packet_size
    if secondary is not None:
        with_primary, _ = required_fragments(length, per_fragment(size) - 1)
        with_secondary, _ = required_fragments(length, per_fragment(secondary) - 1)
        if with_secondary < with_primary:
            size = secondary
    return size, required_fragments(length + 1, per_fragment(size))[0]


class PacketBuilder:
    """Makes every packet with a fresh route, fresh delays, a fresh ephemeral key and a fresh ack.

    Args:
        address: our own, where acks and replies go.
        ack_key: AES-128 key of our acks.
        config: delays, and whether mix hops are visited.
        urandom: source of randomness.
    """

    __slots__ = (
        "_ack_key", "_acks", "_address", "_config", "_mix_hops", "_prepared_on", "_surbs", "_urandom", "hops"
    )  # fmt: skip

    def __init__(
        self,
        address: Recipient,
        ack_key: bytes,
        config: TrafficSettings,
        urandom: Callable[[int], bytes],
    ) -> None:
        self._address = address
        self._ack_key = ack_key
        self._config = config
        self._urandom = urandom
        self._mix_hops = not config.disable_mix_hops
        # Made ahead of need, on one snapshot of the topology and discarded with it.
        self._prepared_on: Topology | None = None
        self._acks: deque[tuple[Surb, float]] = deque()
        self._surbs: deque[ReplySurb] = deque()
        #: Hops of the SURBs made here.
        self.hops = _MIX_ROUTE if self._mix_hops else 1

    def prepare(self, topology: Topology) -> bool:
        """Build one header ahead of need, for an ack or a SURB; False if there are enough of both.

        Raises:
            TopologyError: there is no route to our gateway.
            ValueError: a key on the way has low order.
        """
        if self._prepared_on is not topology:
            self._prepared_on = topology
            self._acks.clear()
            self._surbs.clear()
        config = self._config
        if len(self._acks) < config.prepared_acks:
            self._acks.append(self._own_header(topology, config.average_ack_delay))
        elif len(self._surbs) < config.prepared_surbs:
            self._surbs.append(self._new_reply_surb(topology))
        else:
            return False
        return True

    def forward(
        self, fragment: bytes, identifier: bytes, recipient: Recipient, size: PacketSize, topology: Topology
    ) -> tuple[MixPacket, float]:
        """Return the packet of a fragment, and how long it and its ack will wait in nodes together.

        Raises:
            TopologyError: there is no route to the recipient's gateway or to ours.
            ValueError: a key on the way has low order.
        """
        ack, ack_delay = self._ack(identifier, topology, self._mix_hops)
        body = encrypt_fragment(fragment, recipient.encryption, self._urandom)
        packet, delay = self._sphinx(ack + body, recipient, size, topology, self._mix_hops)
        return packet, delay + ack_delay

    def reply(
        self, fragment: bytes, identifier: bytes, surb: ReceivedSurb, size: PacketSize, topology: Topology
    ) -> tuple[MixPacket, float]:
        """Return the packet that takes a fragment through somebody's SURB; see :meth:`forward`.

        Its ack travels under the SURB's key rotation, whatever *topology* it was built on.
        """
        ack, ack_delay = self._ack(identifier, topology, self._mix_hops)
        body = encrypt_reply_fragment(fragment, surb.reply_surb.encryption_key)
        octets, first_hop = surb.reply_surb.surb.use(ack + body, size)
        packet = MixPacket(first_hop, octets, surb.key_rotation)
        return packet, 3 * self._config.average_packet_delay + ack_delay

    def cover(self, topology: Topology) -> MixPacket:
        """Return a loop cover packet; cover always visits mix nodes.

        Raises:
            TopologyError: there is no route to our gateway.
            ValueError: a key on the way has low order.
        """
        config = self._config
        size = config.primary_packet_size
        if config.secondary_packet_size is not None:
            share = int.from_bytes(self._urandom(4), "big") / 2**32
            if share >= config.cover_primary_size_ratio:
                size = config.secondary_packet_size
        ack, _ = self._ack(COVER_FRAGMENT_ID, topology, True)
        body = encrypt_fragment(cover_plaintext(per_fragment(size)), self._address.encryption, self._urandom)
        return self._sphinx(ack + body, self._address, size, topology, True)[0]

    def reply_surb(self, topology: Topology) -> ReplySurb:
        """Return a new SURB of ours; the caller keeps its key.

        Raises:
            TopologyError: there is no route to our gateway.
            ValueError: a key on the way has low order.
        """
        if self._surbs and self._prepared_on is topology:
            return self._surbs.popleft()
        return self._new_reply_surb(topology)

    def _new_reply_surb(self, topology: Topology) -> ReplySurb:
        surb, _ = self._own_header(topology, self._config.average_packet_delay)
        return ReplySurb(self._urandom(SURB_KEY_SIZE), surb)

    def _own_header(self, topology: Topology, mean: float) -> tuple[Surb, float]:
        """Return a header that leads to ourselves, and how long it will wait in nodes."""
        route = choose_route(topology, self._address.gateway, self._urandom, mix_hops=self._mix_hops)
        delays = exponential_delays(len(route), mean, self._urandom)
        return build_surb(route, delays, self._address.identity, urandom=self._urandom), total_delay(delays)

    def _ack(self, identifier: bytes, topology: Topology, mix_hops: bool) -> tuple[bytes, float]:
        """Return the ack block for a packet, and how long the ack will wait in nodes."""
        if mix_hops == self._mix_hops and self._acks and self._prepared_on is topology:
            surb, delay = self._acks.popleft()
            return use_surb_as_ack(self._ack_key, identifier, surb, self._urandom), delay
        address = self._address
        route = choose_route(topology, address.gateway, self._urandom, mix_hops=mix_hops)
        delays = exponential_delays(len(route), self._config.average_ack_delay, self._urandom)
        block = build_surb_ack(self._ack_key, identifier, route, delays, address.identity, self._urandom)
        return block, total_delay(delays)

    def _sphinx(
        self, plaintext: bytes, recipient: Recipient, size: PacketSize, topology: Topology, mix_hops: bool
    ) -> tuple[MixPacket, float]:
        """Return the packet that carries *plaintext* to *recipient*, and how long it will wait in nodes."""
        route = choose_route(topology, recipient.gateway, self._urandom, mix_hops=mix_hops)
        delays = exponential_delays(len(route), self._config.average_packet_delay, self._urandom)
        octets = build_packet(plaintext, route, delays, recipient.identity, size=size, urandom=self._urandom)
        return MixPacket(route[0].address, octets, topology.key_rotation), total_delay(delays)
