"""``smolmix-sync ping HOST``: ICMP echo requests through the exit."""

from __future__ import annotations

import argparse
import time

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser)
    parser.add_argument(
        "-c", "--count", type=int, default=4, metavar="N", help="requests to send (default 4)"
    )
    parser.add_argument(
        "-i", "--interval", type=float, default=1.0, metavar="S", help="seconds between two (default 1)"
    )
    parser.add_argument(
        "-W",
        "--timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds to wait for an answer (default 10)",
    )
    parser.add_argument("host", help="name or address")


def run(arguments: argparse.Namespace) -> int:
    """Print one line an answer and a summary; the exit code is 0 if any answer came."""
    import smolmix_sync

    if arguments.count < 1 or arguments.timeout <= 0 or arguments.interval < 0:
        say("smolmix-sync ping: count and timeout are positive, interval is not negative")
        return 2
    with network(arguments):
        tunnel = open_tunnel(arguments)
        if tunnel is None:
            return 1
        try:
            try:
                address = tunnel.resolve(arguments.host)[0]
            except OSError as error:
                say(f"{arguments.host}: {error}")
                return 1
            print(f"PING {arguments.host} ({address}) through the mixnet", flush=True)
            times: list[float] = []
            try:
                for number in range(1, arguments.count + 1):
                    began = time.monotonic()
                    try:
                        times.append(tunnel.ping(address, arguments.timeout))
                    except OSError as error:
                        print(f"{address}: seq={number} {error.strerror or error}", flush=True)
                    else:
                        print(f"{address}: seq={number} time={times[-1] * 1000:.0f} ms", flush=True)
                    if number < arguments.count:
                        time.sleep(max(0.0, began + arguments.interval - time.monotonic()))
            except KeyboardInterrupt:
                number -= 1
            lost = 100 * (number - len(times)) / max(number, 1)
            print(f"{number} sent, {len(times)} answered, {lost:.0f} % lost")
            if times:
                low, mean, high = min(times), sum(times) / len(times), max(times)
                print(f"round trip min/avg/max = {low * 1000:.0f}/{mean * 1000:.0f}/{high * 1000:.0f} ms")
            return 0 if times else 1
        finally:
            smolmix_sync.disconnect()
