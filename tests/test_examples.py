"""Every example does its work over the embedded network and prints both results side by side."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolmix_sync.localnet import LocalNet

FOLDER = Path(__file__).resolve().parents[1] / "examples"
#: Example -> what the line of the mixnet must show.
EXAMPLES = {
    "tcp.py": r"HTTP/1\.1 200, TLSv1\.[23], ip=10\.\d+\.\d+\.\d+ \(our end\)",
    "udp.py": r"www\.localnet is 198\.51\.100\.11",
    "websocket.py": r"'hello, mixnet' echoed in",
    "tcp_download.py": r"36100 octets in 4 requests on one connection",
    "fetch.py": r"/headers 200 \(\d+ octets\), /echo 200 \(6 octets\), /redirect/2 200",
    "threads.py": r"8 threads fetched 10000 octets each",
    "requests_session.py": r"/redirect/2 200 after 2 redirects.*cookies \{'taste': 'sweet'\}",
    "smtp.py": r"250 .*a mail to root@mail\.localnet accepted",
    "ssh.py": r"SSH-2\.0-\S+, ssh-rsa SHA256:\S+, 'you said: uname -a'",
}


def _direct(net: LocalNet) -> dict[str, int]:
    """Return where each service behind the exit listens, as examples/_example.py has it."""
    ports: dict[str, int] = {}
    for name, host in net.hosts.items():
        for kind in ("udp", "tcp"):
            for port, service in host[kind].items():
                number = service if isinstance(service, int) else net.services[service]
                ports.update({f"{one}:{port}": number for one in (name, *host["addresses"])})
    return ports


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        ssh_port = probe.getsockname()[1]
    with LocalNet(set_default=False, allow={"ssh.localnet:22": ssh_port}) as net:
        yield {**clean, **net.environment(), "EXAMPLE_DIRECT": json.dumps(_direct(net))}


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_shows_the_clear_result_beside_the_mixnets(name: str, environment: dict[str, str]) -> None:
    if name == "ssh.py":
        pytest.importorskip("paramiko", reason="paramiko is not installed")
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), "--localnet"],
        env=environment, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    clear = re.findall(r"^clear +(\d+\.\d+) s  (.+)$", done.stdout, re.M)
    mixnet = re.findall(r"^mixnet +(\d+\.\d+) s  (.+)$", done.stdout, re.M)
    assert clear
    assert len(clear) == len(mixnet)
    assert re.search(EXAMPLES[name], mixnet[-1][1]), done.stdout
    assert float(clear[-1][0]) <= float(mixnet[-1][0])
    assert "times as long" in done.stdout


@pytest.mark.interop
@pytest.mark.slow
def test_example_starts_an_embedded_network_of_its_own_and_takes_an_exit() -> None:
    with LocalNet(set_default=False) as net:
        other = net.ipr_address
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("SMOLMIX_", "EXAMPLE_"))}
    command = [sys.executable, str(FOLDER / "udp.py"), "--localnet"]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the answers are the same" in done.stdout
    # The address of another network's exit: the option is heard.
    done = subprocess.run(
        [*command, "--ipr", other], env=clean, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "not in the topology" in done.stderr


def test_every_example_is_run_here_and_says_what_it_shows() -> None:
    scripts = {path.name for path in FOLDER.glob("*.py") if not path.name.startswith("_")}
    assert scripts - {"legacy_script.py"} == set(EXAMPLES)
    for name in scripts:
        assert ast.get_docstring(ast.parse((FOLDER / name).read_text())), name
