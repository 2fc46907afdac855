"""OpenLDAP's slapd with a tree that has only a root; TLS by STARTTLS or from the start."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import credentials
from support.servers import find_program, free_port, listens, running, version_of

_BASE = "dc=example,dc=org"
_USER, _PASSWORD = f"cn=admin,{_BASE}", "correct horse"
_SCHEMAS = Path("/etc/ldap/schema")

_CONFIGURATION = f"""
include {_SCHEMAS}/core.schema
include {_SCHEMAS}/cosine.schema
include {_SCHEMAS}/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {{folder}}/pid
TLSCertificateFile {{pem}}
TLSCertificateKeyFile {{pem}}
security simple_bind=64
database mdb
suffix "{_BASE}"
rootdn "{_USER}"
rootpw "{_PASSWORD}"
directory {{folder}}/data
"""


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server."""
    program = find_program("slapd")
    ca, pem = credentials("ldap", address, folder)
    port, ldaps_port = free_port(address), free_port(address)
    (folder / "data").mkdir()
    configuration = folder / "slapd.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, pem=pem))
    subprocess.run(
        [find_program("slapadd"), "-f", str(configuration)],
        input=f"dn: {_BASE}\nobjectClass: domain\ndc: example\n", text=True, check=True, timeout=15,
    )  # fmt: skip
    command = [
        program, "-d", "0", "-f", str(configuration), "-h", f"ldap://{address}:{port} ldaps://{address}:{ldaps_port}"
    ]  # fmt: skip
    with running(command, folder, lambda: listens(address, ldaps_port)):
        yield {
            "host": address, "port": port, "ldaps_port": ldaps_port, "user": _USER, "password": _PASSWORD,
            "base": _BASE, "ca": ca, "version": version_of(program, "-VV"),
        }  # fmt: skip
