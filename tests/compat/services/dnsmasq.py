"""dnsmasq with a small zone: UDP and TCP on one port."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.servers import find_program, free_port, listens, running, version_of


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run the server."""
    program, port = find_program("dnsmasq"), free_port(address)
    lines = [
        "no-resolv", "no-hosts", "bind-interfaces", "local=/example/", "user=root", "edns-packet-max=4096",
        f"listen-address={address}", f"port={port}", "address=/small.example/192.0.2.7",
        "mx-host=mail.example,mx.example,10",
    ]  # fmt: skip
    lines += [f"txt-record=large.example,{number:03}{'x' * 200}" for number in range(20)]
    (folder / "dnsmasq.conf").write_text("\n".join(lines) + "\n")
    command = [program, "--keep-in-foreground", f"--conf-file={folder / 'dnsmasq.conf'}", "--pid-file"]
    with running(command, folder, lambda: listens(address, port)):
        yield {"port": port, "version": version_of(program, "--version")}
