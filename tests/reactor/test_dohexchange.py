"""DNS over HTTPS in memory: both ends of a TLS session, no network and no clock."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from smolmix_sync.localnet.ca import CertificateAuthority
from smolmix_sync.localnet.tls import server_context
from smolmix_sync.reactor._real import client_tls_context
from smolmix_sync.reactor.dohexchange import DohExchange

AUTHORITY = CertificateAuthority()
QUERY = b"\0\0a query"


class Server:
    """A TLS server over memory that answers with given octets once it has read a request."""

    def __init__(self, *names: str, answer: bytes = b"") -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server_context(AUTHORITY.issue(names)).wrap_bio(self._in, self._out, server_side=True)
        self._answer = answer
        self._shaken = False
        self.request = b""

    def take(self, data: bytes) -> bytes:
        self._in.write(data)
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
            while True:
                self.request += self._tls.read(65536)
                if self.request.endswith(QUERY):
                    self._tls.write(self._answer)
        except ssl.SSLError:
            pass
        return self._out.read()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> object:
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(AUTHORITY.pem)
    return client_tls_context(str(path))


def response(body: bytes, status: str = "200 OK", kind: str = "application/dns-message") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def run(context: object, server: Server, address: str = "1.1.1.1", piece: int = 65536) -> DohExchange:
    exchange = DohExchange(context, address, QUERY)
    for _ in range(20):
        out = exchange.data_to_send()
        back = server.take(out) if out else b""
        for start in range(0, len(back), piece):
            exchange.receive_data(back[start : start + piece])
        if exchange.done:
            break
    return exchange


@pytest.mark.parametrize("piece", [1, 100, 65536])
def test_question_is_posted_and_the_answer_comes_back(context: object, piece: int) -> None:
    server = Server("1.1.1.1", answer=response(b"an answer"))
    assert run(context, server, piece=piece).answer == b"an answer"
    head, _, body = server.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /dns-query HTTP/1.1\r\nHost: 1.1.1.1\r\n")
    assert b"application/dns-message" in head
    assert b"User-Agent" not in head
    assert body == QUERY


def test_next_question_goes_over_the_same_session(context: object) -> None:
    server = Server("1.1.1.1", answer=response(b"an answer"))
    exchange = run(context, server)
    assert exchange.reusable
    for number in (1, 2):
        server.request = b""
        exchange.ask(QUERY)
        assert (exchange.answer, exchange.answered, exchange.reusable) == (None, number, False)
        exchange.receive_data(server.take(exchange.data_to_send()))
        assert exchange.answer == b"an answer"
        assert server.request.startswith(b"POST /dns-query")


def test_server_that_closes_or_says_more_is_not_asked_again(context: object) -> None:
    closing = response(b"x").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    for answer in (closing, response(b"x") + b"more"):
        exchange = run(context, Server("1.1.1.1", answer=answer))
        assert exchange.answer == b"x"
        assert not exchange.reusable


def test_server_of_ipv6_is_named_in_brackets(context: object) -> None:
    server = Server("2606:4700:4700::1111", answer=response(b"x"))
    assert run(context, server, "2606:4700:4700::1111").answer == b"x"
    assert b"Host: [2606:4700:4700::1111]\r\n" in server.request


def test_certificate_of_another_address_is_refused_before_anything_is_asked(context: object) -> None:
    server = Server("8.8.8.8", answer=response(b"x"))
    exchange = run(context, server, "1.1.1.1")
    assert "does not verify" in exchange.failed
    assert server.request == b""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response(b"", "503 Busy"), "status 503"),
        (response(b"<html>", kind="text/html"), "status 200"),
        (b"SSH-2.0-nonsense\r\n\r\n", "not HTTP"),
        (response(bytes(70000)), "too long"),
    ],
)
def test_answers_that_are_none(context: object, answer: bytes, reason: str) -> None:
    exchange = run(context, Server("1.1.1.1", answer=answer))
    assert reason in exchange.failed
    assert exchange.answer is None


def test_stream_that_ends_early_or_is_no_tls(context: object) -> None:
    exchange = run(context, Server("1.1.1.1", answer=response(b"an answer")[:-3]))
    assert not exchange.done
    exchange.receive_data(b"")
    assert "ended before the answer" in exchange.failed
    exchange = run(context, Server("1.1.1.1"))
    exchange.receive_data(b"")
    assert "ended before the answer" in exchange.failed
    exchange = DohExchange(context, "1.1.1.1", QUERY)
    exchange.receive_data(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert exchange.failed.startswith("TLS")
    exchange = DohExchange(context, "1.1.1.1", QUERY)
    exchange.receive_data(b"")
    assert exchange.failed
    exchange.receive_data(b"more")
