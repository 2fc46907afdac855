"""An exit: a gateway with an IP packet router inside, and a piece of internet behind it.

The router is an ordinary client of the mixnet that lives in the gateway's process. Its messages are
IP packets; it answers through the reply SURBs that came with them, and so never learns who asked.

::

    packet that ends here -> Gateway.deliver -> MixnetCore (fragments, SURBs)
        -> IpPacketRouter (versions 8 to 10, addresses, policy) -> Relay (netstack, loopback services)
    and back: Relay -> IpPacketRouter (bundles) -> MixnetCore (replies by SURB) -> first mix node

Source: spec/ipr.md section 7; spec/message-layer.md section 12; spec/gateway.md 11.2 item 12.
Run: ``python -m smolmix_sync.localnet.exit``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import os
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from smolmix_sync.ipr import IpPacketRouter, RouterConfig
from smolmix_sync.ipr.policy import ExitPolicy, is_global
from smolmix_sync.ipr.router import ClientConnected, ClientDisconnected, PacketAccepted, SendReply
from smolmix_sync.localnet.config import LOCALNET_V4, LOCALNET_V6, Host
from smolmix_sync.localnet.gateway import Gateway
from smolmix_sync.localnet.process import main
from smolmix_sync.localnet.relay import Relay
from smolmix_sync.mixnet.client import ClientKeys, MessageReceived, MixnetCore
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.topology.network_json import decode_network_untrusted

__all__ = ["Exit"]

# Ours: packets built before other events of the process have their turn; about 10 ms of work.
_BURST = 16


class Exit(Gateway):
    """A gateway that is also an exit.

    Counters besides those of `Gateway`: ``ip_packets_in`` and ``ip_packets_out`` (from and to clients),
    ``ipr_clients`` (connected since the start, and ``ipr_clients_v10`` those of version 10), those of `Relay`,
    and those of the router's own mixnet client with the prefix ``ipr_``, those of the router
    with ``router_``. Switches: ``silent`` swallows everything for the router; ``drop_ip``
    is the fraction of clients' IP packets that get lost behind the exit.
    """

    def __init__(self, config: dict[str, Any], keep: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(config, keep)
        for counter in ("ip_packets_in", "ip_packets_out", "ipr_clients"):
            self.counters[counter] = 0
        secret = config["ipr"]
        keys = ClientKeys(
            identity_seed=bytes.fromhex(secret["identity_seed"]),
            encryption_private=bytes.fromhex(secret["encryption"]),
            ack_key=bytes.fromhex(secret["ack_key"]),
        )
        settings = TrafficSettings(
            average_packet_delay=config["hop_delay"],
            average_ack_delay=config["hop_delay"],
            surb_threshold_buffer=config["surb_buffer"],
        )
        self._core = MixnetCore(keys, self.identity, config=settings, urandom=os.urandom)
        hosts = [Host.from_json(host) for host in config["hosts"]]
        self._router = IpPacketRouter(
            urandom=os.urandom,
            policy=_policy(config["exit_policy"], hosts),
            config=RouterConfig(versions=frozenset(config["ipr_versions"]), mtu=config["mtu"]),
        )
        self._relay = Relay(hosts, config["services"], config["mtu"], self.counters, self._wake)
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False

    async def start(self) -> None:
        """Learn the topology, be reachable as a client, and open the gateway's listeners."""
        await self.command_learn(self.config["network"])
        self.local_clients[self._core.address.identity] = self._receive
        await super().start()

    async def command_learn(self, network: str) -> None:
        """Build later packets from this topology, a network.json."""
        self._core.set_topology(decode_network_untrusted(network), time.monotonic())

    async def stop(self) -> None:
        """Drop the conversations with services, then the links."""
        self._relay.close()
        await super().stop()

    def stats(self) -> dict[str, int]:
        """Return the counters of node, router and router's client."""
        own = {f"ipr_{name}": value for name, value in dataclasses.asdict(self._core.stats).items() if value}
        router = dataclasses.asdict(self._router.stats)
        return (
            dict(self.counters) | own | {f"router_{name}": value for name, value in router.items() if value}
        )

    def _receive(self, payload: bytes) -> None:
        """Take a payload for the router from the gateway it lives in."""
        if self.switches.get("silent"):
            return
        self._core.receive_data(payload, time.monotonic())
        self._wake()

    def _wake(self) -> None:
        """Run everything soon, once, however many reasons there are."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """Move everything that can move between core, router, relay and the first mix node."""
        self._woken = False
        now = time.monotonic()
        for machine in (self._core, self._router, self._relay):
            deadline = machine.next_deadline()
            if deadline is not None and deadline <= now:
                machine.handle_deadline(now)
        while (event := self._core.next_event()) is not None:
            if isinstance(event, MessageReceived):
                self._router.receive_data(event.message, event.sender_tag, now)
        self._from_router(now)
        self._relay.run_events()
        for packet in self._relay.data_to_send(now):
            self.counters["ip_packets_out"] += 1
            self._router.packet_from_network(packet, now)
        self._from_router(now)
        # No pacing: a real exit has its Poisson stream switched off. But links are read in between.
        for _ in range(_BURST):
            mix_packet = self._core.next_packet(now)
            if mix_packet is None:
                break
            self.forward(mix_packet.first_hop, mix_packet.packet, mix_packet.key_rotation)
        else:
            self._wake()
        self._set_timer(now)

    def _from_router(self, now: float) -> None:
        while (event := self._router.next_event()) is not None:
            match event:
                case SendReply(sender_tag, message, limit):
                    # Tunnel data is sent once, as by real exits: TCP must recover what the mixnet loses.
                    if not self._core.send_reply(sender_tag, message, now, max_retransmissions=limit):
                        self.counters["replies_lost"] += 1
                case PacketAccepted(packet, _):
                    self.counters["ip_packets_in"] += 1
                    if self.switches.get("drop_ip", 0.0) > random.random():
                        self.counters["ip_dropped"] += 1
                        continue
                    self._relay.receive(packet, now)
                case ClientConnected(_, _, version):
                    self.counters["ipr_clients"] += 1
                    self.counters[f"ipr_clients_v{version}"] += 1
                case ClientDisconnected():
                    self.counters["ipr_clients_gone"] += 1

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadlines = [m.next_deadline() for m in (self._core, self._router, self._relay)]
        due = [deadline for deadline in deadlines if deadline is not None]
        self._timer = None
        if due:
            # A deadline that stays in the past would spin: a millisecond keeps the process answering.
            delay = max(0.001, min(due) - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self._run)


def _policy(text: str, hosts: Iterable[Host]) -> Callable[[str, int], bool]:
    """Return the exit policy of *text*, where localnet's own addresses count as public ones."""
    rules = ExitPolicy.parse(text, allow_local=True)
    listed = {ipaddress.ip_address(address) for host in hosts for address in host.addresses}

    def allows(host: str, port: int) -> bool:
        address = ipaddress.ip_address(host)
        own = address in (LOCALNET_V4 if address.version == 4 else LOCALNET_V6) or address in listed
        return (own or is_global(host)) and rules(host, port)

    return allows


if __name__ == "__main__":
    main(Exit)
