"""PySocks: a SOCKS5 server behind the tunnel, with a password and without; names looked up by it."""

import hashlib
import http.client
import socket
import ssl

import socks

SERVICES = ("socks", "web")


def fetch(sock: socket.socket, host: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(host)
    connection.sock = sock
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body


def main(services: dict) -> str:
    proxy, web = services["socks"], services["web"]
    # "localhost" is the proxy's own: the name travels to it.
    for port, user, password in (
        (proxy["open_port"], None, None),
        (proxy["port"], proxy["user"], proxy["password"]),
    ):
        sock = socks.socksocket()
        sock.settimeout(30)
        sock.set_proxy(socks.SOCKS5, proxy["host"], port, rdns=True, username=user, password=password)
        sock.connect(("localhost", web["port"]))
        assert hashlib.sha256(fetch(sock, web["host"], "/data.bin")).hexdigest() == web["sha256"]
    sock = socks.create_connection(
        ("localhost", web["tls_port"]), timeout=30, proxy_type=socks.SOCKS5,
        proxy_addr=proxy["host"], proxy_port=proxy["open_port"],
    )  # fmt: skip
    context = ssl.create_default_context(cafile=web["ca"])
    secure = context.wrap_socket(sock, server_hostname=web["host"])
    assert fetch(secure, web["host"], "/answer.json") == b'{"answer": 42}'
    wrong = socks.socksocket()
    wrong.settimeout(30)
    wrong.set_proxy(socks.SOCKS5, proxy["host"], proxy["port"], username=proxy["user"], password="wrong")
    try:
        wrong.connect(("localhost", web["port"]))
    except socks.ProxyError as error:
        assert isinstance(error, socks.ProxyConnectionError) or "auth" in str(error).lower(), error
    else:
        raise AssertionError("a wrong password was accepted")
    finally:
        wrong.close()
    return "SOCKS5 with and without a password, names looked up by the proxy, 50 kB by HTTP, TLS, a wrong password"
