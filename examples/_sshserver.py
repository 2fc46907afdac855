"""A small SSH server on loopback for ``ssh.py --localnet``: one user, one password, one answer."""

from __future__ import annotations

import contextlib
import socket
import threading

import paramiko

USER, PASSWORD = "demo", "demo"


class _Rules(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        right = (username, password) == (USER, PASSWORD)
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return (
            paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        )

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_answer, args=(channel, command), daemon=True).start()
        return True


def _answer(channel: paramiko.Channel, command: bytes) -> None:
    while channel.recv(4096):  # the client's end of file: it has heard that its command was accepted
        pass
    channel.sendall(b"you said: " + command + b"\n")
    channel.send_exit_status(0)
    channel.close()


def serve(port: int) -> None:
    """Serve on 127.0.0.1:*port* in a background thread until the process ends."""
    key = paramiko.RSAKey.generate(2048)
    listener = socket.create_server(("127.0.0.1", port))

    def run() -> None:
        while True:
            client, _ = listener.accept()
            transport = paramiko.Transport(client)
            transport.add_server_key(key)
            with contextlib.suppress(paramiko.SSHException, EOFError):
                transport.start_server(server=_Rules())

    threading.Thread(target=run, daemon=True).start()
