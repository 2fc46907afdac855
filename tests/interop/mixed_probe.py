"""What a node's mix listener does with links that do not begin as it expects, asked from inside the namespace.

Reads one JSON object a line from stdin, ``{"step": KIND, "port": PORT, "key": NOISE_KEY}``, and answers each with one
on stdout: whether the node closed the link, after how long, and what it had answered. The first line is empty.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from typing import Any

from smolmix_sync.address import base58_decode
from smolmix_sync.mixnet.noise import NoiseLink, NoiseState
from smolmix_sync.mixnet.sphinx import PacketSize, encode_frame

NODE = "127.0.0.1"
PATIENCE = 3.0
FIRST_MESSAGE = 56


def first_message(key: bytes) -> bytes:
    noise = NoiseLink.initiator(os.urandom(32), key, urandom=os.urandom, now=0.0)
    return b"".join(noise.data_to_send())


def shake_hands(link: socket.socket, key: bytes) -> NoiseLink:
    noise = NoiseLink.initiator(os.urandom(32), key, urandom=os.urandom, now=0.0)
    while noise.state is not NoiseState.OPEN:
        link.sendall(b"".join(noise.data_to_send()))
        noise.receive_data(link.recv(65536))
        noise.next_data_untrusted()
    link.sendall(b"".join(noise.data_to_send()))
    return noise


def begin(kind: str, link: socket.socket, key: bytes) -> None:
    """Say on *link* what *kind* names."""
    frame = encode_frame(os.urandom(PacketSize.REGULAR.packet_size), 1, 8)
    match kind:
        case "plain":
            link.sendall(frame)
        case "silence":
            pass
        case "wrong_key":
            link.sendall(first_message(os.urandom(31) + b"\x40"))
        case "other_version":
            link.sendall(b"\x02" + first_message(key)[1:])
        case "other_pattern":
            link.sendall(b"\x01\x02" + first_message(key)[2:])
        case "noise":
            noise = shake_hands(link, key)
            noise.send(frame)
            link.sendall(b"".join(noise.data_to_send()))
        case "forged":
            noise = shake_hands(link, key)
            noise.send(frame)
            data = b"".join(noise.data_to_send())
            link.sendall(data[:-1] + bytes([data[-1] ^ 1]))
        case "empty":
            noise = shake_hands(link, key)
            assert noise._send is not None
            noise._queue(1, noise._send.encrypt(b""))
            link.sendall(b"".join(noise.data_to_send()))
        case _:
            raise ValueError(kind)


def probe(kind: str, port: int, key: str) -> dict[str, Any]:
    """Open a link and see how long it lasts."""
    with socket.create_connection((NODE, port), timeout=PATIENCE) as link:
        began = time.monotonic()
        begin(kind, link, base58_decode(key))
        answered = 0
        while (left := began + PATIENCE - time.monotonic()) > 0:
            if not select.select([link], [], [], left)[0]:
                break
            try:
                data = link.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return {"closed": True, "seconds": time.monotonic() - began, "answered": answered}
            answered += len(data)
    return {"closed": False, "answered": answered}


if __name__ == "__main__":
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(probe(asked["step"], asked["port"], asked["key"])), flush=True)
