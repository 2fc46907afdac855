"""What mix nodes and gateways do with a Sphinx packet: check, unwrap, wait, pass on.

Source: spec/sphinx.md sections 8, 16 and 19.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from smolmix_sync.errors import WireError
from smolmix_sync.localnet.links import LinkCapture, MixListener, MixSender, NoisePeers
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

_log = logging.getLogger("smolmix_sync.localnet")

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


def _noise_peers(config: dict[str, Any] | None) -> NoisePeers:
    if config is None:
        return NoisePeers()
    keys = {NodeAddress.parse(address): bytes.fromhex(key) for address, key in config["keys"].items()}
    return NoisePeers(bytes.fromhex(config["private"]), keys)


class _Key:
    """One Sphinx key, the rotation it is for, and what was seen under it."""

    def __init__(self, rotation_id: int, private: bytes) -> None:
        self.rotation_id = rotation_id
        self.rotation = key_rotation_byte(rotation_id)
        self.private = private
        self.replays = ReplayFilter()


class SphinxProgram(Program):
    """A node of the mixnet.

    Counters: ``packets_in`` and ``packets_out``; ``forwarded`` and ``final`` by what the packet
    was; ``dropped`` by the switch; ``replays``; ``bad_packets`` (wrong key, broken header or
    payload), ``expired_key``, ``unroutable`` and ``not_my_role``; ``bytes_in`` and ``bytes_out`` of links.
    ``noise_links_in`` and ``noise_links_out`` are handshakes that succeeded, ``noise_refused`` links accepted
    from where Noise is announced that did not begin with one, ``noise_failed`` links opened to a node that
    announces Noise and does not speak it, or not with that key. A node in a network of others counts
    ``directory_readings`` and ``directory_failures``.
    """

    #: Whether packets for the next mix node, and packets that end here, are this node's business.
    forwards = False
    delivers = False

    def __init__(self, config: dict[str, Any], keep: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(config, keep)
        for counter in ("packets_in", "packets_out", "forwarded", "final", "dropped", "replays", "bad_packets",
                        "bytes_in", "bytes_out", "noise_links_in", "noise_links_out", "noise_refused",
                        "noise_failed"):  # fmt: skip
            self.counters[counter] = 0
        #: The key of the current rotation, then that of the one before, which packets on their way still use.
        self._keys = [
            _Key(rotation_id, bytes.fromhex(private)) for rotation_id, private in config["sphinx_keys"]
        ]
        self._known_ips = frozenset(config["known_ips"])
        self._stranger = asyncio.Event()
        self.noise = _noise_peers(config.get("noise"))
        self._delayed = 0
        self.capture = LinkCapture(config.get("capture_dir"))
        self.sender = MixSender(
            self.name,
            config["address"],
            config["peers"],
            self.counters,
            self.capture,
            config["frame_version"],
            self.noise,
        )
        self._listener = MixListener(self.receive, self.counters, self.noise)

    async def start(self) -> None:
        """Open the mix listener; a node in a network of others also begins to read its directory."""
        await self._listener.listen(self.config["address"], self.port("mix"))
        if "nym_api" in self.config:
            self.spawn(self._follow_directory(self.config["nym_api"], self.config["refresh"]))

    async def _follow_directory(self, nym_api: str, refresh: float) -> None:
        """Read the directory again and again, sooner when a packet is for somebody unknown."""
        # Here, because urllib is much to load for the nodes that are told by a supervisor.
        from smolmix_sync.localnet.neighbours import LOOK_AGAIN, fetch_neighbours

        while True:
            self._stranger.clear()
            try:
                neighbours = await asyncio.to_thread(fetch_neighbours, nym_api)
            except (OSError, ValueError, WireError) as error:
                self.counters["directory_failures"] += 1
                _log.warning("%s cannot read the directory: %s", self.name, error)
            else:
                self.counters["directory_readings"] += 1
                self._known_ips = neighbours.ips
                self.noise.learn(neighbours.noise_keys)
            await asyncio.sleep(min(LOOK_AGAIN, refresh))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stranger.wait(), max(0.0, refresh - LOOK_AGAIN))

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
        # 0: the sender does not say which rotation, and every key is tried; or the key is not of any.
        keys = [
            key
            for key in self._keys
            if frame.key_rotation == key.rotation or 0 in (frame.key_rotation, key.rotation)
        ]
        if not keys:
            counters["expired_key"] += 1
            return
        hop = self._unwrap(frame.packet, keys)
        if hop is None:
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

    def _unwrap(self, packet: bytes, keys: Sequence[_Key]) -> ForwardHop | FinalHop | None:
        """Take this node's layer off; None, and counted, if it cannot or must not be taken off."""
        for key in keys:
            try:
                opened = open_untrusted(packet, key.private)
            except WireError:
                continue
            # Before the work on the payload, and after the MAC: only packets for this node fill the filter.
            if key.replays.seen(opened.replay_tag):
                self.counters["replays"] += 1
                return None
            try:
                return opened.finish_untrusted()
            except WireError:
                break
        self.counters["bad_packets"] += 1
        return None

    async def command_add_key(self, rotation_id: int, private: str) -> None:
        """Begin a key rotation: *private* (hex) is the new primary key, the present one stays as the second."""
        self._keys = [_Key(rotation_id, bytes.fromhex(private)), self._keys[0]]

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
            self._stranger.set()
            return
        self.sender.send(address, packet, key_rotation)

    def deliver(self, hop: FinalHop, frame: MixFrame) -> None:
        """Take a packet that ends at this node."""
        raise NotImplementedError
