"""``smolmix-sync demo``: the whole way of a byte, on this machine, for anybody to watch.

Starts the embedded network, opens a tunnel, runs the legacy script beside this file through it, and prints what
every node says it saw. The counters come from the node processes, the client's from its own tunnel.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from smolmix_sync.cli._common import network, open_tunnel, say
from smolmix_sync.cli.run import patch, run_program

if TYPE_CHECKING:
    from smolmix_sync.localnet import LocalNet
    from smolmix_sync.tunnel import Tunnel

__all__ = ["add_arguments", "run"]

_SCRIPT = Path(__file__).with_name("legacy_script.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log life-cycle events; twice: packets"
    )
    parser.add_argument("--no-strict", action="store_true", help="no seccomp filter on this process")
    parser.set_defaults(localnet=True, config=None, nym_api=None, gateway=None, ipr=None, profile=None)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if the script did its work through the mixnet."""
    import smolmix_sync

    began = time.monotonic()
    say("starting a mixnet on this machine: nym-api, entry gateway, three mix nodes, exit, services")
    with network(arguments) as net:
        assert net is not None
        say(f"  {time.monotonic() - began:6.2f} s  {len(net.pids)} processes, nym-api at {net.nym_api}")
        say("opening the tunnel")
        tunnel = open_tunnel(arguments)
        if tunnel is None:
            return 1
        try:
            say(f"our addresses behind the exit: {tunnel.allocated_ips}")
            before = net.stats()
            script_began = time.monotonic()
            say(f"\nrunning {_SCRIPT.name}, which knows nothing of this:")
            if not patch(strict=not arguments.no_strict):
                return 1
            code = run_program(str(_SCRIPT), [])
            seconds = time.monotonic() - script_began
            say(f"exit code {code} after {seconds:.1f} s")
            moved = _print_hops(net, before)
            _print_client(tunnel)
        finally:
            smolmix_sync.disconnect()
    if code == 0 and not moved:
        say("the script ended well, but the nodes did not see its packets")
        return 1
    say(f"\ndone in {time.monotonic() - began:.1f} s")
    return code


def _print_hops(net: LocalNet, before: dict[str, dict[str, int]]) -> bool:
    """Print what each node counted while the script ran; return whether every Sphinx hop moved packets."""
    say("\nwhat each node counted meanwhile:")
    moved = True
    for name, counters in net.stats().items():
        changed = {
            counter: value - before.get(name, {}).get(counter, 0)
            for counter, value in counters.items()
            if value != before.get(name, {}).get(counter, 0)
        }
        if name not in ("nym-api", "services"):
            moved = moved and changed.get("packets_in", 0) > 0
        say(
            f"  {name:9} "
            + (", ".join(f"{value} {counter}" for counter, value in changed.items()) or "nothing")
        )
    return moved


def _print_client(tunnel: Tunnel) -> None:
    stats = tunnel.stats()
    say("\nwhat the client counted since it started:")
    say(f"  Sphinx packets sent      {stats.packets_sent} with content, {stats.cover_sent} of cover")
    say(
        f"  acknowledgements         {stats.acks_received} received, {stats.retransmissions} packets sent again"
    )
    say(f"  reply SURBs              {stats.surbs_sent} sent, {stats.surbs_used} came back with an answer")
    say(f"  mixnet messages received {stats.messages_received}")
    say(f"  IP packets               {stats.ip_packets_sent} sent, {stats.ip_packets_received} received")
