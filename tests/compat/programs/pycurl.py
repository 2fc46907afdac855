"""pycurl: libcurl has sockets of its own; through a forwarded AF_UNIX socket it works, TLS included."""

import hashlib
import io

import pycurl

SERVICES = ("web",)
EXPECT = "refused"
NEEDS_FORWARD = {
    "service": "web",
    "port": "tls_port",
    "path": "web.sock",
    "blocks": True,
    "allow": ("pycurl",),
}
NOTE = "Through ``UNIX_SOCKET_PATH``. With gevent in a thread of its hub's pool, as all C code that blocks."


def main(services: dict) -> str:
    web = services["web"]
    base = f"https://{web['host']}:{web['tls_port']}"
    curl = pycurl.Curl()
    curl.setopt(pycurl.CAINFO, web["ca"])
    curl.setopt(pycurl.TIMEOUT, 30)
    if "forwarded" in web:
        curl.setopt(pycurl.UNIX_SOCKET_PATH, web["forwarded"]["address"])

    def fetch(path: str) -> bytes:
        body = io.BytesIO()
        curl.setopt(pycurl.URL, base + path)
        curl.setopt(pycurl.WRITEDATA, body)
        curl.perform()
        return body.getvalue()

    assert hashlib.sha256(fetch("/data.bin")).hexdigest() == web["sha256"]
    assert curl.getinfo(pycurl.RESPONSE_CODE) == 200
    curl.setopt(pycurl.FOLLOWLOCATION, 1)
    assert fetch("/moved").decode() == web["text"]
    body = bytes(range(256)) * 100
    curl.setopt(pycurl.UPLOAD, 1)
    curl.setopt(pycurl.READDATA, io.BytesIO(body))
    curl.setopt(pycurl.INFILESIZE, len(body))
    fetch("/put/pycurl")
    assert curl.getinfo(pycurl.RESPONSE_CODE) in (201, 204)
    curl.setopt(pycurl.UPLOAD, 0)
    curl.setopt(pycurl.HTTPGET, 1)
    assert fetch("/put/pycurl") == body
    curl.close()
    return "HTTPS: 50 kB down, redirect, 25 kB up and back"
