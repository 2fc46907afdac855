"""ftplib: folders, a file there and back, lists, errors, all in passive mode; and what becomes of active mode."""

from __future__ import annotations

import ftplib
import io
import uuid
from typing import Any

SERVICES = ("ftp",)
NOTE = "Active mode needs a server that connects to the client: behind an exit, as behind any NAT, there is none."


def main(services: dict[str, dict[str, Any]]) -> str:
    """Work in a folder of its own."""
    server = services["ftp"]
    ftp = ftplib.FTP(timeout=30)
    ftp.connect(server["host"], server["port"])
    assert "230" in ftp.login(server["user"], server["password"])
    ftp.cwd("in")
    name = str(uuid.uuid4())
    assert ftp.mkd(name).endswith(name)
    ftp.cwd(name)
    content = bytes(range(256)) * 50
    assert ftp.storbinary("STOR content.bin", io.BytesIO(content)).startswith("226")
    assert ftp.size("content.bin") == len(content)
    parts: list[bytes] = []
    ftp.retrbinary("RETR content.bin", parts.append)
    assert b"".join(parts) == content
    parts.clear()
    ftp.retrbinary("RETR content.bin", parts.append, rest=12_000)
    assert b"".join(parts) == content[12_000:]
    assert ftp.nlst() == ["content.bin"]
    said = ""
    try:
        ftp.retrbinary("RETR nothing", parts.append)
    except ftplib.error_perm as error:
        said = str(error)
    assert said.startswith("550"), said

    ftp.set_pasv(False)
    lines: list[str] = []
    try:
        ftp.retrlines("RETR /readme.txt", lines.append)
        active = "works"
        assert lines == ["Files of ünknown people."]
    except ftplib.error_perm as error:
        active = f"is refused ({error})"
    ftp.delete("content.bin")
    ftp.quit()
    return f"{len(content)} octets there and back, from the middle too, a file that is not there; active mode {active}"
