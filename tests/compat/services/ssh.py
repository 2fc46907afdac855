"""OpenSSH's sshd for the user that runs it, by key; commands, SFTP and forwarded connections."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.servers import find_program, free_port, listens, running, version_of

_CONFIGURATION = """
ListenAddress {address}
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
AllowTcpForwarding local
Subsystem sftp internal-sftp
"""


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server; clients may use what is in the folder ``files``."""
    program = find_program("sshd")
    for name in ("host_key", "user_key"):
        subprocess.run(
            [find_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name],
            check=True,
            timeout=15,
        )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    files = folder / "files"
    files.mkdir()
    (files / "large.bin").write_bytes(bytes(range(256)) * 200)
    port = free_port(address)
    configuration = folder / "sshd_config"
    configuration.write_text(_CONFIGURATION.format(address=address, port=port, folder=folder))
    with running([program, "-D", "-e", "-f", str(configuration)], folder, lambda: listens(address, port)):
        yield {
            "host": address, "port": port, "user": pwd.getpwuid(os.geteuid()).pw_name,
            "key": str(folder / "user_key"), "host_key": (folder / "host_key.pub").read_text(),
            "folder": str(files), "version": version_of(program, "-V"),
        }  # fmt: skip
