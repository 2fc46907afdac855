"""``smolmix-sync resolve NAME``: a name's addresses, asked for through the tunnel."""

from __future__ import annotations

import argparse

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser)
    parser.add_argument(
        "-4", dest="family", action="store_const", const=4, default=0, help="IPv4 addresses only"
    )
    parser.add_argument("-6", dest="family", action="store_const", const=6, help="IPv6 addresses only")
    parser.add_argument("names", nargs="+", metavar="NAME", help="names to look up")


def run(arguments: argparse.Namespace) -> int:
    """Print one address a line; the exit code is 1 if any name has none."""
    import smolmix_sync

    failed = 0
    with network(arguments):
        tunnel = open_tunnel(arguments)
        if tunnel is None:
            return 1
        try:
            from socket import AF_INET, AF_INET6  # after the tunnel: nothing here needs it before

            family = {0: 0, 4: int(AF_INET), 6: int(AF_INET6)}[arguments.family]
            for name in arguments.names:
                try:
                    addresses = tunnel.resolve(name, family)
                except OSError as error:
                    say(f"{name}: {error}")
                    failed = 1
                    continue
                for address in addresses:
                    print(address if len(arguments.names) == 1 else f"{name} {address}", flush=True)
        finally:
            smolmix_sync.disconnect()
    return failed
