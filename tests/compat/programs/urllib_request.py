"""urllib.request: TLS, redirects, a password on demand, an upload, a download to a file, errors."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import tempfile
import urllib.error
import urllib.request
import uuid
from typing import Any

LIBRARY = "urllib"
SERVICES = ("web",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Open URLs."""
    web = services["web"]
    plain = f"http://{web['host']}:{web['port']}"
    secure = f"https://{web['host']}:{web['tls_port']}"
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, secure, web["user"], web["password"])
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=web["ca"])),
        urllib.request.HTTPBasicAuthHandler(passwords),
    )
    with opener.open(f"{secure}/private/answer.json", timeout=30) as answer:
        assert json.load(answer) == {"answer": 42}
    with opener.open(f"{plain}/moved", timeout=30) as answer:
        assert answer.url == f"{plain}/plain.txt"
        assert answer.read().decode() == web["text"]
    body = bytes(range(256)) * 40
    upload = urllib.request.Request(f"{secure}/put/{uuid.uuid4()}", data=body, method="PUT")
    with opener.open(upload, timeout=30) as answer:
        assert answer.status == 201
    said = 0
    try:
        opener.open(f"{plain}/nothing", timeout=30)
    except urllib.error.HTTPError as error:
        with error:
            said = error.code
    assert said == 404, said

    urllib.request.install_opener(opener)
    with tempfile.TemporaryDirectory() as folder:
        path, _ = urllib.request.urlretrieve(f"{plain}/data.bin", os.path.join(folder, "data.bin"))
        with open(path, "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == web["sha256"]
    reason: Any = None
    try:
        opener.open(f"http://nobody.{web['host']}/", timeout=30)
    except urllib.error.URLError as error:
        reason = error.reason
    assert "Name or service not known" in str(reason), reason
    return "a password on demand, a redirect, 10 kB up, a file of 50 kB, 404, a name that does not exist"
