"""``smolmix-sync fetch URL``: one HTTP request through the tunnel, by the standard library on patched sockets."""

from __future__ import annotations

import argparse
import contextlib
import sys
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say

__all__ = ["add_arguments", "run"]

_CHUNK = 1 << 16


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
        "--timeout", type=float, default=60.0, metavar="S", help="seconds for each wait (default 60)"
    )
    parser.add_argument(
        "--max-redirects", type=int, default=5, metavar="N", help="redirects followed (default 5)"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows at most so many redirects, and none from https to http."""

    def __init__(self, most: int) -> None:
        self.max_redirections = most

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.URLError(f"redirect from https to {newurl} refused")
        if self.max_redirections == 0:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def run(arguments: argparse.Namespace) -> int:
    """Print the body; the exit code is 0 for a status below 400, 22 above (as curl -f has it), 1 for a failure."""
    import smolmix_sync

    if urllib.parse.urlsplit(arguments.url).scheme not in ("http", "https"):
        say("smolmix-sync fetch: http and https URLs only")
        return 2
    try:
        request = _request(arguments)
    except (OSError, ValueError) as error:
        say(f"smolmix-sync fetch: {error}")
        return 2
    with network(arguments):
        if open_tunnel(arguments) is None:
            return 1
        try:
            with smolmix_sync.patch_all():
                return _fetch(arguments, request)
        finally:
            smolmix_sync.disconnect()


def _request(arguments: argparse.Namespace) -> urllib.request.Request:
    body: bytes | None = None
    if arguments.data is not None:
        body = (
            Path(arguments.data[1:]).read_bytes()
            if arguments.data.startswith("@")
            else arguments.data.encode()
        )
    request = urllib.request.Request(arguments.url, data=body, method=arguments.request)
    for line in arguments.header:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"not a header: {line!r}")
        request.add_header(name.strip(), value.strip())
    return request


def _fetch(arguments: argparse.Namespace, request: urllib.request.Request) -> int:
    # No proxy of the environment: the tunnel is the way, and a proxy would see the destination.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Redirects(arguments.max_redirects))
    try:
        answer = opener.open(request, timeout=arguments.timeout)
    except urllib.error.HTTPError as error:
        answer = error
    except (urllib.error.URLError, OSError) as error:
        say(f"smolmix-sync fetch: {error.reason if isinstance(error, urllib.error.URLError) else error}")
        return 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(answer)
        out: IO[bytes] = sys.stdout.buffer
        if arguments.output:
            out = stack.enter_context(open(arguments.output, "wb"))
        if arguments.include:
            out.write(
                f"HTTP/1.1 {answer.status} {answer.reason}\r\n{answer.headers}".encode("latin-1", "replace")
            )
        try:
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
        except OSError as error:
            say(f"smolmix-sync fetch: the body ended early: {error}")
            return 1
        out.flush()
    return 0 if answer.status < 400 else 22
