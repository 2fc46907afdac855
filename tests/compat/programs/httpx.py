"""httpx: its blocking client and its asynchronous one."""

import asyncio
import hashlib
import ssl

import httpx

SERVICES = ("web",)


async def at_once(base: str, context: ssl.SSLContext) -> set:
    async with httpx.AsyncClient(verify=context, timeout=30, trust_env=False) as client:
        answers = await asyncio.gather(*(client.get(f"{base}/data.bin") for _ in range(3)))
        return {hashlib.sha256(answer.content).hexdigest() for answer in answers}


def main(services: dict) -> str:
    web = services["web"]
    plain = f"http://{web['host']}:{web['port']}"
    secure = f"https://{web['host']}:{web['tls_port']}"
    context = ssl.create_default_context(cafile=web["ca"])
    with httpx.Client(verify=context, timeout=30, trust_env=False) as client:
        for base in (plain, secure):
            answer = client.get(f"{base}/data.bin").raise_for_status()
            assert hashlib.sha256(answer.content).hexdigest() == web["sha256"]
        assert client.get(f"{secure}/plain.txt").text == web["text"]
        assert client.get(f"{plain}/moved", follow_redirects=True).text == web["text"]
        private = client.get(f"{plain}/private/answer.json", auth=(web["user"], web["password"]))
        assert private.json() == {"answer": 42}
        body = bytes(range(256)) * 100
        assert client.put(f"{secure}/put/httpx", content=body).status_code in (201, 204)
        with client.stream("GET", f"{secure}/put/httpx") as streamed:
            assert b"".join(streamed.iter_bytes()) == body
        try:
            client.get(f"http://{web['host']}:9/")
        except httpx.ConnectError:
            pass
        else:
            raise AssertionError("nobody listens there")
    try:
        httpx.get(f"{secure}/", timeout=30, trust_env=False)
    except httpx.ConnectError as error:
        assert "CERTIFICATE_VERIFY_FAILED" in str(error), error
    else:
        raise AssertionError("a certificate of an unknown authority was accepted")
    assert asyncio.run(at_once(secure, context)) == {web["sha256"]}
    return "HTTP and HTTPS, authentication, 25 kB up and streamed down, a bad certificate; AsyncClient: three at once"
