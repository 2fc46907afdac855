"""``smolmix-sync status``: what the daemon of this user says about itself, once or as a live view."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from smolmix_sync.cli._common import say

__all__ = ["add_arguments", "run"]

#: Counters shown as rates, with their labels.
_RATES = (
    ("ip_packets_sent", "IP packets out"),
    ("ip_packets_received", "IP packets in"),
    ("packets_sent", "Sphinx packets"),
    ("cover_sent", "of cover besides"),
    ("retransmissions", "sent again"),
)
_BLOCKS = " ▁▂▃▄▅▆▇█"
_HISTORY = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: as for the daemon)")
    parser.add_argument(
        "--json", action="store_true", help="print everything, as JSON; one line each with --watch"
    )
    parser.add_argument("--wait", type=float, metavar="S", help="wait at most S seconds for READY first")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=1.0,
        metavar="S",
        help="show it anew every S seconds (default 1)",
    )
    parser.add_argument("--count", type=int, metavar="N", help="with --watch: end after N times")


def run(arguments: argparse.Namespace) -> int:
    """Print the status; 0 if the tunnel is READY, 1 if not or if there is no daemon."""
    from smolmix_sync.daemon import attach

    if arguments.watch is not None and arguments.watch < 0.1:
        say("smolmix-sync status: --watch takes 0.1 seconds at least")
        return 2
    tunnel = attach(arguments.socket)
    try:
        if arguments.wait is not None:
            tunnel.wait_ready(arguments.wait)
        if arguments.watch is not None:
            return _watch(tunnel, arguments)
        told = tunnel.status()
    except OSError as error:
        say(f"smolmix-sync status: {error.strerror or error}")
        return 1
    if arguments.json:
        json.dump(told, sys.stdout, indent=2)
        print()
    else:
        print("\n".join(_lines(told, tunnel.path)))
    return 0 if told["ready"] else 1


def _lines(told: Mapping[str, Any], path: object) -> list[str]:
    lines = [f"{told['state']} {told['reason']}".rstrip()]
    lines.append(f"daemon      {path}, pid {told['pid']}, up {told['uptime']:.0f} s")
    lines.append(f"sockets     {told['flows']} open, {told['served']} served, {told['clients']} clients")
    lines.append(f"addresses   {', '.join(told['addresses']) or 'none'}")
    lines += [f"{name:<11} {told[name]}" for name in ("gateway", "exit") if name in told]
    stats = told.get("stats", {})
    if stats:
        lines.append(
            f"packets     {stats['packets_sent']} sent, {stats['cover_sent']} of cover, "
            f"{stats['retransmissions']} again; round trip {stats['rtt']:.2f} s"
        )
    return lines


def _watch(tunnel: Any, arguments: argparse.Namespace) -> int:
    """Show the status until interrupted; the last one decides the exit code."""
    history: dict[str, list[float]] = {name: [] for name, _ in _RATES}
    before: Mapping[str, Any] = {}
    before_at, left = 0.0, arguments.count
    ready = False
    while True:
        told, now = tunnel.status(), time.monotonic()
        stats, ready = told.get("stats", {}), bool(told["ready"])
        if before and stats:
            for name, kept in history.items():
                kept.append(max(0, stats[name] - before[name]) / (now - before_at))
                del kept[:-_HISTORY]
        before, before_at = stats, now
        if arguments.json:
            print(json.dumps(told), flush=True)
        else:
            _show([*_lines(told, tunnel.path), "", *_plots(history)])
        if left is not None:
            left -= 1
            if left <= 0:
                return 0 if ready else 1
        time.sleep(arguments.watch)


def _show(lines: list[str]) -> None:
    """Print a screenful: in place on a terminal, one after the other elsewhere."""
    if sys.stdout.isatty():
        # Home, then every line to its end, then the rest of the screen: no flicker.
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
    else:
        sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


def _plots(history: Mapping[str, list[float]]) -> list[str]:
    lines = []
    for name, label in _RATES:
        kept = history[name]
        top = max(kept, default=0.0) or 1.0
        bars = "".join(_BLOCKS[min(8, round(value / top * 8))] for value in kept)
        lines.append(f"{label:<17}{kept[-1] if kept else 0.0:8.1f}/s  {bars}")
    return lines
