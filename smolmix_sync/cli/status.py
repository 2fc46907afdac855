"""``smolmix-sync status``: what the daemon of this user says about itself."""

from __future__ import annotations

import argparse
import json
import sys

from smolmix_sync.cli._common import say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: as for the daemon)")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    parser.add_argument("--wait", type=float, metavar="S", help="wait at most S seconds for READY first")


def run(arguments: argparse.Namespace) -> int:
    """Print the status; 0 if the tunnel is READY, 1 if not or if there is no daemon."""
    from smolmix_sync.daemon import attach

    tunnel = attach(arguments.socket)
    try:
        if arguments.wait is not None:
            tunnel.wait_ready(arguments.wait)
        told = tunnel.status()
    except OSError as error:
        say(f"smolmix-sync status: {error.strerror or error}")
        return 1
    if arguments.json:
        json.dump(told, sys.stdout, indent=2)
        print()
    else:
        print(f"{told['state']} {told['reason']}".rstrip())
        print(f"daemon      {tunnel.path}, pid {told['pid']}, up {told['uptime']:.0f} s")
        print(f"sockets     {told['flows']} open, {told['served']} served, {told['clients']} clients")
        print(f"addresses   {', '.join(told['addresses']) or 'none'}")
        for name in ("gateway", "exit"):
            if name in told:
                print(f"{name:<11} {told[name]}")
        stats = told.get("stats", {})
        if stats:
            print(
                f"packets     {stats['packets_sent']} sent, {stats['cover_sent']} of cover, "
                f"{stats['retransmissions']} again; round trip {stats['rtt']:.2f} s"
            )
    return 0 if told["ready"] else 1
