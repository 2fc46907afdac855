"""http.client: several requests on one connection, an upload in pieces, answers in parts, errors."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import uuid
from typing import Any

LIBRARY = "http"
SERVICES = ("web",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Download and upload."""
    web = services["web"]
    context = ssl.create_default_context(cafile=web["ca"])
    secure = http.client.HTTPSConnection(web["host"], web["tls_port"], timeout=30, context=context)
    secure.request("GET", "/data.bin")
    answer = secure.getresponse()
    assert (answer.status, answer.getheader("X-Scheme")) == (200, "https")
    parts = [answer.read(1000)]
    while part := answer.read(20_000):
        parts.append(part)
    assert hashlib.sha256(b"".join(parts)).hexdigest() == web["sha256"]
    socket = secure.sock

    path = f"/put/{uuid.uuid4()}"
    pieces = (b"0123456789" * 100 for _ in range(12))
    secure.request("PUT", path, body=pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    answer = secure.getresponse()
    assert answer.status == 201, answer.status
    answer.read()
    secure.request("GET", path, headers={"Range": "bytes=5-24"})
    answer = secure.getresponse()
    assert (answer.status, answer.read()) == (206, b"56789012345678901234")
    secure.request("DELETE", path)
    assert secure.getresponse().read() == b""
    assert secure.sock is socket, "one connection was enough for all"
    secure.close()

    said = ""
    try:
        http.client.HTTPSConnection(web["host"], web["tls_port"], timeout=30).request("GET", "/")
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message
    assert "issuer certificate" in said, said
    number = 0
    try:
        http.client.HTTPConnection(web["host"], 9, timeout=30).request("GET", "/")
    except ConnectionRefusedError as error:
        number = error.errno
    assert number == 111, number
    return f"{web['size']} octets down and 12000 up in chunks on one TLS connection, a bad certificate, a closed port"
