"""ftplib.FTP_TLS: a password, and a file there and back over data connections with TLS."""

from __future__ import annotations

import ftplib
import io
import ssl
import uuid
from typing import Any

LIBRARY = "ftplib"
SERVICES = ("ftp",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Upload and download a file."""
    server = services["ftp"]
    ftp = ftplib.FTP_TLS(timeout=30, context=ssl.create_default_context(cafile=server["ca"]))
    ftp.connect(server["host"], server["port"])
    said = ""
    try:
        ftp.login(server["user"], "wrong")
    except ftplib.error_perm as error:
        said = str(error)
    assert said.startswith("530"), said
    ftp.login(server["user"], server["password"])
    ftp.prot_p()
    name = f"in/{uuid.uuid4()}"
    content = bytes(range(256)) * 50
    ftp.storbinary(f"STOR {name}", io.BytesIO(content))
    parts: list[bytes] = []
    ftp.retrbinary(f"RETR {name}", parts.append)
    assert b"".join(parts) == content
    ftp.quit()
    assert isinstance(ftp.lastresp, str)
    return f"{len(content)} octets there and back over TLS, a wrong password refused"
