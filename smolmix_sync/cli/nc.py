"""``smolmix-sync nc HOST PORT``: stdin and stdout joined to a connection through the tunnel.

Fits OpenSSH: ``ssh -o ProxyCommand='smolmix-sync nc %h %p' host``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from smolmix_sync.cli._common import add_tunnel_options, network, open_tunnel, say

if TYPE_CHECKING:
    from smolmix_sync.tunnel import Tunnel

__all__ = ["add_arguments", "run"]

_CHUNK = 65536
#: A datagram that is not cut on any path in the tunnel.
_DATAGRAM = 1200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser)
    parser.add_argument("-u", "--udp", action="store_true", help="UDP: what is read at once is one datagram")
    parser.add_argument("-z", "--scan", action="store_true", help="only tell whether the port can be reached")
    parser.add_argument(
        "-w", "--timeout", type=float, metavar="S",
        help="seconds to connect, and then to wait while nothing comes or goes (default: 60, and for ever)",
    )  # fmt: skip
    parser.add_argument("host", help="name or address")
    parser.add_argument("port", type=int)


def run(arguments: argparse.Namespace) -> int:
    """Carry until both sides have ended; the exit code is 0 then, 1 if the connection failed or broke."""
    import smolmix_sync

    if not 0 < arguments.port < 65536 or (arguments.timeout is not None and arguments.timeout <= 0):
        say("smolmix-sync nc: not a port, or not a time")
        return 2
    with network(arguments):
        tunnel = open_tunnel(arguments)
        if tunnel is None:
            return 1
        try:
            return _carry(arguments, tunnel)
        except OSError as error:
            say(f"smolmix-sync nc: {arguments.host} port {arguments.port}: {error.strerror or error}")
            return 1
        finally:
            smolmix_sync.disconnect()


def _carry(arguments: argparse.Namespace, tunnel: Tunnel) -> int:
    from smolmix_sync.http.dial import Deadline, dial, refuse_local

    deadline = Deadline(arguments.timeout or tunnel.config.connect_timeout)
    if arguments.udp:
        addresses = tunnel.resolve(arguments.host, int(socket.AF_INET), deadline.left())
        refuse_local(arguments.host, addresses)
        sock = tunnel.udp_socket()
        sock.connect((addresses[0], arguments.port))
    else:
        sock = dial(tunnel, arguments.host, arguments.port, deadline)
    with contextlib.closing(sock):
        if arguments.verbose or arguments.scan:
            say(f"{arguments.host} port {arguments.port}: open")
        if arguments.scan:
            return 0
        return _join(sock, arguments.timeout, datagrams=arguments.udp)


def _join(sock: Any, idle: float | None, *, datagrams: bool) -> int:
    """Copy stdin to *sock* and *sock* to stdout until the peer ends (UDP: until nothing comes for *idle*)."""
    sock.setblocking(False)
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    pending = bytearray()
    reading, ended = True, False
    used = time.monotonic()
    while True:
        poller = select.poll()
        poller.register(sock.fileno(), select.POLLIN | (select.POLLOUT if pending else 0))
        if reading and not pending:
            poller.register(source, select.POLLIN)
        limit = idle if idle is not None or reading or not datagrams else 1.0
        left = None if limit is None else max(0.0, used + limit - time.monotonic()) * 1000
        found = {fd for fd, _ in poller.poll(left)}
        if not found:
            return 0
        used = time.monotonic()
        if source in found:
            data = os.read(source, _DATAGRAM if datagrams else _CHUNK)
            pending += data
            reading = bool(data)
        if sock.fileno() in found:
            with contextlib.suppress(BlockingIOError):
                data = sock.recv(_CHUNK)
                if not data and not datagrams:
                    return 0
                _write_all(sink, data)
        if pending:
            with contextlib.suppress(BlockingIOError):
                del pending[: sock.send(pending)]
        if not reading and not pending and not ended:
            ended = True
            if not datagrams:
                sock.shutdown(socket.SHUT_WR)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
