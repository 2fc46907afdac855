"""Dovecot: IMAP and POP3 of one user, over TLS from the start or by STARTTLS; three mails are there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import find_program, free_port, listens, running, version_of

_USER, _PASSWORD = "smolmix", "correct horse"
#: Whoever owns the mails; the server wants somebody who is no system user.
_OWNER = 65534

_CONFIGURATION = """
protocols = imap pop3
listen = {address}
base_dir = {run}
log_path = /dev/stderr
ssl = required
ssl_cert = <{pem}
ssl_key = <{pem}
mail_location = maildir:~/Maildir
auth_failure_delay = 0
namespace inbox {{
  inbox = yes
  separator = /
}}
passdb {{
  driver = passwd-file
  args = {users}
}}
userdb {{
  driver = passwd-file
  args = {users}
}}
# Wrong passwords are part of the tests: no longer and longer waits for everybody.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
  }}
}}
"""


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server."""
    program = find_program("dovecot")
    ca, pem = credentials("dovecot", address, folder)
    ports = {name: free_port(address) for name in ("imap", "imaps", "pop3", "pop3s")}
    home, users, configuration = folder / "home", folder / "users", folder / "dovecot.conf"
    new = home / "Maildir" / "new"
    new.mkdir(parents=True)
    for number, size in enumerate((100, 1000, 20_000), 1):
        head = f"From: you@example.org\nTo: me@example.org\nSubject: mail {number}\n\n"
        (new / f"{number}.mail").write_text(head + "0123456789abcdef\n" * (size // 17))
    for path in (home, *home.rglob("*")):
        os.chown(path, _OWNER, _OWNER)
    users.write_text(f"{_USER}:{{PLAIN}}{_PASSWORD}:{_OWNER}:{_OWNER}::{home}\n")
    # Paths of its AF_UNIX sockets may have a hundred octets.
    with tempfile.TemporaryDirectory(prefix="dovecot-") as run:
        Path(run).chmod(0o755)
        configuration.write_text(
            _CONFIGURATION.format(address=address, run=run, pem=pem, users=users, **ports)
        )
        command = [program, "-F", "-c", str(configuration)]
        with running(command, folder, lambda: all(listens(address, port) for port in ports.values())):
            yield {
                "host": address, **{f"{name}_port": port for name, port in ports.items()},
                "user": _USER, "password": _PASSWORD, "ca": ca, "version": version_of(program, "--version"),
            }  # fmt: skip
