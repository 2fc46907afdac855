"""What the examples share: their options, the network they run on, and two lines of result side by side.

Every example does the same work twice with the same function, once over the machine's own network and once through
the mixnet; only what connects differs. Behind ``--localnet`` is the embedded network, and "clear" then means the same
services reached directly on loopback.

``EXAMPLE_DIRECT`` (JSON, ``{"www.localnet:80": 41234}``) makes ``--localnet`` use an embedded network that runs already and
that the ``SMOLMIX_*`` variables name, instead of starting one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# This folder has a file websocket.py: it must not stand in front of the library of that name.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [*(entry for entry in sys.path if Path(entry or ".").resolve() != _HERE), str(_HERE)]

from smolmix_sync import Tunnel  # noqa: E402
from smolmix_sync.localnet import LocalNet  # noqa: E402


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every example."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--ipr", metavar="ADDRESS", help="Nym address of the exit to use")
    made.add_argument(
        "--localnet", action="store_true", help="use an embedded network instead of the real one"
    )
    return made


@dataclass
class Place:
    """Where an example runs.

    Attributes:
        tunnel: READY.
        localnet: whether it leads into the embedded network.
        direct: of the embedded network: ``host:port`` behind its exit to the same service's port on loopback.
    """

    tunnel: Tunnel
    localnet: bool
    direct: Mapping[str, int] = field(default_factory=dict)

    def clear(self, address: tuple[str, int]) -> tuple[str, int]:
        """Return where *address* is for a program without a tunnel."""
        if not self.localnet:
            return address
        return "127.0.0.1", self.direct["{}:{}".format(*address)]


def report(label: str, work: Callable[[], str]) -> tuple[str, float]:
    """Do *work*, print what it returns and how long it took; return both."""
    began = time.monotonic()
    told = work()
    seconds = time.monotonic() - began
    print(f"{label:<7} {seconds:6.2f} s  {told}", flush=True)
    return told, seconds


def compare(clear: float, mixnet: float) -> None:
    """Print the last line."""
    print(f"the mixnet took {mixnet / max(clear, 1e-6):.0f} times as long")


@contextlib.contextmanager
def place(arguments: argparse.Namespace, allow: Mapping[str, int] | None = None) -> Iterator[Place]:
    """Open the tunnel, in the embedded network if asked for.

    Args:
        arguments: of :func:`parser`.
        allow: services of the example's own that the embedded network's exit shall reach: ``name:port`` to a
            port on loopback.
    """
    options: dict[str, Any] = {"ipr_address": arguments.ipr} if arguments.ipr else {}
    with contextlib.ExitStack() as stack:
        direct: dict[str, int] = {}
        if arguments.localnet:
            if "EXAMPLE_DIRECT" in os.environ:
                direct = json.loads(os.environ["EXAMPLE_DIRECT"])
            else:
                direct = direct_ports(stack.enter_context(_trusted_localnet(allow or {})))
        began = time.monotonic()
        tunnel = stack.enter_context(
            Tunnel(
                on_progress=lambda step: print(f"# {step.elapsed:.2f} s {step.detail}\n", end=""), **options
            )
        )
        print(
            f"# ready after {time.monotonic() - began:.2f} s; our addresses at the exit: {tunnel.allocated_ips}"
        )
        yield Place(tunnel, arguments.localnet, direct)


@contextlib.contextmanager
def _trusted_localnet(allow: Mapping[str, int]) -> Iterator[LocalNet]:
    with LocalNet(allow=allow) as net:
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            os.environ[variable] = str(net.ca_path)
        yield net


def direct_ports(net: LocalNet) -> dict[str, int]:
    """Return the value of ``Place.direct`` for an embedded network."""
    ports: dict[str, int] = {}
    for name, host in net.hosts.items():
        for kind in ("udp", "tcp"):
            for port, service in host[kind].items():
                number = service if isinstance(service, int) else net.services[service]
                ports.update({f"{one}:{port}": number for one in (name, *host["addresses"])})
    return ports
