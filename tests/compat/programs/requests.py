"""requests: sessions, TLS, uploads, redirects, authentication, streaming."""

import hashlib

import requests

SERVICES = ("web",)


def main(services: dict) -> str:
    web = services["web"]
    plain = f"http://{web['host']}:{web['port']}"
    secure = f"https://{web['host']}:{web['tls_port']}"
    with requests.Session() as session:
        session.verify = web["ca"]
        session.trust_env = False
        for base in (plain, secure):
            answer = session.get(f"{base}/data.bin", timeout=30)
            assert answer.status_code == 200, answer
            assert hashlib.sha256(answer.content).hexdigest() == web["sha256"]
            assert answer.headers["X-Scheme"] == base.partition(":")[0]
        compressed = session.get(f"{secure}/plain.txt", timeout=30)
        assert compressed.headers["Content-Encoding"] == "gzip"
        assert compressed.text == web["text"]
        moved = session.get(f"{secure}/moved", timeout=30)
        assert moved.history[0].status_code == 302
        assert moved.text == web["text"]
        assert session.get(f"{plain}/private/answer.json", timeout=30).status_code == 401
        private = session.get(f"{plain}/private/answer.json", auth=(web["user"], web["password"]), timeout=30)
        assert private.json() == {"answer": 42}
        body = bytes(range(256)) * 200
        assert session.put(f"{secure}/put/requests", data=body, timeout=30).status_code in (201, 204)
        with session.get(f"{secure}/put/requests", stream=True, timeout=30) as streamed:
            assert b"".join(streamed.iter_content(1000)) == body
        part = session.get(f"{plain}/data.bin", headers={"Range": "bytes=100-199"}, timeout=30)
        assert (part.status_code, len(part.content)) == (206, 100)
    try:
        requests.get(f"{secure}/", timeout=30)
    except requests.exceptions.SSLError:
        pass
    else:
        raise AssertionError("a certificate of an unknown authority was accepted")
    return "HTTP and HTTPS: keep-alive, gzip, redirect, basic authentication, 50 kB up and down, range, bad certificate"
