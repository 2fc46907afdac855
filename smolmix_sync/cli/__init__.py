"""The command ``smolmix-sync``, one module per command.

Exit codes: 0 done, 1 the network or the tunnel failed, 2 the command line is wrong, 130 interrupted;
``run`` ends with the script's own.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from smolmix_sync._version import __version__

__all__ = ["main"]

#: Command -> the first line of its help. The module of the same name has add_arguments(parser) and run(arguments).
_COMMANDS = {
    "demo": "show the whole way on the embedded network: a legacy script through three mix nodes",
    "run": "run an unmodified Python script or module through the tunnel",
    "fetch": "fetch a URL through the tunnel",
    "resolve": "look up a name through the tunnel",
    "ping": "send ICMP echo requests through the exit",
    "ws": "talk to a websocket through the tunnel, one line a message",
    "nc": "join stdin and stdout to a connection through the tunnel",
    "proxy": "serve SOCKS5, an HTTP proxy and forwarded ports on this machine",
    "doctor": "check everything that a tunnel needs, and say what to do about what fails",
    "leaktest": "prove on your own script that nothing goes past the tunnel",
    "exits": "list the exits of the network, and probe which of them work",
    "localnet": "run the embedded network in the foreground",
    "daemon": "own one tunnel and hand sockets to every process of this user",
    "status": "show what the daemon says about itself",
    "identity": "show, replace or delete the identity that client_id keeps between runs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse *argv* (default: the process's) and run one command; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="smolmix-sync", description="Blocking Python over the Nym mixnet.")
    parser.add_argument("--version", action="version", version=f"smolmix-sync {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:  # the others' modules are not worth loading
            module = importlib.import_module(f"{__name__}.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(words)
    try:
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has left; that is no error of ours.
        sys.stderr.close()
        return 1
    return code
