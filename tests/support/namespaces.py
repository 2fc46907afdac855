"""Two network namespaces joined by a veth pair: the network in B, the program in A; and a count of every frame.

A's only reachable host is B, and its resolver is an address of its own loopback where every query is counted.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CAPTURE = Path(__file__).parents[1] / "netns" / "capture.py"
ADDRESS_A, ADDRESS_B = "10.201.77.1", "10.201.77.2"

_numbers = itertools.count()

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the ip command"
)


@dataclass
class Namespaces:
    """Names of the pair."""

    a: str
    b: str

    def popen(self, name: str, *command: str, **kw: object) -> subprocess.Popen[str]:
        return subprocess.Popen(["ip", "netns", "exec", name, *command], text=True, **kw)  # type: ignore[call-overload,no-any-return]


@contextlib.contextmanager
def made_namespaces() -> Iterator[Namespaces]:
    """Make the pair; removed at the end."""
    own = f"{os.getpid()}-{next(_numbers)}"
    pair = Namespaces(f"smolmix-a-{own}", f"smolmix-b-{own}")
    resolv = Path("/etc/netns") / pair.a
    try:
        resolv.mkdir(parents=True)
        (resolv / "resolv.conf").write_text("nameserver 127.0.0.53\noptions timeout:1 attempts:1\n")
        (resolv / "nsswitch.conf").write_text("hosts: files dns\n")
        _run("ip", "netns", "add", pair.a)
        _run("ip", "netns", "add", pair.b)
        va, vb = f"va{own}", f"vb{own}"
        _run("ip", "link", "add", va, "netns", pair.a, "type", "veth", "peer", "name", vb, "netns", pair.b)
        macs = {pair.a: "02:00:00:00:77:01", pair.b: "02:00:00:00:77:02"}
        sides = ((pair.a, va, ADDRESS_A, pair.b, ADDRESS_B), (pair.b, vb, ADDRESS_B, pair.a, ADDRESS_A))
        for name, link, address, peer, peer_address in sides:
            inside = ("ip", "-n", name)
            # No IPv6 and no ARP: the kernel's own chatter would count as leaks.
            _run("ip", "netns", "exec", name, sys.executable, "-c", _NO_IPV6)
            _run(*inside, "link", "set", "lo", "up")
            _run(*inside, "link", "set", link, "address", macs[name], "arp", "off")
            _run(*inside, "address", "add", f"{address}/32", "dev", link)
            _run(*inside, "link", "set", link, "up")
            _run(*inside, "route", "add", f"{peer_address}/32", "dev", link)
            _run(
                *inside,
                "neighbour",
                "replace",
                peer_address,
                "lladdr",
                macs[peer],
                "dev",
                link,
                "nud",
                "permanent",
            )
        yield pair
    finally:
        for name in (pair.a, pair.b):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        shutil.rmtree(resolv, ignore_errors=True)


_NO_IPV6 = (
    "from pathlib import Path\n"
    "for scope in ('all', 'default'): Path(f'/proc/sys/net/ipv6/conf/{scope}/disable_ipv6').write_text('1')"
)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def network_in(namespaces: Namespaces) -> Iterator[dict[str, object]]:
    """Run localnet in B; yields what it prints about itself."""
    process = namespaces.popen(
        namespaces.b, sys.executable, "-m", "smolmix_sync.localnet", "--address", ADDRESS_B, "--json",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        facts = json.loads(process.stdout.readline())
        yield facts
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@contextlib.contextmanager
def counting(
    namespaces: Namespaces, facts: dict[str, object], seen: dict[str, object], *allowed: str
) -> Iterator[None]:
    """Count the frames of A into *seen*: those of the entry gateway, the directory and *allowed*, and all others."""
    nodes = facts["nodes"]
    assert isinstance(nodes, dict)
    gateway = [f"{host}:{port}" for host, port in nodes["entry"].values()]
    directory = [f"{host}:{port}" for host, port in nodes["nym-api"].values()]
    sniffer = namespaces.popen(
        namespaces.a, sys.executable, str(CAPTURE), *gateway, *directory, *allowed,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert sniffer.stdin is not None
    assert sniffer.stdout is not None
    with sniffer:
        assert sniffer.stdout.readline() == "ready\n"
        yield
        sniffer.stdin.close()
        seen.update(json.loads(sniffer.stdout.readline()))


def client_environment(facts: dict[str, object]) -> dict[str, str]:
    """Return the environment of a program in A that uses the network in B."""
    environment = facts["environment"]
    assert isinstance(environment, dict)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, **environment, "PYTHONDONTWRITEBYTECODE": "1"}
