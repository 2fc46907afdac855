"""``python -m smolmix_sync.localnet``: the network in the foreground, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from smolmix_sync.localnet.config import LocalNetConfig
from smolmix_sync.localnet.localnet import LocalNet, LocalNetFailed
from smolmix_sync.localnet.node import add_node_arguments, run_node

__all__ = ["add_arguments", "config_from_arguments", "describe", "main", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add localnet's switches to a command line."""
    parts = parser.add_subparsers(dest="part", metavar="node")
    summary = "run one node of ours in a network of others"
    add_node_arguments(
        parts.add_parser("node", help=summary, description=summary[0].upper() + summary[1:] + ".")
    )
    group = parser.add_argument_group("localnet")
    group.add_argument("--address", default="127.0.0.1", help="IP address that all nodes bind and announce")
    group.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="NODE.LISTENER=PORT",
        help="fix a port: entry.ws, mix1.mix, nym-api.http",
    )
    group.add_argument("--hop-delay", type=float, default=15.0, metavar="MS", help="mean delay of a hop")
    group.add_argument(
        "--drop", action="append", default=[], metavar="NODE=PERCENT", help="drop Sphinx packets"
    )
    group.add_argument("--allow", action="append", default=[], metavar="NAME:PORT=LOOPBACK_PORT",
                       help="a further destination behind the exit")  # fmt: skip
    group.add_argument("--build-version", default="1.37.0", help="node version in the directory")
    group.add_argument("--ipr-versions", default="8,9,10", help="IPR protocol versions that the exit answers")
    group.add_argument("--enforce-tickets", action="store_true", help="refuse free bandwidth")
    group.add_argument("--no-noise", action="store_true", help="plain links between the nodes")
    group.add_argument(
        "--wrong-key", action="append", default=[], metavar="NODE", help="announce a wrong Sphinx key"
    )
    group.add_argument(
        "--hostname", help="announce this host name for the gateways' websockets (needed by wss)"
    )
    group.add_argument("--capture-dir", help="write the octets of every link into this directory")
    group.add_argument("--state-dir", help="where ca.pem, network.json and the control socket go")
    group.add_argument("--network-json", metavar="FILE", help="also export the topology to this file")
    group.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def config_from_arguments(arguments: argparse.Namespace) -> LocalNetConfig:
    """Build the configuration from what `add_arguments` parsed.

    Raises:
        ValueError: a switch has a value it cannot have.
    """

    def pairs(items: Sequence[str]) -> dict[str, str]:
        parsed = {}
        for item in items:
            name, equals, value = item.rpartition("=")
            if not equals:
                raise ValueError(f"expected NAME=VALUE, not {item!r}")
            parsed[name] = value
        return parsed

    return LocalNetConfig(
        address=arguments.address,
        ports={name: int(value) for name, value in pairs(arguments.port).items()},
        hop_delay=arguments.hop_delay / 1000,
        drop={name: float(value) / 100 for name, value in pairs(arguments.drop).items()},
        allow={name: int(value) for name, value in pairs(arguments.allow).items()},
        build_version=arguments.build_version,
        ipr_versions=tuple(int(part) for part in arguments.ipr_versions.split(",")),
        enforce_tickets=arguments.enforce_tickets,
        noise=not arguments.no_noise,
        wrong_key=tuple(arguments.wrong_key),
        hostname=arguments.hostname,
        capture_dir=arguments.capture_dir,
        state_dir=arguments.state_dir,
    )


def describe(net: LocalNet) -> dict[str, Any]:
    """Return what a client needs to use *net*, as plain JSON types."""
    return {
        "nym_api": net.nym_api,
        "gateway": net.gateway_identity,
        "ipr": net.ipr_addresses,
        "ca": str(net.ca_path),
        "network_json": str(net.network_json),
        "control": str(net.control_path),
        "environment": net.environment(),
        "hosts": net.hosts,
        "nodes": {name: node.ports for name, node in net.nodes.items()},
    }


def _print_text(facts: dict[str, Any], out: TextIO) -> None:
    print(f"nym-api      {facts['nym_api']}", file=out)
    print(f"entry        {facts['gateway']}", file=out)
    for address in facts["ipr"]:
        print(f"exit (IPR)   {address}", file=out)
    print(f"CA           {facts['ca']}", file=out)
    print(f"network.json {facts['network_json']}", file=out)
    print("names", file=out)
    for name, host in facts["hosts"].items():
        ports = " ".join(f"{port}/{service}" for port, service in host["tcp"].items())
        print(f"  {name:22} {host['addresses'][0]:15} {ports or host['behaviour']}", file=out)
    print("environment of a client", file=out)
    for name, value in facts["environment"].items():
        print(f"  export {name}={value}", file=out)
    out.flush()


def run(arguments: argparse.Namespace, out: TextIO | None = None) -> int:
    """Run a network, or one node, in the foreground until SIGINT or SIGTERM; return the exit code."""
    if arguments.part == "node":
        return run_node(arguments, out)
    out = out if out is not None else sys.stdout
    try:
        config = config_from_arguments(arguments)
    except ValueError as error:
        print(f"localnet: {error}", file=sys.stderr)
        return 2
    # No threading.Event: a handler that comes while the main thread is inside its wait() would wait for that for ever.
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ended.append(number))
    try:
        with LocalNet(config, set_default=False) as net:
            facts = describe(net)
            if arguments.network_json:
                Path(arguments.network_json).write_bytes(net.network_json.read_bytes())
            if arguments.json:
                print(json.dumps(facts), file=out, flush=True)
            else:
                _print_text(facts, out)
            while not ended:
                time.sleep(0.2)
                if not net.alive:
                    print("localnet: the network ended", file=sys.stderr)
                    return 1
    except LocalNetFailed as error:
        print(f"localnet: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m smolmix_sync.localnet", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
