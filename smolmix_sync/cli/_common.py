"""What the commands share: the options of a tunnel, the embedded network, progress for a person."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from smolmix_sync.config import PROFILES, TunnelConfig
from smolmix_sync.errors import SmolmixError

if TYPE_CHECKING:
    from smolmix_sync.localnet import LocalNet
    from smolmix_sync.tunnel import Progress, Tunnel

__all__ = ["ProgressPrinter", "add_tunnel_options", "network", "open_tunnel", "say", "tunnel_config"]

#: Where TLS clients of this process and of its children find the authorities they trust.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def add_tunnel_options(parser: argparse.ArgumentParser, *, json_option: bool = True) -> None:
    """Add the options that every command with a tunnel has; without ``--json`` for one that has its own."""
    group = parser.add_argument_group("tunnel")
    group.add_argument("--localnet", action="store_true", help="use an embedded network on this machine")
    group.add_argument("--config", metavar="FILE", help="TOML file with settings")
    group.add_argument("--nym-api", metavar="URL", action="append", help="base URL of a nym-api (repeatable)")
    group.add_argument("--gateway", metavar="KEY", help="identity key of the entry gateway to use")
    group.add_argument("--ipr", metavar="ADDRESS", help="Nym address of the exit to use")
    group.add_argument("--profile", choices=sorted(PROFILES), help="traffic profile")
    group.add_argument("--pcap", metavar="FILE", help="write the IP packets inside the tunnel, for Wireshark")
    if json_option:
        group.add_argument(
            "--json", action="store_true", help="report progress on stderr as one JSON object a line"
        )
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="log life-cycle events; twice: packets"
    )


def say(text: str = "") -> None:
    """Print a line for a person, on stderr: stdout belongs to the script or to the data."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def network(arguments: argparse.Namespace) -> Iterator[LocalNet | None]:
    """Start the embedded network if ``--localnet`` was given, and trust its authority in this process alone."""
    if arguments.verbose:
        level = logging.INFO if arguments.verbose == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    if not arguments.localnet:
        yield None
        return
    from smolmix_sync.localnet import LocalNet

    with LocalNet() as net:
        before = {name: os.environ.get(name) for name in _CA_VARIABLES}
        os.environ.update(dict.fromkeys(_CA_VARIABLES, str(net.ca_path)))
        try:
            yield net
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def tunnel_config(arguments: argparse.Namespace) -> TunnelConfig:
    """Return the settings that the options of :func:`add_tunnel_options` and their lower ranks make.

    Raises:
        ConfigError: a value makes no sense.
    """
    return TunnelConfig.load(
        arguments.config,
        nym_api=tuple(arguments.nym_api) if arguments.nym_api else None,
        preferred_gateway=arguments.gateway,
        ipr_address=arguments.ipr,
        profile=arguments.profile,
        debug=True if arguments.verbose > 1 else None,
        pcap=arguments.pcap,
    )


class ProgressPrinter:
    """Prints the steps of the set-up: a line each; on a terminal a heartbeat changes the line it is about.

    Args:
        as_json: one JSON object a line instead.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._json = as_json
        self._rewrites = not as_json and sys.stderr.isatty()
        self._open = False

    def __call__(self, progress: Progress) -> None:
        """Print one step, or that it still takes."""
        if self._json:
            say(json.dumps(dataclasses.asdict(progress)))
            return
        line = f"  {progress.elapsed:6.2f} s  {progress.stage:<9} {progress.detail}"
        if not self._rewrites:
            say(line)
            return
        width = shutil.get_terminal_size().columns
        begin = "\r\x1b[K" if progress.waiting else ("\n" if self._open else "")
        self._open = progress.stage != "ready"
        sys.stderr.write(begin + line[: width - 1] + ("" if self._open else "\n"))
        sys.stderr.flush()

    def finish(self) -> None:
        """End a line that is still open."""
        if self._open:
            say()
            self._open = False


def open_tunnel(arguments: argparse.Namespace, **settings: object) -> Tunnel | None:
    """Make the process's tunnel and wait for READY with visible progress; None, with the reason printed, if it fails.

    Args:
        arguments: what :func:`add_tunnel_options` parsed.
        settings: further settings; None is "not given".
    """
    import smolmix_sync

    options = {
        "nym_api": tuple(arguments.nym_api) if arguments.nym_api else None,
        "preferred_gateway": arguments.gateway,
        "ipr_address": arguments.ipr,
        "profile": arguments.profile,
        "debug": True if arguments.verbose > 1 else None,
        "pcap": getattr(arguments, "pcap", None),
        **settings,
    }
    show = ProgressPrinter(as_json=getattr(arguments, "json", False))
    try:
        config = TunnelConfig.load(arguments.config, **options)
        return smolmix_sync.connect(config=config, on_progress=show)
    except (SmolmixError, OSError) as error:
        show.finish()
        say(f"smolmix-sync: no tunnel: {error}")
        return None
