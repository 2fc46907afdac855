"""With ``hostname=`` nobody is told this machine's name, and afterwards it is told again."""

from __future__ import annotations

import os
import smtplib
import socket
import threading

import _order
import pytest

import smolmix_sync

REAL = os.uname().nodename

_order.PATCH.__exit__(None, None, None)
for refused in ("", "workstation", "localhost.example"):
    with pytest.raises(ValueError, match="hostname"):
        smolmix_sync.patch_all(hostname=refused)
assert not smolmix_sync.is_patched()

with smolmix_sync.patch_all(hostname="desk.localhost"):
    _order.network()
    assert socket.gethostname() == socket.getfqdn() == socket.getfqdn(REAL) == "desk.localhost"
    assert socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
    told: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer, peer.makefile("rwb", buffering=0) as lines:
            lines.write(b"220 here\r\n")
            while line := lines.readline():
                told.append(line)
                lines.write(b"221 bye\r\n" if line.lower().startswith(b"quit") else b"250 ok\r\n")

    with socket.create_server((_order.V4, 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with smtplib.SMTP(_order.V4, listener.getsockname()[1], timeout=10) as client:
            client.ehlo()
        thread.join(10)
    assert told[0].lower() == b"ehlo desk.localhost\r\n", told
    assert not any(REAL.encode() in line for line in told), told
assert socket.gethostname() == REAL
_order.done()
