"""The program curl, started by a Python program: no internet sockets, but those of AF_UNIX."""

import hashlib
import subprocess

LIBRARY = "subprocess curl"
DEBIAN = "curl"
SERVICES = ("web",)
EXPECT = "refused"
REFUSAL = r"CalledProcessError: .*non-zero exit status (6|7)\b"
NEEDS_FORWARD = {"service": "web", "port": "tls_port", "path": "web.sock", "allow": ()}
NOTE = "Programs that are started have no internet sockets (curl: couldn't resolve, couldn't connect)."


def main(services: dict) -> str:
    web = services["web"]
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "30",
        "--cacert",
        web["ca"],
        "--location",
    ]
    if "forwarded" in web:
        command += ["--unix-socket", web["forwarded"]["address"]]
    url = f"https://{web['host']}:{web['tls_port']}"
    body = subprocess.run([*command, f"{url}/data.bin"], stdout=subprocess.PIPE, check=True).stdout
    assert hashlib.sha256(body).hexdigest() == web["sha256"]
    text = subprocess.run([*command, f"{url}/moved"], stdout=subprocess.PIPE, check=True).stdout
    assert text.decode() == web["text"]
    return "HTTPS: 50 kB, redirect, in two processes"
