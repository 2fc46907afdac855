"""A daemon in a process of its own over a stack that is its own network; prints one line when it serves.

Services at the stack's address: port 7 echoes, 9 resets after the first octets, 13 says hello and closes, 14 does
so when spoken to, 19 sends for ever, 443 speaks TLS (certificate beside the socket): after "reset" it sends half and
resets, else it ends well. UDP 7 echoes. Port 1 refuses.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from support.certificates import Authority
from support.loopnet import V4, loopnet

from smolmix_sync import ssl as mix_ssl
from smolmix_sync.daemon import DaemonServer, Limits
from smolmix_sync.socket import MixSocket


def echo(sock: Any) -> None:
    with sock, contextlib.suppress(OSError):
        while data := sock.recv(65536):
            sock.sendall(data)


def reset(sock: Any) -> None:
    sock.recv(100)
    sock.sendall(b"the first half")
    sock.recv(100)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def hello(sock: Any) -> None:
    sock.sendall(b"hello\r\n")
    sock.close()


def answer(sock: Any) -> None:
    sock.recv(1000)
    hello(sock)


def forever(sock: Any) -> None:
    try:
        while True:
            sock.sendall(bytes(10000))
    except OSError:
        sock.close()


def over_tls(context: ssl.SSLContext) -> Any:
    def handler(plain: Any) -> None:
        sock = mix_ssl.wrap_socket(plain, context=context, server_side=True)
        word = sock.recv(100)
        sock.sendall(b"the first half")
        if word == b"reset":
            sock.recv(100)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif word == b"end":
            sock.unwrap()
        sock.close()

    return handler


def serve(port: Any, number: int, handler: Any) -> None:
    listener = MixSocket(socket.AF_INET, socket.SOCK_STREAM, tunnel=port)
    listener.bind((V4, number))
    listener.listen(128)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handler, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def echo_datagrams(port: Any) -> None:
    sock = MixSocket(socket.AF_INET, socket.SOCK_DGRAM, tunnel=port)
    sock.bind((V4, 7))

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, source = sock.recvfrom(65536)
                sock.sendto(data, source)

    threading.Thread(target=run, daemon=True).start()


def main() -> None:
    path, delay, limit = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    with loopnet(delay=delay) as port:
        for number, handler in ((7, echo), (9, reset), (13, hello), (14, answer), (19, forever)):
            serve(port, number, handler)
        authority = Authority()
        authority.write(Path(path + ".pem"))
        serve(port, 443, over_tls(authority.server_context(V4, Path(path).parent)))
        echo_datagrams(port)
        with DaemonServer(path, port, limits=Limits(flows=limit)):
            print("serving", flush=True)
            for line in sys.stdin:
                if line.startswith("down"):
                    port.device.loop.call(port.device.set_down)
                print("done", flush=True)


if __name__ == "__main__":
    main()
