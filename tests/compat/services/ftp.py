"""vsftpd for anonymous users that know a password, with and without TLS; passive mode, and active mode where it can be."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import find_program, free_port, free_ports, listens, running

_PASSWORD = "guest@example.org"


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server with a folder ``in`` where everything may be done, and a file ``readme.txt``."""
    program = find_program("vsftpd")
    ca, pem = credentials("ftp", address, folder)
    port, passive = free_port(address), free_ports(address, 16)
    files, empty, passwords = folder / "files", folder / "empty", folder / "passwords"
    for path in (files, files / "in", empty):
        path.mkdir()
        path.chmod(0o755)
    passwords.write_text(f"{_PASSWORD}\n")
    (files / "readme.txt").write_bytes(b"Files of \xc3\xbcnknown people.\r\n")
    os.chown(files / "in", pwd.getpwnam("ftp").pw_uid, pwd.getpwnam("ftp").pw_gid)
    settings = {
        "listen": "YES", "listen_ipv6": "NO", "listen_address": address, "listen_port": port, "background": "NO",
        "pasv_min_port": passive[0], "pasv_max_port": passive[-1], "connect_from_port_20": "NO",
        "anonymous_enable": "YES", "local_enable": "NO", "anon_root": files, "secure_chroot_dir": empty,
        "secure_email_list_enable": "YES", "email_password_file": passwords, "delay_failed_login": 0,
        "write_enable": "YES", "anon_upload_enable": "YES", "anon_mkdir_write_enable": "YES",
        "anon_other_write_enable": "YES", "anon_world_readable_only": "NO",
        "ssl_enable": "YES", "allow_anon_ssl": "YES", "rsa_cert_file": pem, "rsa_private_key_file": pem,
        # Python's ftplib makes a new session for each data connection.
        "require_ssl_reuse": "NO",
        # It refuses system calls of newer C libraries.
        "seccomp_sandbox": "NO",
    }  # fmt: skip
    configuration = folder / "vsftpd.conf"
    configuration.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    with running([program, str(configuration)], folder, lambda: listens(address, port)):
        yield {
            "host": address, "port": port, "ports": list(passive), "user": "anonymous", "password": _PASSWORD,
            "ca": ca, "version": _version(address, port),
        }  # fmt: skip


def _version(address: str, port: int) -> str:
    """Return what the greeting says: the program itself tells its version to its standard input."""
    with socket.create_connection((address, port), 10) as sock:
        said = sock.makefile("rb").readline().decode()
    found = re.search(r"vsFTPd ([\w.]+)", said)
    return found[1] if found else said.strip()
