"""MariaDB with TLS and a password."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import find_program, free_port, listens, running, version_of

_USER, _PASSWORD = "smolmix", "correct horse"


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server with an empty database."""
    program = find_program("mariadbd")
    me = pwd.getpwuid(os.geteuid()).pw_name
    ca, pem = credentials("mariadb", address, folder)
    data = folder / "data"
    common = [f"--datadir={data}", f"--user={me}", "--innodb-flush-method=nosync"]
    with (folder / "install.log").open("wb") as log:
        subprocess.run(
            [find_program("mariadb-install-db"), "--no-defaults", *common, "--auth-root-authentication-method=socket",
             "--skip-test-db", "--skip-name-resolve"],
            check=True, stdout=log, stderr=subprocess.STDOUT, timeout=60,
        )  # fmt: skip
    first = folder / "first.sql"
    first.write_text(
        "CREATE DATABASE smolmix CHARACTER SET utf8mb4;\n"
        f"CREATE USER {_USER}@'%' IDENTIFIED BY '{_PASSWORD}' REQUIRE SSL;\n"
        f"GRANT ALL ON smolmix.* TO {_USER}@'%';\n"
    )
    port = free_port(address)
    command = [
        program, "--no-defaults", *common, f"--init-file={first}", f"--bind-address={address}", f"--port={port}",
        "--socket=here", f"--pid-file={folder / 'pid'}", "--skip-name-resolve",
        f"--ssl-cert={pem}", f"--ssl-key={pem}", f"--ssl-ca={ca}",
        "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--innodb-fast-shutdown=2",
    ]  # fmt: skip
    with running(command, folder, lambda: listens(address, port)):
        yield {
            "host": address, "port": port, "user": _USER, "password": _PASSWORD, "database": "smolmix", "ca": ca,
            "version": version_of(program, "--version"),
        }  # fmt: skip
