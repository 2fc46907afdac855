"""``smolmix-sync identity show|new|reset``: the identity that ``client_id`` keeps between runs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from smolmix_sync.cli._common import say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "action",
        choices=("show", "new", "reset"),
        help="show: print the kept identity; new: replace it by another; reset: delete it",
    )
    parser.add_argument("--client-id", metavar="NAME", help="the identity's name (default: the settings')")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    parser.add_argument("--json", action="store_true", help="print what show says as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do *action*; 0 if done, 1 if there is no such identity, it is in use or sealed, 2 without a name.

    The passphrase comes from the settings (``SMOLMIX_STORAGE_PASSPHRASE`` or the file): a command line is
    read by every user of the machine.
    """
    from smolmix_sync._tunnel_identity import delete_identity, replace_identity, show_identity
    from smolmix_sync.config import TunnelConfig

    try:
        config = TunnelConfig.load(arguments.config, client_id=arguments.client_id)
        if config.client_id is None:
            say("smolmix-sync identity: which one? --client-id NAME, or the setting client_id")
            return 2
        if arguments.action == "reset":
            done = delete_identity(config)
            say(f"smolmix-sync identity: {'deleted' if done else 'there was none'}")
            return 0 if done else 1
        told = replace_identity(config) if arguments.action == "new" else show_identity(config)
    except OSError as error:
        say(f"smolmix-sync identity: {error.strerror or error}")
        return 1
    if told is None:
        say("smolmix-sync identity: there is none")
        return 1
    _print(told, arguments.json)
    return 0


def _print(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        json.dump(told, sys.stdout, indent=2)
        print()
        return
    print(f"folder      {told['folder']}{', sealed with a passphrase' if told['sealed'] else ''}")
    print(f"identity    {told['identity']}")
    print(f"encryption  {told['encryption']}")
    print(f"gateway     {told['gateway'] or 'none yet'}")
    print(f"address     {told['address'] or 'none yet'}")
