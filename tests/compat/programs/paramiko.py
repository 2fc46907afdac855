"""paramiko: the host's key, a user's key, a command, SFTP, a forwarded connection, errors."""

from __future__ import annotations

import io
import uuid
from typing import Any

import paramiko

SERVICES = ("ssh",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Work on the host."""
    server = services["ssh"]
    name = f"[{server['host']}]:{server['port']}"
    options = {
        "port": server["port"], "username": server["user"], "key_filename": server["key"],
        "allow_agent": False, "look_for_keys": False, "timeout": 30, "banner_timeout": 30, "auth_timeout": 30,
    }  # fmt: skip
    client = paramiko.SSHClient()
    key = paramiko.ECDSAKey.generate()
    client.get_host_keys().add(name, key.get_name(), key)
    said = ""
    try:
        client.connect(server["host"], **options)
    except paramiko.SSHException as error:
        said = type(error).__name__
    assert said == "BadHostKeyException", said

    client.close()
    client.get_host_keys().clear()
    line = paramiko.hostkeys.HostKeyEntry.from_line(f"{name} {server['host_key']}")
    client.get_host_keys().add(name, line.key.get_name(), line.key)
    with client:
        client.connect(server["host"], **options)
        stdin, stdout, stderr = client.exec_command("tr a-z A-Z; echo done >&2; exit 3", timeout=30)
        stdin.write("grüße\n" * 1000)
        stdin.channel.shutdown_write()
        assert stdout.read().decode() == "GRüßE\n" * 1000
        assert stderr.read() == b"done\n"
        assert stdout.channel.recv_exit_status() == 3

        with client.open_sftp() as sftp:
            sftp.chdir(server["folder"])
            got = io.BytesIO()
            assert sftp.getfo("large.bin", got) == 51_200
            assert got.getvalue() == bytes(range(256)) * 200
            own = str(uuid.uuid4())
            sftp.putfo(io.BytesIO(got.getvalue()[:12_000]), own)
            assert own in sftp.listdir()
            sftp.remove(own)
            try:
                sftp.stat(own)
            except FileNotFoundError as error:
                said = type(error).__name__
            assert said == "FileNotFoundError", said

        # The server's host connects to the server.
        with client.get_transport().open_channel(
            "direct-tcpip", ("127.0.0.1", server["port"]), ("127.0.0.1", 0), timeout=30
        ) as forwarded:
            forwarded.settimeout(30)
            assert forwarded.recv(8) == b"SSH-2.0-"
    return "a command, 51200 octets by SFTP and 12000 to it, a forwarded connection, a wrong host key refused"
