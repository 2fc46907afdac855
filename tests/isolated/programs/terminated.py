"""What was written and closed arrives though the process is ended by SIGTERM or by sys.exit()."""

# ruff: noqa: E402 - the order of imports is what is tested
from __future__ import annotations

import os
import signal
import sys

import _order

_order.PATCH.__exit__(None, None, None)

WAY = sys.argv[1]
SIZE = 300_000

import smolmix_sync
from smolmix_sync.netstack import Stack, StackConfig
from smolmix_sync.reactor import provider
from smolmix_sync.reactor.device import Device
from smolmix_sync.reactor.loop import shared_loop

FAR = "203.0.113.9"
loop = shared_loop()
device = Device(loop)
port = provider.DevicePort(device)
provider.install(lambda: port)
far = Stack(FAR, None, urandom=os.urandom, config=StackConfig())
listener = far.listen(None, 80, 5)
state = {"conn": None, "count": 0}


def carry() -> None:
    """Take what ours sends to the far end 50 ms later, and back."""
    loop.call_later(0.05, to_far, device.data_to_send())


def to_far(packets: list[bytes]) -> None:
    for packet in packets:
        far.receive_data(packet, loop.now())
    conn = state["conn"] = state["conn"] or listener.accept()
    while conn is not None and conn.readable():  # type: ignore[attr-defined]
        state["count"] += len(conn.recv(65536))  # type: ignore[attr-defined, operator]
        if state["count"] == SIZE:
            os.write(1, b"ALL ARRIVED\n")
    replies = far.data_to_send(loop.now())
    loop.call_later(0.05, from_far, replies)


def from_far(packets: list[bytes]) -> None:
    for packet in packets:
        device.receive_packet(packet)


device.on_output = carry
loop.call(device.set_up, Stack("198.51.100.2", None, urandom=os.urandom))

smolmix_sync.patch_all()
import socket

assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
with socket.create_connection((FAR, 80), 10) as sock:
    sock.sendall(b"x" * SIZE)
assert state["count"] < SIZE, "the link is too fast for this test"
if WAY == "SIGTERM":
    os.kill(os.getpid(), signal.SIGTERM)
else:
    from smolmix_sync import _process_end
    from smolmix_sync.reactor import _originals

    _originals.run_at_exit(_process_end.flush_all)  # a Tunnel does that by itself
    sys.exit(3)
