"""One tunnel of ours inside the namespace of a real network, told what to do line by line.

Reads one JSON object a line from stdin, ``{"step": NAME, ...}``, and answers each with one on stdout. The first
line of output is the set-up's. The command line's argument is the tunnel's settings as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from smolmix_sync.socket import MixSocket
from smolmix_sync.tunnel import Tunnel, TunnelState

TARGET = "198.51.100.10"
Json = dict[str, Any]


class Steps:
    """What can be asked for; each method is a step."""

    def __init__(self, tunnel: Tunnel, authority: str) -> None:
        self.tunnel, self.authority = tunnel, authority
        self.kept: MixSocket | None = None
        self.states: list[str] = []
        tunnel.on_state(lambda state, reason: self.states.append(state.value))

    def resolve(self, name: str) -> Json:
        try:
            return {"addresses": self.tunnel.resolve(name)}
        except OSError as error:
            return {"error": type(error).__name__}

    def ping(self) -> Json:
        return {"round_trip": self.tunnel.ping(TARGET)}

    def udp(self, count: int) -> Json:
        came_back = 0
        with self.tunnel.udp_socket() as sock:
            sock.settimeout(5)
            for _ in range(count):
                data = os.urandom(1000)
                sock.sendto(data, (TARGET, 7))
                try:
                    came_back += sock.recvfrom(2000)[0] == data
                except TimeoutError:
                    pass
        return {"came_back": came_back}

    def fetch(self, url: str) -> Json:
        answer = self.tunnel.fetch(url, timeout=120)
        return {"status": answer.status, "length": len(answer.body), "sha256": _sha256(answer.body)}

    def upload(self, url: str, size: int) -> Json:
        data = os.urandom(size)
        answer = self.tunnel.fetch(url, "POST", body=data, timeout=120)
        return {**json.loads(answer.body), "expected": _sha256(data)}

    def refused(self, port: int) -> Json:
        """Connect where nothing is, or where the exit does not let us."""
        try:
            self.tunnel.create_connection((TARGET, port), timeout=20).close()
        except OSError as error:
            return {"error": type(error).__name__, "errno": error.errno, "message": str(error)}
        return {}

    def https(self, name: str) -> Json:
        context = ssl.create_default_context(cafile=self.authority)
        with self.tunnel.create_connection((name, 443), timeout=30) as sock:
            with context.wrap_socket(sock, server_hostname=name) as secure:
                version = secure.version()
                secure.sendall(b"GET / HTTP/1.0\r\nConnection: close\r\n\r\n")
                body = b""
                while data := secure.recv(65536):
                    body += data
                return {"version": version, "body": body.decode()}

    def many(self, count: int, size: int) -> Json:
        """Hold *count* connections to the echo service open together, each with *size* octets there and back."""
        data = os.urandom(size)
        together = threading.Barrier(count)
        right: list[bool] = []

        def one() -> None:
            with self.tunnel.create_connection((TARGET, 7), timeout=30) as sock:
                together.wait(60)
                right.append(_echo(sock, data))

        threads = [threading.Thread(target=one) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return {"right": sum(right)}

    def keep(self) -> Json:
        """Open a connection that stays."""
        self.kept = self.tunnel.create_connection((TARGET, 7), timeout=30)
        self.kept.settimeout(60)
        self.states.clear()
        return {"right": _echo(self.kept, b"before"), "addresses": str(self.tunnel.allocated_ips)}

    def use(self) -> Json:
        """Use the connection that stayed."""
        assert self.kept is not None
        try:
            return {"right": _echo(self.kept, os.urandom(2000))}
        except OSError as error:
            return {"error": type(error).__name__}

    def idle(self, length: float) -> Json:
        """Do nothing for *length* seconds; return what happened meanwhile."""
        before = self.tunnel.stats()
        time.sleep(length)
        after = self.tunnel.stats()
        return {
            "states": self.states,
            "state": self.tunnel.state.value,
            "reconnects": after.reconnects - before.reconnects,
            "ip_packets": after.ip_packets_sent - before.ip_packets_sent,
            "sphinx_packets": after.packets_sent + after.cover_sent - before.packets_sent - before.cover_sent,
            "addresses": str(self.tunnel.allocated_ips),
        }

    def recovered(self, limit: float) -> Json:
        """Wait until a loss was noticed and the tunnel is READY again."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if TunnelState.RECONNECTING.value in self.states and self.tunnel.state is TunnelState.READY:
                break
            time.sleep(0.05)
        return {"states": self.states, "state": self.tunnel.state.value}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _echo(sock: MixSocket, data: bytes) -> bool:
    sock.sendall(data)
    received = b""
    while len(received) < len(data) and (part := sock.recv(65536)):
        received += part
    return received == data


def say(told: Json) -> None:
    print(json.dumps(told), flush=True)


def main(settings: Json, authority: str) -> None:
    began = time.monotonic()
    details: list[str] = []
    tunnel = Tunnel(on_progress=lambda p: details.append(f"{p.stage}: {p.detail}"), **settings)
    with tunnel:
        say(
            {
                "seconds": time.monotonic() - began,
                "address": str(tunnel.nym_address),
                "progress": details,
                "mtu": tunnel.mtu,
            }
        )
        steps = Steps(tunnel, authority)
        for line in sys.stdin:
            asked = json.loads(line)
            step: Callable[..., Json] = getattr(steps, asked.pop("step"))
            try:
                say(step(**asked))
            except Exception as error:
                say({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
