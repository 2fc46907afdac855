"""urllib3: a pool with TLS, retries over a redirect, streaming, several threads."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import urllib3

SERVICES = ("web",)


def main(services: dict) -> str:
    web = services["web"]
    plain = f"http://{web['host']}:{web['port']}"
    secure = f"https://{web['host']}:{web['tls_port']}"
    with urllib3.PoolManager(ca_certs=web["ca"], maxsize=4, timeout=30) as pool:

        def fetch(base: str) -> str:
            answer = pool.request("GET", f"{base}/data.bin")
            assert answer.status == 200, answer.status
            return hashlib.sha256(answer.data).hexdigest()

        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(fetch, [plain, secure] * 2)) == {web["sha256"]}
        moved = pool.request("GET", f"{plain}/moved", retries=urllib3.Retry(3))
        assert moved.data.decode() == web["text"]
        assert moved.geturl().endswith("/plain.txt")
        body = b"abc" * 10_000
        assert pool.request("PUT", f"{secure}/put/urllib3", body=body).status in (201, 204)
        streamed = pool.request("GET", f"{secure}/put/urllib3", preload_content=False)
        assert b"".join(streamed.stream(1000)) == body
        streamed.release_conn()
        assert pool.request("GET", f"{secure}/answer.json").json() == {"answer": 42}
        try:
            pool.request("GET", f"http://{web['host']}:9/", retries=False)
        except urllib3.exceptions.NewConnectionError as error:
            assert "refused" in str(error), error
        else:
            raise AssertionError("nobody listens there")
    return (
        "a pool in four threads: HTTP and HTTPS, redirect, 30 kB up and streamed down, a refused connection"
    )
