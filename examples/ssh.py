"""SSH with paramiko over a socket of the tunnel: the host key must be the same on both ways.

Shows the server's version and key, and runs a command if ``--user`` and ``--password`` are given.
A different key through the mixnet would mean that somebody between the exit and the server answers in its place.
"""

from __future__ import annotations

import socket
import sys

import paramiko
from _example import compare, parser, place, report
from _sshserver import PASSWORD, USER, serve


def visit(sock: socket.socket, user: str | None, password: str | None, command: str) -> str:
    """Speak SSH over a connected socket; return what the server shows and says."""
    transport = paramiko.Transport(sock)
    try:
        transport.start_client(timeout=60)
        key = transport.get_remote_server_key()
        told = f"{transport.remote_version}, {key.get_name()} {key.fingerprint}"
        if user is not None:
            transport.auth_password(user, password or "")
            channel = transport.open_session(timeout=60)
            channel.exec_command(command)
            channel.shutdown_write()
            told += f", {channel.makefile().read().decode().strip()!r}"
    finally:
        transport.close()
    return told


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def main() -> int:
    """Run it twice."""
    made = parser(__doc__)
    made.add_argument("--server", default="github.com", help="SSH server (default %(default)s)")
    made.add_argument("--user")
    made.add_argument("--password")
    made.add_argument("--command", default="uname -a", help="what to run (default %(default)s)")
    arguments = made.parse_args()
    allow = {"ssh.localnet:22": free_port()} if arguments.localnet else {}
    with place(arguments, allow) as here:
        target, user, password = (arguments.server, 22), arguments.user, arguments.password
        if here.localnet:
            target, user, password = ("ssh.localnet", 22), USER, PASSWORD
            serve(here.clear(target)[1])
        known, clear = report(
            "clear",
            lambda: visit(
                socket.create_connection(here.clear(target), 30), user, password, arguments.command
            ),
        )
        hidden, mixnet = report(
            "mixnet", lambda: visit(here.tunnel.tcp_connect(target, 60), user, password, arguments.command)
        )
        compare(clear, mixnet)
    print("the host keys are the same" if known == hidden else "the answers DIFFER")
    return 0 if known == hidden else 1


if __name__ == "__main__":
    sys.exit(main())
