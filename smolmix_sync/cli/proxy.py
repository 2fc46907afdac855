"""``smolmix-sync proxy``: SOCKS5 and HTTP proxies, and forwarded ports, for programs that are not Python."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say

if TYPE_CHECKING:
    from smolmix_sync.fronts import Front
    from smolmix_sync.tunnel import Tunnel

__all__ = ["add_arguments", "run"]

_PASSWORD_VARIABLE = "SMOLMIX_PROXY_PASSWORD"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser)
    group = parser.add_argument_group("fronts (without any: --socks 1080 --http 8118)")
    group.add_argument("--socks", metavar="[ADDRESS:]PORT", help="SOCKS5, names resolved behind the exit")
    group.add_argument("--http", metavar="[ADDRESS:]PORT", help="HTTP proxy, for http and https")
    group.add_argument(
        "--forward", action="append", default=[], metavar="PORT:HOST:PORT",
        help="a port of this machine that leads to one of HOST (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--user",
        default="smolmix",
        metavar="NAME",
        help="user name that goes with the password (default smolmix)",
    )
    group.add_argument(
        "--password-file", metavar="FILE",
        help=f"file whose first line clients must give as password (or {_PASSWORD_VARIABLE}); "
        "needed to listen elsewhere than on loopback",
    )  # fmt: skip


def _listen(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    number = int(port)
    if not 0 <= number < 65536:
        raise ValueError(f"not a port: {number}")
    return address.removeprefix("[").removesuffix("]") or "127.0.0.1", number


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit code is 0 then, 1 if the tunnel or a listener cannot be had."""
    import smolmix_sync

    if not (arguments.socks or arguments.http or arguments.forward):
        arguments.socks, arguments.http = "1080", "8118"
    try:
        password = _password(arguments)
        wanted = [(kind, *_listen(text)) for kind, text in _asked(arguments)]
        forwards = [_forward(text) for text in arguments.forward]
    except (OSError, ValueError) as error:
        say(f"smolmix-sync proxy: {error}")
        return 2
    # No threading.Event: a handler that comes while the main thread is inside its wait() would wait for that for ever.
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: ended.append(number))
    with network(arguments):
        tunnel = open_tunnel(arguments)
        if tunnel is None:
            return 1
        try:
            with contextlib.ExitStack() as stack:
                for front in _open(tunnel, wanted, forwards, arguments.user, password):
                    stack.enter_context(front)
                    host = f"[{front.address}]" if ":" in front.address else front.address
                    print(f"{front.kind} {host}:{front.port}", flush=True)
                while not ended:
                    time.sleep(0.2)
        except ValueError as error:
            say(f"smolmix-sync proxy: {error}")
            return 2
        except OSError as error:
            say(f"smolmix-sync proxy: cannot listen: {error}")
            return 1
        finally:
            smolmix_sync.disconnect()
    return 0


def _asked(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    pairs = [("socks", arguments.socks), ("http", arguments.http)]
    return [(kind, text) for kind, text in pairs if text]


def _password(arguments: argparse.Namespace) -> str | None:
    if arguments.password_file:
        lines = Path(arguments.password_file).read_text().splitlines()
        if not lines or not lines[0]:
            raise ValueError(f"{arguments.password_file}: no password in it")
        return lines[0]
    return os.environ.get(_PASSWORD_VARIABLE) or None


def _forward(text: str) -> tuple[int, str, int]:
    listen, _, target = text.partition(":")
    host, _, port = target.rpartition(":")
    if not host:
        raise ValueError(f"not PORT:HOST:PORT: {text!r}")
    return int(listen), host.removeprefix("[").removesuffix("]"), int(port)


def _open(
    tunnel: Tunnel,
    wanted: list[tuple[str, str, int]],
    forwards: list[tuple[int, str, int]],
    user: str,
    password: str | None,
) -> list[Front]:
    from smolmix_sync.fronts import HttpProxy, SocksServer, forward

    opened: list[Front] = []
    try:
        for kind, address, port in wanted:
            front = SocksServer if kind == "socks" else HttpProxy
            opened.append(front(address, port, tunnel=tunnel, username=user, password=password))
        opened += [forward(host, port, listen=listen, tunnel=tunnel) for listen, host, port in forwards]
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened
