"""``smolmix-sync fetch URL``: one resource through the tunnel."""

from __future__ import annotations

import argparse
import contextlib
import sys
import urllib.parse
from pathlib import Path
from typing import IO, TYPE_CHECKING

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say

if TYPE_CHECKING:
    from smolmix_sync.tunnel import Tunnel

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser)
    parser.add_argument("url", help="http or https URL")
    parser.add_argument("-X", "--request", metavar="METHOD", help="method; default GET, or POST with -d")
    parser.add_argument(
        "-H", "--header", action="append", default=[], metavar="NAME:VALUE", help="request header"
    )
    parser.add_argument("-d", "--data", metavar="TEXT|@FILE", help="request body")
    parser.add_argument("-i", "--include", action="store_true", help="print the status line and headers too")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the body here instead of to stdout")
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds for all of it (default: 60 for each wait, no end)"
    )
    parser.add_argument(
        "--max-redirects", type=int, metavar="N", help="redirects followed (default 5); 0 shows the redirect"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the body; the exit code is 0 for a status below 400, 22 above (as curl -f has it), 1 for a failure."""
    import smolmix_sync

    if urllib.parse.urlsplit(arguments.url).scheme not in ("http", "https"):
        say("smolmix-sync fetch: http and https URLs only")
        return 2
    try:
        headers, body = _headers(arguments), _body(arguments)
        if arguments.timeout is not None and arguments.timeout <= 0:
            raise ValueError("timeout must be positive")
    except (OSError, ValueError) as error:
        say(f"smolmix-sync fetch: {error}")
        return 2
    with network(arguments):
        tunnel = open_tunnel(arguments)
        if tunnel is None:
            return 1
        try:
            return _fetch(arguments, tunnel, headers, body)
        except (OSError, ValueError) as error:
            say(f"smolmix-sync fetch: {error}")
            return 1
        finally:
            smolmix_sync.disconnect()


def _headers(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    headers = []
    for line in arguments.header:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"not a header: {line!r}")
        headers.append((name.strip(), value.strip()))
    return headers


def _body(arguments: argparse.Namespace) -> bytes | None:
    if arguments.data is None:
        return None
    text: str = arguments.data
    return Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()


def _fetch(
    arguments: argparse.Namespace, tunnel: Tunnel, headers: list[tuple[str, str]], body: bytes | None
) -> int:
    from smolmix_sync.http import fetch

    if body is not None and "content-type" not in {name.lower() for name, _ in headers}:
        headers.append(("Content-Type", "application/x-www-form-urlencoded"))  # as curl -d
    with contextlib.ExitStack() as stack:
        answer = stack.enter_context(
            fetch(
                arguments.url,
                arguments.request or ("GET" if body is None else "POST"),
                headers,
                body,
                arguments.timeout,
                arguments.max_redirects,
                stream=True,
                tunnel=tunnel,
            )
        )
        out: IO[bytes] = sys.stdout.buffer
        if arguments.output:
            out = stack.enter_context(open(arguments.output, "wb"))
        if arguments.include:
            lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
            lines += [f"{name}: {value}" for name, value in answer.headers.pairs]
            out.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1", "replace"))
        for piece in answer:
            out.write(piece)
        out.flush()
    return 0 if answer.status < 400 else 22
