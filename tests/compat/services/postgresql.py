"""PostgreSQL with TLS and a password."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import find_program, free_port, running, version_of

_USER, _PASSWORD = "smolmix", "correct horse"
#: The server refuses to run as root.
_RUN_AS = "postgres"


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server with an empty database."""
    programs = Path(os.path.realpath(find_program("initdb"))).parent
    ca, pem = credentials("postgresql", address, folder)
    # Not in *folder*: the server's user may not be able to enter it.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as made:
        place = Path(made)
        key, password, data = place / "server.pem", place / "password", place / "data"
        shutil.copy(pem, key)
        password.write_text(_PASSWORD)
        for path in (key, password):
            path.chmod(0o600)
        as_user = {}
        if os.geteuid() == 0:
            as_user = {"user": _RUN_AS, "group": _RUN_AS, "extra_groups": []}
            for path in (place, key, password):
                os.chown(path, pwd.getpwnam(_RUN_AS).pw_uid, pwd.getpwnam(_RUN_AS).pw_gid)
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", _USER, "--pwfile", password, "--auth", "scram-sha-256",
             "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"],
            cwd=place, check=True, stdout=subprocess.DEVNULL, timeout=30, **as_user,  # type: ignore[call-overload]
        )  # fmt: skip
        # The networks that clients may come from: the server knows only its own host otherwise.
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 0.0.0.0/0 scram-sha-256\n")
        port = free_port(address)
        settings = {
            "listen_addresses": address, "port": port, "unix_socket_directories": "", "fsync": "off",
            "ssl": "on", "ssl_cert_file": key, "ssl_key_file": key,
        }  # fmt: skip
        command = [str(programs / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with running(command, folder, lambda: _ready(data), user=_RUN_AS, stop=signal.SIGINT):
            yield {
                "host": address, "port": port, "user": _USER, "password": _PASSWORD, "database": "postgres",
                "ca": ca, "version": version_of(str(programs / "postgres"), "--version"),
            }  # fmt: skip


def _ready(data: Path) -> bool:
    try:
        return "ready" in (data / "postmaster.pid").read_text()
    except OSError:
        return False
