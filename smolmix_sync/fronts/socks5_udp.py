"""UDP ASSOCIATE: datagrams of one SOCKS client through the tunnel.

Source: RFC 1928 section 7. Fragments are dropped, as the section allows.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from smolmix_sync.http.dial import ascii_host, is_local
from smolmix_sync.socket import MixSocket

__all__ = ["Association", "pack_address", "unpack_datagram"]

#: Ours: names looked up at once, names remembered, and datagrams that wait for a name; more are dropped.
_MAX_LOOKUPS = 8
_MAX_NAMES = 256
_MAX_WAITING = 32
_LOOKUP_SECONDS = 30.0
_SIZE = 65535


def pack_address(host: str, port: int) -> bytes:
    """Return ATYP, address and port as in RFC 1928 section 5."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    return bytes((1 if ip.version == 4 else 4,)) + ip.packed + struct.pack("!H", port)


def unpack_datagram(data: bytes) -> tuple[str, int, bytes] | None:
    """Return host, port and payload of a client's datagram; None for a fragment or a malformed one."""
    if len(data) < 4 or data[2] != 0:
        return None
    kind, at = data[3], 4
    try:
        if kind == 1:
            host, at = str(ipaddress.IPv4Address(data[4:8])), 8
        elif kind == 4:
            host, at = str(ipaddress.IPv6Address(data[4:20])), 20
        elif kind == 3:
            end = 5 + data[4]
            host, at = ascii_host(data[5:end].decode("utf-8")), end
        else:
            return None
        (port,) = struct.unpack_from("!H", data, at)
    except (ValueError, IndexError, struct.error):
        return None
    return (host, port, data[at + 2 :]) if port else None


class Association:
    """One client's UDP, for as long as its TCP connection lasts.

    Args:
        control: that connection.
        tunnel: where the datagrams go.
        host, port: where the client says it will send from; zeros if it does not know.
    """

    def __init__(self, control: Any, tunnel: Any, host: str, port: int) -> None:
        self._control = control
        self._tunnel = tunnel
        self._peer = control.getpeername()[0]
        self._client: Any = None
        self._announced = port
        family = socket.AF_INET6 if ":" in self._peer else socket.AF_INET
        self._outside = socket.socket(family, socket.SOCK_DGRAM)
        self._inside: dict[int, Any] = {}
        self._names: dict[str, str] = {}
        self._waiting: dict[str, list[tuple[int, bytes]]] = {}
        self._lock = threading.Lock()
        self._over = False
        self._wake, self._woken = socket.socketpair()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Say where to send, and carry datagrams until the client's connection ends."""
        try:
            self._outside.bind((self._control.getsockname()[0], 0))
            self._outside.setblocking(False)
            bound = self._outside.getsockname()
            self._control.sendall(b"\x05\x00\x00" + pack_address(bound[0], bound[1]))
            while not stopped():
                poller = select.poll()
                watched = [self._control, self._outside, self._woken, *self._inside.values()]
                for sock in watched:
                    poller.register(sock.fileno(), select.POLLIN)
                ready = {fd for fd, _ in poller.poll(5000)}
                if self._control.fileno() in ready and not self._control.recv(512):
                    return
                if self._woken.fileno() in ready:
                    self._woken.recv(64)
                if self._outside.fileno() in ready:
                    self._from_client()
                for sock in list(self._inside.values()):
                    if sock.fileno() in ready:
                        self._to_client(sock)
        finally:
            with self._lock:
                self._over = True
            for sock in (self._outside, self._wake, self._woken, *self._inside.values()):
                with contextlib.suppress(OSError):
                    sock.close()

    # --- out ---

    def _from_client(self) -> None:
        for _ in range(64):
            try:
                data, source = self._outside.recvfrom(_SIZE)
            except OSError:
                return
            if source[0] != self._peer or (self._announced and source[1] != self._announced):
                continue  # somebody else on this machine
            if self._client is None:
                self._client = source
            elif source != self._client:
                continue
            found = unpack_datagram(data)
            if found is not None:
                self._send(*found)

    def _send(self, host: str, port: int, payload: bytes) -> None:
        try:
            ipaddress.ip_address(host)
            address: str | None = host
        except ValueError:
            with self._lock:
                address = self._names.get(host)
                if address is None:
                    self._look_up(host, port, payload)
        if address is not None:
            self._send_to(address, port, payload)

    def _send_to(self, address: str, port: int, payload: bytes) -> None:
        if is_local(address):
            return
        family = int(socket.AF_INET6 if ":" in address else socket.AF_INET)
        with contextlib.suppress(OSError), self._lock:  # datagrams may be lost
            if self._over:
                return
            sock = self._inside.get(family)
            if sock is None:
                sock = self._inside[family] = MixSocket(family, socket.SOCK_DGRAM, tunnel=self._tunnel)
                sock.setblocking(False)
                self._wake.send(b"x")
            sock.sendto(payload, (address, port))

    def _look_up(self, host: str, port: int, payload: bytes) -> None:
        """Keep a datagram for a name, and have somebody ask for it; called with the lock."""
        waiting = self._waiting.get(host)
        if waiting is not None:
            if len(waiting) < _MAX_WAITING:
                waiting.append((port, payload))
            return
        if len(self._waiting) >= _MAX_LOOKUPS:
            return
        self._waiting[host] = [(port, payload)]
        threading.Thread(target=self._resolve, args=(host,), name="smolmix-socks5-name", daemon=True).start()

    def _resolve(self, host: str) -> None:
        address = None
        with contextlib.suppress(OSError):
            address = self._tunnel.resolve(host, socket.AF_INET, _LOOKUP_SECONDS)[0]
        with self._lock:
            waiting = self._waiting.pop(host, [])
            if address is not None:
                if len(self._names) >= _MAX_NAMES:
                    self._names.clear()
                self._names[host] = address
        if address is not None:
            for port, payload in waiting:
                self._send_to(address, port, payload)

    # --- in ---

    def _to_client(self, sock: Any) -> None:
        for _ in range(64):
            try:
                data, source = sock.recvfrom(_SIZE)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error about an earlier datagram
                if error.errno in (errno.ENETDOWN, errno.EBADF):
                    raise
                return
            if self._client is not None:
                with contextlib.suppress(OSError):
                    self._outside.sendto(b"\0\0\0" + pack_address(source[0], source[1]) + data, self._client)
