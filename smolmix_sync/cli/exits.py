"""``smolmix-sync exits``: the exits of the network, and with ``--probe`` which of them work."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from smolmix_sync.cli._common import add_tunnel_options, network, say, tunnel_config

if TYPE_CHECKING:
    from smolmix_sync import ExitInfo

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser, json_option=False)
    parser.add_argument(
        "--probe", action="store_true", help="open a tunnel to each; failures are remembered, and tried last"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="the first N of them (default: all; 8 with --probe)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 0 if there is an exit (with --probe: one that works), else 1."""
    from smolmix_sync import list_exits

    limit = arguments.limit if arguments.limit is not None else (8 if arguments.probe else None)
    if limit is not None and limit < 1:
        say("smolmix-sync exits: --limit must be positive")
        return 2
    with network(arguments):
        try:
            found = list_exits(
                tunnel_config(arguments),
                probe=arguments.probe,
                limit=limit,
                on_probe=lambda info: say(f"  {info.gateway}: {_result(info)}"),
            )
        except OSError as error:
            say(f"smolmix-sync exits: {error}")
            return 1
    if arguments.json:
        for info in found:
            json.dump(_plain(info), sys.stdout)
            print()
    else:
        _print_table(found)
    return (
        0
        if not arguments.probe or any(i.probe is not None and i.probe.ready is not None for i in found)
        else 1
    )


def _plain(info: ExitInfo) -> dict[str, Any]:
    return {**dataclasses.asdict(info), "address": str(info.address)}


def _result(info: ExitInfo) -> str:
    probe = info.probe
    if probe is None:
        return f"in quarantine for {info.quarantined / 60:.0f} min: {info.reason}" if info.quarantined else ""
    if probe.ready is None:
        return probe.error
    told = f"ready in {probe.ready:.2f} s"
    if probe.rtt is not None:
        told += f", echo {probe.rtt:.2f} s"
    return told + (", IPv6" if probe.ipv6 else "")


def _print_table(found: list[ExitInfo]) -> None:
    rows = [("PERFORMANCE", "COUNTRY", "VERSION", "IPR", "RESULT", "ADDRESS")]
    rows += [
        (
            f"{info.performance} %", info.country or "?", info.version or "?", f"v{info.ipr_version}",
            _result(info), str(info.address),
        )
        for info in found
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]))
