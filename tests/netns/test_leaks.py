"""Nothing of a patched program leaves by any other way than the tunnel, counted on every interface.

Two namespaces joined by a veth pair: the network in B, the program in A, whose only reachable host is B.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "examples" / "legacy_script.py"
ADDRESS_A, ADDRESS_B = "10.201.77.1", "10.201.77.2"

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the ip command"
    ),
]


@dataclass
class Namespaces:
    a: str
    b: str

    def popen(self, name: str, *command: str, **kw: object) -> subprocess.Popen[str]:
        return subprocess.Popen(["ip", "netns", "exec", name, *command], text=True, **kw)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Namespaces]:
    pair = Namespaces(f"smolmix-a-{os.getpid()}", f"smolmix-b-{os.getpid()}")
    resolv = Path("/etc/netns") / pair.a
    try:
        resolv.mkdir(parents=True)
        (resolv / "resolv.conf").write_text("nameserver 127.0.0.53\noptions timeout:1 attempts:1\n")
        (resolv / "nsswitch.conf").write_text("hosts: files dns\n")
        run("ip", "netns", "add", pair.a)
        run("ip", "netns", "add", pair.b)
        va, vb = f"va{os.getpid()}", f"vb{os.getpid()}"
        run("ip", "link", "add", va, "netns", pair.a, "type", "veth", "peer", "name", vb, "netns", pair.b)
        macs = {pair.a: "02:00:00:00:77:01", pair.b: "02:00:00:00:77:02"}
        sides = ((pair.a, va, ADDRESS_A, pair.b, ADDRESS_B), (pair.b, vb, ADDRESS_B, pair.a, ADDRESS_A))
        for name, link, address, peer, peer_address in sides:
            inside = ("ip", "-n", name)
            # No IPv6 and no ARP: the kernel's own chatter would count as leaks.
            run("ip", "netns", "exec", name, sys.executable, "-c", _NO_IPV6)
            run(*inside, "link", "set", "lo", "up")
            run(*inside, "link", "set", link, "address", macs[name], "arp", "off")
            run(*inside, "address", "add", f"{address}/32", "dev", link)
            run(*inside, "link", "set", link, "up")
            run(*inside, "route", "add", f"{peer_address}/32", "dev", link)
            run(
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


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@pytest.fixture(scope="module")
def network(namespaces: Namespaces) -> Iterator[dict[str, object]]:
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
def counting(namespaces: Namespaces, facts: dict[str, object], seen: dict[str, object]) -> Iterator[None]:
    nodes = facts["nodes"]
    assert isinstance(nodes, dict)
    gateway = [f"{host}:{port}" for host, port in nodes["entry"].values()]
    directory = [f"{host}:{port}" for host, port in nodes["nym-api"].values()]
    sniffer = namespaces.popen(
        namespaces.a, sys.executable, str(HERE / "capture.py"), *gateway, *directory,
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
    environment = facts["environment"]
    assert isinstance(environment, dict)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, **environment, "PYTHONDONTWRITEBYTECODE": "1"}


def test_patched_script_sends_nothing_outside_the_tunnel(
    namespaces: Namespaces, network: dict[str, object]
) -> None:
    seen: dict[str, object] = {}
    with counting(namespaces, network, seen):
        done = namespaces.popen(
            namespaces.a, sys.executable, "-m", "smolmix_sync", "run", str(SCRIPT),
            env=client_environment(network), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = done.communicate(timeout=90)
    assert done.returncode == 0, output
    assert "nightly check done" in output
    assert seen["lost"] == 0
    assert isinstance(seen["allowed"], int)
    assert seen["allowed"] > 100
    assert (seen["other"], seen["queries"]) == (0, 0), seen["examples"]


def test_same_script_unpatched_shows_up_in_the_count(
    namespaces: Namespaces, network: dict[str, object]
) -> None:
    seen: dict[str, object] = {}
    with counting(namespaces, network, seen):
        done = namespaces.popen(
            namespaces.a, sys.executable, str(SCRIPT),
            env=client_environment(network), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = done.communicate(timeout=90)
    assert done.returncode != 0, output
    assert isinstance(seen["other"], int)
    assert isinstance(seen["queries"], int)
    assert seen["other"] > 0
    assert seen["queries"] > 0
