"""Sockets sent to other processes through multiprocessing: connections, listeners, datagram sockets, kernel sockets."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from typing import Any

PATCHED = sys.argv[1] == "patched"
METHOD = sys.argv[2]


def worker(pipe: Any) -> None:
    """Use what comes through the pipe, until None comes."""
    while (message := pipe.recv()) is not None:
        kind, sock = message
        if sock is None:
            return
        sock.settimeout(10)
        found: Any = None
        if kind == "stream":
            names = sock.getsockname(), sock.getpeername()
            sock.sendall(b"from a worker")
            found = (*names, sock.recv(100), type(sock).__name__)
        elif kind == "listener":
            accepted, address = sock.accept()
            with accepted:
                accepted.sendall(b"accepted by a worker")
                found = address, accepted.getpeername()
        elif kind == "datagrams":
            data, source = sock.recvfrom(100)
            sock.sendto(data.upper(), source)
            found = sock.getsockname()
        elif kind == "unix":
            found = sock.recv(10), int(sock.family)
        sock.close()
        pipe.send(found)


def main() -> None:
    signal.alarm(50)
    import smolmix_sync
    from smolmix_sync import socket as mixed
    from smolmix_sync.netstack import Stack
    from smolmix_sync.reactor import provider
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import shared_loop

    v4 = "198.51.100.2"
    device = Device(shared_loop(), Stack(v4, None, urandom=os.urandom, loopback=True))
    port = provider.DevicePort(device)
    provider.install(lambda: port)
    if PATCHED:
        smolmix_sync.patch_all()
        import socket as made
    else:
        made = mixed  # type: ignore[assignment]
    context = multiprocessing.get_context(METHOD)
    ours, theirs = context.Pipe()
    process = context.Process(target=worker, args=(theirs,))
    process.start()
    theirs.close()

    listener = made.create_server((v4, 0)) if not PATCHED else made.socket()
    if PATCHED:
        listener.bind((v4, 0))
        listener.listen()

    def ask(kind: str, sock: Any) -> None:
        ours.send((kind, sock))

    client = made.socket()
    client.settimeout(10)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    server.settimeout(10)
    names = client.getsockname(), client.getpeername()
    ask("stream", client)
    assert server.recv(100) == b"from a worker"
    server.sendall(b"thanks")
    *seen, data, cls = ours.recv()
    assert tuple(seen) == names, (seen, names)
    assert data == b"thanks"
    assert cls == ("MixSocket" if not PATCHED else "socket") or METHOD != "fork"
    client.close()
    assert server.recv(1) == b"", "the worker has closed its copy, and we ours"

    ask("listener", listener)
    second = made.socket()
    second.settimeout(10)
    second.connect(listener.getsockname())
    assert second.recv(100) == b"accepted by a worker"
    assert ours.recv() == (second.getsockname(), second.getsockname())

    one, two = made.socket(made.AF_INET, made.SOCK_DGRAM), made.socket(made.AF_INET, made.SOCK_DGRAM)
    one.bind((v4, 0))
    two.bind((v4, 0))
    two.settimeout(10)
    ask("datagrams", one)
    two.sendto(b"shout", one.getsockname())
    assert two.recvfrom(10) == (b"SHOUT", one.getsockname())
    assert ours.recv() == one.getsockname()

    near, far = made.socketpair()
    ask("unix", far)
    near.sendall(b"local")
    assert ours.recv() == (b"local", int(made.AF_UNIX))

    for sock in (one, listener):
        try:
            pickle.dumps(sock)
        except TypeError:
            continue
        raise AssertionError("a socket was pickled without anybody to send its descriptor")
    ours.send(None)
    process.join(10)
    assert process.exitcode == 0
    for sock in (server, second, one, two, near, far, listener):
        sock.close()
    print("DONE", flush=True)


if __name__ == "__main__":
    main()
