"""``smolmix-sync daemon``: one tunnel for every process of this user, in the foreground.

Prints ``ready PATH`` on stdout when the tunnel is READY and sockets are handed out, and tells systemd the same
(``Type=notify``). Ends on SIGTERM or SIGINT after what closed sockets had to send has left.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say
from smolmix_sync.cli.webserver import WebServer, parse_listen

if TYPE_CHECKING:
    from smolmix_sync.daemon import DaemonServer

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser)
    parser.add_argument(
        "--socket", metavar="PATH",
        help="where to listen (default: SMOLMIX_DAEMON, $XDG_RUNTIME_DIR/smolmix.sock or ~/.smolmix/daemon.sock)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", default="600", metavar="OCTAL", help="permissions of the socket (default 600)"
    )
    parser.add_argument(
        "--max-sockets",
        type=int,
        default=4096,
        metavar="N",
        help="sockets of one client process (default 4096)",
    )
    parser.add_argument(
        "--web", metavar="[ADDRESS:]PORT",
        help="serve a page with state and rates, /metrics for Prometheus and /readyz on loopback",
    )  # fmt: skip
    parser.add_argument(
        "--exit-idle",
        type=float,
        default=0.0,
        metavar="S",
        help="end after S seconds without a client (default: never)",
    )
    parser.add_argument(
        "--isolate",
        type=int,
        metavar="N",
        help="tunnels besides the main one, for isolation keys (default: 8)",
    )
    parser.add_argument(
        "--warm", type=int, metavar="N", help="tunnels begun ahead for isolation keys to come (default: 0)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to end."""
    try:
        parse_listen(arguments.web or "0")
    except ValueError as error:
        say(f"smolmix-sync daemon: --web: {error}")
        return 2
    # From here on a signal is an orderly end, also in the middle of the set-up.
    signal.signal(signal.SIGTERM, _end)
    try:
        return _serve(arguments)
    except (_Ended, KeyboardInterrupt):
        return 0


def _serve(arguments: argparse.Namespace) -> int:
    import smolmix_sync
    from smolmix_sync.daemon import DaemonServer, Limits, attach, default_path

    path = Path(arguments.socket).absolute() if arguments.socket else default_path()
    # Our own sockets are the tunnel's: a daemon that attached to itself would wait for itself.
    os.environ.pop("SMOLMIX_DAEMON", None)
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True)
    _raise_descriptor_limit()
    with network(arguments):
        _keep_out_of_dumps()
        tunnel = open_tunnel(arguments, isolated_tunnels=arguments.isolate, warm_tunnels=arguments.warm)
        if tunnel is None:
            return 1
        server = DaemonServer(
            path,
            tunnel,
            mode=int(arguments.mode, 8),
            limits=Limits(flows=arguments.max_sockets),
        )
        web: WebServer | None = None
        try:
            try:
                server.start()
            except OSError as error:
                say(f"smolmix-sync daemon: {error.strerror}: {path}")
                return 1
            if arguments.web is not None:
                web = WebServer(parse_listen(arguments.web), lambda: attach(path).status())
                say(f"smolmix-sync daemon: {web.url}")
            print(f"ready {path}", flush=True)
            notify("READY=1\nSTATUS=serving " + str(path))
            _serve_until_idle(server, arguments.exit_idle)
            return 0
        finally:
            notify("STOPPING=1")
            if web is not None:
                web.close()
            server.stop()
            smolmix_sync.disconnect()


def _serve_until_idle(server: DaemonServer, seconds: float) -> None:
    """Return when no client has been there for *seconds*; 0 never."""
    idle_since = time.monotonic()
    while True:
        time.sleep(1.0)
        if server.busy:
            idle_since = time.monotonic()
        elif seconds and time.monotonic() - idle_since >= seconds:
            return


#: From the specification (prctl(2)).
_PR_SET_DUMPABLE = 4


class _Ended(BaseException):
    """SIGTERM came."""


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Ended


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_out_of_dumps() -> None:
    """Let no core dump have our keys, and no other process of this user read our memory or attach to us.

    Only here: what ``smolmix-sync run`` runs is somebody's program, which may want both.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # pipes to a dump handler know no limit


def notify(text: str) -> None:
    """Tell systemd, if it asked (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            print(f"smolmix-sync daemon: sd_notify: {error}", file=sys.stderr)
