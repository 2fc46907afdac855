"""Standard library clients and servers, and requests, over the patched module."""

# ruff: noqa: E402, PT017 - the order of imports is what is tested
from __future__ import annotations

import _order

_order.network()

import asyncio
import http.client
import http.server
import selectors
import smtplib
import socket
import socketserver
import threading
import urllib.request
import xmlrpc.client
import xmlrpc.server
from typing import Any, ClassVar

HOST = "server.example"
GEVENT = _order.ORDER in ("gevent-first", "smolmix-first")


def start(server: Any) -> Any:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"you asked for {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1])

    def log_message(self, *args: Any) -> None:
        pass


class Mail(socketserver.StreamRequestHandler):
    received: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 hello\r\n")
        in_data = False
        for line in self.rfile:
            if in_data:
                if line == b".\r\n":
                    in_data = False
                    self.wfile.write(b"250 kept\r\n")
                else:
                    self.received.append(line)
            elif line.upper().startswith(b"DATA"):
                in_data = True
                self.wfile.write(b"354 go on\r\n")
            elif line.upper().startswith(b"QUIT"):
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 ok\r\n")


class Threading(socketserver.ThreadingTCPServer):
    daemon_threads = True


web = start(http.server.ThreadingHTTPServer((_order.V4, 0), Web))
mail = start(Threading((_order.V4, 0), Mail))
url = f"http://{HOST}:{web.server_port}"

# urllib and http.client, by name
assert urllib.request.urlopen(f"{url}/a", timeout=10).read() == b"you asked for /a"
connection = http.client.HTTPConnection(HOST, web.server_port, timeout=10)
for number in range(3):
    connection.request("POST", "/", body=b"x" * 100_000 + b"%d" % number)
    assert connection.getresponse().read() == b"%d" % number + b"x" * 100_000
assert connection.sock.getpeername() == (_order.V4, web.server_port)
connection.close()

# requests: keep-alive, and the text of a refusal
import requests

with requests.Session() as session:
    for _ in range(3):
        assert session.get(f"{url}/r", timeout=10).text == "you asked for /r"
    try:
        session.get(f"http://{HOST}:9/", timeout=10)
    except requests.ConnectionError as problem:
        assert "refused" in str(problem)
    else:
        raise AssertionError("nobody listens there")

# smtplib
with smtplib.SMTP(HOST, mail.server_address[1], timeout=10) as client:
    client.sendmail("a@server.example", ["b@server.example"], "Subject: s\r\n\r\nbody of the mail")
assert b"body of the mail\r\n" in Mail.received

# xmlrpc
rpc = start(xmlrpc.server.SimpleXMLRPCServer((_order.V4, 0), logRequests=False))
rpc.register_function(pow)
with xmlrpc.client.ServerProxy(f"http://{HOST}:{rpc.server_address[1]}") as proxy:
    assert proxy.pow(2, 10) == 1024

# selectors and a non-blocking connect
if not GEVENT:
    with selectors.DefaultSelector() as selector, socket.socket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex((_order.V4, web.server_port)) != 0
        selector.register(sock, selectors.EVENT_WRITE)
        assert selector.select(10)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    # asyncio: streams both ways, and a refused connection
    async def talk() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.read()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, _order.V4, 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(_order.V4, port)
        writer.write(b"y" * 300_000)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b"Y" * 300_000
        writer.close()
        try:
            await asyncio.open_connection(_order.V4, 9)
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("nobody listens there")
        found = await asyncio.get_running_loop().getaddrinfo(HOST, 80, type=socket.SOCK_STREAM)
        assert found[0][4] == (_order.V4, 80)
        server.close()
        await server.wait_closed()

    asyncio.run(talk())
else:
    import gevent

    # 20 greenlets at once, all of them waiting for the network
    jobs = [gevent.spawn(lambda: urllib.request.urlopen(f"{url}/g", timeout=10).read()) for _ in range(20)]
    gevent.joinall(jobs, timeout=20, raise_error=True)
    assert all(job.value == b"you asked for /g" for job in jobs)
    import gevent.server

    greens = gevent.server.StreamServer((_order.V4, 0), lambda sock, _address: sock.sendall(b"green"))
    greens.start()
    assert socket.create_connection((_order.V4, greens.server_port), 10).recv(10) == b"green"
    greens.stop()

# UDP, and names
one, two = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
two.bind((_order.V4, 0))
one.sendto(b"datagram", (HOST, two.getsockname()[1]))
two.settimeout(10)
assert two.recvfrom(100)[0] == b"datagram"
assert socket.gethostbyname(HOST) == _order.V4
assert socket.gethostbyname_ex(HOST)[2] == [_order.V4]
assert socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICSERV) == ("localhost", "80")
for name in ("printer.local", "intranet"):
    try:
        socket.getaddrinfo(name, 80)
    except socket.gaierror as problem:
        assert problem.errno == socket.EAI_NONAME
    else:
        raise AssertionError(f"{name} must not resolve")

one.close()
two.close()
for server in (web, mail, rpc):
    server.shutdown()
    server.server_close()
_order.done()
