"""What mix nodes and gateways do with a Sphinx packet: check, unwrap, wait, pass on.

Source: spec/sphinx.md sections 8, 16 and 19.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from smolmix_sync.errors import WireError
from smolmix_sync.localnet.links import LinkCapture, MixListener, MixSender
from smolmix_sync.localnet.process import Program
from smolmix_sync.mixnet.sphinx import (
    FinalHop,
    ForwardHop,
    MixFrame,
    NodeAddress,
    key_rotation_byte,
    open_untrusted,
)

__all__ = ["ReplayFilter", "SphinxProgram"]

# From the specification: a longer delay is cut to this.
_MAX_DELAY = 10.0
# Ours: packets that may wait at one node at the same time; about 250 MB.
_MAX_DELAYED = 100_000
# Ours: tags in one generation of the filter; two generations are kept, about 200 MB when full.
_GENERATION = 500_000


class ReplayFilter:
    """The tags seen under one key, the oldest forgotten first.

    A real node keeps a Bloom filter for the life of the key; two exact sets do for
    the packets that a localnet sees, and cannot be wrong about a new packet.
    """

    def __init__(self, generation: int = _GENERATION) -> None:
        self._generation = generation
        self._current: set[bytes] = set()
        self._previous: set[bytes] = set()

    def seen(self, tag: bytes) -> bool:
        """Return whether *tag* was seen before, and remember it."""
        if tag in self._current or tag in self._previous:
            return True
        if len(self._current) >= self._generation:
            self._previous, self._current = self._current, set()
        self._current.add(tag)
        return False


class SphinxProgram(Program):
    """A node of the mixnet.

    Counters: ``packets_in`` and ``packets_out``; ``forwarded`` and ``final`` by what the packet
    was; ``dropped`` by the switch; ``replays``; ``bad_packets`` (wrong key, broken header or
    payload), ``expired_key``, ``unroutable`` and ``not_my_role``; ``bytes_in`` and ``bytes_out`` of links.
    """

    #: Whether packets for the next mix node, and packets that end here, are this node's business.
    forwards = False
    delivers = False

    def __init__(self, config: dict[str, Any], keep: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(config, keep)
        for counter in ("packets_in", "packets_out", "forwarded", "final", "dropped", "replays", "bad_packets",
                        "bytes_in", "bytes_out"):  # fmt: skip
            self.counters[counter] = 0
        self._sphinx_private = bytes.fromhex(config["sphinx_private"])
        self._rotation = key_rotation_byte(config["rotation_id"])
        self._known_ips = frozenset(config["known_ips"])
        self._replays = ReplayFilter()
        self._delayed = 0
        self.capture = LinkCapture(config.get("capture_dir"))
        self.sender = MixSender(
            self.name, config["peers"], self.counters, self.capture, config["frame_version"]
        )
        self._listener = MixListener(self.receive, self.counters)

    async def start(self) -> None:
        """Open the mix listener."""
        await self._listener.listen(self.config["address"], self.port("mix"))

    async def stop(self) -> None:
        """Close listener and links."""
        self._listener.close()
        self.sender.close()

    def receive(self, frame: MixFrame) -> None:
        """Take one packet from a link."""
        counters = self.counters
        counters["packets_in"] += 1
        if self.switches.get("drop", 0.0) > random.random():
            counters["dropped"] += 1
            return
        # 0: the sender does not say which rotation; ours is the only key.
        if frame.key_rotation not in (0, self._rotation) and self._rotation != 0:
            counters["expired_key"] += 1
            return
        try:
            opened = open_untrusted(frame.packet, self._sphinx_private)
            if self._replays.seen(opened.replay_tag):
                counters["replays"] += 1
                return
            hop = opened.finish_untrusted()
        except WireError:
            counters["bad_packets"] += 1
            return
        if isinstance(hop, ForwardHop):
            if self.forwards:
                self._wait_and_forward(hop, frame.key_rotation)
            else:
                counters["not_my_role"] += 1
        elif self.delivers:
            counters["final"] += 1
            self.deliver(hop, frame)
        else:
            counters["not_my_role"] += 1

    def _wait_and_forward(self, hop: ForwardHop, key_rotation: int) -> None:
        self.counters["forwarded"] += 1
        delay = min(hop.delay_ns / 1e9, _MAX_DELAY)
        if delay <= 0:
            self.forward(hop.next_address, hop.packet, key_rotation)
        elif self._delayed < _MAX_DELAYED:
            self._delayed += 1
            loop = asyncio.get_running_loop()
            loop.call_later(delay, self._forward_delayed, hop.next_address, hop.packet, key_rotation)
        else:
            self.counters["lost_delay_full"] += 1

    def _forward_delayed(self, address: NodeAddress, packet: bytes, key_rotation: int) -> None:
        self._delayed -= 1
        self.forward(address, packet, key_rotation)

    def forward(self, address: NodeAddress, packet: bytes, key_rotation: int) -> None:
        """Send a packet to its next hop now, if that is a node of this network."""
        if address.ip not in self._known_ips:
            self.counters["unroutable"] += 1
            return
        self.sender.send(address, packet, key_rotation)

    def deliver(self, hop: FinalHop, frame: MixFrame) -> None:
        """Take a packet that ends at this node."""
        raise NotImplementedError
